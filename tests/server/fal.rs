//! fal: queue, streams, synchronous runs, proxy, errors and webhooks.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use latentsync::options::SyncMode;
use serde_json::{Value, json};

use crate::common::{AUDIO, FAST, SLOW, Server, VIDEO, Webhooks, hex, options_of};

const PATH: &str = "/fal-ai/latentsync";

fn input(server: &Server) -> Value {
    let (video, audio) = server.inputs();
    json!({"video_url": video, "audio_url": audio})
}

fn submit(server: &Server, input: &Value) -> String {
    let answer = server.post("/fal/queue/fal-ai/latentsync", input.clone());
    assert_eq!((answer.status, answer.text("status")), (200, "IN_QUEUE"), "{answer:#?}");
    answer.text("request_id").to_string()
}

fn done(server: &Server, id: &str) {
    server.until(&format!("{PATH}/requests/{id}/status"), |answer| answer.json["status"] == "COMPLETED");
}

#[test]
fn a_request_goes_through_the_queue() {
    let server = Server::start(FAST);
    let submitted = server.post("/fal/queue/fal-ai/latentsync", input(&server));
    assert_eq!((submitted.text("status"), submitted.json["queue_position"].is_u64()), ("IN_QUEUE", true));
    // The Python client uses these URLs unchanged.
    let status = submitted.text("status_url").to_string();
    let answer = server.until(&format!("{status}?logs=1"), |answer| answer.status == 200);
    assert_eq!(answer.text("status"), "COMPLETED");
    assert!(answer.json["metrics"]["inference_time"].is_f64(), "{answer:#?}");
    for key in ["error", "error_type"] {
        assert_eq!(answer.json.get(key), Some(&Value::Null), "{key}");
    }
    let logs = answer.json["logs"].as_array().unwrap();
    assert!(logs.iter().any(|line| line["message"].as_str().unwrap().starts_with("denoise_latents")));
    let warning = logs.iter().find(|line| line["level"] == "WARN").expect("the engine's warning");
    assert_eq!(warning["message"], "a warning about the video");
    for key in ["message", "level", "source", "timestamp"] {
        assert!(logs.iter().all(|line| line[key].is_string()), "{key}");
    }
    assert_eq!(server.get(&status).json["logs"], json!([]), "no logs without `logs=1`");

    let result = server.get(submitted.text("response_url"));
    assert_eq!((result.status, result.header("x-fal-request-id")), (200, Some(submitted.text("request_id"))));
    let file = &result.json["video"];
    assert_eq!((&file["content_type"], &file["file_size"]), (&json!("video/mp4"), &json!(23)));
    assert_eq!(server.get(file["url"].as_str().unwrap()).bytes.len(), 23);
}

#[test]
fn a_waiting_and_a_running_job_can_be_cancelled() {
    let server = Server::start(SLOW);
    let input = input(&server);
    let ids = [submit(&server, &input), submit(&server, &input)];
    let path = |id: &str, what: &str| format!("{PATH}/requests/{id}{what}");
    let running = server.until(&path(&ids[0], "/status"), |answer| answer.json["status"] == "IN_PROGRESS");
    assert_eq!(running.status, 202);
    assert_eq!(server.get(&path(&ids[1], "/status")).json["queue_position"], 0);
    assert_eq!(server.get(&path(&ids[0], "")).json, json!({"detail": "Request is still in progress"}));
    // A waiting job ends immediately, a running one is asked to stop.
    for (id, expected) in [(&ids[1], (200, "OK")), (&ids[0], (202, "CANCELLATION_REQUESTED"))] {
        let answer = server.call("PUT", &path(id, "/cancel"), &[], Vec::new());
        assert_eq!((answer.status, answer.text("status")), expected);
        done(&server, id);
        assert_eq!(server.get(&path(id, "/status")).json["error_type"], "client_cancelled");
        assert_eq!(server.get(&path(id, "")).status, 499);
        let again = server.call("PUT", &path(id, "/cancel"), &[], Vec::new());
        assert_eq!((again.status, again.text("status")), (400, "ALREADY_COMPLETED"));
    }
    let unknown = server.call("PUT", &path("nobody", "/cancel"), &[], Vec::new());
    assert_eq!((unknown.status, unknown.text("status")), (404, "NOT_FOUND"));
}

