//! Behaviour that all APIs share: durability, limits, API keys, files.

use std::time::Duration;

use latentsync::input::AddressPolicy;
use latentsync::server::jobs::Limits;
use latentsync::server::jobs::clean::Keep;
use latentsync::server::keys::Keys;
use serde_json::{Value, json};

use crate::common::{AUDIO, FAST, SLOW, Server, VIDEO};

fn body(server: &Server) -> Value {
    let (video, audio) = server.inputs();
    json!({"video_url": video, "audio_url": audio})
}

fn submit(server: &Server, body: &Value) -> String {
    server.post("/fal/queue/fal-ai/latentsync", body.clone()).text("request_id").to_string()
}

fn status_path(id: &str) -> String {
    format!("/fal-ai/latentsync/requests/{id}/status")
}

#[test]
fn jobs_and_results_survive_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let slow = Server::at(directory.path(), SLOW, |_| {});
    let body = body(&slow);
    let ids = [submit(&slow, &body), submit(&slow, &body), submit(&slow, &body)];
    slow.until(&status_path(&ids[0]), |answer| answer.json["status"] == "IN_PROGRESS");
    let cancelled = slow.call("PUT", &format!("/fal-ai/latentsync/requests/{}/cancel", ids[2]), &[], vec![]);
    assert_eq!(cancelled.status, 200);
    slow.stop();

    let fast = Server::at(directory.path(), FAST, |_| {});
    for id in &ids[..2] {
        fast.until(&status_path(id), |answer| answer.json["status"] == "COMPLETED");
        assert_eq!(fast.get(&format!("/fal-ai/latentsync/requests/{id}")).status, 200);
    }
    assert_eq!(fast.get(&status_path(&ids[2])).json["error_type"], "client_cancelled");
    fast.stop();

    let again = Server::at(directory.path(), SLOW, |_| {});
    let result = again.get(&format!("/fal-ai/latentsync/requests/{}", ids[0]));
    let path = result.json["video"]["url"].as_str().unwrap().splitn(4, '/').nth(3).unwrap().to_string();
    assert!(again.get(&format!("/{path}")).bytes.ends_with(b"the result"));
}

#[test]
fn a_full_queue_refuses_jobs() {
    let server = Server::with(SLOW, |config| config.limits = Limits { queue: 2, ..Limits::default() });
    let body = body(&server);
    let first = submit(&server, &body);
    server.until(&status_path(&first), |answer| answer.json["status"] == "IN_PROGRESS");
    let positions = [0, 1].map(|_| {
        let answer = server.post("/fal/queue/fal-ai/latentsync", body.clone());
        answer.json["queue_position"].as_u64().unwrap()
    });
    assert_eq!(positions, [0, 1]);
    let refused = server.post("/fal/queue/fal-ai/latentsync", body.clone());
    assert_eq!((refused.status, refused.header("x-fal-retryable")), (429, Some("true")));
    let refused =
        server.post("/api/v3/bytedance/latentsync", json!({"video": "http://a/v", "audio": "http://a/a"}));
    assert_eq!((refused.status, &refused.json["code"]), (429, &json!(429)));
}

#[test]
fn a_key_is_required_and_sees_only_its_own_jobs() {
    let keys = ["mine".to_string(), "yours".to_string()];
    let server = Server::with(FAST, |config| config.keys = Keys::new(&keys));
    let input = json!({"video_url": "http://127.0.0.1:9/v", "audio_url": "http://127.0.0.1:9/a"});
    let submit = |headers: &[(&str, &str)]| {
        server.call("POST", "/fal/queue/fal-ai/latentsync", headers, input.to_string().into_bytes())
    };
    assert_eq!(submit(&[]).status, 401);
    assert_eq!(submit(&[("authorization", "Key wrong")]).status, 401);
    for header in [("authorization", "Key mine"), ("authorization", "Bearer mine"), ("x-api-key", "mine")] {
        assert_eq!(submit(&[header]).status, 200, "{header:?}");
    }
    let id = submit(&[("authorization", "Key mine")]).text("request_id").to_string();
    let see = |key: &str| server.call("GET", &status_path(&id), &[("authorization", key)], Vec::new()).status;
    assert_ne!(see("Key mine"), 404);
    assert_eq!((see("Key yours"), see("Key wrong")), (404, 401));
    assert_eq!(server.get("/metrics").status, 401);
    assert_eq!(server.get("/healthz").status, 200);
}

