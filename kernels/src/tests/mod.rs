//! Every front against its reference: random data, odd shapes, every instruction set of this machine, and
//! one and two threads bit for bit.

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

/// What this machine can run, and the tile version with tiles in software.
fn every_isa() -> Vec<Isa> {
    [Isa::available(), vec![Isa::TileModel]].concat()
}

/// Uniform in [-1, 1), the same on every run: a linear congruential generator of Knuth's.
fn random(dims: &[usize], seed: u64, dtype: DType) -> Result<Tensor> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    let values: Vec<f32> = (0..dims.iter().product::<usize>()).map(|_| next()).collect();
    Tensor::from_vec(values, dims, &Device::Cpu)?.to_dtype(dtype)
}

/// Queries whose scores are of a few units, so that a softmax is neither flat nor a single key.
fn random_queries(dims: &[usize], seed: u64, dtype: DType) -> Result<Tensor> {
    (random(dims, seed, DType::F32)? * 4.0)?.to_dtype(dtype)
}

/// The largest difference in units of the largest wanted value, or of the inputs' (1) where that is larger: f32
/// sums in another order, bf16 rounded once here and after every step in the reference.
fn assert_close(got: &Tensor, want: &Tensor, what: &str) -> Result<()> {
    assert_close_at(1.0, got, want, what)
}

/// [`assert_close`] in units of the largest wanted value, or of `least` where that is larger.
fn assert_close_at(least: f32, got: &Tensor, want: &Tensor, what: &str) -> Result<()> {
    assert_eq!((got.dims(), got.dtype()), (want.dims(), want.dtype()), "{what}");
    let tolerance = match got.dtype() {
        DType::F32 => 1e-5,
        DType::F16 => 2e-3,
        _ => 1.2e-2,
    };
    let (got, want) = (got.to_dtype(DType::F32)?.flatten_all()?, want.to_dtype(DType::F32)?.flatten_all()?);
    let scale = want.abs()?.max(0)?.to_scalar::<f32>()?.max(least);
    let worst = (got - want)?.abs()?.max(0)?.to_scalar::<f32>()? / scale;
    assert!(worst <= tolerance, "{what}: {worst:e} of the scale, allowed {tolerance:e}");
    Ok(())
}

/// `run` in pools of one and of two threads; the results must be the same bits.
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
