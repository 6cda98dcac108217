//! Peak memory of loading: the size of the result plus one tensor. Measured in a separate process.

#![cfg(target_os = "linux")]

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use latentsync::ModelChoice;
use latentsync::weights::Checkpoint;

use crate::checkpoint::{config, no_hub, safetensors, small_checkpoint, write};
use crate::pt;

const DIR: &str = "LATENTSYNC_TEST_DIR";
const DTYPE: &str = "LATENTSYNC_TEST_DTYPE";

/// 36 tensors of 8 MiB: 288 MiB.
const TENSORS: usize = 36;
const ELEMENTS: usize = 2 << 20;
const TENSOR_BYTES: usize = 4 * ELEMENTS;
/// Allowance for the allocator and the directory of the file, in bytes.
const SLACK: usize = 6 << 20;

fn keys() -> Vec<String> {
    (0..TENSORS).map(|index| format!("w{index:02}")).collect()
}

fn big_safetensors() -> Vec<u8> {
    let tensor = Tensor::full(0.5f32, ELEMENTS, &Device::Cpu).unwrap();
    let keys = keys();
    let tensors: Vec<_> = keys.iter().map(|key| (key.as_str(), tensor.clone())).collect();
    safetensors(&tensors, &[])
}

fn big_pt() -> Vec<u8> {
    let keys = keys();
    let bytes = pt::f32_bytes(&vec![0.5; ELEMENTS]);
    let tensors: Vec<_> = keys
        .iter()
        .map(|key| pt::Pickled {
            key,
            class: "FloatStorage",
            storage: (key, ELEMENTS as u32),
            offset: 0,
            shape: &[ELEMENTS as u32],
            strides: &[1],
        })
        .collect();
    let storages: Vec<_> = keys.iter().map(|key| (key.as_str(), bytes.as_slice())).collect();
    pt::archive(&pt::pickle(Some("state_dict"), &tensors), &storages)
}

#[test]
fn loading_needs_the_memory_of_the_result_and_one_tensor() {
    for (name, bytes) in
        [("latentsync_unet.pt", big_pt()), ("latentsync_unet.safetensors", big_safetensors())]
    {
        let dir = tempfile::tempdir().unwrap();
        small_checkpoint(dir.path());
        fs::remove_file(dir.path().join("latentsync_unet.pt")).unwrap();
        write(dir.path().join("unet_config.yaml"), config(128, 48));
        write(dir.path().join(name), bytes);
        for (dtype, result) in [("f32", TENSORS * TENSOR_BYTES), ("bf16", TENSORS * TENSOR_BYTES / 2)] {
            let grown = grown_by_loading(dir.path(), dtype);
            let limit = result + TENSOR_BYTES + SLACK;
            assert!(grown > result / 2, "{name} as {dtype}: {grown} bytes are too few for the result");
            assert!(grown <= limit, "{name} as {dtype}: grew by {grown} bytes, at most {limit} allowed");
            eprintln!("{name} as {dtype}: {:.1} MiB for {:.1}", mib(grown), mib(result));
        }
    }
}

fn mib(bytes: usize) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

fn grown_by_loading(dir: &Path, dtype: &str) -> usize {
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "memory::child_that_loads", "--ignored", "--nocapture"])
        .env(DIR, dir)
        .env(DTYPE, dtype)
        .output()
        .unwrap();
    let output = String::from_utf8_lossy(&child.stdout).into_owned();
    let grown = output.lines().find_map(|line| line.split_once("grown ")?.1.trim().parse().ok());
    grown.unwrap_or_else(|| panic!("{output}{}", String::from_utf8_lossy(&child.stderr)))
}

#[test]
#[ignore = "another test starts it in a separate process"]
fn child_that_loads() {
    let dir = std::env::var_os(DIR).expect("only another test starts this one");
    let dtype = std::env::var(DTYPE).unwrap();
    let dtype = if dtype == "bf16" { DType::BF16 } else { DType::F32 };
    let dir = Path::new(&dir);
    // The first use of the library allocates memory that does not depend on the file.
    Tensor::zeros(1, dtype, &Device::Cpu).unwrap();
    let before = status("VmRSS");
    let started = Instant::now();
    let checkpoint = Checkpoint::open(&ModelChoice::Directory(dir.to_owned()), &no_hub(dir)).unwrap();
    let tensors = checkpoint.load_unet(dtype, &Device::Cpu, |vb| {
        keys().iter().map(|key| vb.get(ELEMENTS, key)).collect::<candle_core::Result<Vec<_>>>()
    });
    assert_eq!(tensors.unwrap().len(), TENSORS);
    eprintln!("loaded in {:.2} s", started.elapsed().as_secs_f64());
    println!("grown {}", status("VmHWM") - before);
}

/// A value of `/proc/self/status`, in bytes.
fn status(name: &str) -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    let kilobytes: usize = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    1024 * kilobytes
}
