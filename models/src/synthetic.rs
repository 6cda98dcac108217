//! Deterministic synthetic weights and inputs, generated from tensor names, for networks of any size without
//! a checkpoint.
//!
//! The generator is counter-based: element i of a tensor is the i-th output of a splitmix64 stream seeded
//! with the FNV-1a-64 hash of the tensor's name. The weights and inputs of the golden sets are bit-identical.

use candle_core::{DType, Device, Result, Shape, Tensor, bail};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};
use rayon::prelude::*;

/// Elements per task of the thread pool.
const BLOCK: usize = 1 << 16;

/// `n` numbers in [−1, 1), determined by `name` only.
pub fn uniform(name: &str, n: usize) -> Vec<f32> {
    scaled(name, n, |x| x)
}

/// `uniform(name)` × √3, which has unit variance.
pub fn unit_variance(name: &str, shape: impl Into<Shape>, device: &Device) -> Result<Tensor> {
    let shape = shape.into();
    let sqrt_3 = 3f64.sqrt() as f32;
    let values = scaled(name, shape.elem_count(), |x| x * sqrt_3);
    Tensor::from_vec(values, shape, device)
}

/// Weights of a network; the generator's name of a weight is `{prefix}{key}`.
#[derive(Debug, Clone)]
pub struct Synthetic {
    prefix: String,
    gain: f64,
}

impl Synthetic {
    /// `gain`: factor on weights with more than one dimension.
    pub fn new(prefix: impl Into<String>, gain: f64) -> Self {
        Self { prefix: prefix.into(), gain }
    }

    /// A `VarBuilder` that generates each tensor when it is loaded.
    pub fn var_builder(self, dtype: DType, device: &Device) -> VarBuilder<'static> {
        VarBuilder::from_backend(Box::new(self), dtype, device.clone())
    }

    /// The tensor for checkpoint key `key`, in f32 on the CPU.
    pub fn tensor(&self, key: &str, shape: &Shape) -> Result<Tensor> {
        let dims = shape.dims();
        let values = if key == "pe" || key.ends_with(".pe") {
            interleaved_sinusoids(dims)?
        } else if key == "encoder.positional_embedding" {
            halved_sinusoids(dims)?
        } else {
            self.weight(key, dims)
        };
        Tensor::from_vec(values, shape, &Device::Cpu)
    }

    fn weight(&self, key: &str, dims: &[usize]) -> Vec<f32> {
        let name = format!("{}{key}", self.prefix);
        let n = dims.iter().product();
        if dims.len() > 1 {
            let fan_in: usize = dims[1..].iter().product();
            let scale = (self.gain * (3.0 / fan_in as f64).sqrt()) as f32;
            scaled(&name, n, |x| x * scale)
        } else if key.ends_with("weight") {
            scaled(&name, n, |x| 1.0 + 0.1 * x)
        } else {
            scaled(&name, n, |x| 0.05 * x)
        }
    }
}

impl SimpleBackend for Synthetic {
    fn get(&self, shape: Shape, name: &str, _: Init, dtype: DType, device: &Device) -> Result<Tensor> {
        self.tensor(name, &shape)?.to_dtype(dtype)?.to_device(device)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> Result<Tensor> {
        bail!("synthetic weight `{name}` needs a shape")
    }

    /// Every name has a tensor.
    fn contains_tensor(&self, _: &str) -> bool {
        true
    }
}

/// `uniform(name)`, mapped by `scale`.
fn scaled(name: &str, n: usize, scale: impl Fn(f32) -> f32 + Sync) -> Vec<f32> {
    let seed = fnv1a_64(name.as_bytes());
    let mut values = vec![0f32; n];
    values.par_chunks_mut(BLOCK).enumerate().for_each(|(block, values)| {
        for (i, value) in values.iter_mut().enumerate() {
            // 24 random bits fit the mantissa of an f32, so the value is exact.
            let bits = splitmix64(seed, (block * BLOCK + i) as u64) >> 40;
            *value = scale(bits as f32 / (1 << 23) as f32 - 1.0);
        }
    });
    values
}

fn fnv1a_64(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// Output `index` of the stream with this seed.
fn splitmix64(seed: u64, index: u64) -> u64 {
    let z = seed.wrapping_add((index + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Position encoding of the motion modules, (1, frames, channels): sines in even channels, cosines in odd
/// ones.
fn interleaved_sinusoids(dims: &[usize]) -> Result<Vec<f32>> {
    let &[1, frames, channels] = dims else {
        bail!("position encoding of a motion module: shape {dims:?}, expected (1, frames, channels)");
    };
    let step = (-(10_000f64.ln()) / channels as f64) as f32;
    let position = |frame: usize| {
        (0..channels).map(move |channel| {
            let even = channel - channel % 2;
            let angle = frame as f32 * (even as f32 * step).exp();
            if channel % 2 == 0 { angle.sin() } else { angle.cos() }
        })
    };
    Ok((0..frames).flat_map(position).collect())
}

/// Position encoding of Whisper, (length, channels): sines in the first half of the channels, cosines in the
/// second.
fn halved_sinusoids(dims: &[usize]) -> Result<Vec<f32>> {
    let &[length, channels] = dims else {
        bail!("position encoding of Whisper: shape {dims:?}, expected (length, channels)");
    };
    let half = channels / 2;
    let step = (-(10_000f64.ln()) / (half as f64 - 1.0)) as f32;
    let row = |position: usize| {
        let angles = (0..half).map(move |i| position as f32 * (i as f32 * step).exp());
        angles.clone().map(f32::sin).chain(angles.map(f32::cos))
    };
    Ok((0..length).flat_map(row).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// First outputs for seed 1234567, as published with the reference implementation.
    #[test]
    fn splitmix64_equals_the_reference() {
        let outputs = [0, 1, 2].map(|i| splitmix64(1_234_567, i));
        let published = [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423];
        assert_eq!(outputs, published);
    }

    /// Test vectors by the authors of the hash.
    #[test]
    fn fnv1a_64_equals_the_test_vectors() {
        assert_eq!(fnv1a_64(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a_64(b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn elements_do_not_depend_on_the_length_of_the_tensor() {
        let long = uniform("name", 3 * BLOCK);
        assert_eq!(uniform("name", 100), long[..100]);
        assert!(long.iter().all(|x| (-1.0..1.0).contains(x)));
        assert_ne!(uniform("other", 100), long[..100]);
    }
}
