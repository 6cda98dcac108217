//! sync.so: generations from JSON and from a multipart form.

use latentsync::options::SyncMode;
use serde_json::{Value, json};

use crate::common::{AUDIO, FAST, Server, VIDEO, Webhooks, hmac, options_of};

#[test]
fn a_generation_is_created_polled_and_listed() {
    let server = Server::start(FAST);
    let webhooks = Webhooks::start();
    let (video, audio) = server.inputs();
    let body = json!({
        "model": "lipsync-2",
        "input": [{"type": "video", "url": video}, {"type": "audio", "url": audio}],
        "options": {"sync_mode": "bounce"},
        "webhookUrl": webhooks.url,
    });
    let created = server.post("/v2/generate", body.clone());
    assert_eq!(created.status, 201, "{created:#?}");
    assert_eq!((&created.json["input"], &created.json["options"]), (&body["input"], &body["options"]));
    let message = webhooks.next();
    assert_eq!((message.text("id"), message.text("status")), (created.text("id"), "COMPLETED"));
    let (time, signature) =
        message.header("sync-signature").unwrap().strip_prefix("t=").unwrap().split_once(",v1=").unwrap();
    let secret = server.get("/v2/webhook/secret").text("secret").to_string();
    let mut signed = format!("{time}.").into_bytes();
    signed.extend_from_slice(&message.bytes);
    assert_eq!(signature, hmac(secret.as_bytes(), &signed));
    let done = server.get(&format!("/v2/generate/{}", created.text("id")));
    assert_eq!((done.text("status"), &done.json["outputDuration"]), ("COMPLETED", &json!(2.0)));
    assert_eq!(server.get(done.text("outputUrl")).status, 200);
    let list = server.get("/v2/generations?status=COMPLETED");
    assert_eq!(list.json.as_array().unwrap().len(), 1);
    assert_eq!(server.get("/v2/generations?status=FAILED").json, json!([]));
}

