//! Conversion of pictures to the input format of the encoder.

use ffmpeg_next as ffmpeg;
use ffmpeg_next::ffi;
use ffmpeg_next::format::Pixel;
use ffmpeg_next::frame;
use ffmpeg_next::util::color::Range;

use crate::media::check;
use crate::media::colour::Coding;
use crate::media::picture::{Picture, planes, planes_mut, share};
use crate::media::scale::{Conversion, Layout, Scaler, allocate};

/// Input format of an encoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EncoderFormat {
    pub format: Pixel,
    pub width: u32,
    pub height: u32,
    /// Convert full range to limited range, for codecs that support only the latter.
    pub limited_range: bool,
}

/// Converter to an [`EncoderFormat`]. Pictures that already have the format keep their samples.
pub(crate) struct EncoderInput {
    target: EncoderFormat,
    coding: Coding,
    scaler: Option<Scaler>,
}

impl EncoderInput {
    pub(crate) fn new(target: EncoderFormat, coding: Coding) -> Self {
        Self { target, coding, scaler: None }
    }

    pub(crate) fn convert(&mut self, picture: &Picture) -> Result<frame::Video, ffmpeg::Error> {
        let mut frame = share(picture.frame());
        let EncoderFormat { format, width, height, limited_range } = self.target;
        let from = Layout::of(&frame);
        let narrows = limited_range && self.coding.full_range;
        if from.format != format {
            let conversion = Conversion::accurate(from, Layout { format, ..from }, self.coding);
            let scaler = match &mut self.scaler {
                Some(scaler) if *scaler.conversion() == conversion => scaler,
                cached => cached.insert(Scaler::new(conversion)?),
            };
            frame = scaler.convert(&frame)?;
        }
        if narrows {
            narrow(&mut frame, from.format, self.coding)?;
        }
        if (width, height) != (from.width, from.height) {
            frame = pad(&frame, Layout { format, width, height })?;
        }
        Ok(frame)
    }
}

/// Converts 10-bit planes, which swscale produced from pictures of format `from`, from full to limited range.
fn narrow(frame: &mut frame::Video, from: Pixel, full: Coding) -> Result<(), ffmpeg::Error> {
    // SAFETY: the frame is valid; it is copied if it shares the memory of the picture. Descriptors are
    // static.
    let eight_bits = unsafe {
        check(ffi::av_frame_make_writable(frame.as_mut_ptr()))?;
        from.descriptor().is_some_and(|descriptor| (*descriptor.as_ptr()).comp[0].depth == 8)
    };
    let same_chroma = {
        let chroma = |format: Pixel| format.descriptor().map(|d| (d.log2_chroma_w(), d.log2_chroma_h()));
        chroma(from) == chroma(frame.format())
    };
    let (ten, eight) = (full.levels(10), 4.0 * 255.0);
    let to = Coding { full_range: false, ..full }.levels(10);
    // swscale converts 8 to 10 bits with a shift, but expands luma to the full scale if it only copies the
    // planes.
    let luma = if eight_bits && !same_chroma { eight } else { ten.luma };
    let chroma = if eight_bits { eight } else { ten.chroma };
    for (index, mut plane) in planes_mut(frame).enumerate() {
        let code = |code: u16| match index {
            0 => to.black + f32::from(code) * to.luma / luma,
            _ => to.grey + (f32::from(code) - to.grey) * to.chroma / chroma,
        };
        for y in 0..plane.height {
            for sample in plane.row_mut(y).as_chunks_mut::<2>().0 {
                *sample = (code(u16::from_le_bytes(*sample)).round() as u16).to_le_bytes();
            }
        }
    }
    frame.set_color_range(Range::MPEG);
    Ok(())
}

/// Size of a `width` × `height` picture after padding to a multiple of the chroma block of `format`.
pub(crate) fn padded_size(format: Pixel, width: usize, height: usize) -> (u32, u32) {
    let (log2_w, log2_h) = format.descriptor().map_or((0, 0), |d| (d.log2_chroma_w(), d.log2_chroma_h()));
    (width.next_multiple_of(1 << log2_w) as u32, height.next_multiple_of(1 << log2_h) as u32)
}

/// Pads a picture by repeating its last column and row. Chroma planes already cover odd edges.
fn pad(frame: &frame::Video, to: Layout) -> Result<frame::Video, ffmpeg::Error> {
    let mut padded = allocate(to)?;
    for (source, mut target) in planes(frame).zip(planes_mut(&mut padded)) {
        for y in 0..target.height {
            let samples = source.row(y.min(source.height - 1));
            let last = &samples[samples.len() - source.step..];
            let row = target.row_mut(y);
            row[..samples.len()].copy_from_slice(samples);
            row[samples.len()..].chunks_mut(source.step).for_each(|more| more.copy_from_slice(last));
        }
    }
    Ok(padded)
}
