//! `latentsync bench`: its output, its record file, and the consistency of its figures.
#![cfg(feature = "media")]

#[path = "support/demo_clip.rs"]
mod demo_clip;

use std::path::Path;
use std::process::Output;

use assert_cmd::Command;
use assert_cmd::cargo::cargo_bin;
use serde_json::Value;

const PARTS: [&str; 3] = ["unet_step", "vae_encode", "vae_decode"];

fn bench(directory: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(cargo_bin("latentsync"));
    command.current_dir(directory).env_remove("RUST_LOG").arg("bench").args(args);
    command.output().expect("the program starts")
}

/// Runs a benchmark, which must end with exit code 0 and print one JSON object.
fn measure(directory: &Path, args: &[&str]) -> Value {
    let output = bench(directory, args);
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

fn number(of: &Value) -> f64 {
    of.as_f64().unwrap_or_else(|| panic!("expected a number, got {of}"))
}

/// Asserts that the times, rates and shares of one part agree.
fn check_part(part: &Value, runs: usize) {
    let seconds = &part["seconds"];
    assert_eq!(seconds["runs"].as_array().map(Vec::len), Some(runs), "{part}");
    let (min, median, max) = (number(&seconds["min"]), number(&seconds["median"]), number(&seconds["max"]));
    assert!(0.0 < min && min <= median && median <= max && max < 600.0, "{seconds}");
    let (flop, flops) = (number(&part["flop"]), number(&part["flops"]));
    assert!((flop / median / flops - 1.0).abs() < 1e-6, "{part}");
    assert!((0.0..1.5).contains(&number(&part["share_of_peak"])), "{part}");

    let operations = part["operations"].as_array().expect("operations");
    let sum = |lines: &[Value], key: &str| lines.iter().map(|line| number(&line[key])).sum::<f64>();
    assert!((sum(operations, "share") - 1.0).abs() < 0.05, "{part}");
    assert!((sum(operations, "seconds") / min - 1.0).abs() < 0.05, "{part}");
    assert!((sum(operations, "flop") / flop - 1.0).abs() < 1e-9);
    let shapes = part["shapes"].as_array().expect("shapes");
    assert!((sum(shapes, "flop") / flop - 1.0).abs() < 1e-9);
    assert!(operations.iter().any(|line| line["kind"] == "conv2d" && number(&line["flop"]) > 0.0));
}

#[test]
fn a_small_network_is_measured_stored_and_compared() {
    let directory = tempfile::tempdir().unwrap();
    let record = measure(directory.path(), &["--size", "small", "--json", "--runs", "2", "--out", "a.json"]);
    for part in PARTS {
        check_part(&record["parts"][part], 2);
    }
    assert_eq!(record["parts"].as_object().map(|parts| parts.len()), Some(3));
    assert_eq!(
        (&record["setting"]["model"], &record["setting"]["frames"]),
        (&"synthetic-small".into(), &16.into())
    );
    let kinds = record["parts"]["unet_step"]["operations"].as_array().expect("operations");
    // On AMX every layer norm is a part of the linear layer after it.
    for kind in ["linear", "self_attention", "cross_attention", "temporal_attention", "group_norm"] {
        assert!(kinds.iter().any(|line| line["kind"] == kind), "{kind}: {kinds:?}");
    }
    let peak = &record["peak"];
    let name = peak["name"].as_str().expect("the name of a loop");
    assert_eq!(peak["flops"], peak["loops"][name]);
    // Below any machine that can run this test, and above any machine.
    assert!((1e8..1e15).contains(&number(&peak["flops"])), "{peak}");
    assert!(number(&record["seconds_per_output_second"]) > 0.0);
    assert_eq!((&record["ratios"], &record["peer"]), (&serde_json::json!({}), &Value::Null));
    assert!(record["command"].as_str().is_some_and(|command| command.contains("bench --size small")));

    let stored = std::fs::read(directory.path().join("a.json")).expect("the record was stored");
    assert_eq!(serde_json::from_slice::<Value>(&stored).expect("JSON"), record);

    let mut slower = record.clone();
    let median = number(&record["parts"]["unet_step"]["seconds"]["median"]);
    slower["parts"]["unet_step"]["seconds"]["median"] = (4.0 * median).into();
    std::fs::write(directory.path().join("b.json"), slower.to_string()).unwrap();
    let output = bench(directory.path(), &["--compare", "b.json", "a.json"]);
    assert!(output.status.success(), "{output:?}");
    let table = String::from_utf8(output.stdout).expect("UTF-8");
    let line =
        |name: &str| table.lines().find(|line| line.trim_start().starts_with(name)).unwrap_or_default();
    assert!(line("unet_step").ends_with(" 4.00"), "{table}");
    assert!(line("vae_decode").ends_with(" 1.00") && line("conv2d").ends_with(" 1.00"), "{table}");
}

/// Independent count: 0.27 TFLOP for one image of 256 × 256 pixels through the published encoder.
#[test]
fn the_work_of_the_published_encoder_is_as_counted() {
    let directory = tempfile::tempdir().unwrap();
    let args = ["--size", "256", "--what", "vae-encode", "--runs", "1", "--warm-up", "0", "--json"];
    let record = measure(directory.path(), &args);
    check_part(&record["parts"]["vae_encode"], 1);
    let flop = number(&record["parts"]["vae_encode"]["flop"]);
    assert!((flop / 0.27e12 - 1.0).abs() < 0.03, "{flop:e}");
    assert_eq!(record["parts"].as_object().map(|parts| parts.len()), Some(1));
}

mod slow {
    use super::*;

    /// Independent counts at 256 × 256 pixels: 4.05 TFLOP for one UNet step of 16 frames, 0.27 for one encoded image,
    /// 0.62 for one decoded image.
    #[test]
    #[ignore = "needs 4 GB of memory and a minute"]
    fn the_work_of_the_published_networks_is_as_counted() {
        let directory = tempfile::tempdir().unwrap();
        let args = ["--size", "256", "--dtype", "bf16", "--runs", "1", "--warm-up", "0", "--json"];
        let record = measure(directory.path(), &args);
        for (part, counted) in PARTS.into_iter().zip([4.05e12, 0.27e12, 0.62e12]) {
            check_part(&record["parts"][part], 1);
            let flop = number(&record["parts"][part]["flop"]);
            assert!((flop / counted - 1.0).abs() < 0.03, "{part}: {flop:e}");
        }
    }
}

#[test]
fn a_whole_job_is_measured() {
    let directory = tempfile::tempdir().unwrap();
    let [video, audio, anchors] =
        [demo_clip::video(), demo_clip::voice(), demo_clip::anchors()].map(|path| path.display().to_string());
    let mut args = vec!["--size", "small", "--what", "job", "--runs", "1", "--steps", "1", "--json"];
    args.extend(["--video", &video, "--audio", &audio, "--anchors", &anchors]);
    let record = measure(directory.path(), &args);
    let job = &record["job"];
    // The voice lasts 96.8 frames.
    assert_eq!((&job["frames"], &job["steps"]), (&97.into(), &1.into()), "{job}");
    assert!(number(&job["stage_seconds"]["decode_latents"]) > 0.0, "{job}");
    assert!((0.0..1.0).contains(&number(&job["networks_share"])), "{job}");
    let per_second = number(&job["seconds"]["median"]) * 25.0 / 97.0;
    assert!((number(&job["seconds_per_output_second"]) / per_second - 1.0).abs() < 1e-6, "{job}");
    assert_eq!(record["parts"], serde_json::json!({}));
}

#[test]
fn usage_errors_are_found_before_anything_is_measured() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("text.json"), "{\"a\": 1}").unwrap();
    let table: [(&[&str], i32, &str); 8] = [
        (&["--size", "128"], 2, "--size"),
        (&["--what", "unet"], 2, "`unet-step`, `vae-encode`"),
        (&["--what", "job"], 2, "give --video and --audio"),
        (&["--runs", "0"], 2, "--runs"),
        (&["--size", "small", "--peer"], 2, "--size 256 or 512"),
        (&["--peer"], 3, "there is no `scripts/bench_peer`"),
        (&["--compare", "text.json", "text.json"], 3, "`text.json` is no record"),
        (&["--compare", "none.json", "none.json"], 3, "cannot read `none.json`"),
    ];
    for (args, code, message) in table {
        let output = bench(directory.path(), args);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {stderr}");
        assert!(stderr.contains(message), "{args:?}: expected `{message}` in {stderr}");
        assert!(output.stdout.is_empty(), "{args:?}");
    }
}
