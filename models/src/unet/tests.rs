//! Cases that the golden tensors do not cover: odd sizes, unsupported options, per-frame norms, guidance.

use candle_core::{DType, Device, Result, Tensor};

use super::{Heads, MotionModuleConfig, UNet3D, UNet3DConfig};
use crate::guidance::Guidance;
use crate::synthetic::{Synthetic, unit_variance};

const AUDIO_CHANNELS: usize = 16;
const GUIDED: Guidance = Guidance::ClassifierFree { scale: 1.5 };

/// Two resolutions, so that one downsampler and one upsampler are used.
fn tiny() -> UNet3DConfig {
    UNet3DConfig {
        in_channels: 13,
        block_out_channels: vec![32, 64],
        down_block_types: vec!["CrossAttnDownBlock3D".into(), "DownBlock3D".into()],
        up_block_types: vec!["UpBlock3D".into(), "CrossAttnUpBlock3D".into()],
        layers_per_block: 1,
        cross_attention_dim: AUDIO_CHANNELS,
        attention_head_dim: Heads::PerLevel(vec![4, 8]),
        norm_num_groups: 8,
        use_motion_module: true,
        motion_module_type: Some("Vanilla".into()),
        motion_module_kwargs: MotionModuleConfig {
            temporal_position_encoding: true,
            temporal_position_encoding_max_len: 3,
            ..Default::default()
        },
        add_audio_layer: true,
        ..Default::default()
    }
}

fn load(cfg: &UNet3DConfig) -> Result<UNet3D> {
    let weights = Synthetic::new("test.unet.", 1.0);
    UNet3D::load(cfg, weights.var_builder(DType::F32, &Device::Cpu))
}

fn sample(frames: usize, h: usize, w: usize) -> Result<Tensor> {
    unit_variance("test.sample", (1, frames, h, w, 13), &Device::Cpu)
}

fn audio(frames: usize) -> Result<Tensor> {
    unit_variance("test.audio", (1, frames, 6, AUDIO_CHANNELS), &Device::Cpu)
}

fn max_abs_difference(a: &Tensor, b: &Tensor) -> Result<f32> {
    (a - b)?.abs()?.max_all()?.to_scalar()
}

#[test]
fn output_size_equals_input_size_for_odd_sizes() -> Result<()> {
    let unet = load(&tiny())?;
    let context = unet.context(&audio(2)?)?;
    for (h, w) in [(5, 7), (8, 3), (1, 1)] {
        let out = unet.forward(&sample(2, h, w)?, 10, &context)?;
        assert_eq!(out.dims(), [1, 2, h, w, 4]);
    }
    Ok(())
}

#[test]
fn frames_are_independent_only_with_per_frame_norms() -> Result<()> {
    for use_inflated_groupnorm in [true, false] {
        let unet = load(&UNet3DConfig { use_inflated_groupnorm, use_motion_module: false, ..tiny() })?;
        let (sample, audio) = (sample(2, 4, 4)?, audio(2)?);
        let both = unet.forward(&sample, 10, &unet.context(&audio)?)?;
        let context = unet.context(&audio.narrow(1, 1, 1)?)?;
        let second = unet.forward(&sample.narrow(1, 1, 1)?, 10, &context)?;
        let difference = max_abs_difference(&both.narrow(1, 1, 1)?, &second)?;
        assert_eq!(
            difference < 1e-5,
            use_inflated_groupnorm,
            "per frame: {use_inflated_groupnorm}, difference {difference:.1e}"
        );
    }
    Ok(())
}