#[test]
fn the_status_stream_sends_each_log_line_once() {
    let server = Server::start(FAST);
    let id = submit(&server, &input(&server));
    let answer = server.get(&format!("{PATH}/requests/{id}/status/stream?logs=1"));
    assert_eq!(answer.header("content-type"), Some("text/event-stream"));
    let text = String::from_utf8(answer.bytes).unwrap();
    let events: Vec<Value> = text
        .lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .map(|data| data.parse().unwrap())
        .collect();
    assert_eq!(events.last().unwrap()["status"], "COMPLETED");
    let lines: usize = events.iter().map(|event| event["logs"].as_array().unwrap().len()).sum();
    let all = server.get(&format!("{PATH}/requests/{id}/status?logs=true"));
    assert_eq!(lines, all.json["logs"].as_array().unwrap().len());
}

#[test]
fn a_synchronous_run_responds_with_the_result() {
    let server = Server::start(FAST);
    let input = input(&server);
    for path in ["/fal/run/fal-ai/latentsync", PATH] {
        let answer = server.post(path, input.clone());
        assert_eq!(answer.status, 200, "{answer:#?}");
        assert!(answer.header("x-fal-request-id").is_some() && answer.json["video"]["url"].is_string());
    }
    // An unknown path starts no job.
    for path in [
        "/fal-ai/latentsync/any/subpath",
        "/fal-ai/latentsync/requests",
        "/fal/queue/fal-ai/latentsync/stream",
    ] {
        let answer = server.post(path, input.clone());
        assert_eq!((answer.status, answer.text("detail")), (404, "application not found"), "{path}");
    }
}

#[test]
fn the_queue_host_queues_a_request() {
    let server = Server::start(FAST);
    let body = input(&server).to_string().into_bytes();
    let answer = server.call("POST", PATH, &[("host", "queue.localhost:80")], body);
    assert_eq!(answer.text("status"), "IN_QUEUE");
    assert!(answer.text("status_url").starts_with("http://queue.localhost:80/fal-ai/latentsync/requests/"));
    assert_eq!(answer.text("gateway_request_id"), answer.text("request_id"));
}

/// The JavaScript client sends the priority header only to the queue.
#[test]
fn a_priority_header_queues_a_request() {
    let server = Server::start(FAST);
    let body = input(&server).to_string().into_bytes();
    let answer = server.call("POST", PATH, &[("x-fal-queue-priority", "normal")], body);
    assert_eq!(answer.text("status"), "IN_QUEUE");
}

#[test]
fn low_priority_waits_for_normal() {
    let server = Server::start(SLOW);
    let input = input(&server);
    let first = submit(&server, &input);
    server.until(&format!("{PATH}/requests/{first}/status"), |answer| answer.json["status"] == "IN_PROGRESS");
    let with = |priority: &str| {
        let body = input.to_string().into_bytes();
        let answer =
            server.call("POST", "/fal/queue/fal-ai/latentsync", &[("x-fal-queue-priority", priority)], body);
        answer.text("request_id").to_string()
    };
    let (low, normal) = (with("low"), with("normal"));
    let position =
        |id: &str| server.get(&format!("{PATH}/requests/{id}/status")).json["queue_position"].clone();
    assert_eq!((position(&normal), position(&low)), (json!(0), json!(1)));
}

