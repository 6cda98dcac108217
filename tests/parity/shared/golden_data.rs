//! Agreement of `tests/data/golden` with the complete set. With `LATENTSYNC_WRITE_GOLDEN=1` the test writes the files.

use std::collections::HashMap;

use candle_core::{DType, Device, Result, Tensor};
use latentsync::stages::align_faces::FaceAligner;
use latentsync::stages::encode_latents::encode_face;
use models::mouth_mask::MouthMask;

use super::faces::{first_frames, read_anchors};
use crate::golden::{GoldenSet, relative_error};
use crate::job::{CHUNK_FRAMES, CHUNKS};
use crate::networks::{generated_unet_inputs, generated_vae_inputs, load_vae};

type Tensors = HashMap<String, Tensor>;

/// Tensors that this engine computed; all others are the original's.
const OWN: [&str; 1] = ["posteriors"];
/// Relative error of those, on machines that add in another order.
const OWN_TOLERANCE: f64 = 1e-5;

/// Output frame → source frame of a video of `frames` frames that plays forward and backward.
fn ping_pong(output: usize, frames: usize) -> usize {
    let position = output % (2 * frames);
    position.min(2 * frames - 1 - position)
}

/// Anchors, affine matrices, and the inputs and final latents of some chunks.
fn job(shared: &GoldenSet) -> Result<Tensors> {
    let case = shared.manifest.pipeline.as_ref().expect("a pipeline");
    let deepcache = shared.manifest.pipeline_deepcache.as_ref().expect("a pipeline with DeepCache");
    let golden = shared.tensors(case.dir.join("pipeline_golden.safetensors"));
    let golden_deepcache = shared.tensors(deepcache.dir.join("pipeline_golden.safetensors"));
    let mut tensors = Tensors::new();
    let mut model_frames = Vec::new();
    for chunk in CHUNKS {
        let key = format!("latents_chunk_{chunk}");
        let first = chunk * CHUNK_FRAMES;
        model_frames.extend(first..first + golden[&key].dim(2)?);
        tensors.insert(format!("deepcache_{key}"), golden_deepcache[&key].clone());
        tensors.insert(key.clone(), golden[&key].clone());
    }
    let frames = first_frames(&shared.path(&case.video), golden["affine_matrices"].dim(0)?)?;
    let anchors = read_anchors(&shared.path(&case.anchors));
    let vae = load_vae(shared, "vae", DType::F32)?;
    let resolution = golden["face_rgb_0_17"].dim(1)?;
    let mask = MouthMask::new(resolution)?;
    let mut aligner = FaceAligner::new(resolution);
    let aligned = frames.iter().zip(&anchors).map(|(frame, anchors)| aligner.align(frame, anchors));
    let aligned = aligned.collect::<Result<Vec<_>>>()?;
    let side = resolution / vae.downscale();
    let posteriors = model_frames.iter().map(|&frame| {
        let face = &aligned[ping_pong(frame, frames.len())];
        let bytes = encode_face(&vae, &Device::Cpu, &mask, &face.crop)?.to_bytes()?;
        Tensor::from_raw_buffer(&bytes, DType::F32, &[4, side, side, vae.latent_channels()], &Device::Cpu)
    });
    let posteriors = Tensor::stack(&posteriors.collect::<Result<Vec<_>>>()?, 0)?;
    let points = anchors.iter().flat_map(|face| [face.left_brow, face.right_brow, face.nose]);
    let points: Vec<f32> = points.flatten().collect();
    let model_frames: Vec<i64> = model_frames.into_iter().map(|frame| frame as i64).collect();
    tensors.insert("posteriors".into(), posteriors);
    tensors.insert("model_frames".into(), Tensor::new(model_frames, &Device::Cpu)?);
    tensors.insert("anchors".into(), Tensor::from_vec(points, (anchors.len(), 3, 2), &Device::Cpu)?);
    tensors.insert("affine_matrices".into(), golden["affine_matrices"].clone());
    Ok(tensors)
}

