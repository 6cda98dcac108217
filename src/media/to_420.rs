//! Pictures as the encoder takes them: yuv420p of even size.

use ffmpeg_next as ffmpeg;
use ffmpeg_next::format::Pixel;
use ffmpeg_next::frame;

use super::colour::Coding;
use super::picture::{Picture, planes, planes_mut, share};
use super::scale::{Conversion, Layout, Scaler, allocate};

/// Converts where there is something to convert; a picture of 8-bit 4:2:0 and even size keeps its samples.
pub(crate) struct To420 {
    coding: Coding,
    scaler: Option<Scaler>,
}

impl To420 {
    pub(crate) fn new(coding: Coding) -> Self {
        Self { coding, scaler: None }
    }

    /// (width, height) of what comes out.
    pub(crate) fn size(width: usize, height: usize) -> (u32, u32) {
        (width.next_multiple_of(2) as u32, height.next_multiple_of(2) as u32)
    }

    pub(crate) fn convert(&mut self, picture: &Picture) -> Result<frame::Video, ffmpeg::Error> {
        let mut frame = share(picture.frame());
        let from = Layout::of(&frame);
        if from.format != Pixel::YUV420P {
            let to = Layout { format: Pixel::YUV420P, ..from };
            let conversion = Conversion::accurate(from, to, self.coding);
            let scaler = match &mut self.scaler {
                Some(scaler) if *scaler.conversion() == conversion => scaler,
                cached => cached.insert(Scaler::new(conversion)?),
            };
            frame = scaler.convert(&frame)?;
        }
        let (width, height) = Self::size(picture.width(), picture.height());
        if (width, height) != (from.width, from.height) {
            frame = pad(&frame, Layout { format: Pixel::YUV420P, width, height })?;
        }
        Ok(frame)
    }
}

/// Repeats the last column and row. Planes of chroma cover an odd edge already.
fn pad(frame: &frame::Video, to: Layout) -> Result<frame::Video, ffmpeg::Error> {
    let mut padded = allocate(to)?;
    for (source, mut target) in planes(frame).zip(planes_mut(&mut padded)) {
        for y in 0..target.height {
            let samples = source.row(y.min(source.height - 1));
            let row = target.row_mut(y);
            row[..samples.len()].copy_from_slice(samples);
            row[samples.len()..].fill(samples[samples.len() - 1]);
        }
    }
    Ok(padded)
}
