//! Linear layers and convolutions.

use candle_core::{DType, Result, Tensor};

use super::{assert_close, every_isa, random, same_on_all_threads};
use crate::conv2d::{conv2d_reference, upsample_reference};
use crate::cpu::Isa;
use crate::linear::linear_reference;
use crate::qkv::qkv_reference;
use crate::{Conv2d, GroupNorm, LayerNorm, Linear, Padding, QkvLinear, gelu, silu};

const DTYPES: [DType; 3] = [DType::F32, DType::BF16, DType::F16];

#[test]
fn linear_equals_its_reference() -> Result<()> {
    // Rows, inputs, outputs: single ones, odd ones, several blocks of each.
    let shapes = [(1, 1, 1), (5, 13, 4), (50, 384, 33), (7, 40, 640), (251, 1100, 70), (1024, 64, 336)];
    for isa in every_isa() {
        for dtype in DTYPES {
            for (rows, inner, out) in shapes {
                let what = format!("{isa:?} {dtype:?} linear {rows}x{inner}x{out}");
                let x = random(&[1, rows, inner], 1, dtype)?;
                let weight = random(&[out, inner], 2, dtype)?;
                let bias = random(&[out], 3, dtype)?;
                let residual = random(&[1, rows, out], 4, dtype)?;
                let layer = Linear::for_isa(weight.clone(), Some(bias.clone()), isa)?;
                let want = linear_reference(&x, &weight, Some(&bias))?;
                assert_close(&same_on_all_threads(|| layer.forward(&x), &what)?, &want, &what)?;
                assert_close(&layer.forward_add(&x, &residual)?, &(&want + &residual)?, &what)?;
                assert_close(&layer.forward_gelu(&x)?, &gelu(&want)?, &what)?;
                assert_close(&layer.forward_silu(&x)?, &silu(&want)?, &what)?;
                let plain = Linear::for_isa(weight.clone(), None, isa)?;
                assert_close(&plain.forward(&x)?, &linear_reference(&x, &weight, None)?, &what)?;
            }
        }
    }
    Ok(())
}

#[test]
fn geglu_equals_its_reference_whether_the_halves_are_aligned_or_not() -> Result<()> {
    for isa in every_isa() {
        for dtype in DTYPES {
            for (rows, inner, out) in [(3, 8, 10), (50, 40, 64), (130, 320, 2560)] {
                let x = random(&[rows, inner], 5, dtype)?;
                let weight = (random(&[out, inner], 6, dtype)? * 0.1)?;
                let bias = random(&[out], 7, dtype)?;
                let both = linear_reference(&x, &weight, Some(&bias))?;
                let want = (both.narrow(1, 0, out / 2)? * both.narrow(1, out / 2, out / 2)?.gelu_erf()?)?;
                let layer = Linear::for_isa(weight, Some(bias), isa)?;
                let what = format!("{isa:?} {dtype:?} geglu {rows}x{inner}x{out}");
                assert_close(&same_on_all_threads(|| layer.forward_geglu(&x), &what)?, &want, &what)?;
            }
        }
    }
    Ok(())
}

#[test]
fn a_layer_for_geglu_does_that_and_nothing_else() -> Result<()> {
    let (x, weight) = (random(&[3, 8], 5, DType::F32)?, random(&[64, 8], 6, DType::F32)?);
    let any = Linear::new(weight.clone(), None)?;
    let layer = Linear::for_geglu(weight, None)?;
    assert_close(&layer.forward_geglu(&x)?, &any.forward_geglu(&x)?, "geglu")?;
    let residual = random(&[3, 64], 7, DType::F32)?;
    let others = [layer.forward(&x), layer.forward_gelu(&x), layer.forward_add(&x, &residual)];
    assert!(others.into_iter().all(|y| y.is_err_and(|e| e.to_string().contains("GEGLU"))));
    Ok(())
}

#[test]
fn a_transposed_input_is_read_as_what_it_says() -> Result<()> {
    let x = random(&[6, 9], 8, DType::F32)?.t()?;
    let weight = random(&[5, 6], 9, DType::F32)?;
    let want = linear_reference(&x.contiguous()?, &weight, None)?;
    assert_close(&Linear::new(weight, None)?.forward(&x)?, &want, "transposed")
}