/// Every file of `tests/data/golden`, as the complete set has it.
fn files(shared: &GoldenSet) -> Result<Vec<(&'static str, Tensors)>> {
    let without = |network: &str, is_input: fn(&str) -> bool| {
        let tensors = shared.outputs(network).into_iter();
        tensors.filter(|(key, _)| !is_input(key)).collect::<Tensors>()
    };
    let full_size = shared.manifest.full_size.as_ref().expect("outputs at the published sizes");
    Ok(vec![
        (
            "small/unet_golden.safetensors",
            without("unet", |key| key.ends_with(".sample") || key.ends_with(".audio")),
        ),
        (
            "small/vae_golden.safetensors",
            without("vae", |key| ["image", "noise", "latent_in"].contains(&key)),
        ),
        ("small/ddim_golden.safetensors", without("ddim", |_| false)),
        (
            "small/whisper_golden.safetensors",
            without("whisper", |key| !key.starts_with("speech_3s.") || key.ends_with(".mel_tail")),
        ),
        ("job/job_golden.safetensors", job(shared)?),
        (
            "full_size/full_size_golden.safetensors",
            shared.tensors(full_size.join("full_size_golden.safetensors")),
        ),
    ])
}

fn bits(x: &Tensor) -> Result<Vec<u64>> {
    x.flatten_all()?.to_dtype(DType::F64)?.to_vec1::<f64>().map(|x| x.into_iter().map(f64::to_bits).collect())
}

#[test]
#[ignore = "needs the shared material"]
fn the_repository_s_set_equals_the_complete_one() -> Result<()> {
    let (own, shared) = (GoldenSet::in_repository(), GoldenSet::shared());
    let write = std::env::var_os("LATENTSYNC_WRITE_GOLDEN").is_some();
    for (file, want) in files(&shared)? {
        if write {
            std::fs::create_dir_all(own.path(file).parent().unwrap())?;
            candle_core::safetensors::save(&want, own.path(file))?;
        }
        let mut stored = own.tensors(file);
        for (key, want) in want {
            let stored = stored.remove(&key).unwrap_or_else(|| panic!("{file} has no `{key}`"));
            assert_eq!((stored.dims(), stored.dtype()), (want.dims(), want.dtype()), "{file}: {key}");
            if OWN.contains(&key.as_str()) {
                let error = relative_error(&stored, &want)?;
                assert!(error <= OWN_TOLERANCE, "{file}: {key}: {error:.1e}");
            } else {
                assert!(bits(&stored)? == bits(&want)?, "{file}: {key} differs");
            }
        }
        assert!(stored.is_empty(), "{file}: unknown tensors {:?}", stored.keys());
    }
    for file in ["small/unet_config.yaml", "small/vae/config.json", "full_size/unet_shapes.json"] {
        let read = |set: &GoldenSet| std::fs::read(set.path(file)).unwrap_or_else(|e| panic!("{file}: {e}"));
        assert!(read(&own) == read(&shared), "{file} differs");
    }
    Ok(())
}

/// The complete set stores the inputs of the UNet and the VAE; the repository's set generates them.
#[test]
#[ignore = "needs the shared material"]
fn generated_inputs_equal_the_stored_ones() -> Result<()> {
    let shared = GoldenSet::shared();
    let unet = shared.outputs("unet");
    for case in ["b1f16", "b1f16hw8", "b1f5", "b2f16"] {
        let [sample, audio] = generated_unet_inputs(&shared, case, unet[&format!("{case}.output")].dims5()?)?;
        for (name, generated) in [("sample", sample), ("audio", audio)] {
            assert!(bits(&generated)? == bits(&unet[&format!("{case}.{name}")])?, "{case}.{name}");
        }
    }
    let vae = shared.outputs("vae");
    for (name, generated) in
        ["image", "noise", "latent_in"].into_iter().zip(generated_vae_inputs(&shared, &vae)?)
    {
        assert!(bits(&generated)? == bits(&vae[name])?, "vae: {name}");
    }
    Ok(())
}
