//! A server in this process, a client for it, and a receiver of its webhooks.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use latentsync::input::{AddressPolicy, Input};
use latentsync::pipeline::report::StageTimes;
use latentsync::server::jobs::engine::Engine;
use latentsync::server::{ServerConfig, serve};
use latentsync::{CancelToken, Error, FetchedJob, InputRole, Options, Progress, Report, Stage, media};
use serde_json::{Value, json};
use tempfile::TempDir;

/// The first bytes of an MP4 file.
pub const VIDEO: &[u8] = b"\x00\x00\x00\x18ftypmp42 a video";
pub const AUDIO: &[u8] = b"RIFF\x24\x00\x00\x00WAVEfmt a voice";
/// Limit of every wait.
pub const TIMEOUT: Duration = Duration::from_secs(60);

/// An engine that waits `steps` times `step` and writes some bytes. It refuses a video that contains `broken`, and
/// panics for one that contains `panic`.
#[derive(Clone, Copy)]
pub struct Stub {
    pub steps: usize,
    pub step: Duration,
}

/// Ends immediately.
pub const FAST: Stub = Stub { steps: 2, step: Duration::ZERO };
/// Runs longer than any test.
pub const SLOW: Stub = Stub { steps: 100_000, step: Duration::from_millis(5) };

/// Output path and options of every job that ran.
static RAN: Mutex<Vec<(PathBuf, Options)>> = Mutex::new(Vec::new());

/// Options with which the job `id` ran.
pub fn options_of(id: &str) -> Options {
    let ran = RAN.lock().unwrap();
    let job = ran.iter().find(|(output, _)| output.to_string_lossy().contains(id));
    job.unwrap_or_else(|| panic!("{id} has not run")).1.clone()
}

impl Engine for Stub {
    fn load(&mut self) -> latentsync::Result<()> {
        Ok(())
    }

    fn run(
        &mut self,
        job: &FetchedJob,
        progress: &mut dyn Progress,
        cancel: &CancelToken,
    ) -> latentsync::Result<Report> {
        let job = job.job();
        RAN.lock().unwrap().push((job.output.clone(), job.options.clone()));
        let path = local(job.video.clone());
        let video = std::fs::read(&path).unwrap();
        let contains = |word: &[u8]| video.windows(word.len()).any(|window| window == word);
        if contains(b"broken") {
            let error = Error::from(media::Error::NoVideoStream { path });
            return Err(error.in_input(InputRole::Video));
        }
        assert!(!contains(b"panic"), "requested by the test");
        for step in 0..self.steps {
            cancel.check()?;
            progress.stage(Stage::DenoiseLatents, step, Some(self.steps));
            thread::sleep(self.step);
        }
        std::fs::write(&job.output, b"\x00\x00\x00\x18ftypmp42 the result").unwrap();
        Ok(Report {
            output: job.output.clone(),
            model: "stub".to_string(),
            device: "none".to_string(),
            dtype: "none".to_string(),
            seed: job.options.seed.unwrap_or_default(),
            steps: self.steps,
            guidance_scale: job.options.guidance_scale,
            deepcache: None,
            frames: 50,
            source_frames: 50,
            fps: 25.0,
            resumed_frames: 0,
            faces_from_cache: false,
            batch_chunks: 1,
            faces: Default::default(),
            stage_seconds: StageTimes::default(),
            seconds: 0.0,
            seconds_per_output_second: 0.0,
            peak_memory_bytes: None,
            warnings: vec![format!("a warning about `{}`", path.display())],
        })
    }

    fn unload(&mut self) {}
}

/// Path of an input as the engine gets it.
fn local(input: impl Into<Input>) -> PathBuf {
    input.into().as_file().expect("a local file").to_path_buf()
}

/// A server on a free port. Dropping it stops the server.
pub struct Server {
    pub url: String,
    stop: CancelToken,
    thread: Option<JoinHandle<latentsync::server::Result<()>>>,
    directory: PathBuf,
    /// Removed with the server; `None` if the test owns the directory.
    _temporary: Option<TempDir>,
}

impl Server {
    pub fn start(engine: impl Engine + 'static) -> Self {
        Self::with(engine, |_| {})
    }

    pub fn with(engine: impl Engine + 'static, change: impl FnOnce(&mut ServerConfig)) -> Self {
        let temporary = tempfile::tempdir().unwrap();
        let mut server = Self::at(temporary.path(), engine, change);
        server._temporary = Some(temporary);
        server
    }