/// Input (batch, height, width, channels), outputs, kernel, stride, padding.
struct Case([usize; 4], usize, usize, usize, Padding);

#[test]
fn conv2d_equals_its_reference() -> Result<()> {
    let cases = [
        Case([1, 1, 1, 1], 1, 1, 1, Padding::all(0)),
        Case([1, 1, 1, 13], 320, 3, 1, Padding::all(1)),
        Case([5, 4, 6, 13], 20, 3, 1, Padding::all(1)),
        Case([2, 9, 7, 4], 4, 3, 2, Padding::all(1)),
        Case([2, 8, 6, 3], 17, 3, 2, Padding::bottom_right(1)),
        Case([1, 5, 5, 48], 80, 1, 1, Padding::all(0)),
        Case([1, 11, 12, 6], 8, 5, 3, Padding { top: 2, bottom: 0, left: 1, right: 3 }),
        Case([1, 6, 20, 900], 65, 3, 1, Padding::all(1)),
        Case([2, 32, 32, 128], 128, 3, 1, Padding::all(1)),
    ];
    for isa in every_isa() {
        for dtype in DTYPES {
            for Case(dims, out, kernel, stride, padding) in &cases {
                let what = format!("{isa:?} {dtype:?} conv2d {dims:?} -> {out}, {kernel}, {stride}");
                let x = random(dims, 10, dtype)?;
                let weight = random(&[*out, dims[3], *kernel, *kernel], 11, dtype)?;
                let bias = random(&[*out], 12, dtype)?;
                let layer = Conv2d::for_isa(weight.clone(), Some(bias.clone()), (*stride, *padding), isa)?;
                let want = conv2d_reference(&x, &weight, Some(&bias), *stride, *padding)?;
                assert_close(&same_on_all_threads(|| layer.forward(&x), &what)?, &want, &what)?;

                let whole = random(want.dims(), 13, dtype)?;
                assert_close(&layer.forward_add(&x, &whole)?, &(&want + &whole)?, &what)?;
                for images in [dims[0], 1] {
                    let embedding = random(&[images, 1, 1, *out], 14, dtype)?;
                    let got = layer.forward_add(&x, &embedding)?;
                    assert_close(&got, &want.broadcast_add(&embedding)?, &what)?;
                }

                let large = upsample_reference(&x, 2)?;
                let want = conv2d_reference(&large, &weight, Some(&bias), *stride, *padding)?;
                assert_close(&layer.forward_upsampled(&x)?, &want, &what)?;
            }
        }
    }
    Ok(())
}

/// So a job that goes on half-way, with other chunks, gives the same file.
#[test]
fn an_image_does_not_depend_on_its_neighbours() -> Result<()> {
    for isa in every_isa() {
        for dtype in [DType::F32, DType::BF16] {
            for (side, channels) in [(6, 13), (4, 64), (16, 64), (32, 64), (24, 192)] {
                let x = random(&[5, side, side, channels], 1, dtype)?;
                let weight = random(&[channels, channels, 3, 3], 2, dtype)?;
                let layer = Conv2d::for_isa(weight, None, (1, Padding::all(1)), isa)?;
                for forward in [Conv2d::forward, Conv2d::forward_upsampled] {
                    let together = forward(&layer, &x)?;
                    for (first, count) in [(0, 1), (3, 2)] {
                        let alone = forward(&layer, &x.narrow(0, first, count)?)?;
                        let bits = |y: Tensor| y.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>();
                        let same = bits(alone)? == bits(together.narrow(0, first, count)?)?;
                        assert!(same, "{isa:?} {dtype:?} {side}x{side}x{channels}");
                    }
                }
            }
        }
    }
    Ok(())
}