#[test]
fn each_key_has_its_own_limit() {
    let keys = ["mine".to_string(), "yours".to_string()];
    let server = Server::with(SLOW, |config| {
        config.keys = Keys::new(&keys);
        config.limits.per_key = 2;
    });
    // A listener that never responds: the first job waits for its video.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/file", silent.local_addr().unwrap());
    let input = json!({"video_url": url, "audio_url": url}).to_string();
    let submit = |key: &str| {
        let headers = [("authorization", key)];
        server.call("POST", "/fal/queue/fal-ai/latentsync", &headers, input.clone().into_bytes()).status
    };
    assert_eq!([(); 3].map(|()| submit("Key mine")), [200, 200, 429]);
    assert_eq!([(); 3].map(|()| submit("Key yours")), [200, 200, 429]);
}

#[test]
fn a_foreign_web_page_cannot_use_a_server_without_keys() {
    let server = Server::start(FAST);
    let ask = |headers: &[(&str, &str)]| server.call("GET", "/v1/webhooks", headers, Vec::new()).status;
    assert_eq!(ask(&[]), 200);
    assert_eq!(ask(&[("host", "rebound.example")]), 403);
    assert_eq!(ask(&[("origin", "https://elsewhere.example")]), 403);
    assert_eq!(ask(&[("origin", "null")]), 403);
    assert_eq!(ask(&[("origin", "http://localhost:3000")]), 200);
    assert_eq!(ask(&[("origin", &server.url)]), 200);

    let public = Server::with(FAST, |config| config.public_url = Some("https://lips.example/".to_string()));
    let headers = [("host", "lips.example")];
    let slot = public.call("POST", "/storage/upload/initiate", &headers, b"{}".to_vec());
    assert!(slot.text("file_url").starts_with("https://lips.example/media/"));
}

#[test]
fn results_support_ranges_and_uploads_are_not_executed() {
    let server = Server::start(FAST);
    let page = server.upload("page.html", b"<script>alert(1)</script>");
    let answer = server.get(&page);
    assert_eq!(answer.header("content-type"), Some("video/mp4"), "the announced type");
    assert!(answer.header("content-security-policy").unwrap().contains("sandbox"));
    assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));

    let id = submit(&server, &body(&server));
    server.until(&status_path(&id), |answer| answer.json["status"] == "COMPLETED");
    let result = server.get(&format!("/fal-ai/latentsync/requests/{id}"));
    let url = result.json["video"]["url"].as_str().unwrap();
    let part = server.call("GET", url, &[("range", "bytes=4-7")], Vec::new());
    assert_eq!((part.status, part.bytes.as_slice()), (206, &b"ftyp"[..]));
    assert_eq!(part.header("content-range"), Some("bytes 4-7/23"));
    assert_eq!(server.call("GET", url, &[("range", "bytes=99-")], Vec::new()).status, 416);
    // A suffix longer than the file, and several ranges: the whole file is a valid response.
    for range in ["bytes=-99", "bytes=0-1,4-5"] {
        let whole = server.call("GET", url, &[("range", range)], Vec::new());
        assert_eq!((whole.status, whole.bytes.len()), (200, 23), "{range}");
    }
    assert_eq!(server.call("HEAD", url, &[], Vec::new()).header("content-length"), Some("23"));
    assert_eq!(server.get(&url.replace("output", "report")).status, 404);
}

