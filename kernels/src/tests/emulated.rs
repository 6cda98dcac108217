//! Tests of every CUDA kernel against its reference in the emulator, with the launchers and kernel sources
//! that run on a GPU.

use candle_core::{DType, Device, Result, Tensor};

use super::{assert_close, assert_close_at, random, random_queries};
use crate::attention::{attention_reference, temporal_attention_reference};
use crate::blend::{Blend, blend};
use crate::conv2d::{conv2d_reference, upsample_reference};
use crate::cpu::Activation;
use crate::cuda::emulator::emulated;
use crate::cuda::{self, Epilogue};
use crate::erode::{erode, erode_reference};
use crate::gaussian_blur::gaussian_blur;
use crate::group_norm::group_norm_reference;
use crate::join::join_channels_reference;
use crate::layer_norm::layer_norm_reference;
use crate::linear::linear_reference;
use crate::pixels::Rect;
use crate::resize::{resize_bicubic, resize_lanczos4};
use crate::warp_affine::{Affine, warp_affine, warp_coverage};
use crate::{
    Conv2d, GroupNorm, LayerNorm, Linear, Padding, attention, gelu, join_channels, silu, temporal_attention,
};

const DTYPES: [DType; 3] = [DType::F32, DType::BF16, DType::F16];

fn values(x: &Tensor) -> Result<Vec<f32>> {
    x.to_dtype(DType::F32)?.flatten_all()?.to_vec1()
}

#[test]
fn group_norm_equals_its_reference() -> Result<()> {
    for dtype in DTYPES {
        for (dims, groups) in [
            (&[1, 1, 1, 4][..], 2),
            (&[3, 5, 13], 13),
            (&[5, 7, 9, 40], 8),
            (&[2, 1000, 64], 32),
            (&[1, 70, 320], 32),
            (&[1, 9, 2560], 32),
        ] {
            let what = format!("{dtype:?} group norm {dims:?} in {groups}");
            let channels = dims[dims.len() - 1];
            let x = (random(dims, 1, DType::F32)? + 1.2)?.to_dtype(dtype)?;
            let (weight, bias) = (random(&[channels], 2, dtype)?, random(&[channels], 3, dtype)?);
            let want = group_norm_reference(&x, &weight, &bias, groups, 1e-5)?;
            let norm = GroupNorm::new(weight, bias, groups, 1e-5)?;
            assert_close(&emulated(|| norm.forward(&x))?, &want, &what)?;
            assert_close(&emulated(|| norm.forward_silu(&x))?, &want.silu()?, &what)?;
        }
    }
    Ok(())
}

#[test]
fn group_norm_is_precise_for_a_mean_of_a_thousand_standard_deviations() -> Result<()> {
    let x = (random(&[1, 900, 12], 1, DType::F32)? * 3f64.sqrt())?;
    let (weight, bias) = (random(&[12], 2, DType::F32)?, random(&[12], 3, DType::F32)?);
    // `near` has the values to which f32 rounds near 1000.
    let far = (&x + 1000.0)?;
    let near = (&far - 1000.0)?;
    let want = group_norm_reference(&near, &weight, &bias, 3, 1e-5)?;
    let norm = GroupNorm::new(weight, bias, 3, 1e-5)?;
    assert_close(&emulated(|| norm.forward(&far))?, &want, "far")
}

