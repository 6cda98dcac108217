//! Many concurrent clients of an engine that takes no time: no job is lost, the only error is 429, and memory does
//! not grow.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::common::{AUDIO, TIMEOUT, VIDEO, call};
use crate::crash::{ThisProgram, upload};

/// Limit of the growth of the server's memory after the first quarter of the time, in bytes.
const MAX_GROWTH: u64 = 16 << 20;

/// Counts of one client.
#[derive(Default)]
struct ClientStats {
    completed: Vec<String>,
    refused: usize,
    polls: usize,
}

async fn client(client: reqwest::Client, url: String, body: String, until: Instant) -> ClientStats {
    let mut stats = ClientStats::default();
    while Instant::now() < until {
        let submit = client.post(format!("{url}/fal/queue/fal-ai/latentsync")).body(body.clone());
        let response = submit.send().await.unwrap();
        match response.status().as_u16() {
            200 => {}
            429 => {
                stats.refused += 1;
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
            status => panic!("status {status} for a submission"),
        }
        let job: Value = serde_json::from_slice(&response.bytes().await.unwrap()).unwrap();
        let status = job["status_url"].as_str().unwrap();
        let accepted = Instant::now();
        loop {
            assert!(accepted.elapsed() < TIMEOUT, "a job is lost: {job:#}");
            let answer = client.get(status).send().await.unwrap();
            stats.polls += 1;
            match answer.status().as_u16() {
                200 => break,
                202 => tokio::time::sleep(Duration::from_millis(100)).await,
                status => panic!("status {status} for a poll"),
            }
        }
        let result = client.get(job["response_url"].as_str().unwrap()).send().await.unwrap();
        assert_eq!(result.status(), 200);
        stats.completed.push(job["request_id"].as_str().unwrap().to_string());
    }
    stats
}

/// Resident memory of a process in bytes; `None` on systems without `/proc`.
fn memory(process: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().trim_end_matches(" kB").trim().parse::<u64>().ok()? << 10)
}

/// Peak of the memory in the last three quarters of `time`, minus that at their beginning, in bytes.
fn growth(process: u32, time: Duration, ended: &AtomicBool) -> Option<u64> {
    std::thread::sleep(time / 4);
    let (before, mut peak) = (memory(process)?, 0);
    while !ended.load(Ordering::Relaxed) {
        peak = peak.max(memory(process)?);
        std::thread::sleep(Duration::from_millis(50));
    }
    Some(peak.saturating_sub(before))
}

fn load(clients: usize, time: Duration) {
    let directory = tempfile::tempdir().unwrap();
    // A separate process, so that its memory does not include that of the clients.
    let server = ThisProgram::start(directory.path(), 0);
    let process = server.child.id();
    let (video, audio) = (upload(&server.url, VIDEO), upload(&server.url, AUDIO));
    let body = json!({"video_url": video, "audio_url": audio}).to_string();
    let until = Instant::now() + time;
    let ended = Arc::new(AtomicBool::new(false));
    let measuring = std::thread::spawn({
        let ended = ended.clone();
        move || growth(process, time, &ended)
    });
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let stats: Vec<ClientStats> = runtime.block_on(async {
        let mut running = tokio::task::JoinSet::new();
        for _ in 0..clients {
            let _ = rustls::crypto::ring::default_provider().install_default();
            let http = reqwest::Client::builder().no_proxy().timeout(TIMEOUT).build().unwrap();
            running.spawn(client(http, server.url.clone(), body.clone(), until));
        }
        running.join_all().await
    });
    ended.store(true, Ordering::Relaxed);
    let growth = measuring.join().unwrap();
    let completed: Vec<&String> = stats.iter().flat_map(|client| &client.completed).collect();
    let distinct: HashSet<&&String> = completed.iter().collect();
    assert!(!completed.is_empty() && distinct.len() == completed.len());
    let metrics = call("GET", &format!("{}/metrics", server.url), &[], Vec::new());
    let metrics = String::from_utf8(metrics.bytes).unwrap();
    let counted = format!("latentsync_jobs_ended_total{{state=\"completed\"}} {}", completed.len());
    assert!(metrics.lines().any(|line| line == counted), "no `{counted}` in {metrics}");
    println!(
        "{clients} clients, {} s: {} jobs, {} polls, {} refused, memory grew by {:?} MB to {:?} MB",
        time.as_secs(),
        completed.len(),
        stats.iter().map(|client| client.polls).sum::<usize>(),
        stats.iter().map(|client| client.refused).sum::<usize>(),
        growth.map(|bytes| bytes >> 20),
        memory(process).map(|bytes| bytes >> 20),
    );
    assert!(growth.is_none_or(|growth| growth < MAX_GROWTH), "memory grew by {growth:?} bytes");
}

#[test]
fn no_job_is_lost_under_load() {
    load(40, Duration::from_secs(3));
}

/// The run with the published figures.
#[test]
#[ignore = "slow: a minute of both cores; scripts/test runs it"]
fn two_hundred_clients_for_a_minute() {
    load(200, Duration::from_secs(60));
}
