//! Decoding on an NVIDIA card, through FFmpeg: its pictures, as FFmpeg's own decoders would have left them, so that
//! nothing else sees a difference. Refuses what may differ.

use std::ptr;

use ffmpeg_next::codec::{Context, Id};
use ffmpeg_next::format::Pixel;
use ffmpeg_next::{Codec, Frame, ffi, frame};

use crate::media::check;
use crate::media::picture::{planes, planes_mut};
use crate::media::scale::{Layout, allocate};

/// Of these every decoder makes the same pictures. Those of older codecs may round as they like.
const EXACT: [Id; 3] = [Id::H264, Id::HEVC, Id::VP9];
const CUDA: ffi::AVHWDeviceType = ffi::AVHWDeviceType::AV_HWDEVICE_TYPE_CUDA;

/// Lets `context`, which is not open yet, decode on the first card. What the card then turns out not to decode comes
/// as pictures of FFmpeg's own decoder, which [`fetch`] refuses.
///
/// # Errors
/// Why nothing will be decoded there.
pub(super) fn attach(context: &mut Context, codec: Codec) -> Result<(), String> {
    if !EXACT.contains(&codec.id()) || !has_cuda(codec) {
        return Err(format!("a card is not asked for {}", codec.name()));
    }
    let mut device = ptr::null_mut();
    // SAFETY: the other pointers may be null. On success the reference to the device becomes the context's, which is
    // valid and has none yet.
    unsafe {
        check(ffi::av_hwdevice_ctx_create(&mut device, CUDA, ptr::null(), ptr::null_mut(), 0))
            .map_err(|e| format!("no card: {e}"))?;
        let raw = context.as_mut_ptr();
        (*raw).hw_device_ctx = device;
        // More would only wait for each other, and each holds a picture on the card.
        (*raw).thread_count = 1;
    }
    Ok(())
}

/// Whether FFmpeg was built with the codec's decoding on a card.
fn has_cuda(codec: Codec) -> bool {
    // SAFETY: the codec is FFmpeg's constant, and so are the entries of its list, which ends with a null pointer.
    let mut configs = (0..).map_while(|i| unsafe { ffi::avcodec_get_hw_config(codec.as_ptr(), i).as_ref() });
    let by_device = ffi::AV_CODEC_HW_CONFIG_METHOD_HW_DEVICE_CTX as i32;
    configs.any(|config| config.device_type == CUDA && config.methods & by_device != 0)
}

/// A picture that lies on the card, here.
///
/// # Errors
/// Why it cannot be had as FFmpeg's own decoder would have left it.
pub(super) fn fetch(frame: &Frame) -> Result<Frame, String> {
    // SAFETY: the frame is valid, and only read.
    let (is_there, cropped) = unsafe {
        let raw = &*frame.as_ptr();
        (raw.format == ffi::AVPixelFormat::AV_PIX_FMT_CUDA as i32, raw.crop_left > 0 || raw.crop_top > 0)
    };
    if !is_there {
        return Err("the card does not decode it".into());
    }
    // There FFmpeg cuts off right and below only.
    if cropped {
        return Err("its pictures begin within what is coded".into());
    }
    let mut fetched = frame::Video::empty();
    // SAFETY: both frames are valid, and the new one is empty: it gets memory of its own.
    unsafe {
        check(ffi::av_hwframe_transfer_data(fetched.as_mut_ptr(), frame.as_ptr(), 0))
            .and_then(|_| check(ffi::av_frame_copy_props(fetched.as_mut_ptr(), frame.as_ptr())))
            .map_err(|e| format!("a picture cannot be fetched from the card: {e}"))?;
    }
    let mut planar = planar(&fetched)?;
    // SAFETY: both frames are valid, and the new one is empty.
    unsafe {
        let mut moved = Frame::empty();
        ffi::av_frame_move_ref(moved.as_mut_ptr(), planar.as_mut_ptr());
        Ok(moved)
    }
}