#[test]
fn layer_norm_equals_its_reference() -> Result<()> {
    for dtype in DTYPES {
        for dims in [&[1, 2][..], &[5, 13], &[2, 50, 40], &[3, 17, 1280]] {
            let what = format!("{dtype:?} layer norm {dims:?}");
            let channels = dims[dims.len() - 1];
            let x = (random(dims, 4, DType::F32)? + 3.0)?.to_dtype(dtype)?;
            let (weight, bias) = (random(&[channels], 5, dtype)?, random(&[channels], 6, dtype)?);
            let want = layer_norm_reference(&x, &weight, &bias, 1e-5)?;
            let norm = LayerNorm::new(weight, bias, 1e-5)?;
            assert_close(&emulated(|| norm.forward(&x))?, &want, &what)?;
            let Ok((_, count, _)) = x.dims3() else { continue };
            // Two videos with three positions: (2, count, 3, channels).
            let videos = Tensor::stack(&[&x, &x, &x], 2)?.narrow(0, 0, 2)?.contiguous()?;
            let added = random(&[count, channels], 11, dtype)?;
            let want = Tensor::stack(&[&want, &want, &want], 2)?.narrow(0, 0, 2)?;
            let want = want.broadcast_add(&added.unsqueeze(1)?)?.contiguous()?;
            assert_close(&emulated(|| norm.forward_plus(&videos, &added))?, &want, &what)?;
        }
    }
    Ok(())
}

#[test]
fn epilogues_equal_their_separate_operations() -> Result<()> {
    for dtype in DTYPES {
        for (rows, columns, residual_rows) in [(1, 1, 1), (12, 7, 4), (100, 320, 2), (40, 1280, 40)] {
            let what = format!("{dtype:?} epilogue {rows}x{columns}, residual of {residual_rows}");
            let wide = |x: &Tensor| x.to_dtype(DType::F32);
            let x = (random(&[rows, columns], 1, DType::F32)? * 5.0)?.to_dtype(dtype)?;
            let bias = random(&[columns], 2, dtype)?;
            let residual = random(&[residual_rows, columns], 3, dtype)?;
            let repeated = wide(&residual)?.reshape((residual_rows, 1, columns))?;
            let repeated = repeated.broadcast_as((residual_rows, rows / residual_rows, columns))?;
            let sum = wide(&x)?.broadcast_add(&wide(&bias)?)?.add(&repeated.reshape((rows, columns))?)?;
            for (activation, want) in [
                (Activation::None, sum.clone()),
                (Activation::Silu, sum.silu()?),
                (Activation::Gelu, sum.gelu_erf()?),
            ] {
                let of = Epilogue { bias: Some(&bias), residual: Some(&residual), activation };
                let got = emulated(|| cuda::epilogue(&x, of))?;
                assert_close(&got, &want.to_dtype(dtype)?, &what)?;
            }
            assert_close(&emulated(|| silu(&x))?, &x.silu()?, &what)?;
            assert_close(&emulated(|| gelu(&x))?, &wide(&x)?.gelu_erf()?.to_dtype(dtype)?, &what)?;
        }
    }
    let x = random(&[6, 4], 1, DType::F32)?;
    let four = random(&[4, 4], 1, DType::F32)?;
    let misfit = Epilogue { bias: None, residual: Some(&four), activation: Activation::None };
    assert!(emulated(|| cuda::epilogue(&x, misfit)).is_err());
    Ok(())
}

