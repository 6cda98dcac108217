//! JoggAI: tasks, and errors that ride in `code`.

use serde_json::{Value, json};

use crate::common::{FAST, SLOW, Server, VIDEO};

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
fn the_three_playback_types_and_no_other() {
    let server = Server::start(SLOW);
    let mut body = body(&server);
    for kind in ["normal", "normal_reverse", "normal_reverse_by_audio"] {
        body["playback_type"] = kind.into();
        assert_eq!(server.post(CREATE, body.clone()).json["code"], 0, "{kind}");
    }
    body["playback_type"] = "pingpong".into();
    let refused = server.post(CREATE, body);
    assert_eq!((refused.status, &refused.json["code"]), (200, &json!(40000)));
    assert_eq!(server.post(CREATE, json!({})).json["code"], 40000);
    assert_eq!(server.get("/open/v2/lip_sync_video/nobody").json["code"], 10104);
}

#[test]
fn a_key_is_asked_for_and_a_failure_is_told() {
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
