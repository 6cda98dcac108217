//! A server that is killed again and again while jobs pass through it. It runs in a process of its own: this
//! test program, started with the name of one test, and for the slow form the program itself.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::ops::Range;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use latentsync::server::jobs::engine::Engine;
use latentsync::server::{ServerConfig, serve};
use latentsync::{CancelToken, FetchedJob, Progress, Report};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use crate::common::{AUDIO, Stub, VIDEO, Webhooks};
use crate::program::{Program, shared};

const JOBS: usize = 20;
const KILLS: usize = 30;
const DIRECTORY: &str = "LATENTSYNC_TEST_DIRECTORY";
const STEPS: &str = "LATENTSYNC_TEST_STEPS";

/// No two of its results are the same.
struct Unique(Stub);

impl Engine for Unique {
    fn load(&mut self) -> latentsync::Result<()> {
        self.0.load()
    }

    fn run(
        &mut self,
        job: &FetchedJob,
        progress: &mut dyn Progress,
        cancel: &CancelToken,
    ) -> latentsync::Result<Report> {
        let report = self.0.run(job, progress, cancel)?;
        std::fs::write(&job.job().output, rand::rng().random::<[u8; 32]>()).unwrap();
        Ok(report)
    }

    fn unload(&mut self) {}
}

/// Not a test: the server that others start.
#[test]
#[ignore = "other tests start it"]
fn child() {
    let Some(directory) = std::env::var_os(DIRECTORY) else { return };
    let steps = std::env::var(STEPS).unwrap().parse().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    println!("\nlistening on http://{}", listener.local_addr().unwrap());
    let engine = Unique(Stub { steps, step: Duration::from_millis(5) });
    let mut config = ServerConfig::new(directory.into());
    config.limits.queue = 100;
    config.addresses = latentsync::input::AddressPolicy::Any;
    serve(listener, config, Box::new(engine), &CancelToken::new()).unwrap();
}

/// A server in another process; dropped, it is killed.
trait Process: Send + 'static {
    fn url(&self) -> String;
}

pub struct ThisProgram {
    pub child: Child,
    pub url: String,
}

impl ThisProgram {
    /// `steps` of 5 ms are a job's work.
    pub fn start(directory: &Path, steps: usize) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "crash::child", "--ignored", "--nocapture"])
            .env(DIRECTORY, directory)
            .env(STEPS, steps.to_string())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let url =
            lines.by_ref().find_map(|line| line.unwrap().strip_prefix("listening on ").map(str::to_string));
        // What it says later is read, too: a test program whose reader is gone ends after a minute.
        thread::spawn(move || lines.for_each(drop));
        Self { child, url: url.expect("the child listens") }
    }
}

impl Process for ThisProgram {
    fn url(&self) -> String {
        self.url.clone()
    }
}

impl Drop for ThisProgram {
    fn drop(&mut self) {
        // SIGKILL: nothing of it can react.
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Process for Program {
    fn url(&self) -> String {
        self.url.clone()
    }
}

/// Asks a server that may be gone.
fn ask(method: &str, url: &str, body: Vec<u8>) -> Option<Vec<u8>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(60)).build().unwrap();
        let response = client.request(method.parse().unwrap(), url).body(body).send().await.ok()?;
        let accepted = response.status().is_success();
        Some(response.bytes().await.ok().filter(|_| accepted)?.to_vec())
    })
}

fn ask_json(method: &str, url: &str, body: Vec<u8>) -> Option<Value> {
    serde_json::from_slice(&ask(method, url, body)?).ok()
}

/// Uploads a file; its URL holds for every server over the directory, whatever its port.
pub fn upload(url: &str, content: &[u8]) -> String {
    let slot = ask_json("POST", &format!("{url}/storage/upload/initiate"), b"{}".to_vec()).unwrap();
    let url = slot["upload_url"].as_str().unwrap().to_string();
    ask("PUT", &url, content.to_vec()).unwrap();
    url
}

/// What was seen of the jobs from outside, through all the servers.
#[derive(Default)]
struct Seen {
    accepted: BTreeSet<String>,
    /// The results of those that had completed.
    results: BTreeMap<String, Vec<u8>>,
}

