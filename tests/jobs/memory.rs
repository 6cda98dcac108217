//! Memory does not grow with the length of a job. Slow: ten minutes of 1080p take as long to encode, in every mode.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::common::Bench;

/// The most memory that a job may hold beyond what the same job of ten seconds holds.
const MOST_GROWTH: u64 = 300 << 20;

/// What is measured: a mode, and the seconds of video for so many of voice.
const MODES: [(&[&str], f64); 6] = [
    (&["--loop-mode", "pingpong"], 0.5),
    (&["--loop-mode", "loop"], 0.5),
    (&["--sync-mode", "cut_off"], 1.0),
    (&["--sync-mode", "silence"], 0.5),
    (&["--sync-mode", "remap"], 0.5),
    (&["--playback-type", "normal_reverse"], 1.2),
];

fn video(bench: &Bench, seconds: f64) -> Option<PathBuf> {
    let source = bench.media.join("woman_1080x1920_hevc.mp4");
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

/// `LATENTSYNC_LONG_SECONDS` (600) is the length; `LATENTSYNC_LONG_MODES`, numbers from 0, which modes.
#[test]
#[ignore = "a quarter of an hour for each mode"]
fn ten_minutes_hold_little_more_than_ten_seconds() {
    let Some(bench) = Bench::open() else { return };
    let variable = |name: &str| std::env::var(name).ok();
    let long = variable("LATENTSYNC_LONG_SECONDS").and_then(|text| text.parse().ok()).unwrap_or(600);
    let wanted = variable("LATENTSYNC_LONG_MODES");
    for (number, (mode, part)) in MODES.iter().enumerate() {
        if wanted.as_ref().is_some_and(|wanted| !wanted.split(',').any(|n| n == number.to_string())) {
            continue;
        }
        let peaks = [10, long].map(|seconds| {
            let Some(video) = video(&bench, seconds as f64 * part) else { return 0 };
            peak(&bench, &video, seconds, mode)
        });
        println!("{mode:?}: {} MiB for 10 s, {} MiB for {long} s", peaks[0] >> 20, peaks[1] >> 20);
        assert!(peaks[1] < peaks[0] + MOST_GROWTH, "{mode:?}: {peaks:?}");
    }
}