#[test]
fn empty_inputs_give_empty_outputs() -> Result<()> {
    for dtype in DTYPES {
        let layer = Linear::new(random(&[64, 6], 1, dtype)?, None)?;
        let x = random(&[0, 3, 6], 1, dtype)?;
        assert_eq!(layer.forward_gelu(&x)?.dims(), [0, 3, 64]);
        assert_eq!(layer.forward_geglu(&x)?.dims(), [0, 3, 32]);
        assert_eq!(layer.forward_add(&x, &random(&[0, 3, 64], 1, dtype)?)?.dims(), [0, 3, 64]);
        let nothing = Linear::new(random(&[0, 6], 1, dtype)?, None)?;
        assert_eq!(nothing.forward(&random(&[3, 6], 1, dtype)?)?.dims(), [3, 0]);

        let layer = Conv2d::new(random(&[4, 6, 3, 3], 1, dtype)?, None, 1, Padding::all(1))?;
        let x = random(&[0, 5, 7, 6], 1, dtype)?;
        assert_eq!(layer.forward(&x)?.dims(), [0, 5, 7, 4]);
        assert_eq!(layer.forward_upsampled(&x)?.dims(), [0, 10, 14, 4]);
        assert_eq!(layer.forward_add(&x, &random(&[0, 1, 1, 4], 1, dtype)?)?.dims(), [0, 5, 7, 4]);
    }
    Ok(())
}

#[test]
fn sums_over_nothing_are_the_bias() -> Result<()> {
    for dtype in DTYPES {
        let bias = random(&[5], 1, dtype)?;
        let (weight, x) = (random(&[5, 0], 1, dtype)?, random(&[2, 0], 1, dtype)?);
        let want = linear_reference(&x, &weight, Some(&bias))?;
        let got = Linear::new(weight, Some(bias.clone()))?.forward(&x)?;
        assert_close(&got, &want, "linear")?;
        assert_close(&got, &bias.broadcast_as((2, 5))?, "bias")?;
    }
    Ok(())
}

#[test]
fn mismatched_shapes_and_types_are_refused() -> Result<()> {
    let weight = random(&[4, 6], 1, DType::F32)?;
    assert!(Linear::new(weight.clone(), Some(random(&[5], 1, DType::F32)?)).is_err());
    let layer = Linear::new(weight, None)?;
    assert!(layer.forward(&random(&[2, 5], 1, DType::F32)?).is_err());
    assert!(layer.forward(&random(&[2, 6], 1, DType::BF16)?).is_err());
    let x = random(&[2, 6], 1, DType::F32)?;
    assert!(layer.forward_add(&x, &random(&[3, 4], 1, DType::F32)?).is_err());

    let weight = random(&[4, 6, 3, 3], 1, DType::F32)?;
    let layer = Conv2d::new(weight.clone(), None, 1, Padding::all(0))?;
    assert!(layer.forward(&random(&[1, 4, 4, 5], 1, DType::F32)?).is_err());
    assert!(layer.forward(&random(&[1, 2, 2, 6], 1, DType::F32)?).is_err());
    let x = random(&[1, 4, 4, 6], 1, DType::F32)?;
    assert!(layer.forward_add(&x, &random(&[1, 4, 4, 4], 1, DType::F32)?).is_err());
    assert!(Conv2d::new(weight, None, 0, Padding::all(0)).is_err());
    let weight = random(&[4, 6, 0, 0], 1, DType::F32)?;
    assert!(Conv2d::new(weight, None, 1, Padding::all(0)).is_err());
    Ok(())
}

#[test]
fn a_layer_norm_before_a_product_equals_both_one_after_the_other() -> Result<()> {
    for isa in every_isa() {
        for dtype in [DType::F32, DType::BF16] {
            for (frames, positions, channels) in [(3, 7, 64), (2, 40, 48), (4, 33, 320)] {
                let what = format!("{isa:?} {dtype:?} {frames}x{positions}x{channels}");
                let x = random(&[1, frames, positions, channels], 1, dtype)?;
                let vector = |seed| random(&[channels], seed, dtype);
                let norm = LayerNorm::for_isa(vector(2)?, vector(3)?, 1e-5, isa)?;
                let added = random(&[frames, channels], 4, dtype)?;
                let weight = (random(&[4 * channels, channels], 5, dtype)? * 0.1)?;
                let layer = Linear::for_isa(weight.clone(), None, isa)?;
                for added in [None, Some(&added)] {
                    let h = match added {
                        Some(added) => norm.forward_plus(&x, added)?,
                        None => norm.forward(&x)?,
                    };
                    let got = same_on_all_threads(|| layer.forward_layer_norm(&x, &norm, added), &what)?;
                    assert_close(&got, &linear_reference(&h, &weight, None)?, &what)?;

                    let weights = [6, 7, 8].map(|seed| random(&[channels, channels], seed, dtype));
                    let [q, k, v] = weights;
                    let weights = [q?, k?, v?];
                    let qkv = QkvLinear::for_isa(weights.clone(), isa)?;
                    let got = qkv.forward_layer_norm(&x, &norm, added)?.split()?;
                    for (got, want) in got.iter().zip(qkv_reference(&x, &weights, &norm, added)?) {
                        assert_close(got, &want, &what)?;
                    }
                }
                let got = layer.forward_layer_norm_geglu(&x, &norm)?;
                assert_close(&got, &layer.forward_geglu(&norm.forward(&x)?)?, &what)?;
            }
        }
    }
    Ok(())
}

