//! Tests of every public operation against its reference: random data, odd shapes, every instruction set of
//! this CPU, and bit-identical results with one and two threads.

mod products;
mod norms;
mod attentions;
mod devices;
#[cfg(feature = "cuda-emulator")]
mod emulated;
mod profile;
mod speed;

use candle_core::{DType, Device, Result, Tensor};

use crate::cpu::Isa;

/// Instruction sets supported by this CPU, and the AMX kernels on the software model of the tiles.
fn every_isa() -> Vec<Isa> {
    [Isa::available(), vec![Isa::TileModel]].concat()
}

/// Pseudo-random values, uniform in [-1, 1), from Knuth's linear congruential generator; equal on every run.
fn random(dims: &[usize], seed: u64, dtype: DType) -> Result<Tensor> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    let values: Vec<f32> = (0..dims.iter().product::<usize>()).map(|_| next()).collect();
    Tensor::from_vec(values, dims, &Device::Cpu)?.to_dtype(dtype)
}

/// Queries whose scores differ by a few units, so that the softmax is neither uniform nor one-hot.
fn random_queries(dims: &[usize], seed: u64, dtype: DType) -> Result<Tensor> {
    (random(dims, seed, DType::F32)? * 4.0)?.to_dtype(dtype)
}

/// Asserts that the maximum difference, relative to max(|want|) or to 1, the scale of the inputs, if that is
/// larger, is within the tolerance of the dtype. In f32 the sums have another order; in bf16 the reference
/// rounds after every step, the fused version once.
fn assert_close(got: &Tensor, want: &Tensor, what: &str) -> Result<()> {
    assert_close_at(1.0, got, want, what)
}

/// [`assert_close`] relative to max(|want|), or to `min_scale` if that is larger.
fn assert_close_at(min_scale: f32, got: &Tensor, want: &Tensor, what: &str) -> Result<()> {
    assert_eq!((got.dims(), got.dtype()), (want.dims(), want.dtype()), "{what}");
    let tolerance = match got.dtype() {
        DType::F32 => 1e-5,
        DType::F16 => 2e-3,
        _ => 1.2e-2,
    };
    let (got, want) = (got.to_dtype(DType::F32)?.flatten_all()?, want.to_dtype(DType::F32)?.flatten_all()?);
    let scale = want.abs()?.max(0)?.to_scalar::<f32>()?.max(min_scale);
    let worst = (got - want)?.abs()?.max(0)?.to_scalar::<f32>()? / scale;
    assert!(worst <= tolerance, "{what}: {worst:e} of the scale, allowed {tolerance:e}");
    Ok(())
}

/// Runs `run` in thread pools of one and of two threads and asserts that the results are equal bit for bit.
fn same_on_all_threads(run: impl Fn() -> Result<Tensor> + Sync, what: &str) -> Result<Tensor> {
    let on = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        pool.map_err(candle_core::Error::wrap)?.install(&run)
    };
    let (one, two) = (on(1)?, on(2)?);
    let bits = |x: &Tensor| x.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>();
    let same = bits(&one)?.iter().zip(bits(&two)?).all(|(a, b)| a.to_bits() == b.to_bits());
    assert!(same, "{what}: one and two threads differ");
    Ok(one)
}
