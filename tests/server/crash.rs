//! A server that is killed repeatedly while it runs jobs. It is a process of its own: this test program, started with
//! the name of one test, or (in the slow test) the program `latentsync`.

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
use crate::demo_clip;
use crate::program::Program;

const JOBS: usize = 20;
const KILLS: usize = 30;
const DIRECTORY: &str = "LATENTSYNC_TEST_DIRECTORY";
const STEPS: &str = "LATENTSYNC_TEST_STEPS";

/// An engine whose results are all different.
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

/// Not a test: the server process that other tests start.
#[test]
#[ignore = "other tests start it"]
fn child() {
    let directory = std::env::var_os(DIRECTORY).expect("only another test starts this one");
    let steps = std::env::var(STEPS).unwrap().parse().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    println!("\nlistening on http://{}", listener.local_addr().unwrap());
    let engine = Unique(Stub { steps, step: Duration::from_millis(5) });
    let mut config = ServerConfig::new(directory.into());
    config.limits.queue = 100;
    config.addresses = latentsync::input::AddressPolicy::Any;
    serve(listener, config, Box::new(engine), &CancelToken::new()).unwrap();
}

/// A server in another process. Dropping it kills the process.
trait Process: Send + 'static {
    fn url(&self) -> String;
}

pub struct ThisProgram {
    pub child: Child,
    pub url: String,
}

impl ThisProgram {
    /// A job takes `steps` steps of 5 ms.
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
        // Reads the output to its end: without a reader, a test program ends after a minute.
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
        // SIGKILL.
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Process for Program {
    fn url(&self) -> String {
        self.url.clone()
    }
}

/// Sends a request to a server that may be killed: `None` without a successful response.
fn ask(method: &str, url: &str, body: Vec<u8>) -> Option<Vec<u8>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(60)).build().unwrap();
        let response = client.request(method.parse().unwrap(), url).body(body).send().await.ok()?;
        let accepted = response.status().is_success();
        Some(response.bytes().await.ok().filter(|_| accepted)?.to_vec())
    })
}

fn ask_json(method: &str, url: &str, body: Vec<u8>) -> Option<Value> {
    serde_json::from_slice(&ask(method, url, body)?).ok()
}

/// Uploads a file. Its URL is valid for every server on the same data directory.
pub fn upload(url: &str, content: &[u8]) -> String {
    let slot = ask_json("POST", &format!("{url}/storage/upload/initiate"), b"{}".to_vec()).unwrap();
    let url = slot["upload_url"].as_str().unwrap().to_string();
    ask("PUT", &url, content.to_vec()).unwrap();
    url
}

/// The jobs as a client observes them over all servers.
#[derive(Default)]
struct ObservedJobs {
    accepted: BTreeSet<String>,
    /// Results of completed jobs.
    results: BTreeMap<String, Vec<u8>>,
}

impl ObservedJobs {
    /// Submits one more job. `false` if there are enough, or if the server is gone.
    fn submit(&mut self, url: &str, body: &[u8]) -> bool {
        if self.accepted.len() == JOBS {
            return false;
        }
        let job = ask_json("POST", &format!("{url}/v2/generate"), body.to_vec());
        job.is_some_and(|job| self.accepted.insert(job["id"].as_str().unwrap().to_string()))
    }

    /// Checks all jobs: a completed job must stay completed, with the same result. `Some(true)` if all are completed,
    /// `None` if the server is gone.
    fn check(&mut self, url: &str) -> Option<bool> {
        let jobs = ask_json("GET", &format!("{url}/v2/generations"), Vec::new())?;
        let jobs = jobs.as_array().unwrap();
        for job in jobs {
            let id = job["id"].as_str().unwrap();
            let completed = job["status"] == "COMPLETED";
            assert!(completed || !self.results.contains_key(id), "this job was completed before: {job:#}");
            assert!(
                matches!(job["status"].as_str(), Some("PENDING" | "PROCESSING" | "COMPLETED")),
                "{job:#}"
            );
            if completed {
                let result = ask("GET", job["outputUrl"].as_str().unwrap(), Vec::new())?;
                let first = self.results.entry(id.to_string()).or_insert_with(|| result.clone());
                assert!(*first == result, "the job {id} ran again after it was completed");
            }
        }
        Some(jobs.iter().all(|job| job["status"] == "COMPLETED"))
    }
}

/// Kills servers after random times of `life`, in milliseconds, while they run jobs.
fn survive<P: Process>(
    start: impl Fn() -> P,
    [video, audio]: [&[u8]; 2],
    life: Range<u64>,
    timeout: Duration,
) {
    let seed = rand::rng().random();
    println!("seed of the random times: {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let webhooks = Webhooks::start();
    let first = start();
    let input = json!([
        {"type": "video", "url": upload(&first.url(), video)},
        {"type": "audio", "url": upload(&first.url(), audio)},
    ]);
    drop(first);
    let body = json!({"model": "lipsync-2", "input": input, "webhookUrl": webhooks.url}).to_string();
    let mut jobs = ObservedJobs::default();
    for kill in 0..KILLS {
        let process = start();
        let url = process.url();
        let life = Duration::from_millis(random.random_range(life.clone()));
        let killer = thread::spawn(move || {
            thread::sleep(life);
            drop(process);
        });
        // The submissions are spread over all servers.
        let until = JOBS * (kill + 1) / KILLS + 1;
        while jobs.accepted.len() < until && jobs.submit(&url, body.as_bytes()) {}
        while !killer.is_finished() && jobs.check(&url).is_some() {
            thread::sleep(Duration::from_millis(20));
        }
        killer.join().unwrap();
    }

    let process = start();
    while jobs.submit(&process.url(), body.as_bytes()) {}
    assert_eq!(jobs.accepted.len(), JOBS);
    let started = Instant::now();
    while jobs.check(&process.url()) != Some(true) {
        assert!(started.elapsed() < timeout, "{} of {JOBS} are completed", jobs.results.len());
        thread::sleep(Duration::from_millis(50));
    }
    // There may be more results than accepted jobs: a killed server may have stored a job without answering.
    let completed: BTreeSet<&String> = jobs.results.keys().collect();
    assert!(jobs.accepted.iter().all(|id| completed.contains(id)), "a job was lost");
    let mut delivered = BTreeSet::new();
    while !jobs.accepted.is_subset(&delivered) {
        // A message comes twice if the server was killed between sending it and recording that.
        let message = webhooks.next_within(timeout).expect("a webhook for every job");
        assert_eq!(message.text("status"), "COMPLETED");
        delivered.insert(message.text("id").to_string());
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
    let directory = tempfile::tempdir().unwrap();
    let start = || Program::start(directory.path(), "1", &["--allow-local-urls"]);
    let inputs = [demo_clip::video(), demo_clip::voice()].map(|path| std::fs::read(path).unwrap());
    survive(start, [&inputs[0], &inputs[1]], 300..5000, Duration::from_secs(600));
}
