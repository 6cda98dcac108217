//! Access to the bytes of a frame, and the reduced grey pictures that SeetaFace searches.

use candle_core::{DType, Device, Result, Storage, Tensor, bail};

/// Which channels of the frame the InsightFace networks receive as red, green and blue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChannelOrder {
    /// Red, green and blue, as the networks were trained.
    Rgb,
    /// Blue, green and red, as LatentSync calls the networks.
    AsOriginal,
}

impl ChannelOrder {
    /// Input plane of the network for a channel of the frame.
    pub(super) fn plane(self, channel: usize) -> usize {
        match self {
            Self::Rgb => channel,
            Self::AsOriginal => 2 - channel,
        }
    }
}

/// The pixels of a frame, row by row from the top, three bytes each.
#[derive(Clone, Copy)]
pub struct Rgb<'a> {
    pub data: &'a [u8],
    pub width: usize,
    pub height: usize,
}

impl Rgb<'_> {
    /// dlib's grey value: the mean of the three channels, rounded down; 0 outside the picture.
    #[inline]
    pub fn intensity(&self, x: i64, y: i64) -> u8 {
        if x < 0 || y < 0 || x >= self.width as i64 || y >= self.height as i64 {
            return 0;
        }
        let at = (y as usize * self.width + x as usize) * 3;
        let sum = u16::from(self.data[at]) + u16::from(self.data[at + 1]) + u16::from(self.data[at + 2]);
        (sum / 3) as u8
    }
}

/// A grey picture for SeetaFace.
pub(super) struct Gray {
    pub data: Vec<u8>,
    pub width: usize,
    pub height: usize,
}

/// A rectangle of the frame in pixels. It may extend beyond the edges, where pixels are black.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    pub x: f64,
    pub y: f64,
    pub width: f64,
    pub height: f64,
}

/// Maximum number of samples per direction that are averaged into one pixel of a reduced picture.
const MAX_SAMPLES: usize = 4;

impl Rgb<'_> {
    /// Resizes `window` to a grey picture of `width` × `height` pixels, each the mean of an even grid of
    /// samples.
    pub(super) fn reduce(&self, window: Window, width: usize, height: usize) -> Gray {
        let (step_x, step_y) = (window.width / width as f64, window.height / height as f64);
        let columns = sample_positions(window.x, step_x, width);
        let rows = sample_positions(window.y, step_y, height);
        let (across, down) = (columns.len() / width, rows.len() / height);
        let mut data = Vec::with_capacity(width * height);
        for rows in rows.chunks_exact(down) {
            for columns in columns.chunks_exact(across) {
                let sum: u32 = rows
                    .iter()
                    .flat_map(|&y| columns.iter().map(move |&x| u32::from(self.intensity(x, y))))
                    .sum();
                data.push((sum / (across * down) as u32) as u8);
            }
        }
        Gray { data, width, height }
    }
}

/// Source coordinates of all samples along one dimension, the same number for each of the `count` pixels.
fn sample_positions(start: f64, step: f64, count: usize) -> Vec<i64> {
    let samples = (step.ceil() as usize).clamp(1, MAX_SAMPLES);
    let fine = step / samples as f64;
    (0..count * samples).map(|i| (start + (i as f64 + 0.5) * fine).floor() as i64).collect()
}

/// Calls `f` with the bytes of `frame`, (height, width, 3) u8 on any device.
pub(super) fn with_rgb<T>(frame: &Tensor, f: impl FnOnce(Rgb) -> Result<T>) -> Result<T> {
    let (height, width, channels) = frame.dims3()?;
    if channels != 3 || frame.dtype() != DType::U8 || height == 0 || width == 0 {
        bail!(
            "face detection: frame is {:?} {:?}, expected (height, width, 3) u8",
            frame.shape(),
            frame.dtype()
        );
    }
    let frame = frame.to_device(&Device::Cpu)?.contiguous()?;
    let (storage, layout) = frame.storage_and_layout();
    let Storage::Cpu(storage) = &*storage else {
        bail!("face detection: a frame copied to the CPU is not on the CPU");
    };
    let start = layout.start_offset();
    let data = &storage.as_slice::<u8>()?[start..start + height * width * 3];
    f(Rgb { data, width, height })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reduction_averages_grey_values_and_is_black_outside_the_frame() {
        // Two pixels: (30, 60, 90) is 60, (1, 1, 0) rounds down to 0.
        let data = [30, 60, 90, 1, 1, 0];
        let image = Rgb { data: &data, width: 2, height: 1 };
        assert_eq!([image.intensity(0, 0), image.intensity(1, 0), image.intensity(2, 0)], [60, 0, 0]);
        let window = Window { x: -2.0, y: 0.0, width: 4.0, height: 1.0 };
        assert_eq!(image.reduce(window, 4, 1).data, [0, 0, 60, 0]);
        assert_eq!(image.reduce(window, 2, 1).data, [0, 30]);
        assert_eq!(image.reduce(window, 8, 2).data, [[0, 0, 0, 0, 60, 60, 0, 0]; 2].concat());
    }
}
