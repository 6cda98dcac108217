//! A server that is killed again and again while jobs pass through it. It runs in a process of its own: this
//! test program, started with the name of one test.

use std::collections::HashSet;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use latentsync::CancelToken;
use latentsync::server::{ServerConfig, serve};
use serde_json::{Value, json};

use crate::common::{AUDIO, PATIENCE, Stub, VIDEO};

const JOBS: usize = 20;
const KILLS: u64 = 30;
const DIRECTORY: &str = "LATENTSYNC_TEST_DIRECTORY";

/// Not a test: the server that is killed.
#[test]
#[ignore = "the other test starts it"]
fn child() {
    let directory = std::env::var_os(DIRECTORY).expect("the other test says where");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    println!("\nlistening on http://{}", listener.local_addr().unwrap());
    let stub = Stub { steps: 30, step: Duration::from_millis(5) };
    serve(listener, ServerConfig::new(directory.into()), Box::new(stub), &CancelToken::new()).unwrap();
}

struct Process {
    child: Child,
    url: String,
}

impl Process {
    fn start(directory: &Path) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "crash::child", "--ignored", "--nocapture"])
            .env(DIRECTORY, directory)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let url = lines.find_map(|line| line.unwrap().strip_prefix("listening on ").map(str::to_string));
        Self { child, url: url.expect("the child listens") }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // SIGKILL: nothing of it can react.
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// Asks a server that may be gone.
fn ask(method: &str, url: &str, body: Vec<u8>) -> Option<Value> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().unwrap();
        let response = client.request(method.parse().unwrap(), url).body(body).send().await.ok()?;
        let accepted = response.status().is_success();
        let bytes = response.bytes().await.ok().filter(|_| accepted)?;
        Some(serde_json::from_slice(&bytes).unwrap_or_default())
    })
}

/// Uploads a file; its URL holds for every server over the directory, whatever its port.
fn upload(process: &Process, content: &[u8]) -> String {
    let slot = ask("POST", &format!("{}/storage/upload/initiate", process.url), b"{}".to_vec()).unwrap();
    let url = slot["upload_url"].as_str().unwrap().to_string();
    ask("PUT", &url, content.to_vec()).unwrap();
    url
}

#[test]
fn twenty_jobs_survive_thirty_kills() {
    let directory = tempfile::tempdir().unwrap();
    let process = Process::start(directory.path());
    let input = json!([
        {"type": "video", "url": upload(&process, VIDEO)},
        {"type": "audio", "url": upload(&process, AUDIO)},
    ]);
    drop(process);
    let body = json!({"model": "lipsync-2", "input": input}).to_string().into_bytes();
    let mut accepted = HashSet::new();
    for kill in 0..KILLS {
        let process = Process::start(directory.path());
        // Moments that differ, and are the same in every run of this test.
        let life = Duration::from_millis(30 + kill * 7919 % 350);
        let url = format!("{}/v2/generate", process.url);
        let killer = thread::spawn(move || {
            thread::sleep(life);
            drop(process);
        });
        while accepted.len() < JOBS
            && let Some(job) = ask("POST", &url, body.clone())
        {
            accepted.insert(job["id"].as_str().unwrap().to_string());
            if kill < KILLS / 2 {
                // Some are accepted later, by other servers.
                break;
            }
        }
        killer.join().unwrap();
    }

    let process = Process::start(directory.path());
    while accepted.len() < JOBS {
        let job = ask("POST", &format!("{}/v2/generate", process.url), body.clone()).unwrap();
        accepted.insert(job["id"].as_str().unwrap().to_string());
    }
    let started = Instant::now();
    let jobs = loop {
        let jobs = ask("GET", &format!("{}/v2/generations", process.url), Vec::new()).unwrap();
        let jobs = jobs.as_array().unwrap().clone();
        if jobs.iter().all(|job| !matches!(job["status"].as_str(), Some("PENDING" | "PROCESSING"))) {
            break jobs;
        }
        assert!(started.elapsed() < PATIENCE, "{jobs:#?}");
        thread::sleep(Duration::from_millis(50));
    };
    let ids: HashSet<String> = jobs.iter().map(|job| job["id"].as_str().unwrap().to_string()).collect();
    assert_eq!(ids.len(), jobs.len(), "a job is there twice");
    assert!(accepted.is_subset(&ids), "a job was lost");
    for job in &jobs {
        assert_eq!(job["status"], "COMPLETED", "{job:#?}");
        assert!(ask("GET", job["outputUrl"].as_str().unwrap(), Vec::new()).is_some());
    }
}
