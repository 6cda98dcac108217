//! Decoding on an NVIDIA GPU through FFmpeg. Pictures are bit-identical to those of FFmpeg's software
//! decoders, in the same format; streams for which this is not certain are refused.

use std::ptr;

use ffmpeg_next::codec::{Context, Id};
use ffmpeg_next::format::Pixel;
use ffmpeg_next::{Codec, Frame, ffi, frame};

use crate::media::check;
use crate::media::picture::{planes, planes_mut};
use crate::media::scale::{Layout, allocate};

/// Codecs with bit-exact decoding. Older codecs leave the rounding of the inverse transform to the decoder.
const BIT_EXACT: [Id; 3] = [Id::H264, Id::HEVC, Id::VP9];
const CUDA: ffi::AVHWDeviceType = ffi::AVHWDeviceType::AV_HWDEVICE_TYPE_CUDA;

/// Configures `context`, which is not open yet, for the first GPU. If the GPU turns out not to support the
/// stream, FFmpeg decodes in software, and [`download`] refuses the pictures.
///
/// # Errors
/// The reason why the GPU is not used.
pub(super) fn attach(context: &mut Context, codec: Codec) -> Result<(), String> {
    if !BIT_EXACT.contains(&codec.id()) || !has_cuda(codec) {
        return Err(format!("{} is not decoded on a GPU", codec.name()));
    }
    let mut device = ptr::null_mut();
    // SAFETY: the null pointers are allowed. On success the context, which is valid and has no device yet,
    // takes ownership of the device reference.
    unsafe {
        check(ffi::av_hwdevice_ctx_create(&mut device, CUDA, ptr::null(), ptr::null_mut(), 0))
            .map_err(|e| format!("no GPU: {e}"))?;
        let raw = context.as_mut_ptr();
        (*raw).hw_device_ctx = device;
        // Further threads would only wait, and each holds a picture in GPU memory.
        (*raw).thread_count = 1;
    }
    Ok(())
}

/// Whether FFmpeg was built with CUDA decoding for the codec.
fn has_cuda(codec: Codec) -> bool {
    // SAFETY: the codec and the entries of its list are static; the list ends with a null pointer.
    let mut configs = (0..).map_while(|i| unsafe { ffi::avcodec_get_hw_config(codec.as_ptr(), i).as_ref() });
    let by_device = ffi::AV_CODEC_HW_CONFIG_METHOD_HW_DEVICE_CTX as i32;
    configs.any(|config| config.device_type == CUDA && config.methods & by_device != 0)
}

/// Copies a picture from GPU memory to host memory.
///
/// # Errors
/// The reason why the picture may differ from that of the software decoder.
pub(super) fn download(frame: &Frame) -> Result<Frame, String> {
    // SAFETY: the frame is valid and only read.
    let (is_on_gpu, is_cropped) = unsafe {
        let raw = &*frame.as_ptr();
        (raw.format == ffi::AVPixelFormat::AV_PIX_FMT_CUDA as i32, raw.crop_left > 0 || raw.crop_top > 0)
    };
    if !is_on_gpu {
        return Err("the GPU does not decode it".into());
    }
    // FFmpeg crops pictures in GPU memory only at the right and at the bottom.
    if is_cropped {
        return Err("it is cropped at the left or at the top".into());
    }
    let mut downloaded = frame::Video::empty();
    // SAFETY: both frames are valid. The destination is empty, so FFmpeg allocates its memory.
    unsafe {
        check(ffi::av_hwframe_transfer_data(downloaded.as_mut_ptr(), frame.as_ptr(), 0))
            .and_then(|_| check(ffi::av_frame_copy_props(downloaded.as_mut_ptr(), frame.as_ptr())))
            .map_err(|e| format!("a picture cannot be downloaded from the GPU: {e}"))?;
    }
    let mut planar = planar(&downloaded)?;
    // SAFETY: both frames are valid, and the destination is empty.
    unsafe {
        let mut moved = Frame::empty();
        ffi::av_frame_move_ref(moved.as_mut_ptr(), planar.as_mut_ptr());
        Ok(moved)
    }
}

/// Converts interleaved chroma (NV12, P010), the output format of GPUs, to planar chroma.
fn planar(frame: &frame::Video) -> Result<frame::Video, String> {
    let copy_row = match frame.format() {
        Pixel::NV12 => copy_bytes,
        Pixel::P010LE => copy_10_bits,
        other => return Err(format!("unexpected pixel format {other:?} on the GPU")),
    };
    let format = if frame.format() == Pixel::NV12 { Pixel::YUV420P } else { Pixel::YUV420P10LE };
    let mut planar = allocate(Layout { format, ..Layout::of(frame) }).map_err(|e| e.to_string())?;
    // SAFETY: both frames are valid. The properties do not include format and size.
    check(unsafe { ffi::av_frame_copy_props(planar.as_mut_ptr(), frame.as_ptr()) })
        .map_err(|e| e.to_string())?;
    let from: Vec<_> = planes(frame).collect();
    let [luma, chroma] = &from[..] else { return Err(format!("a picture with {} planes", from.len())) };
    for (i, mut to) in planes_mut(&mut planar).enumerate() {
        let (from, stride) = if i == 0 {
            (luma, Stride { first: 0, step: 1 })
        } else {
            (chroma, Stride { first: i - 1, step: 2 })
        };
        for y in 0..to.height {
            copy_row(from.row(y), stride, to.row_mut(y));
        }
    }
    Ok(planar)
}

/// Selection of stride `step`-th sample of a row.
#[derive(Debug, Clone, Copy)]
struct Stride {
    first: usize,
    step: usize,
}

fn copy_bytes(from: &[u8], stride: Stride, to: &mut [u8]) {
    if stride.step == 1 {
        return to.copy_from_slice(from);
    }
    let from = from.iter().skip(stride.first).step_by(stride.step);
    to.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
}

/// Copies 10-bit samples from the upper bits of 16 (P010) to the lower bits (YUV420P10).
fn copy_10_bits(from: &[u8], stride: Stride, to: &mut [u8]) {
    let from = from.as_chunks::<2>().0.iter().skip(stride.first).step_by(stride.step);
    let to = to.as_chunks_mut::<2>().0;
    to.iter_mut().zip(from).for_each(|(to, from)| *to = (u16::from_le_bytes(*from) >> 6).to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A picture with distinct samples in the layout of a GPU.
    fn gpu_picture(format: Pixel, sample: fn(u8) -> Vec<u8>) -> frame::Video {
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
    fn interleaved_chroma_becomes_planar() {
        let planar = planar(&gpu_picture(Pixel::NV12, |n| vec![n])).unwrap();
        assert_eq!((planar.format(), planar.pts()), (Pixel::YUV420P, Some(7)));
        assert_eq!(rows(&planar), [&[1, 2, 3, 4][..], &[5, 6, 7, 8], &[9, 11], &[10, 12]]);
    }

    #[test]
    fn ten_bit_samples_move_to_the_lower_bits() {
        let ten = |n: u8| ((u16::from(n) + 1000) << 6).to_le_bytes().to_vec();
        let planar = planar(&gpu_picture(Pixel::P010LE, ten)).unwrap();
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
    fn pictures_in_host_memory_and_other_formats_are_refused() {
        assert!(planar(&gpu_picture(Pixel::YUV444P, |n| vec![n])).is_err_and(|e| e.contains("YUV444P")));
        assert!(
            download(&gpu_picture(Pixel::NV12, |n| vec![n])).is_err_and(|e| e.contains("does not decode"))
        );
    }
}