/// The conditioning in the context and the latents shared by both halves of guidance give the same result as
/// a batch of complete samples.
#[test]
fn guided_context_equals_a_batch_of_two_complete_samples() -> Result<()> {
    let unet = load(&tiny())?;
    let whole = sample(2, 6, 4)?;
    let (latents, conditioning) = (whole.narrow(4, 0, 4)?, whole.narrow(4, 4, 9)?);
    let audio = audio(2)?;
    let plain = unet.context(&Tensor::cat(&[&audio.zeros_like()?, &audio], 0)?)?;
    let both = Tensor::cat(&[&whole, &whole], 0)?;
    let (want, hidden) = unet.forward_full(&both, 10, &plain)?;
    let shallow = unet.forward_shallow(&both, 7, &plain, &hidden)?;
    let guided = unet.guided_context(&audio, GUIDED)?;
    let context = unet.conditioned(guided.clone(), &conditioning)?;

    // Batch size at each block: 1 up to the first cross-attention, 2 after it.
    let mut batches = Vec::new();
    let mut observe = |name: &str, x: &Tensor| {
        batches.push((name.to_string(), x.dim(0)?));
        Ok(())
    };
    let (got, hidden) = unet.forward_observed(&latents, 10, &context, &mut observe)?;
    assert!(max_abs_difference(&got, &want)? < 1e-5);
    let batch = |name: &str| batches.iter().find(|(block, _)| block == name).map(|(_, batch)| *batch);
    assert_eq!((batch("conv_in"), batch("down_blocks.0"), batch("mid_block")), (Some(1), Some(2), Some(2)));
    assert!(max_abs_difference(&unet.forward_shallow(&latents, 7, &context, &hidden)?, &shallow)? < 1e-5);
    assert!(max_abs_difference(&unet.forward(&whole, 10, &guided)?, &want)? < 1e-5);

    // Without the conditioning in the context, samples must have all channels.
    let error = unet.forward(&latents, 10, &guided).unwrap_err();
    assert!(error.to_string().contains("width, 13)"), "{error}");
    Ok(())
}

/// Two videos with guidance: the batch is [uncond 0, uncond 1, cond 0, cond 1].
#[test]
fn videos_in_a_batch_are_independent() -> Result<()> {
    let unet = load(&tiny())?;
    let shape = (2, 2, 6, 4, 13);
    let samples = unit_variance("test.videos", shape, &Device::Cpu)?;
    let audio = unit_variance("test.voices", (2, 2, 6, AUDIO_CHANNELS), &Device::Cpu)?;
    let run = |samples: &Tensor, audio: &Tensor| -> Result<[Tensor; 2]> {
        let context = unet.guided_context(audio, GUIDED)?;
        let (latents, conditioning) = (samples.narrow(4, 0, 4)?, samples.narrow(4, 4, 9)?);
        let context = unet.conditioned(context, &conditioning)?;
        let (full, hidden) = unet.forward_full(&latents, 10, &context)?;
        Ok([full, unet.forward_shallow(&latents, 7, &context, &hidden)?])
    };
    let batched = run(&samples, &audio)?;
    for video in 0..2 {
        let single = run(&samples.narrow(0, video, 1)?, &audio.narrow(0, video, 1)?)?;
        for (batched, single) in batched.iter().zip(&single) {
            assert_eq!(batched.dims(), [4, 2, 6, 4, 4]);
            for half in 0..2 {
                let difference = max_abs_difference(
                    &batched.narrow(0, 2 * half + video, 1)?,
                    &single.narrow(0, half, 1)?,
                )?;
                assert_eq!(difference, 0.0, "video {video}, half {half}");
            }
        }
    }
    // Samples and audio must have the same batch.
    let three = Tensor::cat(&[&audio, &audio.narrow(0, 0, 1)?], 0)?;
    let error = unet.forward(&samples, 10, &unet.context(&three)?).unwrap_err();
    assert!(error.to_string().contains("expected (3, 2, height, width, 13)"), "{error}");
    Ok(())
}

/// Without cross-attention the halves of guidance stay shared up to the output.
#[test]
fn a_network_without_audio_layers_predicts_the_same_for_both_halves() -> Result<()> {
    let unet = load(&UNet3DConfig { add_audio_layer: false, ..tiny() })?;
    let context = unet.guided_context(&audio(2)?, GUIDED)?;
    let one = unet.forward(&sample(2, 4, 4)?, 10, &unet.context(&audio(2)?)?)?;
    let two = unet.forward(&sample(2, 4, 4)?, 10, &context)?;
    assert_eq!(two.dims(), [2, 2, 4, 4, 4]);
    assert_eq!(max_abs_difference(&two, &Tensor::cat(&[&one, &one], 0)?)?, 0.0);
    Ok(())
}

