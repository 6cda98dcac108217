//! Norms and activations.

use candle_core::{DType, Result, Tensor};

use super::{assert_close, every_isa, random, same_on_all_threads};
use crate::activation::{gelu_for, gelu_reference, silu_for, silu_reference};
use crate::cpu::Isa;
use crate::group_norm::group_norm_reference;
use crate::join::join_channels_reference;
use crate::layer_norm::layer_norm_reference;
use crate::{GroupNorm, LayerNorm, join_channels};

const DTYPES: [DType; 3] = [DType::F32, DType::BF16, DType::F16];

#[test]
fn group_norm_equals_its_reference() -> Result<()> {
    for isa in every_isa() {
        for dtype in DTYPES {
            // Shape, groups: one value per group and image, odd channels, several chunks per image.
            for (dims, groups) in
                [(&[1, 1, 1, 4][..], 2), (&[3, 5, 13], 13), (&[5, 7, 9, 40], 8), (&[2, 1000, 64], 32)]
            {
                let what = format!("{isa:?} {dtype:?} group norm {dims:?} in {groups}");
                let channels = dims[dims.len() - 1];
                // A mean of two deviations, so that it matters.
                let x = (random(dims, 1, DType::F32)? + 1.2)?.to_dtype(dtype)?;
                let (weight, bias) = (random(&[channels], 2, dtype)?, random(&[channels], 3, dtype)?);
                let want = group_norm_reference(&x, &weight, &bias, groups, 1e-5)?;
                let norm = GroupNorm::for_isa(weight, bias, (groups, 1e-5), isa)?;
                assert_close(&same_on_all_threads(|| norm.forward(&x), &what)?, &want, &what)?;
                let got = same_on_all_threads(|| norm.forward_silu(&x), &what)?;
                assert_close(&got, &want.silu()?, &what)?;
            }
        }
    }
    Ok(())
}

#[test]
fn group_norm_survives_a_mean_of_a_thousand_deviations() -> Result<()> {
    let (positions, channels, groups) = (900, 12, 3);
    // Deviation 1, in f32 as f32 has it there.
    let x = ((random(&[1, positions, channels], 1, DType::F32)? * 3f64.sqrt())? + 1000.)?;
    let (weight, bias) = (random(&[channels], 2, DType::F32)?, random(&[channels], 3, DType::F32)?);
    let wide = x.to_dtype(DType::F64)?.reshape((positions, groups, channels / groups))?.transpose(0, 1)?;
    let wide = wide.flatten_from(1)?;
    let wide = wide.broadcast_sub(&wide.mean_keepdim(1)?)?;
    let wide = wide.broadcast_div(&(wide.sqr()?.mean_keepdim(1)? + 1e-5)?.sqrt()?)?;
    let wide = wide.reshape((groups, positions, channels / groups))?.transpose(0, 1)?.reshape(x.dims())?;
    let want = wide.to_dtype(DType::F32)?.broadcast_mul(&weight)?.broadcast_add(&bias)?;
    for isa in every_isa() {
        let norm = GroupNorm::for_isa(weight.clone(), bias.clone(), (groups, 1e-5), isa)?;
        assert_close(&norm.forward(&x)?, &want, &format!("{isa:?}"))?;
        assert_close(&norm.forward_silu(&x)?, &want.silu()?, &format!("{isa:?}"))?;
    }
    Ok(())
}

#[test]
fn layer_norm_equals_its_reference() -> Result<()> {
    for isa in every_isa() {
        for dtype in DTYPES {
            for dims in [&[1, 2][..], &[5, 13], &[2, 50, 40], &[3, 17, 1280]] {
                let what = format!("{isa:?} {dtype:?} layer norm {dims:?}");
                let channels = dims[dims.len() - 1];
                let x = (random(dims, 4, DType::F32)? + 3.)?.to_dtype(dtype)?;
                let (weight, bias) = (random(&[channels], 5, dtype)?, random(&[channels], 6, dtype)?);
                let want = layer_norm_reference(&x, &weight, &bias, 1e-5)?;
                let norm = LayerNorm::for_isa(weight, bias, 1e-5, isa)?;
                assert_close(&same_on_all_threads(|| norm.forward(&x), &what)?, &want, &what)?;
                let Ok((_, count, _)) = x.dims3() else { continue };
                // As positions of two videos: (2, count, 3, channels).
                let videos = Tensor::stack(&[&x, &x, &x], 2)?.narrow(0, 0, 2)?.contiguous()?;
                let added = random(&[count, channels], 11, dtype)?;
                let want = Tensor::stack(&[&want, &want, &want], 2)?.narrow(0, 0, 2)?;
                let want = want.broadcast_add(&added.unsqueeze(1)?)?;
                let got = same_on_all_threads(|| norm.forward_plus(&videos, &added), &what)?;
                assert_close(&got, &want.contiguous()?, &what)?;
            }
        }
    }
    Ok(())
}