#[test]
fn an_upload_cannot_be_overwritten() {
    let server = Server::start(FAST);
    let url = server.upload("v.mp4", VIDEO);
    assert_eq!(server.call("PUT", &url, &[], AUDIO.to_vec()).status, 409);
    assert_eq!(server.get(&url).bytes, VIDEO);
    let unknown = "/media/00000000-0000-4000-8000-000000000000/v.mp4";
    assert_eq!(server.call("PUT", unknown, &[], AUDIO.to_vec()).status, 404);
    assert_eq!(server.get("/media/..%2f/jobs.sqlite").status, 404);
}

#[test]
fn an_upload_beyond_the_limit_leaves_no_file() {
    let server = Server::with(FAST, |config| config.max_upload = 8);
    let slot = server.post("/storage/upload/initiate", json!({"file_name": "v.mp4"}));
    assert_eq!(server.call("PUT", slot.text("upload_url"), &[], VIDEO.to_vec()).status, 413);
    assert_eq!(std::fs::read_dir(server.directory().join("uploads")).unwrap().count(), 0);
}

#[test]
fn after_a_failure_or_a_panic_the_next_job_runs() {
    let server = Server::start(FAST);
    let audio = server.upload("a.wav", AUDIO);
    for (content, status) in
        [(&b"\x00\x00\x00\x18ftyp panic"[..], 500), (b"\x00\x00\x00\x18ftyp broken", 422)]
    {
        let video = server.upload("v.mp4", content);
        let id = submit(&server, &json!({"video_url": video, "audio_url": audio}));
        server.until(&status_path(&id), |answer| answer.json["status"] == "COMPLETED");
        let result = server.get(&format!("/fal-ai/latentsync/requests/{id}"));
        assert_eq!(result.status, status, "{result:#?}");
        assert!(!String::from_utf8_lossy(&result.bytes).contains("uploads"), "no paths: {result:#?}");
    }
    let id = submit(&server, &body(&server));
    let done = server.until(&status_path(&id), |answer| answer.json["status"] == "COMPLETED");
    assert!(done.json["error"].is_null(), "{done:#?}");
}

#[test]
fn only_expired_files_are_removed() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::at(directory.path(), FAST, |_| {});
    let id = submit(&server, &body(&server));
    server.until(&status_path(&id), |answer| answer.json["status"] == "COMPLETED");
    server.stop();
    let count = |name: &str| std::fs::read_dir(directory.path().join(name)).unwrap().count();
    assert_eq!((count("results"), count("uploads"), count("work")), (1, 2, 0));

    std::thread::sleep(Duration::from_millis(20));
    let server = Server::at(directory.path(), FAST, |config| {
        config.keep = Keep { time: Duration::from_millis(10), ..Keep::default() };
    });
    server.until(&status_path(&id), |answer| answer.status == 404);
    let started = std::time::Instant::now();
    while (count("results"), count("uploads")) != (0, 0) && started.elapsed() < Duration::from_secs(10) {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!((count("results"), count("uploads")), (0, 0));
}

#[test]
fn private_addresses_and_files_are_not_fetched() {
    let public = Server::with(FAST, |config| config.addresses = AddressPolicy::PublicOnly);
    let audio = public.upload("a.wav", AUDIO);
    for url in ["http://127.0.0.1:1/v.mp4", "http://localhost:1/v.mp4", "file:///etc/passwd", "/etc/passwd"] {
        let id = submit(&public, &json!({"video_url": url, "audio_url": audio}));
        public.until(&status_path(&id), |answer| answer.json["status"] == "COMPLETED");
        let result = public.get(&format!("/fal-ai/latentsync/requests/{id}"));
        assert_eq!(result.status, 422, "{url}: {result:#?}");
        assert_eq!(result.json["detail"][0]["type"], "file_download_error", "{url}");
    }
}

#[test]
fn every_documented_route_responds_as_documented() {
    let server = Server::start(FAST);
    let document = server.get("/openapi.json").json;
    for (path, methods) in document["paths"].as_object().unwrap() {
        let path = path.replace("{id}", "nobody").replace("{name}", "file").replace("{part}", "1");
        for method in methods.as_object().unwrap().keys() {
            let answer = server.call(&method.to_uppercase(), &path, &[], b"{}".to_vec());
            let known = answer.status != 405 && answer.json["detail"] != "Not Found";
            assert!(known && answer.status < 500, "{method} {path}: {answer:#?}");
            let response = &methods[method]["responses"][answer.status.to_string()];
            assert!(response.is_object(), "{method} {path} responds with {}", answer.status);
        }
    }
}

