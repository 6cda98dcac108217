//! Attention over tokens and over frames.

use candle_core::{DType, Result, Tensor};

use crate::Qkv;

use super::{assert_close_at, every_isa, random, random_queries, same_on_all_threads};
use crate::attention::{
    attention_for, attention_reference, reference_within, self_attention_for, temporal_attention_for,
    temporal_attention_reference, temporal_self_attention_for,
};

const DTYPES: [DType; 3] = [DType::F32, DType::BF16, DType::F16];

/// Means of many values can be small: only their own size is a measure.
fn assert_close(got: &Tensor, want: &Tensor, what: &str) -> Result<()> {
    assert_close_at(0., got, want, what)
}

#[test]
fn attention_equals_its_reference() -> Result<()> {
    // Batch, queries, keys, heads, head size.
    let cases = [
        (1, 1, 1, 1, 4),
        (2, 5, 3, 2, 8),
        (2, 50, 50, 3, 40),
        (1, 100, 1024, 2, 40),
        (1, 7, 1029, 1, 80),
        (2, 49, 33, 2, 160),
        (1, 60, 600, 1, 512),
        (1, 9, 21, 2, 5),
    ];
    for isa in every_isa() {
        for dtype in DTYPES {
            for (batch, tokens, others, heads, dim) in cases {
                let what = format!("{isa:?} {dtype:?} attention {batch}x{tokens}x{others}x{heads}x{dim}");
                let q = random_queries(&[batch, tokens, heads * dim], 1, dtype)?;
                let k = random(&[batch, others, heads * dim], 2, dtype)?;
                let v = random(&[batch, others, heads * dim], 3, dtype)?;
                let got = same_on_all_threads(|| attention_for(&q, &k, &v, heads, isa), &what)?;
                assert_close(&got, &attention_reference(&q, &k, &v, heads)?, &what)?;
            }
        }
    }
    Ok(())
}

#[test]
fn self_attention_of_joint_projections_equals_that_of_separate_ones() -> Result<()> {
    for isa in every_isa() {
        for dtype in [DType::F32, DType::BF16] {
            for (batch, tokens, positions, heads, dim) in
                [(2, 50, 3, 2, 40), (1, 16, 33, 8, 40), (2, 5, 1, 3, 8)]
            {
                let what =
                    format!("{isa:?} {dtype:?} self-attention {batch}x{tokens}x{positions}x{heads}x{dim}");
                let joint = random(&[batch, tokens, positions, 3 * heads * dim], 1, dtype)?;
                let qkv = Qkv::Joint(joint.clone());
                let [q, k, v] = qkv.split()?;
                let got = temporal_self_attention_for(&qkv, heads, isa)?;
                assert_close(&got, &temporal_attention_for(&q, &k, &v, heads, isa)?, &what)?;

                let flat = |x: &Tensor| x.reshape((batch, tokens * positions, ()));
                let got = self_attention_for(&Qkv::Joint(flat(&joint)?), heads, isa)?;
                let want = attention_for(&flat(&q)?, &flat(&k)?, &flat(&v)?, heads, isa)?;
                assert_close(&got, &want, &what)?;
            }
        }
    }
    Ok(())
}

#[test]
fn the_running_softmax_follows_scores_that_grow_from_block_to_block() -> Result<()> {
    let (tokens, others) = (3, 1500);
    let q = random(&[1, tokens, 8], 1, DType::F32)?.abs()?;
    let ramp = Tensor::arange(0f32, others as f32, q.device())?.reshape((1, others, 1))?;
    let k = (ramp / 20.)?.broadcast_as((1, others, 8))?.contiguous()?;
    let v = random(&[1, others, 8], 2, DType::F32)?;
    for isa in every_isa() {
        let got = attention_for(&q, &k, &v, 1, isa)?;
        // Scores of hundreds: their last bits are the exponentials' fifth digit.
        assert_close_at(1., &got, &attention_reference(&q, &k, &v, 1)?, &format!("{isa:?}"))?;
    }
    Ok(())
}

#[test]
fn temporal_attention_equals_its_reference() -> Result<()> {
    // Batch, frames, positions, heads, head size.
    let cases = [(1, 1, 1, 1, 4), (2, 5, 6, 2, 8), (1, 16, 33, 8, 40), (2, 24, 3, 2, 80), (1, 50, 2, 1, 16)];
    for isa in every_isa() {
        for dtype in DTYPES {
            for (batch, frames, positions, heads, dim) in cases {
                let what = format!("{isa:?} {dtype:?} temporal {batch}x{frames}x{positions}x{heads}x{dim}");
                let dims = [batch, frames, positions, heads * dim];
                let q = random_queries(&dims, 1, dtype)?;
                let (k, v) = (random(&dims, 2, dtype)?, random(&dims, 3, dtype)?);
                let got = same_on_all_threads(|| temporal_attention_for(&q, &k, &v, heads, isa), &what)?;
                assert_close(&got, &temporal_attention_reference(&q, &k, &v, heads)?, &what)?;
            }
        }
    }
    Ok(())
}