/// In f32 candle computes the matrix product and a kernel the epilogue; in 16-bit dtypes one kernel computes
/// both.
#[test]
fn linear_layers_and_convolutions_equal_their_references() -> Result<()> {
    for dtype in DTYPES {
        let (weight, bias) = (random(&[64, 40], 1, dtype)?, random(&[64], 2, dtype)?);
        let (x, residual) = (random(&[2, 9, 40], 3, dtype)?, random(&[2, 9, 64], 4, dtype)?);
        let layer = emulated(|| Linear::new(weight.clone(), Some(bias.clone())))?;
        let want = linear_reference(&x, &weight, Some(&bias))?;
        let what = format!("{dtype:?} linear");
        assert_close(&emulated(|| layer.forward(&x))?, &want, &what)?;
        assert_close(&emulated(|| layer.forward_add(&x, &residual))?, &(&want + &residual)?, &what)?;
        // Numbers of columns that the kernel can interleave for GEGLU, and that it cannot.
        for out in [64, 24] {
            let half = |first| want.narrow(2, first, out / 2)?.to_dtype(DType::F32);
            let geglu = (half(0)? * half(out / 2)?.gelu_erf()?)?.to_dtype(dtype)?;
            let (weight, bias) = (weight.narrow(0, 0, out)?, bias.narrow(0, 0, out)?);
            let plain = emulated(|| Linear::new(weight.clone(), Some(bias.clone())))?;
            let gated = emulated(|| Linear::for_geglu(weight, Some(bias)))?;
            for layer in [&plain, &gated] {
                assert_close(&emulated(|| layer.forward_geglu(&x))?, &geglu, &what)?;
            }
        }

        let (weight, x) = (random(&[16, 8, 3, 3], 5, dtype)?, random(&[2, 5, 6, 8], 6, dtype)?);
        let bias = random(&[16], 7, dtype)?;
        let layer = emulated(|| Conv2d::new(weight.clone(), Some(bias.clone()), 1, Padding::all(1)))?;
        let what = format!("{dtype:?} conv2d");
        let want = conv2d_reference(&x, &weight, Some(&bias), 1, Padding::all(1))?;
        for images in [2, 1] {
            let time = random(&[images, 1, 1, 16], 8, dtype)?;
            assert_close(&emulated(|| layer.forward_add(&x, &time))?, &want.broadcast_add(&time)?, &what)?;
        }
        let enlarged = upsample_reference(&x, 2)?;
        let want = conv2d_reference(&enlarged, &weight, Some(&bias), 1, Padding::all(1))?;
        assert_close(&emulated(|| layer.forward_upsampled(&x))?, &want, &what)?;
    }
    Ok(())
}

#[test]
fn convolutions_equal_their_reference() -> Result<()> {
    // Images, height, width, channels in and out, kernel, stride.
    let cases = [
        (1, 5, 6, 8, 16, 3, 1),
        (2, 9, 7, 40, 70, 3, 2),
        (1, 4, 5, 13, 3, 3, 1),
        (3, 4, 4, 96, 33, 1, 1),
        // Large enough for the larger tiles.
        (1, 88, 64, 8, 192, 1, 1),
        (1, 40, 35, 16, 1536, 1, 1),
        (1, 1, 1, 4, 4, 1, 1),
    ];
    for dtype in [DType::BF16, DType::F16] {
        for (images, height, width, channels, out, kernel, stride) in cases {
            for padding in [Padding::all(kernel / 2), Padding::bottom_right(1)] {
                let what = format!(
                    "{dtype:?} {kernel}x{kernel} {channels}->{out}, {images}x{height}x{width} by {stride}, {padding:?}"
                );
                let x = random(&[images, height, width, channels], 1, dtype)?;
                let (weight, bias) =
                    (random(&[out, channels, kernel, kernel], 2, dtype)?, random(&[out], 3, dtype)?);
                let want = conv2d_reference(&x, &weight, Some(&bias), stride, padding)?;
                let layer = emulated(|| Conv2d::new(weight, Some(bias), stride, padding))?;
                assert_close(&emulated(|| layer.forward(&x))?, &want, &what)?;
                let same = random(want.dims(), 4, dtype)?;
                let got = emulated(|| layer.forward_add(&x, &same))?;
                assert_close(&got, &(&want + &same)?, &what)?;
            }
        }
    }
    Ok(())
}

#[test]
fn attention_equals_its_reference() -> Result<()> {
    // Batch, q_len, kv_len, heads, head_dim: every kernel, and head dimensions that no kernel supports.
    let cases = [
        (1, 1, 1, 1, 4),
        (2, 5, 3, 2, 8),
        (2, 50, 50, 3, 40),
        (1, 20, 200, 2, 40),
        (1, 17, 60, 1, 64),
        (1, 70, 129, 1, 80),
        (2, 49, 33, 2, 160),
        (1, 17, 60, 1, 512),
        (1, 9, 21, 2, 5),
        (1, 3, 4, 1, 600),
    ];
    for dtype in DTYPES {
        for (batch, q_len, kv_len, heads, head_dim) in cases {
            let what = format!("{dtype:?} attention {batch}x{q_len}x{kv_len}x{heads}x{head_dim}");
            let q = random_queries(&[batch, q_len, heads * head_dim], 1, dtype)?;
            let k = random(&[batch, kv_len, heads * head_dim], 2, dtype)?;
            let v = random(&[batch, kv_len, heads * head_dim], 3, dtype)?;
            let got = emulated(|| attention(&q, &k, &v, heads))?;
            assert_close_at(0.0, &got, &attention_reference(&q, &k, &v, heads)?, &what)?;
        }
    }
    Ok(())
}