#[test]
fn metrics_count_the_jobs() {
    let server = Server::start(FAST);
    let id = submit(&server, &body(&server));
    server.until(&status_path(&id), |answer| answer.json["status"] == "COMPLETED");
    let text = String::from_utf8(server.get("/metrics").bytes).unwrap();
    for line in [
        "latentsync_jobs{state=\"completed\"} 1",
        "latentsync_jobs_ended_total{state=\"completed\"} 1",
        "latentsync_queue_length 0",
        "latentsync_queue_wait_seconds_count 1",
    ] {
        assert!(text.contains(line), "no `{line}` in {text}");
    }
    assert!(server.get("/healthz").header("x-request-id").is_some());
}

#[test]
fn low_priority_waits_for_normal_priority() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::at(directory.path(), SLOW, |_| {});
    let body = body(&server);
    let first = submit(&server, &body);
    server.until(&status_path(&first), |answer| answer.json["status"] == "IN_PROGRESS");
    let with = |priority: &str| {
        let headers = [("x-fal-queue-priority", priority)];
        let body = body.to_string().into_bytes();
        let answer = server.call("POST", "/fal/queue/fal-ai/latentsync", &headers, body);
        answer.text("request_id").to_string()
    };
    let (low, normal) = (with("low"), with("normal"));
    let position = |server: &Server, id: &str| server.get(&status_path(id)).json["queue_position"].clone();
    assert_eq!((position(&server, &normal), position(&server, &low)), (json!(0), json!(1)));
    server.stop();
    // After a restart the running job is first again, and the others keep their places.
    let server = Server::at(directory.path(), SLOW, |_| {});
    server.until(&status_path(&first), |answer| answer.json["status"] == "IN_PROGRESS");
    assert_eq!((position(&server, &normal), position(&server, &low)), (json!(0), json!(1)));
}

#[test]
fn a_job_that_does_not_start_in_time_fails() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::at(directory.path(), SLOW, |_| {});
    let body = body(&server);
    let within = |seconds: &str| {
        let headers = [("x-fal-request-timeout", seconds)];
        server.call("POST", "/fal/queue/fal-ai/latentsync", &headers, body.to_string().into_bytes())
    };
    let first = within("2").text("request_id").to_string();
    server.until(&status_path(&first), |answer| answer.json["status"] == "IN_PROGRESS");
    assert_eq!(within("soon").status, 400);
    let late = within("0.3").text("request_id").to_string();
    let while_down = within("1.5").text("request_id").to_string();
    let ended = server.until(&status_path(&late), |answer| answer.json["status"] == "COMPLETED");
    assert_eq!(ended.json["error_type"], "request_timeout");
    let result = server.get(&format!("/fal-ai/latentsync/requests/{late}"));
    assert_eq!((result.status, result.header("x-fal-request-timeout-type")), (504, Some("user")));
    server.stop();
    std::thread::sleep(Duration::from_millis(2000));
    let server = Server::at(directory.path(), SLOW, |_| {});
    assert_eq!(server.get(&status_path(&while_down)).json["error_type"], "request_timeout");
    // The timeout does not apply to a job that has started.
    assert_ne!(server.get(&status_path(&first)).json["status"], "COMPLETED");
}

#[test]
fn a_clean_stop_does_not_count_as_a_failed_attempt() {
    let directory = tempfile::tempdir().unwrap();
    let mut id = String::new();
    for round in 0..5 {
        let server = Server::at(directory.path(), SLOW, |_| {});
        if round == 0 {
            id = submit(&server, &body(&server));
            submit(&server, &body(&server));
        }
        // The job keeps its place at the head of the queue.
        server.until(&status_path(&id), |answer| answer.json["status"] == "IN_PROGRESS");
        server.stop();
    }
}