#[test]
fn a_group_norm_before_a_convolution_equals_both_one_after_the_other() -> Result<()> {
    for isa in every_isa() {
        for dtype in [DType::F32, DType::BF16] {
            for (images, frames, side, channels) in
                [(2, 2, 16, 64), (2, 1, 32, 32), (32, 16, 4, 64), (4, 2, 5, 64)]
            {
                let what = format!("{isa:?} {dtype:?} {images} of {side}x{side}x{channels}, {frames} a norm");
                let x = random(&[images, side, side, channels], 1, dtype)?;
                let vector = |seed| random(&[channels], seed, dtype);
                let norm = GroupNorm::for_isa(vector(2)?, vector(3)?, (8, 1e-5), isa)?;
                let weight = (random(&[48, channels, 3, 3], 4, dtype)? * 0.1)?;
                let layer = Conv2d::for_isa(weight, None, (1, Padding::all(1)), isa)?;
                let residual = random(&[1, 1, 1, 48], 5, dtype)?;
                let video = x.reshape((images / frames, frames * side * side, channels))?;
                let h = norm.forward_silu(&video)?.reshape(x.shape())?;
                let want = layer.forward_add(&h, &residual)?;
                let run = || layer.forward_group_norm_silu(&x, (&norm, frames), Some(&residual));
                assert_close(&same_on_all_threads(run, &what)?, &want, &what)?;
            }
        }
    }
    Ok(())
}

/// Sizes that are cut differently for each number of threads; bit for bit.
#[test]
fn results_do_not_depend_on_the_number_of_threads() -> Result<()> {
    let dtype = DType::BF16;
    for isa in every_isa().into_iter().filter(|isa| isa.has_tiles()) {
        // The model of tiles is slow.
        let scale = if isa == Isa::TileModel { 8 } else { 1 };
        let linear = |out: usize, inner: usize| Linear::for_isa(random(&[out, inner], 2, dtype)?, None, isa);
        let conv = |out: usize, inner: usize| {
            Conv2d::for_isa(random(&[out, inner, 3, 3], 4, dtype)?, None, (1, Padding::all(1)), isa)
        };
        let (wide, deep) = (linear(2560 / scale, 320)?, linear(320 / scale, 5120 / scale)?);
        let (small, large) = (conv(128, 1280 / scale)?, conv(128, 320 / scale)?);
        let all = |threads: usize| -> Result<Vec<Vec<u16>>> {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
            pool.map_err(candle_core::Error::wrap)?.install(|| {
                let rows = 1000 / scale;
                let outputs = [
                    wide.forward(&random(&[rows, 320], 1, dtype)?)?,
                    wide.forward_geglu(&random(&[rows, 320], 1, dtype)?)?,
                    deep.forward(&random(&[rows + 24, 5120 / scale], 1, dtype)?)?,
                    small.forward(&random(&[32, 8, 8, 1280 / scale], 1, dtype)?)?,
                    small.forward(&random(&[16, 4, 4, 1280 / scale], 1, dtype)?)?,
                    large.forward(&random(&[2, 32, 32, 320 / scale], 1, dtype)?)?,
                    large.forward_upsampled(&random(&[2, 16, 16, 320 / scale], 1, dtype)?)?,
                ];
                let bits = |x: &Tensor| -> Result<Vec<u16>> {
                    Ok(x.flatten_all()?.to_vec1::<half::bf16>()?.iter().map(|x| x.to_bits()).collect())
                };
                outputs.iter().map(bits).collect()
            })
        };
        let one = all(1)?;
        assert!(one == all(2)? && one == all(5)?, "{isa:?}");
    }
    Ok(())
}