impl Seen {
    /// Submits one more, if there are not enough; `false` once the server is gone.
    fn submit(&mut self, url: &str, body: &[u8]) -> bool {
        if self.accepted.len() == JOBS {
            return false;
        }
        let job = ask_json("POST", &format!("{url}/v2/generate"), body.to_vec());
        job.is_some_and(|job| self.accepted.insert(job["id"].as_str().unwrap().to_string()))
    }

    /// Looks at all jobs: what has completed once stays as it is. `true` if none is left to do.
    fn look(&mut self, url: &str) -> Option<bool> {
        let jobs = ask_json("GET", &format!("{url}/v2/generations"), Vec::new())?;
        let jobs = jobs.as_array().unwrap();
        for job in jobs {
            let id = job["id"].as_str().unwrap();
            let completed = job["status"] == "COMPLETED";
            assert!(completed || !self.results.contains_key(id), "it had completed: {job:#}");
            assert!(
                matches!(job["status"].as_str(), Some("PENDING" | "PROCESSING" | "COMPLETED")),
                "{job:#}"
            );
            if completed {
                let result = ask("GET", job["outputUrl"].as_str().unwrap(), Vec::new())?;
                let first = self.results.entry(id.to_string()).or_insert_with(|| result.clone());
                assert!(*first == result, "the job {id} was run again after it had completed");
            }
        }
        Some(jobs.iter().all(|job| job["status"] == "COMPLETED"))
    }
}

/// Kills servers at random moments of their lives while jobs pass through them.
fn survive<P: Process>(
    start: impl Fn() -> P,
    [video, audio]: [&[u8]; 2],
    life: Range<u64>,
    patience: Duration,
) {
    let seed = rand::rng().random();
    println!("moments from seed {seed}");
    let mut moments = StdRng::seed_from_u64(seed);
    let webhooks = Webhooks::start();
    let first = start();
    let input = json!([
        {"type": "video", "url": upload(&first.url(), video)},
        {"type": "audio", "url": upload(&first.url(), audio)},
    ]);
    drop(first);
    let body = json!({"model": "lipsync-2", "input": input, "webhookUrl": webhooks.url}).to_string();
    let mut seen = Seen::default();
    for kill in 0..KILLS {
        let process = start();
        let url = process.url();
        let life = Duration::from_millis(moments.random_range(life.clone()));
        let killer = thread::spawn(move || {
            thread::sleep(life);
            drop(process);
        });
        // Some are accepted later, by other servers.
        let until = JOBS * (kill + 1) / KILLS + 1;
        while seen.accepted.len() < until && seen.submit(&url, body.as_bytes()) {}
        while !killer.is_finished() && seen.look(&url).is_some() {
            thread::sleep(Duration::from_millis(20));
        }
        killer.join().unwrap();
    }

    let process = start();
    while seen.submit(&process.url(), body.as_bytes()) {}
    assert_eq!(seen.accepted.len(), JOBS);
    let started = Instant::now();
    while seen.look(&process.url()) != Some(true) {
        assert!(started.elapsed() < patience, "{} of {JOBS} have completed", seen.results.len());
        thread::sleep(Duration::from_millis(50));
    }
    // One more may be known whose acceptance was never answered.
    let completed: BTreeSet<&String> = seen.results.keys().collect();
    assert!(seen.accepted.iter().all(|id| completed.contains(id)), "a job was lost");
    let mut told = BTreeSet::new();
    while !seen.accepted.is_subset(&told) {
        // A message may come twice where the server was killed between the sending and the noting.
        let message = webhooks.next_within(patience).expect("every job's webhook comes");
        assert_eq!(message.text("status"), "COMPLETED");
        told.insert(message.text("id").to_string());
    }
}

#[test]
fn twenty_jobs_survive_thirty_kills() {
    let directory = tempfile::tempdir().unwrap();
    survive(|| ThisProgram::start(directory.path(), 30), [VIDEO, AUDIO], 30..400, Duration::from_secs(60));
}

#[test]
#[ignore = "slow: minutes; scripts/test runs it"]
fn twenty_jobs_survive_thirty_kills_of_the_program() {
    let Some(shared) = shared() else { return };
    let directory = tempfile::tempdir().unwrap();
    let media = |name: &str| std::fs::read(shared.join("media").join(name)).unwrap();
    let start = || Program::start(&shared, directory.path(), "1", &["--allow-local-urls"]);
    let inputs = [media("woman_2s.mp4"), media("speech_3s.wav")];
    survive(start, [&inputs[0], &inputs[1]], 300..5000, Duration::from_secs(600));
}