#[test]
fn files_are_uploaded_in_a_form() {
    let server = Server::start(FAST);
    let mut form = Vec::new();
    let mut field = |head: &str, content: &[u8]| {
        form.extend_from_slice(
            format!("--edge\r\ncontent-disposition: form-data; {head}\r\n\r\n").as_bytes(),
        );
        form.extend_from_slice(content);
        form.extend_from_slice(b"\r\n");
    };
    field("name=\"model\"", b"lipsync-2");
    field("name=\"options\"", br#"{"sync_mode": "loop"}"#);
    field("name=\"video\"; filename=\"v.mp4\"", VIDEO);
    field("name=\"audio\"; filename=\"a.wav\"", AUDIO);
    form.extend_from_slice(b"--edge--\r\n");
    let kind = [("content-type", "multipart/form-data; boundary=edge")];
    let created = server.call("POST", "/v2/generate", &kind, form);
    assert_eq!(created.status, 201, "{created:#?}");
    let path = format!("/v2/generate/{}", created.text("id"));
    server.until(&path, |answer| answer.json["status"] == "COMPLETED");
}

#[test]
fn errors_have_a_message_and_a_code() {
    let server = Server::start(FAST);
    let input = json!([{"type": "video", "url": "http://a/v"}, {"type": "audio", "url": "http://a/a"}]);
    let refused = |body: Value| {
        let answer = server.post("/v2/generate", body);
        assert_eq!((answer.status, &answer.json["statusCode"]), (400, &json!(400)), "{answer:#?}");
        assert!(answer.json["message"].is_string());
    };
    refused(json!({"input": input}));
    refused(json!({"model": "lipsync-2", "input": []}));
    refused(json!({"model": "lipsync-2", "input": input, "options": {"sync_mode": "backwards"}}));
    for (name, value) in [
        ("webhookUrl", json!("nowhere")),
        ("webhookUrl", json!(1)),
        ("outputFileName", json!({})),
        ("outputFileName", json!("../x")),
        ("segments", json!([{"startTime": 0}])),
        ("input", json!([{"type": "text", "provider": {}}])),
    ] {
        let mut body = json!({"model": "lipsync-2", "input": input});
        body[name] = value;
        let answer = server.post("/v2/generate", body);
        assert_eq!(answer.status, 400, "{answer:#?}");
        assert!(answer.text("message").contains(name), "{answer:#?}");
    }
    assert_eq!(server.post("/v2/analyze/cost", json!({"input": input})).status, 400);
    let hooked = json!({"model": "lipsync-2", "input": input, "webhookUrl": "nowhere"});
    assert_eq!(server.post("/v2/analyze/cost", hooked).status, 400);
    assert_eq!(server.get("/v2/generate/nobody").json["statusCode"], 404);
    assert_eq!(server.get("/v2/speakers").json["statusCode"], 404);
    let other = server.call("DELETE", "/v2/generations", &[], Vec::new());
    assert_eq!((other.status, &other.json["statusCode"]), (405, &json!(405)));
}

#[test]
fn the_five_sync_modes_and_the_name_of_the_result() {
    let server = Server::start(FAST);
    let (video, audio) = server.inputs();
    for mode in SyncMode::NAMES {
        let created = server.post(
            "/v2/generate",
            json!({
                "model": "lipsync-2",
                "input": [{"type": "video", "url": video}, {"type": "audio", "url": audio}],
                "options": {"sync_mode": mode},
                "outputFileName": "my-video_1",
            }),
        );
        let id = created.text("id").to_string();
        let done = server.until(&format!("/v2/generate/{id}"), |answer| answer.json["status"] == "COMPLETED");
        assert!(done.text("outputUrl").ends_with("/my-video_1.mp4"), "{done:#?}");
        assert_eq!(server.get(done.text("outputUrl")).status, 200);
        assert_eq!(options_of(&id).duration, mode.parse::<SyncMode>().unwrap().policy(), "{mode}");
    }
}

#[test]
fn an_inaccessible_file_and_an_invalid_one_have_different_codes() {
    let server = Server::start(FAST);
    let (video, audio) = server.inputs();
    let gone = "http://127.0.0.1:9/gone";
    let text = server.upload("v.mp4", b"no video");
    for (video, audio, code) in [
        (gone, audio.as_str(), "generation_input_video_inaccessible"),
        (&video, gone, "generation_input_audio_inaccessible"),
        (&text, &audio, "generation_input_video_invalid"),
    ] {
        let input = json!([{"type": "video", "url": video}, {"type": "audio", "url": audio}]);
        let created = server.post("/v2/generate", json!({"model": "lipsync-2", "input": input}));
        let path = format!("/v2/generate/{}", created.text("id"));
        let failed = server.until(&path, |answer| answer.json["status"] == "FAILED");
        assert_eq!((failed.text("error_code"), failed.text("errorCode")), (code, code));
    }
}

#[test]
fn a_form_has_each_file_once_and_limited_text() {
    let server = Server::start(FAST);
    let form = |fields: &[(&str, &[u8])]| {
        let mut form = Vec::new();
        for (head, content) in fields {
            form.extend_from_slice(
                format!("--edge\r\ncontent-disposition: form-data; {head}\r\n\r\n").as_bytes(),
            );
            form.extend_from_slice(content);
            form.extend_from_slice(b"\r\n");
        }
        form.extend_from_slice(b"--edge--\r\n");
        let kind = [("content-type", "multipart/form-data; boundary=edge")];
        server.call("POST", "/v2/generate", &kind, form)
    };
    let video = ("name=\"video\"; filename=\"v.mp4\"", VIDEO);
    let twice = form(&[("name=\"model\"", b"lipsync-2"), video, video]);
    assert_eq!((twice.status, twice.text("message")), (400, "`video` is there more than once"));
    let long = form(&[("name=\"model\"", &[b'x'; (1 << 20) + 1])]);
    assert_eq!((long.status, &long.json["statusCode"]), (413, &json!(413)));
    let many =
        form(&[("name=\"model\"", b"lipsync-2"), ("name=\"options\"", "[{},".repeat(100_000).as_bytes())]);
    assert_eq!(many.status, 413);
    // A refused form leaves no file.
    let files = std::fs::read_dir(server.directory().join("uploads")).unwrap().count();
    assert_eq!(files, 0);
}