#[test]
fn a_start_timeout_of_the_client_is_reported_as_the_user_s() {
    let server = Server::start(SLOW);
    let input = input(&server);
    let first = submit(&server, &input);
    server.until(&format!("{PATH}/requests/{first}/status"), |answer| answer.json["status"] == "IN_PROGRESS");
    let ask = |path: &str, timeout: &str| {
        let body = input.to_string().into_bytes();
        server.call("POST", path, &[("x-fal-request-timeout", timeout)], body)
    };
    let timed_out = |answer: &crate::common::Answer| {
        assert_eq!((answer.status, answer.text("error_type")), (504, "request_timeout"), "{answer:#?}");
        assert_eq!(answer.header("x-fal-request-timeout-type"), Some("user"));
        assert_eq!(answer.header("x-fal-error-type"), Some("request_timeout"));
        assert_eq!(answer.header("x-fal-retryable"), Some("false"));
    };
    timed_out(&ask("/fal/run/fal-ai/latentsync", "0.3"));
    let queued = ask("/fal/queue/fal-ai/latentsync", "0.3");
    assert_eq!((queued.status, queued.text("status")), (200, "IN_QUEUE"));
    let id = queued.text("request_id");
    done(&server, id);
    assert_eq!(server.get(&format!("{PATH}/requests/{id}/status")).text("error_type"), "request_timeout");
    timed_out(&server.get(&format!("{PATH}/requests/{id}")));
    for wrong in ["soon", "0.1", "-1", "nan"] {
        let refused = ask("/fal/queue/fal-ai/latentsync", wrong);
        assert_eq!((refused.status, refused.text("error_type")), (400, "bad_request"), "{wrong}");
    }
}

#[test]
fn the_queue_cancels_its_own_requests_only() {
    let server = Server::start(SLOW);
    let (video, audio) = server.inputs();
    let other = server.post("/api/v3/bytedance/latentsync", json!({"video": video, "audio": audio}));
    let id = other.json["data"]["id"].as_str().unwrap();
    for alias in ["latentsync", "sync-lipsync"] {
        let answer = server.call("PUT", &format!("/fal-ai/{alias}/requests/{id}/cancel"), &[], Vec::new());
        assert_eq!((answer.status, answer.text("status")), (404, "NOT_FOUND"));
    }
    assert_ne!(server.get(&format!("/api/v3/predictions/{id}")).json["data"]["status"], "cancelled");
}

#[test]
fn a_stream_ends_with_the_output() {
    let server = Server::start(FAST);
    for path in
        ["/fal/run/fal-ai/latentsync/stream", "/fal-ai/latentsync/stream", "/fal-ai/sync-lipsync/v2/stream"]
    {
        let answer = server.post(path, input(&server));
        assert_eq!(
            (answer.status, answer.header("content-type")),
            (200, Some("text/event-stream")),
            "{path}"
        );
        let text = String::from_utf8(answer.bytes).unwrap();
        let last = text.lines().filter_map(|line| line.strip_prefix("data: ")).next_back().unwrap();
        assert!(last.parse::<Value>().unwrap()["video"]["url"].is_string(), "{text}");
    }
    assert_eq!(server.post("/fal-ai/latentsync/stream", json!({})).status, 422);
}

#[test]
fn sync_lipsync_has_the_five_modes_and_its_own_requests() {
    let server = Server::start(FAST);
    for (path, model) in [("sync-lipsync", "lipsync-1.8.0"), ("sync-lipsync/v2", "lipsync-2-pro")] {
        for mode in SyncMode::NAMES {
            let mut body = input(&server);
            body["sync_mode"] = (*mode).into();
            body["model"] = model.into();
            let submitted = server.post(&format!("/fal/queue/fal-ai/{path}"), body);
            let id = submitted.text("request_id").to_string();
            assert!(
                submitted.text("status_url").ends_with(&format!("/fal-ai/sync-lipsync/requests/{id}/status"))
            );
            server.until(submitted.text("status_url"), |answer| answer.json["status"] == "COMPLETED");
            assert_eq!(server.get(submitted.text("response_url")).status, 200);
            assert_eq!(options_of(&id).duration, mode.parse::<SyncMode>().unwrap().policy(), "{mode}");
            assert_eq!(server.get(&format!("{PATH}/requests/{id}")).status, 404);
        }
    }
    for (name, value) in
        [("sync_mode", json!("pingpong")), ("sync_mode", Value::Null), ("model", json!("lipsync-2"))]
    {
        let mut body = input(&server);
        body[name] = value;
        let refused = server.post("/fal-ai/sync-lipsync", body);
        assert_eq!((refused.status, &refused.json["detail"][0]["loc"]), (422, &json!(["body", name])));
    }
}