#[test]
fn joined_channels_are_those_of_both() -> Result<()> {
    for dtype in DTYPES {
        for (dims, m, n) in
            [([1, 1], 1, 1), ([3, 5], 13, 4), ([40, 64], 40, 24), ([2, 3], 0, 4), ([0, 3], 2, 4)]
        {
            let a = random(&[dims[0], dims[1], m], 1, dtype)?;
            let b = random(&[dims[1], dims[0], n], 2, dtype)?.transpose(0, 1)?;
            let what = format!("{dtype:?} {dims:?} {m} and {n}");
            let got = same_on_all_threads(|| join_channels(&a, &b), &what)?;
            let values = |x: &Tensor| x.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>();
            assert_eq!(got.dims(), [dims[0], dims[1], m + n], "{what}");
            assert_eq!(values(&got)?, values(&join_channels_reference(&a, &b)?)?, "{what}");
        }
    }
    let x = random(&[2, 3], 1, DType::F32)?;
    assert!(join_channels(&x, &random(&[3, 3], 1, DType::F32)?).is_err());
    assert!(join_channels(&x, &x.to_dtype(DType::BF16)?).is_err());
    Ok(())
}

#[test]
fn activations_equal_their_references() -> Result<()> {
    for isa in every_isa() {
        for dtype in DTYPES {
            for dims in [&[1][..], &[3, 7], &[2, 100, 130]] {
                let what = format!("{isa:?} {dtype:?} {dims:?}");
                let x = (random(dims, 7, DType::F32)? * 9.)?.to_dtype(dtype)?;
                let got = same_on_all_threads(|| silu_for(&x, isa), &what)?;
                assert_close(&got, &silu_reference(&x)?, &what)?;
                let got = same_on_all_threads(|| gelu_for(&x, isa), &what)?;
                assert_close(&got, &gelu_reference(&x)?, &what)?;
            }
        }
    }
    Ok(())
}

#[test]
fn instruction_sets_agree_bit_for_bit_outside_of_products() -> Result<()> {
    let x = (random(&[3, 50, 24], 8, DType::F32)? * 4.)?;
    let (weight, bias) = (random(&[24], 9, DType::F32)?, random(&[24], 10, DType::F32)?);
    let run = |isa: Isa| -> Result<Vec<f32>> {
        let group = GroupNorm::for_isa(weight.clone(), bias.clone(), (4, 1e-6), isa)?;
        let layer = LayerNorm::for_isa(weight.clone(), bias.clone(), 1e-5, isa)?;
        gelu_for(&layer.forward(&group.forward_silu(&x)?)?, isa)?.flatten_all()?.to_vec1()
    };
    let want = run(Isa::Portable)?;
    for isa in every_isa() {
        assert!(run(isa)? == want, "{isa:?} differs from portable");
    }
    Ok(())
}

#[test]
fn empty_inputs_give_empty_outputs() -> Result<()> {
    for dtype in DTYPES {
        for (dims, channels) in [([0, 3, 6], 6), ([2, 0, 6], 6), ([2, 3, 0], 0)] {
            let (x, weight) = (random(&dims, 1, dtype)?, random(&[channels], 2, dtype)?);
            let group = GroupNorm::new(weight.clone(), weight.clone(), 2, 1e-5)?;
            let layer = LayerNorm::new(weight.clone(), weight, 1e-5)?;
            let outputs = [group.forward_silu(&x)?, layer.forward(&x)?, crate::silu(&x)?, crate::gelu(&x)?];
            assert!(outputs.iter().all(|y| y.dims() == dims), "{dtype:?} {dims:?}");
        }
    }
    Ok(())
}

#[test]
fn mismatched_shapes_are_refused() -> Result<()> {
    let vector = |n: usize| random(&[n], 1, DType::F32);
    assert!(GroupNorm::new(vector(6)?, vector(5)?, 2, 1e-5).is_err());
    assert!(GroupNorm::new(vector(6)?, vector(6)?, 4, 1e-5).is_err());
    assert!(LayerNorm::new(vector(6)?, vector(5)?, 1e-5).is_err());
    let x = random(&[2, 3, 5], 1, DType::F32)?;
    assert!(GroupNorm::new(vector(6)?, vector(6)?, 2, 1e-5)?.forward(&x).is_err());
    assert!(LayerNorm::new(vector(6)?, vector(6)?, 1e-5)?.forward(&x).is_err());
    Ok(())
}