    /// A server on the data directory of a test, which an earlier server may have used.
    pub fn at(
        directory: &Path,
        engine: impl Engine + 'static,
        change: impl FnOnce(&mut ServerConfig),
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let mut config = ServerConfig::new(directory.to_path_buf());
        // The tests' inputs and webhooks have local addresses.
        config.addresses = AddressPolicy::Any;
        change(&mut config);
        let stop = CancelToken::new();
        let token = stop.clone();
        let thread = thread::spawn(move || serve(listener, config, Box::new(engine), &token));
        let server =
            Self { url, stop, thread: Some(thread), directory: directory.to_path_buf(), _temporary: None };
        server.until("/readyz", |answer| answer.status == 200);
        server
    }

    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap().unwrap();
        }
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    pub fn get(&self, path: &str) -> Answer {
        self.call("GET", path, &[], Vec::new())
    }

    pub fn post(&self, path: &str, body: Value) -> Answer {
        self.call("POST", path, &[("content-type", "application/json")], body.to_string().into_bytes())
    }

    /// `path` may also be an absolute URL from a response.
    pub fn call(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Vec<u8>) -> Answer {
        let url = if path.starts_with("http") { path.to_string() } else { format!("{}{path}", self.url) };
        call(method, &url, headers, body)
    }

    /// Polls until an answer satisfies `wanted`.
    pub fn until(&self, path: &str, wanted: impl Fn(&Answer) -> bool) -> Answer {
        let started = Instant::now();
        loop {
            let answer = self.get(path);
            if wanted(&answer) {
                return answer;
            }
            assert!(started.elapsed() < TIMEOUT, "{path}: {answer:#?}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Uploads a file as fal's JavaScript client does, and returns its URL.
    pub fn upload(&self, name: &str, content: &[u8]) -> String {
        let slot =
            self.post("/storage/upload/initiate", json!({"file_name": name, "content_type": "video/mp4"}));
        let put = self.call("PUT", slot.text("upload_url"), &[], content.to_vec());
        assert_eq!(put.status, 200, "{put:#?}");
        slot.text("file_url").to_string()
    }

    /// Uploads a video and a voice, and returns their URLs.
    pub fn inputs(&self) -> (String, String) {
        (self.upload("video.mp4", VIDEO), self.upload("voice.wav", AUDIO))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if !thread::panicking() {
            self.end();
        }
    }
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub bytes: Vec<u8>,
    pub json: Value,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// A string of the JSON body.
    pub fn text(&self, name: &str) -> &str {
        self.json[name].as_str().unwrap_or_else(|| panic!("no `{name}` in {self:#?}"))
    }
}

pub fn call(method: &str, url: &str, headers: &[(&str, &str)], body: Vec<u8>) -> Answer {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder().no_proxy().timeout(TIMEOUT).build().unwrap();
        let mut request = client.request(method.parse().unwrap(), url).body(body);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        let headers = response.headers().iter();
        let headers = headers
            .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
            .collect();
        let bytes = response.bytes().await.unwrap().to_vec();
        let json = serde_json::from_slice(&bytes).unwrap_or_default();
        Answer { status, headers, bytes, json }
    })
}

/// A receiver of webhooks.
pub struct Webhooks {
    pub url: String,
    messages: Receiver<Answer>,
}

impl Webhooks {
    pub fn start() -> Self {
        let (sender, messages) = channel();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        listener.set_nonblocking(true).unwrap();
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let receive = move |headers: axum::http::HeaderMap, body: axum::body::Bytes| {
                    let headers = headers.iter();
                    let headers = headers
                        .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_string()))
                        .collect();
                    let json = serde_json::from_slice(&body).unwrap();
                    let _ = sender.send(Answer { status: 200, headers, bytes: body.to_vec(), json });
                    std::future::ready("ok")
                };
                let router = axum::Router::new().route("/hook", axum::routing::post(receive));
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                axum::serve(listener, router).await.unwrap();
            });
        });
        Self { url, messages }
    }

    pub fn next(&self) -> Answer {
        self.next_within(TIMEOUT).expect("a webhook")
    }

    pub fn next_within(&self, time: Duration) -> Option<Answer> {
        self.messages.recv_timeout(time).ok()
    }
}

pub fn hmac(secret: &[u8], message: &[u8]) -> String {
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret);
    hex(ring::hmac::sign(&key, message).as_ref())
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
