//! sync.so: generations, from JSON and from a form.

use serde_json::{Value, json};

use crate::common::{AUDIO, FAST, Server, VIDEO, Webhooks};

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
    assert!(message.header("sync-signature").unwrap().starts_with("t="));
    let done = server.get(&format!("/v2/generate/{}", created.text("id")));
    assert_eq!((done.text("status"), &done.json["outputDuration"]), ("COMPLETED", &json!(2.0)));
    assert_eq!(server.get(done.text("outputUrl")).status, 200);
    let list = server.get("/v2/generations?status=COMPLETED");
    assert_eq!(list.json.as_array().unwrap().len(), 1);
    assert_eq!(server.get("/v2/generations?status=FAILED").json, json!([]));
}

#[test]
fn files_come_in_a_form() {
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
fn mistakes_have_a_message_and_a_code() {
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
    assert_eq!(server.get("/v2/generate/nobody").json["statusCode"], 404);
}
