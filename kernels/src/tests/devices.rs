//! Tests of every network operation on every available device, against its reference in f32 on the CPU.

use candle_core::{DType, Device, Result, Tensor};

use super::random;
use crate::attention::{attention_reference, temporal_attention_reference};
use crate::conv2d::conv2d_reference;
use crate::group_norm::group_norm_reference;
use crate::layer_norm::layer_norm_reference;
use crate::linear::linear_reference;
use crate::{Conv2d, GroupNorm, LayerNorm, Linear, Padding, attention, gelu, silu, temporal_attention};

/// The CPU, and the GPUs that this build supports and this machine has.
fn devices() -> Vec<Device> {
    [Ok(Device::Cpu), Device::new_cuda(0), Device::new_metal(0)].into_iter().flatten().collect()
}

/// Tolerance relative to max(|want|). In 16-bit dtypes the inputs are rounded as well, and the references on
/// other devices round after every step.
fn tolerance(dtype: DType) -> f32 {
    match dtype {
        DType::F32 => 1e-4,
        DType::F16 => 5e-3,
        _ => 4e-2,
    }
}

#[test]
fn every_device_equals_the_references() -> Result<()> {
    let full = |dims: &[usize], seed| random(dims, seed, DType::F32);
    let x = full(&[2, 6, 8, 32], 1)?;
    let tokens = full(&[2, 48, 32], 2)?;
    let (weight, bias) = (full(&[32, 32], 3)?, full(&[32], 4)?);
    let kernel = full(&[32, 32, 3, 3], 5)?;
    let wanted = [
        ("linear", linear_reference(&x, &weight, Some(&bias))?),
        ("conv2d", conv2d_reference(&x, &kernel, Some(&bias), 2, Padding::bottom_right(1))?),
        ("attention", attention_reference(&tokens, &tokens, &tokens, 4)?),
        ("temporal attention", temporal_attention_reference(&x, &x, &x, 4)?),
        ("group norm", group_norm_reference(&x, &weight.get(0)?, &bias, 8, 1e-5)?),
        ("layer norm", layer_norm_reference(&x, &weight.get(0)?, &bias, 1e-5)?),
        ("silu", x.silu()?),
        ("gelu", x.gelu_erf()?),
    ];
    for device in devices() {
        for dtype in [DType::F32, DType::BF16, DType::F16] {
            let there = |x: &Tensor| x.to_device(&device)?.to_dtype(dtype);
            let (x, tokens) = (there(&x)?, there(&tokens)?);
            let (weight, bias, kernel) = (there(&weight)?, there(&bias)?, there(&kernel)?);
            let row = weight.get(0)?;
            let got = [
                Linear::new(weight, Some(bias.clone()))?.forward(&x)?,
                Conv2d::new(kernel, Some(bias.clone()), 2, Padding::bottom_right(1))?.forward(&x)?,
                attention(&tokens, &tokens, &tokens, 4)?,
                temporal_attention(&x, &x, &x, 4)?,
                GroupNorm::new(row.clone(), bias.clone(), 8, 1e-5)?.forward(&x)?,
                LayerNorm::new(row, bias, 1e-5)?.forward(&x)?,
                silu(&x)?,
                gelu(&x)?,
            ];
            for (got, (name, want)) in got.iter().zip(&wanted) {
                let got = got.to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
                let scale = want.abs()?.max_all()?.to_scalar::<f32>()?;
                let worst = (got - want)?.abs()?.max_all()?.to_scalar::<f32>()? / scale;
                assert!(worst <= tolerance(dtype), "{device:?} {dtype:?} {name}: {worst:e} of the scale");
            }
        }
    }
    Ok(())
}
