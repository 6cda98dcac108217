//! Quota and retention time of the data directory: which files are removed, and which are not.

use std::path::Path;
use std::time::{Duration, Instant};

use latentsync::server::jobs::clean::Keep;
use serde_json::json;

use crate::common::{FAST, SLOW, Server, TIMEOUT};

fn bytes(directory: &Path) -> u64 {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap());
    entries
        .map(
            |entry| {
                if entry.path().is_dir() { bytes(&entry.path()) } else { entry.metadata().unwrap().len() }
            },
        )
        .sum()
}

fn submit(server: &Server, video: &str, audio: &str) -> String {
    let body = json!({"video_url": video, "audio_url": audio});
    server.post("/fal/queue/fal-ai/latentsync", body).text("request_id").to_string()
}

fn status(server: &Server, id: &str) -> u16 {
    server.get(&format!("/fal-ai/latentsync/requests/{id}/status")).status
}

/// Ids of three finished jobs, the oldest first, and of a waiting job whose video is the result of the first.
fn three_results(directory: &Path) -> ([String; 3], String) {
    let server = Server::at(directory, FAST, |_| {});
    let (video, audio) = server.inputs();
    let ids = [(); 3].map(|()| {
        let id = submit(&server, &video, &audio);
        server.until(&format!("/fal-ai/latentsync/requests/{id}/status"), |answer| answer.status == 200);
        std::thread::sleep(Duration::from_millis(20));
        id
    });
    let first = server.get(&format!("/fal-ai/latentsync/requests/{}", ids[0]));
    let first = first.json["video"]["url"].as_str().unwrap().to_string();
    server.stop();

    let server = Server::at(directory, SLOW, |_| {});
    let waiting = submit(&server, &first, &audio);
    server.until(&format!("/fal-ai/latentsync/requests/{waiting}/status"), |answer| {
        answer.json["status"] == "IN_PROGRESS"
    });
    server.stop();
    (ids, waiting)
}

#[test]
fn the_quota_removes_the_oldest_results_that_no_job_needs() {
    let directory = tempfile::tempdir().unwrap();
    let (ids, waiting) = three_results(directory.path());
    let one = bytes(&directory.path().join("results").join(&ids[1]));
    let all =
        ["results", "uploads", "work"].map(|name| bytes(&directory.path().join(name))).iter().sum::<u64>();
    let server = Server::at(directory.path(), SLOW, |config| {
        config.keep = Keep { quota: all - one / 2, grace: Duration::ZERO, ..Keep::default() };
    });
    let started = Instant::now();
    while status(&server, &ids[1]) != 404 && started.elapsed() < TIMEOUT {
        std::thread::sleep(Duration::from_millis(20));
    }
    let left: Vec<u16> = ids.iter().map(|id| status(&server, id)).collect();
    assert_eq!(
        left,
        [200, 404, 200],
        "the waiting job needs the first; the second is the oldest of the others"
    );
    assert!(!directory.path().join("results").join(&ids[1]).exists());
    assert_eq!(status(&server, &waiting), 202);
    server.stop();

    let server = Server::at(directory.path(), FAST, |_| {});
    server.until(&format!("/fal-ai/latentsync/requests/{waiting}/status"), |answer| answer.status == 200);
    assert_eq!(server.get(&format!("/fal-ai/latentsync/requests/{waiting}")).status, 200);
}

#[test]
fn inputs_of_a_waiting_job_are_kept_beyond_the_retention_time() {
    let directory = tempfile::tempdir().unwrap();
    let (ids, waiting) = three_results(directory.path());
    let server = Server::at(directory.path(), SLOW, |config| {
        config.keep = Keep { time: Duration::from_millis(1), ..Keep::default() };
    });
    server.until(&format!("/fal-ai/latentsync/requests/{}/status", ids[2]), |answer| answer.status == 404);
    assert_eq!([&ids[0], &ids[1], &waiting].map(|id| status(&server, id)), [200, 404, 202]);
    // No job needs the uploaded video; the waiting job reads the voice.
    let started = Instant::now();
    let uploads = || std::fs::read_dir(directory.path().join("uploads")).unwrap().count();
    while uploads() != 1 && started.elapsed() < TIMEOUT {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(uploads(), 1);
}

#[test]
fn other_files_in_the_directory_are_kept() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::at(directory.path(), FAST, |_| {});
    server.stop();
    let notes =
        ["results/notes.txt", "uploads/notes.txt", "notes.txt"].map(|name| directory.path().join(name));
    notes.iter().for_each(|path| std::fs::write(path, b"x").unwrap());
    let server = Server::at(directory.path(), FAST, |config| {
        config.keep = Keep { time: Duration::from_millis(1), quota: 0, grace: Duration::ZERO };
    });
    std::thread::sleep(Duration::from_millis(300));
    server.stop();
    assert!(notes.iter().all(|path| path.is_file()));
}
