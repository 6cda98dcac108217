//! Many clients at once, against an engine that takes no time. `LATENTSYNC_LOAD_SECONDS=60` and
//! `LATENTSYNC_LOAD_CLIENTS=200` make the run whose figures are published.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use latentsync::server::jobs::Limits;
use serde_json::{Value, json};

use crate::common::{FAST, PATIENCE, Server};

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// What one client saw.
#[derive(Default)]
struct Seen {
    completed: Vec<String>,
    refused: usize,
    polls: usize,
}

async fn client(url: String, body: String, until: Instant) -> Seen {
    let client = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().unwrap();
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
        loop {
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

#[test]
fn nothing_is_lost_under_load() {
    let (clients, seconds) = (setting("LATENTSYNC_LOAD_CLIENTS", 40), setting("LATENTSYNC_LOAD_SECONDS", 2));
    let server = Server::with(FAST, |config| config.limits = Limits { queue: 100, ..Limits::default() });
    let (video, audio) = server.inputs();
    let body = json!({"video_url": video, "audio_url": audio}).to_string();
    let until = Instant::now() + Duration::from_secs(seconds);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let seen: Vec<Seen> = runtime.block_on(async {
        let mut running = tokio::task::JoinSet::new();
        for _ in 0..clients {
            running.spawn(client(server.url.clone(), body.clone(), until));
        }
        running.join_all().await
    });
    let completed: Vec<&String> = seen.iter().flat_map(|seen| &seen.completed).collect();
    let distinct: HashSet<&&String> = completed.iter().collect();
    assert!(!completed.is_empty() && distinct.len() == completed.len());
    let counted = format!("latentsync_jobs_ended_total{{state=\"completed\"}} {}", completed.len());
    let metrics = String::from_utf8(server.get("/metrics").bytes).unwrap();
    assert!(metrics.contains(&counted), "no `{counted}` in {metrics}");
    println!(
        "{clients} clients, {seconds} s: {} jobs, {} polls, {} refused, peak memory {:?} MB",
        completed.len(),
        seen.iter().map(|seen| seen.polls).sum::<usize>(),
        seen.iter().map(|seen| seen.refused).sum::<usize>(),
        latentsync::report::peak_memory_bytes().map(|bytes| bytes / 1_000_000),
    );
}