#[test]
fn attention_supports_views_of_larger_tensors() -> Result<()> {
    let all = random(&[3, 9, 16], 1, DType::BF16)?;
    let part = |x: &Tensor| -> Result<[Tensor; 3]> {
        Ok([x.narrow(1, 1, 5)?, x.narrow(1, 2, 7)?, x.narrow(1, 0, 7)?])
    };
    let [q, k, v] = part(&all)?;
    let got = emulated(|| attention(&q, &k, &v, 2))?;
    assert_close_at(0.0, &got, &attention_reference(&q, &k, &v, 2)?, "strided")?;
    // Contiguous, but not aligned to 16 bytes.
    let odd = random(&[1, 1 + 5 * 16], 2, DType::BF16)?.narrow(1, 1, 80)?.reshape((1, 5, 16))?;
    let got = emulated(|| attention(&odd, &odd, &odd, 2))?;
    assert_close_at(0.0, &got, &attention_reference(&odd, &odd, &odd, 2)?, "odd")
}

#[test]
fn temporal_attention_equals_its_reference() -> Result<()> {
    // Batch, frames, positions, heads, head_dim.
    let cases = [
        (1, 1, 1, 1, 4),
        (2, 5, 6, 2, 8),
        (1, 16, 33, 8, 40),
        (2, 24, 3, 2, 80),
        (1, 24, 2, 8, 160),
        (1, 9, 3, 2, 5),
        (1, 50, 2, 1, 16),
    ];
    for dtype in DTYPES {
        for (batch, frames, positions, heads, head_dim) in cases {
            let what = format!("{dtype:?} temporal {batch}x{frames}x{positions}x{heads}x{head_dim}");
            let dims = [batch, frames, positions, heads * head_dim];
            let q = random_queries(&dims, 1, dtype)?;
            let (k, v) = (random(&dims, 2, dtype)?, random(&dims, 3, dtype)?);
            let got = emulated(|| temporal_attention(&q, &k, &v, heads))?;
            assert_close_at(0.0, &got, &temporal_attention_reference(&q, &k, &v, heads)?, &what)?;
        }
    }
    Ok(())
}

#[test]
fn copies_are_exact() -> Result<()> {
    for dtype in DTYPES {
        for (dims, m, n) in [([1, 1], 1, 1), ([3, 5], 13, 4), ([40, 6], 40, 24)] {
            let a = random(&[dims[0], dims[1], m], 1, dtype)?;
            let b = random(&[dims[1], dims[0], n], 2, dtype)?.transpose(0, 1)?;
            let got = emulated(|| join_channels(&a, &b))?;
            assert_eq!(values(&got)?, values(&join_channels_reference(&a, &b)?)?, "{dtype:?} {dims:?}");
            let image = a.unsqueeze(0)?;
            let got = emulated(|| cuda::upsample(&image))?;
            assert_eq!(values(&got)?, values(&upsample_reference(&image, 2)?)?, "{dtype:?} {dims:?}");
        }
    }
    Ok(())
}

