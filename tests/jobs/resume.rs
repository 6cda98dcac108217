//! A killed job that is resumed.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::Bench;

/// Three segments: 240, 240 and 70 frames.
const FRAMES: usize = 550;

fn command(bench: &Bench, out: &Path, options: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_latentsync"));
    command
        .args(["sync", "--steps", "1", "--device", "cpu", "--json", "--model"])
        .arg(&bench.model)
        .arg("--video")
        .arg(&bench.video)
        .arg("--audio")
        .arg(bench.hum(FRAMES * 640))
        .arg("--anchors")
        .arg(bench.sparse_anchors(50, 5))
        .arg("--out")
        .arg(out)
        .args(options)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn report(mut command: Command) -> serde_json::Value {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Kills a job with `kill -9` as soon as its journal has more than `bytes` bytes.
fn kill_at(mut command: Command, journal: impl Fn() -> Option<PathBuf>, bytes: u64) {
    let mut child = command.spawn().unwrap();
    let started = Instant::now();
    let size = || journal().and_then(|path| path.metadata().ok()).map_or(0, |file| file.len());
    while size() <= bytes {
        assert!(child.try_wait().unwrap().is_none(), "the job ended before its journal had {bytes} bytes");
        assert!(started.elapsed() < Duration::from_secs(300), "the journal does not grow");
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_killed_job_resumes_after_its_last_segment_and_gives_the_same_file() {
    let bench = Bench::open();
    let whole = bench.directory.path().join("whole.mp4");
    report(command(&bench, &whole, &["--seed", "7"]));
    // Size of the journal when about 330 of the 550 frames are encoded, so that one segment is complete.
    let enough = whole.metadata().unwrap().len() * 6 / 10;
    let out = bench.directory.path().join("out.mp4");
    let hidden = || {
        let names = bench.leftovers(&["whole.mp4", "out.mp4"]);
        names.into_iter().map(|name| bench.directory.path().join(name)).collect::<Vec<_>>()
    };
    let journal = || hidden().into_iter().find(|path| path.to_string_lossy().contains("out.mp4"));
    kill_at(command(&bench, &out, &["--seed", "7"]), journal, enough);
    assert!(!out.exists());
    assert!(journal().is_some(), "the journal is kept");
    let resumed = report(command(&bench, &out, &["--seed", "7", "--resume"]));
    let frames = resumed["resumed_frames"].as_u64().unwrap();
    assert!([240, 480].contains(&frames), "{frames} resumed frames");
    assert_eq!(resumed["frames"], FRAMES);
    assert!(std::fs::read(&whole).unwrap() == std::fs::read(&out).unwrap(), "the resumed file differs");
    assert!(hidden().is_empty(), "{:?} stays behind", hidden());
    // Without a killed job, `--resume` starts from the beginning.
    let again = report(command(&bench, &out, &["--seed", "7", "--resume"]));
    assert_eq!(again["resumed_frames"], 0);

    // Other settings are refused.
    kill_at(command(&bench, &out, &["--seed", "7"]), journal, enough);
    let refused = command(&bench, &out, &["--seed", "8", "--resume"]).output().unwrap();
    assert!(!refused.status.success());
    let message = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(message.contains("out.mp4"), "{message}");
    // The seed comes from the journal, and the batch size is not part of the result.
    let resumed = report(command(&bench, &out, &["--resume", "--batch-chunks", "4"]));
    assert_eq!(resumed["seed"], 7);
    assert!(std::fs::read(&whole).unwrap() == std::fs::read(&out).unwrap(), "the resumed file differs");
    assert!(hidden().is_empty(), "{:?} stays behind", hidden());
}
