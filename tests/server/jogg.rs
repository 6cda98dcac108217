//! JoggAI: tasks, endpoints, and errors in the field `code`.

use latentsync::options::PlaybackType;
use serde_json::{Value, json};

use crate::common::{FAST, SLOW, Server, VIDEO, Webhooks, hmac, options_of};

const CREATE: &str = "/open/v2/create_lip_sync_video";

fn body(server: &Server) -> Value {
    let (video, audio) = server.inputs();
    json!({"video_url": video, "audio_url": audio})
}

#[test]
fn a_task_is_created_polled_and_found() {
    let server = Server::start(FAST);
    let body = body(&server);
    for (create, show) in
        [(CREATE, "/open/v2/lip_sync_video"), ("/v2/create_lip_sync_video", "/v2/lip_sync_video")]
    {
        let created = server.post(create, body.clone());
        assert_eq!((&created.json["code"], created.text("msg")), (&json!(0), "Success"), "{created:#?}");
        assert_eq!(created.json["data"]["status"], "pending");
        let id = created.json["data"]["task_id"].as_str().unwrap();
        let done = server.until(&format!("{show}/{id}"), |answer| answer.json["data"]["status"] == "success");
        let task = &done.json["data"];
        assert_eq!(task["data"]["duration_seconds"], 2.0);
        assert_eq!(server.get(task["data"]["result_url"].as_str().unwrap()).status, 200);
        assert!(task["completed_at"].as_i64().unwrap() >= task["created_at"].as_i64().unwrap());
        assert!(task["created_at"].as_i64().unwrap() < 1 << 33, "seconds, not milliseconds");
        let video: String =
            url::form_urlencoded::byte_serialize(body["video_url"].as_str().unwrap().as_bytes()).collect();
        let found = server.get(&format!("{show}?video_url={video}&playback_type=normal"));
        assert_eq!(found.json["data"]["task_id"], id);
        let other = server.get(&format!("{show}?video_url={video}&playback_type=normal_reverse"));
        assert_eq!(other.json["code"], 10104);
    }
}

#[test]
fn the_three_playback_types_are_accepted_and_no_other() {
    let server = Server::start(FAST);
    let mut body = body(&server);
    for kind in ["normal", "normal_reverse", "normal_reverse_by_audio"] {
        body["playback_type"] = kind.into();
        let created = server.post(CREATE, body.clone());
        let id = created.json["data"]["task_id"].as_str().unwrap().to_string();
        server
            .until(&format!("/v2/lip_sync_video/{id}"), |answer| answer.json["data"]["status"] == "success");
        assert_eq!(options_of(&id).duration, kind.parse::<PlaybackType>().unwrap().policy(), "{kind}");
    }
    body["playback_type"] = "pingpong".into();
    let refused = server.post(CREATE, body);
    assert_eq!((refused.status, &refused.json["code"]), (200, &json!(40000)));
    assert_eq!(server.post(CREATE, json!({})).json["code"], 40000);
    assert_eq!(server.get("/open/v2/lip_sync_video/nobody").json["code"], 10104);
}