#[test]
fn the_last_of_an_odd_number_of_keys_can_have_all_the_weight() -> Result<()> {
    for isa in every_isa() {
        for dtype in DTYPES {
            for others in [1, 33, 513, 1029] {
                let q = random(&[1, 5, 16], 1, DType::F32)?.abs()?;
                let q = ((q + 1.)? * 4.)?.to_dtype(dtype)?;
                let k = random(&[1, others - 1, 16], 2, dtype)?;
                let k = Tensor::cat(&[k, (Tensor::ones((1, 1, 16), dtype, q.device())? * 4.)?], 1)?;
                let v = random(&[1, others, 16], 3, dtype)?;
                let what = format!("{isa:?} {dtype:?} {others} keys");
                let got = attention_for(&q, &k, &v, 1, isa)?;
                assert_close(&got, &attention_reference(&q, &k, &v, 1)?, &what)?;
                let last = v.narrow(1, others - 1, 1)?.broadcast_as((1, 5, 16))?.contiguous()?;
                assert_close(&got, &last, &what)?;
            }
        }
    }
    Ok(())
}

#[test]
fn the_reference_is_the_same_in_slices() -> Result<()> {
    let (q, k, v) = (
        random(&[3, 5, 12], 1, DType::F32)?,
        random(&[3, 7, 12], 2, DType::F32)?,
        random(&[3, 7, 12], 3, DType::F32)?,
    );
    let whole = attention_reference(&q, &k, &v, 4)?;
    // A head's scores have 140 bytes: all at once, five heads at a time, one by one.
    for bytes in [12 * 140, 5 * 140, 1] {
        assert_close(&reference_within(&q, &k, &v, 4, bytes)?, &whole, &format!("{bytes} bytes"))?;
    }
    Ok(())
}

#[test]
fn half_precision_on_the_cpu_is_the_f32_version_between_casts() -> Result<()> {
    let (q, k) = (random(&[2, 60, 80], 1, DType::F16)?, random(&[2, 700, 80], 2, DType::F16)?);
    let (wide_q, wide_k) = (q.to_dtype(DType::F32)?, k.to_dtype(DType::F32)?);
    let values = |x: Tensor| x.to_dtype(DType::F16)?.flatten_all()?.to_vec1::<half::f16>();
    for isa in every_isa() {
        let got = attention_for(&q, &k, &k, 2, isa)?;
        assert!(values(got)? == values(attention_for(&wide_q, &wide_k, &wide_k, 2, isa)?)?, "{isa:?}");
        let (frames, wide) = (q.reshape((1, 12, 10, 80))?, wide_q.reshape((1, 12, 10, 80))?);
        let got = temporal_attention_for(&frames, &frames, &frames, 2, isa)?;
        assert!(values(got)? == values(temporal_attention_for(&wide, &wide, &wide, 2, isa)?)?, "{isa:?}");
    }
    Ok(())
}

#[test]
fn large_half_precision_values_do_not_overflow() -> Result<()> {
    // The sum of products is 40 × 60 × 60 = 144 000: beyond f16 before it is scaled, within it after.
    let q = (Tensor::ones((1, 3, 40), DType::F32, &candle_core::Device::Cpu)? * 60.)?.to_dtype(DType::F16)?;
    let v = random(&[1, 2, 40], 1, DType::F16)?;
    let k = q.narrow(1, 0, 2)?;
    for isa in every_isa() {
        let got = attention_for(&q, &k, &v, 1, isa)?;
        let want = v.to_dtype(DType::F32)?.mean_keepdim(1)?.broadcast_as((1, 3, 40))?;
        assert_close(&got, &want.to_dtype(DType::F16)?, &format!("{isa:?}"))?;
    }
    Ok(())
}

#[test]
fn empty_inputs_give_empty_outputs() -> Result<()> {
    for dtype in DTYPES {
        for (batch, tokens, channels) in [(0, 3, 8), (2, 0, 8), (2, 3, 0)] {
            let (q, k) =
                (random(&[batch, tokens, channels], 1, dtype)?, random(&[batch, 5, channels], 2, dtype)?);
            assert_eq!(crate::attention(&q, &k, &k, 2)?.dims(), q.dims());
        }
        for dims in [[0, 3, 4, 8], [2, 3, 0, 8], [2, 3, 4, 0]] {
            let q = random(&dims, 1, dtype)?;
            assert_eq!(crate::temporal_attention(&q, &q, &q, 2)?.dims(), dims);
        }
    }
    Ok(())
}

#[test]
fn mismatched_shapes_and_types_are_refused() -> Result<()> {
    let x = |dims: &[usize]| random(dims, 1, DType::F32);
    let (q, k) = (x(&[1, 4, 6])?, x(&[1, 5, 6])?);
    assert!(crate::attention(&q, &k, &k, 4).is_err());
    assert!(crate::attention(&q, &k, &x(&[1, 4, 6])?, 2).is_err());
    assert!(crate::attention(&q, &k, &k.to_dtype(DType::BF16)?, 2).is_err());
    assert!(crate::attention(&q, &x(&[2, 5, 6])?, &x(&[2, 5, 6])?, 2).is_err());
    let q = x(&[1, 2, 3, 4])?;
    assert!(crate::temporal_attention(&q, &q, &x(&[1, 2, 2, 4])?, 2).is_err());
    assert!(crate::temporal_attention(&q, &q, &q, 3).is_err());
    Ok(())
}
