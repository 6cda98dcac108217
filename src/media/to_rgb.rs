//! YUV to RGB conversion with exact rounding and identical results on every CPU.
//!
//! Chroma is upsampled by repetition, as in the original's frames. [`paste`](super::paste), which averages
//! over chroma blocks, is the inverse: unchanged pixels change the samples by at most one level. swscale's
//! exact mode interpolates chroma instead and takes 40 ms per 1080-line frame; this takes 3 ms.

use ffmpeg_next::frame;
use rayon::prelude::*;

use super::colour::{Coding, SampleLevels};
use super::picture::{Component, Plane, components, planes};

/// Rows per parallel task.
const BAND: usize = 32;

/// Adding this to a value in 0–255 leaves the rounded value in the lowest bits of the sum.
const ROUNDING: f32 = (3 << 22) as f32;

/// Coefficients of the conversion from samples to RGB in 0–255, the inverse of [`paste`](super::paste)'s.
struct YuvToRgb {
    luma: f32,
    black: f32,
    grey: f32,
    red_of_v: f32,
    green_of_u: f32,
    green_of_v: f32,
    blue_of_u: f32,
}

impl YuvToRgb {
    fn new(coding: Coding, depth: u32) -> Self {
        let (kr, kb) = coding.matrix.red_blue();
        let kg = 1.0 - kr - kb;
        let SampleLevels { luma, chroma, black, grey } = coding.levels(depth);
        let chroma = 255.0 / chroma;
        let [u, v] = [2.0 * (1.0 - kb) * chroma, 2.0 * (1.0 - kr) * chroma];
        Self {
            luma: 255.0 / luma,
            black,
            grey,
            red_of_v: v,
            green_of_u: -u * kb / kg,
            green_of_v: -v * kr / kg,
            blue_of_u: u,
        }
    }
}

/// Converts a frame to `rgb`, (height, width, 3). `None` if the pixel format is not supported.
pub(super) fn to_rgb(frame: &frame::Video, coding: Coding, rgb: &mut [u8]) -> Option<()> {
    let samples = components(frame.format())?;
    let planes: Vec<Plane> = planes(frame).collect();
    let source = YuvPicture { samples, planes: &planes, convert: YuvToRgb::new(coding, samples[0].depth) };
    let width = frame.width() as usize;
    rgb.par_chunks_mut(3 * width * BAND).enumerate().for_each(|(band, rows)| {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the CPU supports AVX2.
            return unsafe { convert_band_avx2(&source, band * BAND, width, rows) };
        }
        convert_band(&source, band * BAND, width, rows);
    });
    Some(())
}

struct YuvPicture<'a> {
    samples: [Component; 3],
    planes: &'a [Plane<'a>],
    convert: YuvToRgb,
}

impl YuvPicture<'_> {
    /// The row of a component for row `y` of the picture.
    #[inline(always)]
    fn read(&self, index: usize, y: usize, row: &mut [f32]) {
        let component = &self.samples[index];
        let bytes = self.planes[component.plane].row(y >> component.log2_height);
        component.read_row(bytes, row);
    }
}

/// [`convert_band`] compiled for AVX2. FMA is not enabled: its rounding would differ from that of other CPUs.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn convert_band_avx2(source: &YuvPicture, first_row: usize, width: usize, rgb: &mut [u8]) {
    convert_band(source, first_row, width, rgb);
}

#[inline(always)]
fn convert_band(source: &YuvPicture, first_row: usize, width: usize, rgb: &mut [u8]) {
    let c = &source.convert;
    let log2_block = source.samples[1].log2_width;
    let chroma_width = width.div_ceil(1 << log2_block);
    let mut luma = vec![0f32; width];
    let [mut u, mut v] = [vec![0f32; chroma_width], vec![0f32; chroma_width]];
    // Contribution of chroma to R, G and B per pixel.
    let mut added = [0; 3].map(|_| vec![0f32; chroma_width << log2_block]);
    let mut chroma_row = None;
    for (i, pixels) in rgb.chunks_exact_mut(3 * width).enumerate() {
        let y = first_row + i;
        source.read(0, y, &mut luma);
        let row = y >> source.samples[1].log2_height;
        if chroma_row.replace(row) != Some(row) {
            source.read(1, y, &mut u);
            source.read(2, y, &mut v);
            let [red, green, blue] = &mut added;
            upsample(&u, &v, log2_block, red, |_, v| c.red_of_v * (v - c.grey));
            upsample(&u, &v, log2_block, green, |u, v| {
                c.green_of_u * (u - c.grey) + c.green_of_v * (v - c.grey)
            });
            upsample(&u, &v, log2_block, blue, |u, _| c.blue_of_u * (u - c.grey));
        }
        let [red, green, blue] = &added;
        let added = red.iter().zip(green).zip(blue);
        for ((pixel, &luma), ((&r, &g), &b)) in pixels.as_chunks_mut::<3>().0.iter_mut().zip(&luma).zip(added)
        {
            let grey = (luma - c.black) * c.luma;
            *pixel = [r, g, b].map(|added| ((grey + added).clamp(0.0, 255.0) + ROUNDING).to_bits() as u8);
        }
    }
}

/// Combines two rows of chroma and repeats each value over its block.
#[inline(always)]
fn upsample(u: &[f32], v: &[f32], log2_block: u32, out: &mut [f32], combine: impl Fn(f32, f32) -> f32) {
    match log2_block {
        0 => out.iter_mut().zip(u.iter().zip(v)).for_each(|(out, (&u, &v))| *out = combine(u, v)),
        1 => {
            let pairs = out.as_chunks_mut::<2>().0;
            pairs.iter_mut().zip(u.iter().zip(v)).for_each(|(out, (&u, &v))| *out = [combine(u, v); 2]);
        }
        _ => {
            let blocks = out.chunks_exact_mut(1 << log2_block);
            blocks.zip(u.iter().zip(v)).for_each(|(out, (&u, &v))| out.fill(combine(u, v)));
        }
    }
}
