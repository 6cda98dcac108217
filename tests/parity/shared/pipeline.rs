//! Whole jobs from a video file: latents of every chunk and final frames, with the noise of the golden set.

use std::sync::Mutex;

use candle_core::{DType, Device, IndexOp, Tensor};
use latentsync::options::DTypeChoice;
use latentsync::pipeline::Hooks;
use latentsync::weights::{Checkpoint, HubSettings};
use latentsync::{CancelToken, Job, LipSync, LoadOptions, Options};

use super::checkpoint::model;
use crate::golden::{GoldenSet, PipelineCase, psnr, relative_error, to_channels_last};
use crate::job::{GoldenNoise, LATENTS_TOLERANCE};

/// Outputs of a job: latents by chunk, the frames that were asked for, and the number of frames written.
struct JobOutput {
    latents: Vec<Tensor>,
    frames: Vec<(usize, Tensor)>,
    written: usize,
}

/// Runs a case; `keep` lists the output frames to keep.
fn run(set: &GoldenSet, case: &PipelineCase, keep: &[usize], dtype: DTypeChoice) -> JobOutput {
    let directory = tempfile::tempdir().unwrap();
    let job = Job {
        anchors: Some(set.path(&case.anchors)),
        options: Options {
            steps: case.steps,
            guidance_scale: case.guidance_scale,
            deepcache: case.deepcache_interval,
            seed: Some(0),
            reference_compat: true,
            ..Options::default()
        },
        ..Job::new(set.path(&case.video), set.path(&case.audio), directory.path().join("out.mp4"))
    };
    let options = LoadOptions { dtype, ..LoadOptions::default() };
    let lipsync = LipSync::load(&model(set), &options).expect("the model loads");
    let noise = GoldenNoise { tag: set.manifest.tag.clone() };
    let (latents, frames) = (Mutex::new(Vec::new()), Mutex::new(Vec::new()));
    let on_latents = |_: usize, tensor: &Tensor| latents.lock().unwrap().push(tensor.clone());
    let on_frame = |index: usize, rgb: &Tensor| {
        if keep.contains(&index) {
            frames.lock().unwrap().push((index, rgb.clone()));
        }
    };
    let hooks = Hooks { noise: Some(&noise), latents: Some(&on_latents), frame: Some(&on_frame) };
    let report = lipsync.run_with(&job, &hooks, &mut (), &CancelToken::new()).expect("the job runs");
    JobOutput {
        latents: latents.into_inner().unwrap(),
        frames: frames.into_inner().unwrap(),
        written: report.frames,
    }
}

fn check_latents(name: &str, set: &GoldenSet, case: &PipelineCase, keep: &[usize]) -> JobOutput {
    let want = set.tensors(case.dir.join("pipeline_golden.safetensors"));
    let output = run(set, case, keep, DTypeChoice::F32);
    let chunks = want.keys().filter(|key| key.starts_with("latents_chunk_")).count();
    assert!(chunks > 0, "{name}: the golden file has no latents");
    assert_eq!(output.latents.len(), chunks, "{name}: chunks");
    for (chunk, latents) in output.latents.iter().enumerate() {
        let want = to_channels_last(&want[&format!("latents_chunk_{chunk}")]).unwrap();
        let error = relative_error(latents, &want).unwrap();
        eprintln!("{name}: latents of chunk {chunk}: relative error {error:.2e}");
        assert!(error <= LATENTS_TOLERANCE, "{name}: chunk {chunk}: {error:.2e}");
    }
    output
}

#[test]
#[ignore = "needs the shared material"]
fn latents_and_frames_equal_the_original() {
    let set = GoldenSet::shared();
    let case = set.manifest.pipeline.as_ref().expect("a pipeline");
    let want = set.tensors(case.dir.join("pipeline_golden.safetensors"));
    let integers = |key: &str| -> Vec<usize> {
        want[key].to_vec1::<i64>().unwrap().into_iter().map(|v| v as usize).collect()
    };
    let index = integers("frame_index");
    let output = check_latents("pipeline", &set, case, &index);
    assert_eq!(output.written, integers("num_output_frames")[0], "frames written");
    assert_eq!(output.frames.len(), index.len(), "frames compared");
    for (frame, rgb) in &output.frames {
        let row = index.iter().position(|i| i == frame).unwrap();
        let psnr = psnr(rgb, &want["frames_rgb"].i(row).unwrap()).unwrap();
        eprintln!("pipeline: frame {frame}: {psnr:.1} dB");
        assert!(psnr >= 40.0, "frame {frame}: {psnr:.1} dB");
    }
}

#[test]
#[ignore = "needs the shared material"]
fn latents_with_deepcache_equal_the_original_and_bf16_stays_close() {
    let set = GoldenSet::shared();
    let case = set.manifest.pipeline_deepcache.as_ref().expect("a pipeline with DeepCache");
    let f32 = check_latents("pipeline_deepcache", &set, case, &[]);
    // The error of bf16 must stay small over twenty steps.
    let bf16 = run(&set, case, &[], DTypeChoice::BF16);
    check_decoded(&set, &f32, &bf16);
}

#[test]
#[ignore = "needs the shared material"]
fn latents_in_bf16_stay_close_to_the_original() {
    let set = GoldenSet::shared();
    let case = set.manifest.pipeline.as_ref().expect("a pipeline");
    let want = set.tensors(case.dir.join("pipeline_golden.safetensors"));
    let output = run(&set, case, &[], DTypeChoice::BF16);
    for (chunk, latents) in output.latents.iter().enumerate() {
        let want = to_channels_last(&want[&format!("latents_chunk_{chunk}")]).unwrap();
        let error = relative_error(latents, &want).unwrap();
        eprintln!("pipeline in bf16: latents of chunk {chunk}: relative error {error:.2e}");
        assert!(error <= 2e-2, "chunk {chunk}: {error:.2e}");
    }
}

/// Compares the latents of two jobs, and the images decoded from them, each in its own number format. Every pixel of a
/// decoded image is generated.
fn check_decoded(set: &GoldenSet, f32: &JobOutput, bf16: &JobOutput) {
    let checkpoint = Checkpoint::open(&model(set), &HubSettings::from_env()).expect("the checkpoint opens");
    let decoded = |output: &JobOutput, chunk: usize, dtype| {
        let vae = checkpoint.vae(dtype, &Device::Cpu).unwrap();
        let latents = vae.unscale(&output.latents[chunk].i((0, ..1)).unwrap()).unwrap();
        let image = ((vae.decode(&latents).unwrap() + 1.0).unwrap() * 127.5).unwrap();
        image.clamp(0.0, 255.0).unwrap()
    };
    for chunk in 0..f32.latents.len() {
        let error = relative_error(&bf16.latents[chunk], &f32.latents[chunk]).unwrap();
        let psnr = psnr(&decoded(bf16, chunk, DType::BF16), &decoded(f32, chunk, DType::F32)).unwrap();
        eprintln!("20 steps in bf16: chunk {chunk}: latents {error:.2e}, decoded {psnr:.1} dB");
        assert!(psnr >= 35.0, "chunk {chunk}: {psnr:.1} dB");
    }
}