/// The same picture with a plane for each chroma, in which cards have them side by side.
fn planar(frame: &frame::Video) -> Result<frame::Video, String> {
    let copy_row = match frame.format() {
        Pixel::NV12 => copy_bytes,
        Pixel::P010LE => copy_tens,
        other => return Err(format!("the card has its pictures as {other:?}")),
    };
    let format = if frame.format() == Pixel::NV12 { Pixel::YUV420P } else { Pixel::YUV420P10LE };
    let mut planar = allocate(Layout { format, ..Layout::of(frame) }).map_err(|e| e.to_string())?;
    // SAFETY: both frames are valid; properties do not include format and size.
    check(unsafe { ffi::av_frame_copy_props(planar.as_mut_ptr(), frame.as_ptr()) })
        .map_err(|e| e.to_string())?;
    let from: Vec<_> = planes(frame).collect();
    let [luma, chroma] = &from[..] else { return Err(format!("a picture has {} planes", from.len())) };
    for (i, mut to) in planes_mut(&mut planar).enumerate() {
        let (from, every) = if i == 0 {
            (luma, Every { first: 0, step: 1 })
        } else {
            (chroma, Every { first: i - 1, step: 2 })
        };
        for y in 0..to.height {
            copy_row(from.row(y), every, to.row_mut(y));
        }
    }
    Ok(planar)
}

/// Some of a row's samples.
#[derive(Debug, Clone, Copy)]
struct Every {
    first: usize,
    step: usize,
}

fn copy_bytes(from: &[u8], every: Every, to: &mut [u8]) {
    if every.step == 1 {
        return to.copy_from_slice(from);
    }
    let from = from.iter().skip(every.first).step_by(every.step);
    to.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
}

/// Samples of 10 bits, in the upper ones of 16 there and in the lower ones here.
fn copy_tens(from: &[u8], every: Every, to: &mut [u8]) {
    let from = from.as_chunks::<2>().0.iter().skip(every.first).step_by(every.step);
    let to = to.as_chunks_mut::<2>().0;
    to.iter_mut().zip(from).for_each(|(to, from)| *to = (u16::from_le_bytes(*from) >> 6).to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A picture whose samples are all different, in the order in which a card has them.
    fn on_card(format: Pixel, sample: fn(u8) -> Vec<u8>) -> frame::Video {
        let mut frame = allocate(Layout { format, width: 4, height: 2 }).unwrap();
        frame.set_pts(Some(7));
        let mut samples = (1..).flat_map(sample);
        for mut plane in planes_mut(&mut frame) {
            for y in 0..plane.height {
                plane.row_mut(y).fill_with(|| samples.next().unwrap());
            }
        }
        frame
    }

    fn rows(frame: &frame::Video) -> Vec<Vec<u8>> {
        planes(frame).flat_map(|plane| (0..plane.height).map(move |y| plane.row(y).to_vec())).collect()
    }

    #[test]
    fn each_chroma_gets_a_plane() {
        let planar = planar(&on_card(Pixel::NV12, |n| vec![n])).unwrap();
        assert_eq!((planar.format(), planar.pts()), (Pixel::YUV420P, Some(7)));
        assert_eq!(rows(&planar), [&[1, 2, 3, 4][..], &[5, 6, 7, 8], &[9, 11], &[10, 12]]);
    }

    #[test]
    fn ten_bits_move_to_the_lower_end() {
        let ten = |n: u8| ((u16::from(n) + 1000) << 6).to_le_bytes().to_vec();
        let planar = planar(&on_card(Pixel::P010LE, ten)).unwrap();
        assert_eq!(planar.format(), Pixel::YUV420P10LE);
        let rows = rows(&planar);
        let values = |row: &Vec<u8>| -> Vec<u16> {
            row.as_chunks::<2>().0.iter().map(|two| u16::from_le_bytes(*two) - 1000).collect()
        };
        assert_eq!(
            rows.iter().map(values).collect::<Vec<_>>(),
            [vec![1, 2, 3, 4], vec![5, 6, 7, 8], vec![9, 11], vec![10, 12]]
        );
    }

    #[test]
    fn pictures_in_other_places_and_formats_are_refused() {
        assert!(planar(&on_card(Pixel::YUV444P, |n| vec![n])).is_err_and(|e| e.contains("YUV444P")));
        assert!(fetch(&on_card(Pixel::NV12, |n| vec![n])).is_err_and(|e| e.contains("does not decode")));
    }
}
