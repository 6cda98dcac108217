//! The web page, and the API that it uses beside the vendors'.

use latentsync::server::keys::Keys;
use serde_json::{Value, json};

use crate::common::{Answer, FAST, SLOW, Server};

fn submit(server: &Server, path: &str, body: Value) -> String {
    let answer = server.post(path, body);
    let id = answer.json["request_id"].as_str().or(answer.json["data"]["task_id"].as_str());
    id.unwrap_or_else(|| panic!("{answer:#?}")).to_string()
}

fn urls(server: &Server) -> Value {
    let (video, audio) = server.inputs();
    json!({"video_url": video, "audio_url": audio})
}

/// Ids and data of the events of a finished stream.
fn events(answer: &Answer) -> Vec<(usize, Value)> {
    let text = String::from_utf8(answer.bytes.clone()).unwrap();
    let event = |text: &str| {
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim();
        (field("id:").parse().unwrap(), serde_json::from_str(field("data:")).unwrap())
    };
    text.split("\n\n").filter(|text| text.contains("data:")).map(event).collect()
}

#[test]
fn jobs_of_every_api_are_listed_newest_first() {
    let server = Server::start(FAST);
    let fal = submit(&server, "/fal/queue/fal-ai/latentsync", urls(&server));
    let jogg = submit(&server, "/open/v2/create_lip_sync_video", urls(&server));
    for id in [&fal, &jogg] {
        server.until(&format!("/local/jobs/{id}"), |answer| answer.json["state"] == "completed");
    }
    let list = server.get("/local/jobs");
    let ids: Vec<&str> =
        list.json["jobs"].as_array().unwrap().iter().map(|job| job["id"].as_str().unwrap()).collect();
    assert_eq!(ids, [&jogg, &fal]);
    let job = &list.json["jobs"][1];
    assert_eq!((&job["api"], &job["output"]["frames"]), (&json!("fal"), &json!(50)));
    assert_eq!(server.get(job["output"]["url"].as_str().unwrap()).bytes.len(), 23);
}

#[test]
fn an_event_stream_resumes_after_the_last_event_id() {
    let server = Server::start(FAST);
    let id = submit(&server, "/fal/queue/fal-ai/latentsync", urls(&server));
    let path = format!("/local/jobs/{id}/events");
    let whole = events(&server.get(&path));
    let (count, last) = whole.last().unwrap();
    assert_eq!(last["job"]["state"], "completed", "{whole:#?}");
    let lines: Vec<&Value> = whole.iter().flat_map(|(_, event)| event["lines"].as_array().unwrap()).collect();
    assert_eq!(lines.len(), *count);
    assert!(*count >= 2, "{whole:#?}");

    let rest = server.call("GET", &path, &[("last-event-id", "1")], vec![]);
    let rest = events(&rest);
    let resumed: Vec<&Value> =
        rest.iter().flat_map(|(_, event)| event["lines"].as_array().unwrap()).collect();
    assert_eq!(resumed, lines[1..]);
    assert_eq!(rest.last().unwrap().0, *count);
}

#[test]
fn events_have_the_stages_of_a_running_job_and_the_place_of_a_waiting_one() {
    let server = Server::start(SLOW);
    let running = submit(&server, "/fal/queue/fal-ai/latentsync", urls(&server));
    let waiting: Vec<String> =
        (0..2).map(|_| submit(&server, "/open/v2/create_lip_sync_video", urls(&server))).collect();
    let job = server.until(&format!("/local/jobs/{running}"), |answer| {
        answer.json["stages"].as_array().is_some_and(|stages| !stages.is_empty())
    });
    assert_eq!(job.json["stages"][0]["name"], "denoise_latents");
    assert_eq!(server.get(&format!("/local/jobs/{}", waiting[1])).json["position"], 1);

    for id in waiting.iter().rev().chain([&running]) {
        let cancelled = server.call("POST", &format!("/local/jobs/{id}/cancel"), &[], vec![]);
        assert_eq!(cancelled.status, 202, "{cancelled:#?}");
        server.until(&format!("/local/jobs/{id}"), |answer| answer.json["state"] == "cancelled");
    }
    let late = server.call("POST", &format!("/local/jobs/{running}/cancel"), &[], vec![]);
    assert_eq!((late.status, late.text("detail")), (409, "the job has already ended"));
    assert_eq!(server.get("/local/jobs/nobody").status, 404);
    assert_eq!(server.get("/local/jobs/nobody/events").status, 404);
}

#[test]
fn a_failure_names_the_field() {
    let server = Server::start(FAST);
    let mut body = urls(&server);
    body["video_url"] = server.upload("v.mp4", b"\x00\x00\x00\x18ftypmp42 broken").into();
    let id = submit(&server, "/fal/queue/fal-ai/latentsync", body);
    let failed = server.until(&format!("/local/jobs/{id}"), |answer| answer.json["state"] == "failed");
    assert_eq!(failed.json["error"]["field"], "video", "{failed:#?}");
}

#[test]
fn each_key_sees_its_own_jobs() {
    let keys = ["first".to_string(), "second".to_string()];
    let server = Server::with(SLOW, |config| config.keys = Keys::new(&keys));
    let body = json!({"video_url": "http://a/v.mp4", "audio_url": "http://a/a.wav"});
    let call = |method: &str, path: &str, key: &str, body: &Value| {
        server.call(method, path, &[("x-api-key", key)], body.to_string().into_bytes())
    };
    let id = call("POST", "/open/v2/create_lip_sync_video", "first", &body).json["data"]["task_id"].clone();
    let job = format!("/local/jobs/{}", id.as_str().unwrap());
    assert_eq!(call("GET", &job, "first", &Value::Null).json["id"], id);
    for path in [job.clone(), format!("{job}/events")] {
        assert_eq!(call("GET", &path, "second", &Value::Null).status, 404);
        assert_eq!(call("GET", &path, "third", &Value::Null).status, 401);
    }
    assert_eq!(call("POST", &format!("{job}/cancel"), "second", &Value::Null).status, 404);
    assert_eq!(call("GET", "/local/jobs", "second", &Value::Null).json["jobs"], json!([]));
    for path in ["/local/jobs", "/local/server"] {
        assert_eq!(server.get(path).status, 401);
    }
    // The page itself needs no key: it asks for one.
    assert_eq!(server.get("/").status, 200);
}

#[test]
fn the_page_loads_nothing_from_other_hosts_and_has_an_etag() {
    let server = Server::start(FAST);
    let page = server.get("/");
    assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
    let policy = page.header("content-security-policy").unwrap();
    assert!(policy.starts_with("default-src 'none';") && !policy.contains("unsafe"), "{policy}");
    let tag = page.header("etag").unwrap();
    let again = server.call("GET", "/", &[("if-none-match", tag)], vec![]);
    assert_eq!((again.status, again.bytes.len(), again.header("etag")), (304, 0, Some(tag)));
    let script = server.get("/page/app.js");
    assert_eq!(script.header("content-type"), Some("text/javascript; charset=utf-8"));
    assert_eq!(server.get("/page/other.js").status, 404);
}