#[test]
fn an_error_from_the_hook_ends_the_pass() -> Result<()> {
    let unet = load(&tiny())?;
    let context = unet.context(&audio(2)?)?;
    let mut seen = Vec::new();
    let mut observe = |name: &str, _: &Tensor| {
        seen.push(name.to_string());
        if name == "mid_block" {
            candle_core::bail!("cancelled")
        }
        Ok(())
    };
    let result = unet.forward_observed(&sample(2, 4, 4)?, 10, &context, &mut observe);
    assert!(result.is_err());
    assert_eq!(seen, ["time_embedding", "conv_in", "down_blocks.0", "down_blocks.1", "mid_block"]);
    Ok(())
}

#[test]
fn more_frames_than_position_embeddings_are_rejected() -> Result<()> {
    let unet = load(&tiny())?;
    let context = unet.context(&audio(4)?)?;
    let error = unet.forward(&sample(4, 4, 4)?, 10, &context).unwrap_err();
    assert!(error.to_string().contains("4 frames, at most 3"), "{error}");
    Ok(())
}

#[test]
fn audio_with_another_number_of_frames_is_rejected() -> Result<()> {
    let unet = load(&tiny())?;
    let context = unet.context(&audio(3)?)?;
    let error = unet.forward(&sample(2, 4, 4)?, 10, &context).unwrap_err();
    assert!(error.to_string().contains("frames of the audio"), "{error}");
    Ok(())
}

#[test]
fn unsupported_options_are_rejected_by_name() {
    type Change = fn(&mut UNet3DConfig);
    let changes: [(&str, Change); 12] = [
        ("dual_cross_attention", |cfg| cfg.dual_cross_attention = true),
        ("center_input_sample", |cfg| cfg.center_input_sample = true),
        ("num_class_embeds", |cfg| cfg.num_class_embeds = Some(3)),
        ("resnet_time_scale_shift", |cfg| cfg.resnet_time_scale_shift = "scale_shift".into()),
        ("act_fn", |cfg| cfg.act_fn = "gelu".into()),
        ("mid_block_type", |cfg| cfg.mid_block_type = "None".into()),
        ("mid_block_scale_factor", |cfg| cfg.mid_block_scale_factor = 2.0),
        ("downsample_padding", |cfg| cfg.downsample_padding = 0),
        ("down_block_types", |cfg| cfg.down_block_types[0] = "AttnDownBlock2D".into()),
        ("up_block_types", |cfg| cfg.up_block_types.clear()),
        ("motion_module_type", |cfg| cfg.motion_module_type = None),
        ("attention_block_types", |cfg| {
            cfg.motion_module_kwargs.attention_block_types[1] = "Temporal_Cross".into()
        }),
    ];
    for (name, change) in changes {
        let mut cfg = tiny();
        change(&mut cfg);
        let error = load(&cfg).unwrap_err().to_string();
        assert!(error.contains(name), "{name}: {error}");
    }
}

/// The layout is built before any weight is read: `layers_per_block: 1e12` once tried to allocate that many
/// layers.
#[test]
fn excessive_sizes_are_rejected_by_name() {
    let huge = 1_usize << 60;
    let rejected = |change: fn(&mut UNet3DConfig, usize), name: &str| {
        let mut cfg = tiny();
        change(&mut cfg, huge);
        let message = load(&cfg).map(drop).unwrap_err().to_string();
        assert!(message.contains(name), "{name}: {message}");
    };
    rejected(
        |cfg, huge| cfg.layers_per_block = huge,
        "layers_per_block is 1152921504606846976, expected 1 to 64",
    );
    rejected(|cfg, huge| cfg.in_channels = huge, "in_channels");
    rejected(|cfg, huge| cfg.cross_attention_dim = huge, "cross_attention_dim");
    rejected(|cfg, huge| cfg.block_out_channels[1] = huge, "block_out_channels");
    rejected(|cfg, huge| cfg.motion_module_kwargs.num_transformer_block = huge, "num_transformer_block");
}
