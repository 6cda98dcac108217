//! Plain access to a frame's bytes, and the small gray pictures that the box detector searches.

use candle_core::{DType, Device, Result, Storage, Tensor, bail};

/// The pixels of a frame: rows from the top, three bytes each.
#[derive(Clone, Copy)]
pub struct Rgb<'a> {
    pub data: &'a [u8],
    pub width: usize,
    pub height: usize,
}

impl Rgb<'_> {
    /// dlib's gray value, the mean of the three channels rounded down; black outside of the picture.
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

/// A gray picture for the box detector.
pub(super) struct Gray {
    pub data: Vec<u8>,
    pub width: usize,
    pub height: usize,
}

/// A rectangle of the frame, in pixels; it may reach over the edges, where everything is black.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    pub x: f64,
    pub y: f64,
    pub width: f64,
    pub height: f64,
}

/// At most this many samples, in each direction, are averaged into one pixel of a reduced picture.
const SAMPLES: usize = 4;

impl Rgb<'_> {
    /// `window` as a gray picture of `width` × `height` pixels, each the mean of an even grid of samples.
    pub(super) fn reduce(&self, window: Window, width: usize, height: usize) -> Gray {
        let (step_x, step_y) = (window.width / width as f64, window.height / height as f64);
        let columns = sample_places(window.x, step_x, width);
        let rows = sample_places(window.y, step_y, height);
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

/// The source coordinates of all samples along one side, the same number for each of the `count` pixels.
fn sample_places(start: f64, step: f64, count: usize) -> Vec<i64> {
    let samples = (step.ceil() as usize).clamp(1, SAMPLES);
    let fine = step / samples as f64;
    (0..count * samples).map(|i| (start + (i as f64 + 0.5) * fine).floor() as i64).collect()
}

/// Lends the bytes of `frame`, (height, width, 3) u8 on any device.
pub(super) fn with_rgb<T>(frame: &Tensor, look: impl FnOnce(Rgb) -> Result<T>) -> Result<T> {
    let (height, width, channels) = frame.dims3()?;
    if channels != 3 || frame.dtype() != DType::U8 || height == 0 || width == 0 {
        bail!(
            "a frame to search for faces must be (height, width, 3) u8, got {:?} {:?}",
            frame.shape(),
            frame.dtype()
        );
    }
    let frame = frame.to_device(&Device::Cpu)?.contiguous()?;
    let (storage, layout) = frame.storage_and_layout();
    let Storage::Cpu(storage) = &*storage else {
        bail!("a frame copied to the CPU is not on the CPU");
    };
    let start = layout.start_offset();
    let data = &storage.as_slice::<u8>()?[start..start + height * width * 3];
    look(Rgb { data, width, height })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reducing_averages_gray_and_is_black_outside() {
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