#[test]
fn any_integer_is_a_seed() {
    let server = Server::start(FAST);
    for (seed, expected) in
        [(json!(-5), u64::MAX - 4), (json!("7"), 7), (json!(7.0), 7), (json!(u64::MAX), u64::MAX)]
    {
        let mut body = input(&server);
        body["seed"] = seed.clone();
        let answer = server.post(PATH, body);
        assert_eq!(answer.status, 200, "{seed} {answer:#?}");
        assert_eq!(options_of(answer.header("x-fal-request-id").unwrap()).seed, Some(expected), "{seed}");
    }
}

#[test]
fn the_proxy_serves_every_fal_host() {
    let server = Server::start(FAST);
    let input = input(&server);
    let ask = |method: &str, target: &str, body: &Value| {
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        server.call(method, "/fal/proxy", &[("x-fal-target-url", target)], body)
    };
    let queue = "https://queue.fal.run/fal-ai/latentsync";
    let id = ask("POST", queue, &input).text("request_id").to_string();
    done(&server, &id);
    assert_eq!(ask("GET", &format!("{queue}/requests/{id}/status?logs=0"), &Value::Null).status, 200);
    assert_eq!(ask("GET", &format!("{queue}/requests/{id}"), &Value::Null).status, 200);
    assert_eq!(ask("PUT", &format!("{queue}/requests/{id}/cancel"), &Value::Null).status, 400);
    assert_eq!(ask("POST", "https://fal.run/fal-ai/latentsync", &input).status, 200);
    let initiate = "https://rest.fal.ai/storage/upload/initiate?storage_type=fal-cdn-v3";
    let slot = ask("POST", initiate, &json!({"content_type": "video/mp4", "file_name": "v.mp4"}));
    assert!(slot.text("upload_url").starts_with(&server.url), "{slot:#?}");
    assert_eq!(ask("GET", "https://example.com/", &Value::Null).status, 422);
    assert_eq!(server.get("/fal/proxy").status, 422);
    let unknown = ask("POST", "https://rest.fal.ai/tokens/", &json!({}));
    assert_eq!((unknown.status, unknown.text("detail")), (404, "path not found"));
    assert_eq!(ask("GET", "https://rest.fal.ai/.well-known/jwks.json", &Value::Null).status, 200);
    let backup = format!("https://queue.falrun.com/fal-ai/latentsync/requests/{id}/status");
    assert_eq!(ask("GET", &backup, &Value::Null).status, 200);
    let other = server.call("DELETE", "/fal/proxy", &[("x-fal-target-url", queue)], Vec::new());
    assert_eq!((other.status, other.text("detail")), (405, "method not allowed"));
    assert!(other.header("allow").unwrap().contains("PUT"), "{other:#?}");
}

#[test]
fn errors_have_the_shape_that_the_clients_expect() {
    let server = Server::start(FAST);
    for path in ["/fal/queue/fal-ai/latentsync", "/fal/run/fal-ai/latentsync"] {
        let answer = server.post(path, json!({"video_url": "http://a/v", "guidance_scale": 3}));
        assert_eq!(answer.status, 422);
        let details = answer.json["detail"].as_array().unwrap();
        assert_eq!(details.len(), 2, "{answer:#?}");
        assert_eq!(details[0]["loc"], json!(["body", "audio_url"]));
        assert_eq!(details[1]["type"], "less_than_equal");
        assert_eq!(answer.header("x-fal-retryable"), Some("false"));
        assert!(answer.header("x-fal-request-id").is_some());
        let blank = server.post(path, json!({"video_url": " ", "audio_url": "http://a/a"}));
        assert_eq!((blank.status, &blank.json["detail"][0]["loc"]), (422, &json!(["body", "video_url"])));
        assert_eq!(blank.json["detail"][0]["input"], " ");
        let broken = server.call("POST", path, &[], b"{".to_vec());
        assert_eq!((broken.status, &broken.json["detail"][0]["type"]), (422, &json!("json_invalid")));
    }
    let hooked = server.post("/fal/queue/fal-ai/latentsync?fal_webhook=nowhere", input(&server));
    assert_eq!((hooked.status, &hooked.json["detail"][0]["loc"]), (422, &json!(["query", "fal_webhook"])));
    for body in [json!([null]), json!({"file_name": 5}), json!({"content_type": {}})] {
        assert_eq!(server.post("/storage/upload/initiate", body).status, 422);
    }
    assert_eq!(server.post("/fal/queue/fal-ai/other", json!({})).status, 404);
    assert_eq!(server.get("/fal-ai/latentsync/requests/nobody/status").json["detail"], "request not found");
}

