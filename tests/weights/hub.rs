//! A local hub that serves byte ranges of a few files, and misbehaves as configured.

use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};

use latentsync::weights::{HubSettings, Manifest};
use sha2::{Digest, Sha256};

/// The commit that every branch points to.
pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// Files and behaviour of the hub.
#[derive(Default)]
pub struct Behaviour {
    /// Bytes by `owner/name/path`.
    pub files: BTreeMap<String, Vec<u8>>,
    /// Bytes after which the first downloads are cut off, one entry per download.
    pub cuts: VecDeque<usize>,
    /// Respond to every range request with the whole file.
    pub ignores_ranges: bool,
    /// Respond to every request with this status.
    pub refuses_with: Option<u16>,
}

/// A received request.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    pub method: String,
    pub path: String,
    pub range: Option<String>,
    pub authorization: Option<String>,
}

/// A running server, which ends with the test process.
pub struct Hub {
    pub endpoint: String,
    behaviour: Arc<Mutex<Behaviour>>,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Hub {
    pub fn start(behaviour: Behaviour) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let hub = Self { endpoint, behaviour: Arc::new(Mutex::new(behaviour)), requests: Arc::default() };
        let (behaviour, requests) = (hub.behaviour.clone(), hub.requests.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (behaviour, requests) = (behaviour.clone(), requests.clone());
                // The client may close the connection at any time; the test checks the client's result.
                std::thread::spawn(move || answer(stream.unwrap(), &behaviour, &requests));
            }
        });
        hub
    }

    pub fn change(&self, change: impl FnOnce(&mut Behaviour)) {
        change(&mut self.behaviour.lock().unwrap());
    }

    /// GET requests so far.
    pub fn downloads(&self) -> Vec<Request> {
        let requests = self.requests.lock().unwrap();
        requests.iter().filter(|r| r.method == "GET" && r.path.contains("/resolve/")).cloned().collect()
    }

    pub fn requests(&self) -> usize {
        self.requests.lock().unwrap().len()
    }

    /// Settings with a cache under `home`, as with the variable HF_HOME.
    pub fn settings(&self, home: &Path) -> HubSettings {
        let home = home.to_str().unwrap().to_owned();
        let endpoint = self.endpoint.clone();
        HubSettings::from_vars(|name| match name {
            "HF_HOME" => Some(home.clone()),
            "HF_ENDPOINT" => Some(endpoint.clone()),
            "HF_TOKEN" => Some("hf_test".into()),
            _ => None,
        })
    }
}

fn answer(stream: TcpStream, behaviour: &Mutex<Behaviour>, requests: &Mutex<Vec<Request>>) -> Option<()> {
    let mut lines = BufReader::new(stream.try_clone().ok()?).lines();
    let first = lines.next()?.ok()?;
    let headers: BTreeMap<String, String> = lines
        .map_while(|line| line.ok().filter(|line| !line.is_empty()))
        .filter_map(|line| line.split_once(": ").map(|(key, value)| (key.to_lowercase(), value.to_owned())))
        .collect();
    let mut words = first.split(' ');
    let request = Request {
        method: words.next()?.to_owned(),
        path: words.next()?.to_owned(),
        range: headers.get("range").cloned(),
        authorization: headers.get("authorization").cloned(),
    };
    requests.lock().unwrap().push(request.clone());
    respond(stream, &request, behaviour)
}

fn respond(mut stream: TcpStream, request: &Request, behaviour: &Mutex<Behaviour>) -> Option<()> {
    let mut behaviour = behaviour.lock().unwrap();
    let mut empty = |status: u16| {
        write!(stream, "HTTP/1.1 {status} No\r\nX-Repo-Commit: {COMMIT}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            .ok()
    };
    if let Some(status) = behaviour.refuses_with {
        return empty(status);
    }
    if request.path.starts_with("/api/models/") {
        let json = format!("{{\"id\":\"owner/name\",\"sha\":\"{COMMIT}\"}}");
        let head =
            format!("Content-Type: application/json\r\nContent-Length: {}\r\nConnection: close", json.len());
        return write!(stream, "HTTP/1.1 200 OK\r\n{head}\r\n\r\n{json}").ok();
    }
    let found = request.path[1..].split_once("/resolve/").and_then(|(repository, rest)| {
        let (_revision, path) = rest.split_once('/')?;
        behaviour.files.get(&format!("{repository}/{path}")).cloned()
    });
    let Some(bytes) = found else { return empty(404) };
    let asked = request.range.as_deref().filter(|_| !behaviour.ignores_ranges);
    let start = asked.and_then(|range| range.strip_prefix("bytes=")?.split_once('-')?.0.parse().ok());
    let (status, body) = match start {
        Some(start) => (206, &bytes[start..]),
        None => (200, &bytes[..]),
    };
    let head = format!(
        "ETag: \"{}\"\r\nX-Repo-Commit: {COMMIT}\r\nContent-Length: {}\r\nAccept-Ranges: bytes\r\nConnection: close",
        sha256(&bytes),
        body.len()
    );
    write!(stream, "HTTP/1.1 {status} OK\r\n{head}\r\n\r\n").ok()?;
    if request.method == "GET" {
        let cut = behaviour.cuts.pop_front().unwrap_or(body.len()).min(body.len());
        stream.write_all(&body[..cut]).ok()?;
    }
    Some(())
}

pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A manifest of one large file, pinned by hash at `revision`, and one small one, pinned by commit.
pub fn manifest(large: &[u8], small: &[u8], revision: &str) -> Manifest {
    let json = serde_json::json!({
        "name": "test-model",
        "title": "A model for tests",
        "files": [
            {
                "role": "unet", "purpose": "large", "repository": "owner/name", "revision": revision,
                "path": "deep/large.bin", "bytes": large.len(), "sha256": sha256(large), "licence": "none"
            },
            {
                "role": "vae-config", "purpose": "small", "repository": "owner/name", "revision": COMMIT,
                "path": "config.json", "bytes": small.len(), "licence": "none"
            }
        ]
    });
    Manifest::from_json(&json.to_string()).unwrap()
}