#[test]
fn a_key_is_required_and_a_failure_is_reported() {
    let server = Server::with(FAST, |config| {
        config.keys = latentsync::server::keys::Keys::new(&["key".to_string()]);
    });
    assert_eq!(server.post(CREATE, json!({})).json["code"], 10105);
    let key = [("x-api-key", "key")];
    let ask = |method: &str, path: &str, body: Value| {
        server.call(method, path, &key, body.to_string().into_bytes())
    };
    let asset = ask(
        "POST",
        "/v2/upload/asset",
        json!({"filename": "v.mp4", "content_type": "video/mp4", "file_size": 9}),
    );
    let put = server.call("PUT", asset.json["data"]["sign_url"].as_str().unwrap(), &[], VIDEO.to_vec());
    assert_eq!(put.status, 200);
    let body = json!({"video_url": asset.json["data"]["asset_url"], "audio_url": "http://127.0.0.1:9/a.wav"});
    let created = ask("POST", CREATE, body);
    let path = format!("/open/v2/lip_sync_video/{}", created.json["data"]["task_id"].as_str().unwrap());
    loop {
        let answer = ask("GET", &path, Value::Null);
        if answer.json["data"]["status"] == "failed" {
            assert!(answer.json["data"]["error"]["message"].is_string());
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

#[test]
fn an_unfinished_task_has_no_completion_time() {
    let server = Server::start(SLOW);
    let created = server.post(CREATE, body(&server));
    let task =
        server.get(&format!("/open/v2/lip_sync_video/{}", created.json["data"]["task_id"].as_str().unwrap()));
    assert_eq!(task.json["data"].get("completed_at"), Some(&Value::Null), "{task:#?}");
}

#[test]
fn a_full_queue_is_temporary_and_a_large_file_is_not() {
    let server = Server::with(SLOW, |config| {
        config.limits = latentsync::server::jobs::Limits { queue: 1, ..Default::default() };
        config.max_upload = 8;
    });
    let body = json!({"video_url": "http://127.0.0.1:9/v", "audio_url": "http://127.0.0.1:9/a"});
    let busy =
        (0..10).map(|_| server.post(CREATE, body.clone())).find(|answer| answer.status != 200).unwrap();
    assert_eq!((busy.status, &busy.json["code"]), (429, &json!(50000)), "{busy:#?}");
    let large = server.post("/v2/upload/asset", json!({"filename": "v.mp4", "file_size": 9}));
    assert_eq!((large.status, &large.json["code"]), (200, &json!(40000)));
    for wrong in
        [json!({"filename": "v", "file_size": "x"}), json!({"filename": "v", "file_size": -1}), json!({})]
    {
        assert_eq!(server.post("/v2/upload/asset", wrong.clone()).json["code"], 40000, "{wrong}");
    }
    let older = server.post("/v2/upload/asset", json!({"filename": "v.mp4"}));
    assert!(older.json["data"]["sign_url"].is_string());
}

#[test]
fn unknown_paths_have_joggai_s_error_format() {
    let server = Server::start(FAST);
    assert_eq!(server.get("/open/v2/avatars").json["code"], 10104);
    let other = server.call("DELETE", CREATE, &[], Vec::new());
    assert_eq!((other.status, &other.json["code"]), (405, &json!(40000)));
}

#[test]
fn endpoints_get_the_events_of_a_task() {
    let server = Server::start(FAST);
    let webhooks = Webhooks::start();
    let settings =
        |events: &[&str], status: &str| json!({"url": webhooks.url, "events": events, "status": status});
    let both = ["generated_video_success", "generated_video_failed"];
    let added = server.post("/v2/endpoint", settings(&both, "enabled"));
    let endpoint = &added.json["data"];
    assert_eq!((&added.json["code"], &endpoint["events"]), (&json!(0), &json!(both)), "{added:#?}");
    let secret = endpoint["secret"].as_str().unwrap();

    let body = body(&server);
    let created = server.post(CREATE, body.clone());
    let message = webhooks.next();
    assert_eq!((message.text("event"), message.header("x-webhook-event")), (both[0], Some(both[0])));
    assert_eq!(message.json["data"]["task_id"], created.json["data"]["task_id"]);
    assert_eq!(server.get(message.json["data"]["video_url"].as_str().unwrap()).status, 200);
    let signature = hmac(secret.as_bytes(), &message.bytes);
    assert_eq!(message.header("x-webhook-signature"), Some(signature.as_str()));

    let path = format!("/v2/endpoint/{}", endpoint["endpoint_id"].as_str().unwrap());
    let put = |body: Value| server.call("PUT", &path, &[], body.to_string().into_bytes());
    let changed = put(settings(&both[1..], "enabled"));
    assert_eq!(
        (&changed.json["data"]["events"], &changed.json["data"]["secret"]),
        (&json!([both[1]]), &json!(secret))
    );
    // The endpoint now subscribes to failures only.
    server.post(CREATE, body.clone());
    let mut broken = body;
    broken["video_url"] = server.upload("v.mp4", b"no video").into();
    let failing = server.post(CREATE, broken);
    let message = webhooks.next();
    assert_eq!(
        (message.text("event"), &message.json["data"]["task_id"]),
        (both[1], &failing.json["data"]["task_id"])
    );
    assert!(message.json["data"]["error"]["message"].is_string());

    let listed = server.get("/v2/endpoints");
    assert_eq!(listed.json["data"]["endpoints"][0]["url"], webhooks.url);
    assert!(server.get("/v2/events").json["data"]["events"].as_array().unwrap().contains(&json!(both[0])));
    assert_eq!(server.call("DELETE", &path, &[], Vec::new()).json["code"], 0);
    assert_eq!(server.get("/open/v2/endpoints").json["data"]["endpoints"], json!([]));
    assert_eq!(put(settings(&both, "enabled")).json["code"], 10104);
}

#[test]
fn at_most_twenty_valid_endpoints() {
    let server = Server::start(FAST);
    let good = json!({"url": "https://example.com/hook", "events": ["generated_video_success"]});
    for (name, value) in [
        ("url", json!("nowhere")),
        ("url", Value::Null),
        ("events", json!(["another"])),
        ("events", json!("generated_video_success")),
        ("events", json!([])),
        ("status", json!("on")),
    ] {
        let mut body = good.clone();
        body[name] = value.clone();
        let refused = server.post("/v2/endpoint", body);
        assert_eq!(refused.json["code"], 40000, "{name} {value}");
        assert!(refused.text("msg").contains(name), "{refused:#?}");
    }
    for _ in 0..20 {
        assert_eq!(server.post("/v2/endpoint", good.clone()).json["code"], 0);
    }
    assert_eq!(server.post("/v2/endpoint", good).json["code"], 40000);
}