#[test]
fn a_failed_request_names_the_file_and_whether_to_retry() {
    let server = Server::start(FAST);
    let mut body = input(&server);
    body["audio_url"] = "http://127.0.0.1:9/a.wav".into();
    let answer = server.post(PATH, body);
    let detail = &answer.json["detail"][0];
    assert_eq!((answer.status, &detail["loc"]), (422, &json!(["body", "audio_url"])), "{answer:#?}");
    assert_eq!(
        (&detail["type"], &detail["input"]),
        (&json!("file_download_error"), &json!("http://127.0.0.1:9/a.wav"))
    );
    assert_eq!(answer.header("x-fal-retryable"), Some("false"));
    assert_eq!(answer.header("x-fal-error-type"), Some("file_download_error"));
}

#[test]
fn a_data_uri_is_accepted_as_a_url() {
    let server = Server::start(FAST);
    let uri = |kind: &str, bytes: &[u8]| format!("data:{kind};base64,{}", STANDARD.encode(bytes));
    let input = json!({"video_url": uri("video/mp4", VIDEO), "audio_url": uri("audio/wav", AUDIO)});
    assert_eq!(server.post(PATH, input).status, 200);
    // Base64 without padding, and percent-encoding, as browsers accept them.
    let unpadded = uri("video/mp4", VIDEO).trim_end_matches('=').to_string();
    let encoded: String = AUDIO.iter().map(|byte| format!("%{byte:02X}")).collect();
    let input = json!({"video_url": unpadded, "audio_url": format!("data:audio/wav,{encoded}")});
    assert_eq!(server.post(PATH, input).status, 200);
    let refused = server.post(PATH, json!({"video_url": "data:nonsense", "audio_url": "http://a/a"}));
    assert_eq!(refused.json["detail"][0]["loc"], json!(["body", "video_url"]));
}

#[test]
fn a_webhook_is_signed_with_the_published_key() {
    let server = Server::start(FAST);
    let webhooks = Webhooks::start();
    let hook: String = url::form_urlencoded::byte_serialize(webhooks.url.as_bytes()).collect();
    let good = input(&server);
    let bad = json!({"video_url": server.upload("v.mp4", b"text"), "audio_url": good["audio_url"]});
    for (input, status) in [(good, "OK"), (bad, "ERROR")] {
        let submitted = server.post(&format!("/fal/queue/fal-ai/latentsync?fal_webhook={hook}"), input);
        let message = webhooks.next();
        assert_eq!(message.text("status"), status, "{message:#?}");
        assert_eq!(message.text("request_id"), submitted.text("request_id"));
        match status {
            "OK" => assert!(message.json["payload"]["video"]["url"].is_string()),
            _ => assert_eq!(message.text("error"), "Invalid status code: 422"),
        }
        let header = |name: &str| message.header(name).unwrap().to_string();
        let digest = ring::digest::digest(&ring::digest::SHA256, &message.bytes);
        let signed = format!(
            "{}\n{}\n{}\n{}",
            header("x-fal-webhook-request-id"),
            header("x-fal-webhook-user-id"),
            header("x-fal-webhook-timestamp"),
            hex(digest.as_ref())
        );
        let jwks = server.get("/.well-known/jwks.json");
        let public = URL_SAFE_NO_PAD.decode(jwks.json["keys"][0]["x"].as_str().unwrap()).unwrap();
        let signature = header("x-fal-webhook-signature");
        let signature: Vec<u8> = (0..signature.len())
            .step_by(2)
            .map(|i| u8::from_str_radix(&signature[i..i + 2], 16).unwrap())
            .collect();
        ring::signature::UnparsedPublicKey::new(&ring::signature::ED25519, public)
            .verify(signed.as_bytes(), &signature)
            .unwrap();
    }
}
