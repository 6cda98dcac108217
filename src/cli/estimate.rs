//! How long a job would take here: a short measurement of the two operations that fill the time, and the
//! known amount of work in a second of video. An estimate; only a job tells the truth.

use std::time::{Duration, Instant};

use candle_core::{DType, Device, Result, Tensor};
use kernels::{Conv2d, Linear, Padding};
use serde::Serialize;

/// Each operation is repeated for about this long.
const PATIENCE: Duration = Duration::from_millis(600);

/// Floating-point operations of a published model, counted on the real networks: one UNet step on 16
/// frames without guidance, and one image through either half of the VAE.
struct Work {
    model: &'static str,
    unet_step: f64,
    vae_encode: f64,
    vae_decode: f64,
}

const PUBLISHED: [Work; 2] = [
    Work { model: "latentsync-1.6", unet_step: 17.6e12, vae_encode: 1.12e12, vae_decode: 2.51e12 },
    Work { model: "latentsync-1.5", unet_step: 4.05e12, vae_encode: 0.27e12, vae_decode: 0.62e12 },
];

impl Work {
    /// One second of output: 25 frames, 20 steps, no guidance; both encodings of every frame.
    fn per_second(&self) -> f64 {
        let (frames, steps, chunk) = (25.0, 20.0, 16.0);
        steps * frames / chunk * self.unet_step + frames * (2.0 * self.vae_encode + self.vae_decode)
    }
}

/// What was measured, and what follows from it.
#[derive(Debug, Serialize)]
pub struct Estimate {
    pub convolution_gflops: f64,
    pub product_gflops: f64,
    /// Seconds for one second of output with 20 steps and no guidance, by model.
    pub seconds_per_output_second: Vec<ModelEstimate>,
}

#[derive(Debug, Serialize)]
pub struct ModelEstimate {
    pub model: &'static str,
    pub seconds: f64,
}

/// Measures for two seconds or so, in the shapes of the 256-pixel UNet: convolutions at its largest images and at small
/// ones, which a CPU computes in different ways.
pub fn measure(device: &Device, dtype: DType) -> Result<Estimate> {
    let filled = |shape: &[usize]| Tensor::rand(-1f32, 1f32, shape, device)?.to_dtype(dtype);
    let convolution = |frames: usize, side: usize, channels: usize| {
        let layer = Conv2d::new(filled(&[channels, channels, 3, 3])?, None, 1, Padding::all(1))?;
        let images = filled(&[frames, side, side, channels])?;
        let flop = 2.0 * (frames * side * side * channels * channels * 9) as f64;
        rate(device, flop, || layer.forward(&images))
    };
    let convolutions = mean([convolution(4, 32, 320)?, convolution(16, 8, 1280)?]);

    let (tokens, width) = (2048, 1280);
    let linear = Linear::new(filled(&[width, width])?, None)?;
    let states = filled(&[1, tokens, width])?;
    let product_flop = 2.0 * (tokens * width * width) as f64;
    let products = rate(device, product_flop, || linear.forward(&states))?;

    // The networks do about as much work in the one as in the other.
    let mixed = mean([convolutions, products]);
    let models =
        PUBLISHED.iter().map(|work| ModelEstimate { model: work.model, seconds: work.per_second() / mixed });
    Ok(Estimate {
        convolution_gflops: convolutions / 1e9,
        product_gflops: products / 1e9,
        seconds_per_output_second: models.collect(),
    })
}

/// The rate at which as much work is done at the one as at the other.
fn mean([one, other]: [f64; 2]) -> f64 {
    2.0 / (1.0 / one + 1.0 / other)
}

/// The best of several runs, in operations a second. The first run only warms up.
fn rate(device: &Device, flop: f64, run: impl Fn() -> Result<Tensor>) -> Result<f64> {
    run()?;
    device.synchronize()?;
    let (begin, mut best) = (Instant::now(), f64::INFINITY);
    while best.is_infinite() || begin.elapsed() < PATIENCE {
        let started = Instant::now();
        run()?;
        device.synchronize()?;
        best = best.min(started.elapsed().as_secs_f64());
    }
    Ok(flop / best)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_of_video_at_256_pixels_is_156_tflop() {
        let small = PUBLISHED.iter().find(|work| work.model == "latentsync-1.5").unwrap();
        assert!((small.per_second() / 1e12 - 156.0).abs() < 1.0, "{}", small.per_second());
    }
}
