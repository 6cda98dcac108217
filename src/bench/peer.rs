//! The peer: PyTorch and diffusers in a process of their own, which stays loaded and takes turns with us.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::Part;
use crate::bench::{Error, PeerCause, Result};

/// How the peer is started.
#[derive(Debug, Clone)]
pub struct PeerSetting {
    pub resolution: usize,
    /// `cpu` or `cuda`.
    pub device: String,
    pub threads: usize,
    /// Keep its libraries from instructions beyond AVX2.
    pub only_avx2: bool,
}

/// A running peer. It ends with this value.
pub struct Peer {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    about: serde_json::Value,
}

/// The peer's choice for a part.
#[derive(Debug, Clone, Deserialize)]
pub struct Prepared {
    pub best: String,
    pub tried: BTreeMap<String, f64>,
    pub failed: BTreeMap<String, String>,
    pub parameters: u64,
}

#[derive(Deserialize)]
struct Ran {
    seconds: f64,
}

#[derive(Deserialize)]
struct Refused {
    error: String,
}

impl Peer {
    /// Starts `script`. The first time it installs PyTorch, which takes minutes; what it says goes to stderr.
    pub fn start(script: &Path, setting: &PeerSetting) -> Result<Self> {
        Self::check(script)?;
        let mut command = Command::new("python3");
        command
            .arg(script)
            .args(["--server", "--size", &setting.resolution.to_string(), "--device", &setting.device])
            .args(["--threads", &setting.threads.to_string()])
            .args(["--isa", if setting.only_avx2 { "avx2" } else { "native" }])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = command.spawn().map_err(no_python)?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(refused("it has no standard input and output".into(), PeerCause::Other));
        };
        let mut peer = Self { child, stdin, stdout: BufReader::new(stdout), about: serde_json::Value::Null };
        peer.about = peer.answer()?;
        Ok(peer)
    }

    /// Finds out, before anything is loaded for it, whether the peer can be started.
    pub fn check(script: &Path) -> Result<()> {
        if !script.is_file() {
            return Err(refused(format!("there is no `{}`", script.display()), PeerCause::NoScript));
        }
        Command::new("python3").arg("--version").output().map(drop).map_err(no_python)
    }

    /// Its versions, threads and device.
    pub fn about(&self) -> &serde_json::Value {
        &self.about
    }

    /// Tries every variant of `part`, and keeps the fastest. Takes minutes.
    pub fn prepare(&mut self, part: Part) -> Result<Prepared> {
        self.ask("prepare", part)
    }

    /// Seconds that one run of the fastest variant takes.
    pub fn run(&mut self, part: Part) -> Result<f64> {
        Ok(self.ask::<Ran>("run", part)?.seconds)
    }

    /// Gives back the memory of `part`.
    pub fn release(&mut self, part: Part) -> Result<()> {
        self.ask::<serde_json::Value>("release", part).map(drop)
    }

    fn ask<T: DeserializeOwned>(&mut self, command: &str, part: Part) -> Result<T> {
        // A process that has ended shows when its answer is read.
        let _ = writeln!(self.stdin, "{command} {}", part.name()).and_then(|()| self.stdin.flush());
        self.answer()
    }

    fn answer<T: DeserializeOwned>(&mut self) -> Result<T> {
        let mut line = String::new();
        let ended = self.stdout.read_line(&mut line).map_or(true, |read| read == 0);
        if ended {
            return Err(refused("it has ended".into(), PeerCause::Failed));
        }
        if let Ok(Refused { error }) = serde_json::from_str(&line) {
            return Err(refused(error, PeerCause::Failed));
        }
        serde_json::from_str(&line)
            .map_err(|error| refused(format!("its answer `{}`: {error}", line.trim_end()), PeerCause::Other))
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn no_python(error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::NotFound => refused("`python3` is not installed".into(), PeerCause::NoPython),
        _ => refused(format!("`python3` cannot be started: {error}"), PeerCause::Other),
    }
}

fn refused(problem: String, cause: PeerCause) -> Error {
    Error::Peer { problem, cause }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    /// A script that speaks the peer's language, in as much Python as every installation has.
    const STANDS_IN: &str = r#"
import json, sys
print(json.dumps({"torch": "none", "arguments": sys.argv[1:]}), flush=True)
for line in sys.stdin:
    command, part = line.split()
    if part == "vae_encode":
        answer = {"error": "out of memory"}
    elif command == "prepare":
        answer = {"best": "bf16", "tried": {"f32": 2.0, "bf16": 1.0}, "failed": {}, "parameters": 3}
    elif command == "run":
        answer = {"seconds": 1.5}
    else:
        sys.exit(1)
    print(json.dumps(answer), flush=True)
"#;

    fn setting() -> PeerSetting {
        PeerSetting { resolution: 256, device: "cpu".into(), threads: 2, only_avx2: true }
    }

    #[test]
    fn a_peer_prepares_runs_and_refuses() {
        if Command::new("python3").arg("--version").output().is_err() {
            eprintln!("skipped: no python3");
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let script = directory.path().join("peer");
        std::fs::write(&script, STANDS_IN).unwrap();
        let mut peer = Peer::start(&script, &setting()).unwrap();
        let arguments = peer.about()["arguments"].to_string();
        assert!(arguments.contains(r#""--isa","avx2""#) && arguments.contains("256"), "{arguments}");
        assert_eq!(peer.prepare(Part::UnetStep).unwrap().best, "bf16");
        assert_eq!(peer.run(Part::UnetStep).unwrap(), 1.5);
        let error = peer.run(Part::VaeEncode).unwrap_err();
        assert!(error.to_string().contains("out of memory"), "{error}");
        // The stand-in ends instead of answering.
        let error = peer.release(Part::UnetStep).unwrap_err();
        assert!(error.to_string().contains("has ended"), "{error}");
    }

    #[test]
    fn a_script_that_is_not_there_is_named() {
        let error = Peer::start(Path::new("nowhere/peer"), &setting()).map(drop).unwrap_err();
        assert!(error.to_string().contains("nowhere/peer"), "{error}");
        assert!(matches!(error, Error::Peer { cause: PeerCause::NoScript, .. }), "{error:?}");
    }
}
