//! Memory does not grow with the duration of a job. Encoding ten minutes of 1080p takes about as long, in every mode.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::Bench;
use crate::shared_material;

/// Limit of the memory of a job beyond that of the same job of ten seconds, in bytes.
const MAX_GROWTH: u64 = 300 << 20;

/// Options of a mode, and the duration of the video relative to the voice.
const MODES: [(&[&str], f64); 6] = [
    (&["--loop-mode", "pingpong"], 0.5),
    (&["--loop-mode", "loop"], 0.5),
    (&["--sync-mode", "cut_off"], 1.0),
    (&["--sync-mode", "silence"], 0.5),
    (&["--sync-mode", "remap"], 0.5),
    (&["--playback-type", "normal_reverse"], 1.2),
];

fn video(bench: &Bench, seconds: f64) -> PathBuf {
    let source = shared_material::directory().join("media/woman_1080x1920_hevc.mp4");
    bench.make(
        &format!("{seconds}.mp4"),
        &format!("-stream_loop -1 -i {} -an -c copy -t {seconds}", source.display()),
    )
}

fn peak(bench: &Bench, video: &Path, seconds: usize, mode: &[&str]) -> u64 {
    let out = bench.directory.path().join("long.mp4");
    let anchors = bench.sparse_anchors(40_000, 50);
    let output = Command::new(env!("CARGO_BIN_EXE_latentsync"))
        .args([
            "sync", "--steps", "1", "--seed", "7", "--device", "cpu", "--json", "-q", "--crf", "40",
            "--model",
        ])
        .args([&bench.model, Path::new("--video"), video, Path::new("--audio"), &bench.hum(seconds * 16_000)])
        .args([Path::new("--anchors"), &anchors, Path::new("--out"), &out])
        .args(mode)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    report["peak_memory_bytes"].as_u64().unwrap()
}

/// `LATENTSYNC_LONG_SECONDS` (600) is the duration; `LATENTSYNC_LONG_MODES` selects modes by number, from 0.
#[test]
#[ignore = "takes a quarter of an hour per mode, and needs the shared material"]
fn ten_minutes_need_little_more_memory_than_ten_seconds() {
    let bench = Bench::open();
    let variable = |name: &str| std::env::var(name).ok();
    let long = variable("LATENTSYNC_LONG_SECONDS").and_then(|text| text.parse().ok()).unwrap_or(600);
    let wanted = variable("LATENTSYNC_LONG_MODES");
    for (number, (mode, part)) in MODES.iter().enumerate() {
        if wanted.as_ref().is_some_and(|wanted| !wanted.split(',').any(|n| n == number.to_string())) {
            continue;
        }
        let peaks =
            [10, long].map(|seconds| peak(&bench, &video(&bench, seconds as f64 * part), seconds, mode));
        println!("{mode:?}: {} MiB for 10 s, {} MiB for {long} s", peaks[0] >> 20, peaks[1] >> 20);
        assert!(peaks[1] < peaks[0] + MAX_GROWTH, "{mode:?}: {peaks:?}");
    }
}