/// The CPU versions of the image operations are tested against the references; the kernels must equal them
/// bit for bit.
#[test]
fn image_operations_equal_the_cpu_versions_bit_for_bit() -> Result<()> {
    let same = |what: &str, run: &dyn Fn() -> Result<Tensor>| -> Result<()> {
        let (got, want) = (emulated(run)?, run()?);
        assert_eq!((got.dims(), got.dtype()), (want.dims(), want.dtype()), "{what}");
        assert_eq!(values(&got)?, values(&want)?, "{what}");
        Ok(())
    };
    let unit = |dims: &[usize], seed| (random(dims, seed, DType::F32)? + 1.0)? / 2.0;
    let turned = Affine([[0.9, -0.35, 3.3], [0.35, 0.9, -4.1]]);
    let window = Rect { x: 2, y: 1, width: 31, height: 27 };
    for (height, width) in [(17, 23), (1, 5), (40, 3)] {
        let floats = (unit(&[height, width, 3], 1)? * 255.0)?;
        let bytes = floats.to_dtype(DType::U8)?;
        for source in [&floats, &bytes] {
            same("warp", &|| warp_affine(source, &turned, window, 127.0))?;
        }
        same("coverage", &|| warp_coverage(&floats, &turned, window))?;
        for (new_height, new_width) in [(31, 17), (13, 9), (height, width), (1, 1)] {
            same("lanczos", &|| resize_lanczos4(&bytes, new_height, new_width))?;
            same("bicubic", &|| resize_bicubic(&floats, new_height, new_width))?;
        }
        let mask = unit(&[height, width], 2)?;
        for size in [1, 2, 5, 8, 40] {
            same("erode", &|| erode(&mask, size))?;
        }
        for (size, sigma) in [(1, 0.5), (7, 1.4), (59, 9.2)] {
            same("blur", &|| gaussian_blur(&mask, size, sigma))?;
        }
        let face = random(&[height, width, 3], 3, DType::F32)?.affine(1.5, 0.0)?;
        // The weight of some pixels is 0.
        let weight = random(&[height, width], 4, DType::F32)?.relu()?;
        let of = Blend { frame: &bytes, face: &face, face_mask: &mask, weight: &weight };
        same("blend", &|| blend(of))?;
        let large = erode_reference(&mask, 3)?;
        same("erode a result", &|| erode(&large, 3))?;
    }
    Ok(())
}

#[test]
fn the_emulator_is_active_only_inside_emulated() -> Result<()> {
    let x = random(&[2, 3], 1, DType::F32)?;
    assert!(!cuda::supports(&x));
    assert!(emulated(|| cuda::supports(&x)));
    assert!(!emulated(|| cuda::supports(&x.to_dtype(DType::U8).unwrap_or(x.clone()))));
    assert!(!cuda::supports(&x));
    Ok(())
}

/// A barrier in divergent code, parameters of the wrong size, unknown kernels and invalid launch dimensions
/// are errors.
#[test]
fn invalid_launches_are_errors() -> Result<()> {
    use crate::cuda::Launch;
    let x = Tensor::zeros((4, 8), DType::F32, &Device::Cpu)?;
    // SAFETY: the emulator rejects all launches below but one before it runs a kernel; `half_a_barrier`
    // writes 16 of the 32 floats, and its output is dropped with the error.
    let run = |launch: Launch| emulated(|| unsafe { launch.run((4, 8), DType::F32, &Device::Cpu) });
    let message = |launch| run(launch).err().map(|e| e.to_string()).unwrap_or_default();
    assert!(message(Launch::new("epilogue", "none_f32")).contains("no such kernel"));
    let short = Launch::with_dtype_of("epilogue", "epilogue", &x).tensor(&x).output();
    assert!(message(short).contains("bytes"));
    let faulty = Launch::new("faults", "half_a_barrier").block([32, 1, 1]).output();
    assert!(message(faulty).contains("different barriers"));
    let geglu =
        || Launch::with_dtype_of("epilogue", "geglu", &x).tensor(&x).optional(None).output().ints(&[4, 4]);
    assert!(message(geglu().block([512, 1, 1])).contains("got 512"));
    assert!(message(geglu().grid([1, 70_000, 1])).contains("cannot launch"));
    assert!(message(geglu().shared(1 << 20)).contains("shared memory"));
    Ok(())
}
