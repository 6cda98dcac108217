//! Many clients at once, against an engine that takes no time: none of their jobs is lost, nothing but 429 is an
//! error, and memory stays where it is.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::common::{AUDIO, PATIENCE, VIDEO, call};
use crate::crash::{ThisProgram, upload};

/// What the server's memory may grow by after the first quarter of the time.
const GROWTH: u64 = 16 << 20;

/// What one client saw.
#[derive(Default)]
struct Seen {
    completed: Vec<String>,
    refused: usize,
    polls: usize,
}

async fn client(client: reqwest::Client, url: String, body: String, until: Instant) -> Seen {
    let mut seen = Seen::default();
    while Instant::now() < until {
        let submit = client.post(format!("{url}/fal/queue/fal-ai/latentsync")).body(body.clone());
        let response = submit.send().await.unwrap();
        match response.status().as_u16() {
            200 => {}
            429 => {
                seen.refused += 1;
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
            status => panic!("a submission is answered with {status}"),
        }
        let job: Value = serde_json::from_slice(&response.bytes().await.unwrap()).unwrap();
        let status = job["status_url"].as_str().unwrap();
        let accepted = Instant::now();
        loop {
            assert!(accepted.elapsed() < PATIENCE, "a job is lost: {job:#}");
            let answer = client.get(status).send().await.unwrap();
            seen.polls += 1;
            match answer.status().as_u16() {
                200 => break,
                202 => tokio::time::sleep(Duration::from_millis(100)).await,
                status => panic!("a status is answered with {status}"),
            }
        }
        let result = client.get(job["response_url"].as_str().unwrap()).send().await.unwrap();
        assert_eq!(result.status(), 200);
        seen.completed.push(job["request_id"].as_str().unwrap().to_string());
    }
    seen
}

/// Bytes of memory that a process holds; absent where the system does not tell.
fn memory(process: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().trim_end_matches(" kB").trim().parse::<u64>().ok()? << 10)
}

/// The most memory that is held in the last three quarters of `time`, beyond that at their beginning.
fn growth(process: u32, time: Duration, ended: &AtomicBool) -> Option<u64> {
    std::thread::sleep(time / 4);
    let (before, mut most) = (memory(process)?, 0);
    while !ended.load(Ordering::Relaxed) {
        most = most.max(memory(process)?);
        std::thread::sleep(Duration::from_millis(50));
    }
    Some(most.saturating_sub(before))
}

fn load(clients: usize, time: Duration) {
    let directory = tempfile::tempdir().unwrap();
    // A process of its own, so that its memory is not the clients'.
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
    let seen: Vec<Seen> = runtime.block_on(async {
        let mut running = tokio::task::JoinSet::new();
        for _ in 0..clients {
            let http = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().unwrap();
            running.spawn(client(http, server.url.clone(), body.clone(), until));
        }
        running.join_all().await
    });
    ended.store(true, Ordering::Relaxed);
    let growth = measuring.join().unwrap();
    let completed: Vec<&String> = seen.iter().flat_map(|seen| &seen.completed).collect();
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
        seen.iter().map(|seen| seen.polls).sum::<usize>(),
        seen.iter().map(|seen| seen.refused).sum::<usize>(),
        growth.map(|bytes| bytes >> 20),
        memory(process).map(|bytes| bytes >> 20),
    );
    assert!(growth.is_none_or(|growth| growth < GROWTH), "memory grew by {growth:?} bytes");
}

#[test]
fn nothing_is_lost_under_load() {
    load(40, Duration::from_secs(3));
}

/// The run whose figures are published.
#[test]
#[ignore = "slow: a minute of both cores; scripts/test runs it"]
fn two_hundred_clients_for_a_minute() {
    load(200, Duration::from_secs(60));
}
