//! The program `latentsync serve` with the small model, killed while it works, and restarted.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::common::{Answer, call};
use crate::{demo_clip, small_model};

/// A job of the small model takes seconds, on a busy machine minutes.
const TIMEOUT: Duration = Duration::from_secs(300);

/// A running server process. Dropping it kills the process.
pub struct Program {
    child: Child,
    pub url: String,
}

impl Program {
    pub fn start(data: &Path, steps: &str, more: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_latentsync"))
            .args(["serve", "--port", "0", "--device", "cpu", "--steps", steps, "--model"])
            .arg(small_model::directory())
            .arg("--data-dir")
            .arg(data)
            .args(more)
            .env_remove("RUST_LOG")
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let url = lines
            .by_ref()
            .find_map(|line| line.unwrap().split_once("listening on ").map(|(_, url)| url.to_string()))
            .expect("the program prints its address");
        // Reads the log to its end, so that the program never waits for a full pipe.
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, url }
    }

    fn post(&self, path: &str, body: serde_json::Value) -> Answer {
        call("POST", &format!("{}{path}", self.url), &[], body.to_string().into_bytes())
    }

    fn until(&self, path: &str, wanted: impl Fn(&Answer) -> bool) -> Answer {
        let started = Instant::now();
        loop {
            let answer = call("GET", &format!("{}{path}", self.url), &[], Vec::new());
            if wanted(&answer) {
                return answer;
            }
            assert!(started.elapsed() < TIMEOUT, "{path}: {answer:#?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Kills the process with SIGKILL.
    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_job_survives_a_killed_server_and_gives_a_video() {
    let data = tempfile::tempdir().unwrap();
    // Enough steps that the job is still running when the server is killed.
    let program = Program::start(data.path(), "200", &[]);
    let upload = |path: &Path| {
        let name = path.file_name().unwrap().to_str().unwrap();
        let slot = program.post("/storage/upload/initiate", json!({"file_name": name}));
        let content = std::fs::read(path).unwrap();
        assert_eq!(call("PUT", slot.text("upload_url"), &[], content).status, 200);
        slot.text("file_url").to_string()
    };
    let body = json!({"video_url": upload(&demo_clip::video()), "audio_url": upload(&demo_clip::voice())});
    let task = program.post("/open/v2/create_lip_sync_video", body);
    let path = format!("/open/v2/lip_sync_video/{}", task.json["data"]["task_id"].as_str().unwrap());
    program.until(&path, |answer| answer.json["data"]["status"] == "processing");
    program.kill();

    let program = Program::start(data.path(), "1", &[]);
    let ended =
        |answer: &Answer| matches!(answer.json["data"]["status"].as_str(), Some("success" | "failed"));
    let done = program.until(&path, ended);
    let result = &done.json["data"]["data"];
    // JoggAI's `normal` ends with the shorter of the two: the voice, after 97 frames.
    assert_eq!(result["duration_seconds"], 3.88, "{done:#?}");
    let cover = result["cover_url"].as_str().unwrap();
    let local = |url: &str| format!("/{}", url.splitn(4, '/').nth(3).unwrap());
    assert!(program.until(&local(cover), |_| true).bytes.starts_with(b"\xff\xd8\xff"));
    program.kill();

    let program = Program::start(data.path(), "1", &[]);
    let video = program.until(&local(result["result_url"].as_str().unwrap()), |_| true);
    assert_eq!((video.status, &video.bytes[4..8]), (200, &b"ftyp"[..]));
}

#[test]
fn log_format_json_gives_one_object_a_line() {
    let data = tempfile::tempdir().unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_latentsync"))
        .args(["serve", "--port", "0", "--device", "cpu", "--log-format", "json", "--model"])
        .arg(small_model::directory())
        .arg("--data-dir")
        .arg(data.path())
        .env_remove("RUST_LOG")
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut next = |wanted: &str| {
        let line = lines.by_ref().map(|line| line.unwrap()).find(|line| line.contains(wanted)).unwrap();
        serde_json::from_str::<serde_json::Value>(&line).unwrap_or_else(|_| panic!("no JSON: {line}"))
    };
    let listening = next("listening on");
    let url = listening["message"].as_str().unwrap().split_once("listening on ").unwrap().1.to_string();
    let body = json!({"video": "http://a.invalid/v", "audio": "http://a.invalid/a"}).to_string();
    let headers = [("x-request-id", "the-request")];
    let answer = call("POST", &format!("{url}/api/v3/bytedance/latentsync"), &headers, body.into_bytes());
    let accepted = next("accepted");
    assert_eq!(accepted["job"], answer.json["data"]["id"], "{accepted:#}");
    assert_eq!((&accepted["span"]["id"], &accepted["level"]), (&json!("the-request"), &json!("INFO")));
    assert!(accepted["timestamp"].is_string());
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn errors_of_the_configuration_stop_the_server_at_start() {
    let refused = |arguments: &[&str]| {
        let data = tempfile::tempdir().unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_latentsync"))
            .args(["serve", "--port", "0", "--device", "cpu", "--offline", "--data-dir"])
            .arg(data.path())
            .args(arguments)
            .env_remove("RUST_LOG")
            .output()
            .unwrap();
        assert!(!output.status.success(), "{arguments:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let empty = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(empty.path(), "# no key yet\n\n").unwrap();
    for (arguments, wanted) in [
        (&["--api-key-file", empty.path().to_str().unwrap()][..], "there is no key"),
        (&["--api-key", " , "], "there is no key"),
        (&["--host", "0.0.0.0"], "can be reached by others"),
        (&["--public-url", "lips.example"], "no http or https URL"),
        (&["--public-url", "https://lips.example"], "can be reached by others"),
        (&["--keep", "0"], "--keep"),
        (&["--face-detector", "insightface", "--model", "/nowhere/at/all"], "licen"),
        (&["--model", "/nowhere/at/all"], "/nowhere/at/all"),
        (&["--data-dir", "/"], "--data-dir"),
    ] {
        let stderr = refused(arguments);
        assert!(stderr.contains(wanted), "{arguments:?}: {stderr}");
    }
}
