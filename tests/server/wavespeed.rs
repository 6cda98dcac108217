//! wavespeed: both models, sync mode, the uploads and the signed webhook.

use serde_json::{Value, json};

use crate::common::{AUDIO, FAST, SLOW, Server, VIDEO, Webhooks, hmac};

const LATENTSYNC: &str = "/api/v3/bytedance/latentsync";
const LIPSYNC: &str = "/api/v3/sync/lipsync-1.9.0-beta";

fn body(server: &Server) -> Value {
    let (video, audio) = server.inputs();
    json!({"video": video, "audio": audio})
}

#[test]
fn a_prediction_is_submitted_and_polled() {
    let server = Server::start(FAST);
    for (path, model) in [(LATENTSYNC, "bytedance/latentsync"), (LIPSYNC, "sync/lipsync-1.9.0-beta")] {
        let answer = server.post(path, body(&server));
        assert_eq!((answer.status, &answer.json["code"]), (200, &json!(200)), "{answer:#?}");
        let data = &answer.json["data"];
        assert_eq!((&data["model"], &data["outputs"]), (&json!(model), &json!([])));
        let get = data["urls"]["get"].as_str().unwrap();
        let done = server.until(get, |answer| answer.json["data"]["status"] == "completed");
        let data = &done.json["data"];
        assert_eq!((&data["error"], &data["has_nsfw_contents"]), (&json!(""), &json!([false])));
        assert!(data["timings"]["inference"].is_u64() && data["created_at"].as_str().unwrap().ends_with('Z'));
        assert_eq!(server.get(data["outputs"][0].as_str().unwrap()).status, 200);
        assert_eq!(server.get(get.trim_end_matches("/result")).json, done.json);
    }
}

#[test]
fn the_five_sync_modes_and_no_other() {
    let server = Server::start(SLOW);
    let mut body = body(&server);
    for mode in ["bounce", "loop", "cut_off", "silence", "remap"] {
        body["sync_mode"] = mode.into();
        assert_eq!(server.post(LIPSYNC, body.clone()).status, 200, "{mode}");
    }
    for mode in [json!("pingpong"), json!(1)] {
        body["sync_mode"] = mode;
        let refused = server.post(LIPSYNC, body.clone());
        assert_eq!((refused.status, &refused.json["code"]), (400, &json!(400)));
        assert!(refused.text("message").contains("sync_mode"));
    }
    // The page's own example for bytedance/latentsync names no file.
    assert_eq!(server.post(LATENTSYNC, json!({})).status, 400);
    assert_eq!(server.post("/api/v3/another/model", json!({})).status, 404);
}

#[test]
fn sync_mode_answers_with_the_result() {
    let server = Server::start(FAST);
    let mut body = body(&server);
    body["enable_sync_mode"] = true.into();
    let answer = server.post(LATENTSYNC, body.clone());
    assert_eq!(answer.json["data"]["status"], "completed");
    body["video"] = server.upload("v.mp4", b"no video").into();
    let failed = server.post(LATENTSYNC, body);
    assert_eq!((failed.status, &failed.json["data"]["status"]), (200, &json!("failed")));
    assert!(!failed.json["data"]["error"].as_str().unwrap().is_empty());
}

#[test]
fn files_come_by_ticket_and_by_form() {
    let server = Server::start(FAST);
    let ticket = server.post(
        "/api/v3/media/uploads",
        json!({"filename": "v.mp4", "size": VIDEO.len(), "content_type": "video/mp4"}),
    );
    let upload = &ticket.json["data"]["upload"];
    assert_eq!(upload["method"], "PUT");
    assert_eq!(server.call("PUT", upload["url"].as_str().unwrap(), &[], VIDEO.to_vec()).status, 200);
    let mut form = b"--edge\r\ncontent-disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\n\
                     content-type: audio/wav\r\n\r\n"
        .to_vec();
    form.extend_from_slice(AUDIO);
    form.extend_from_slice(b"\r\n--edge--\r\n");
    let kind = [("content-type", "multipart/form-data; boundary=edge")];
    let uploaded = server.call("POST", "/api/v3/media/upload/binary", &kind, form);
    assert_eq!(uploaded.json["data"]["size"], AUDIO.len());
    let body = json!({
        "video": ticket.json["data"]["download_url"], "audio": uploaded.json["data"]["download_url"],
        "enable_sync_mode": true,
    });
    assert_eq!(server.post(LATENTSYNC, body).json["data"]["status"], "completed");
}

#[test]
fn a_webhook_is_signed_with_the_secret_that_is_told() {
    let server = Server::start(FAST);
    let webhooks = Webhooks::start();
    let hook: String = url::form_urlencoded::byte_serialize(webhooks.url.as_bytes()).collect();
    let submitted = server.post(&format!("{LATENTSYNC}?webhook={hook}"), body(&server));
    let message = webhooks.next();
    assert_eq!(message.json["id"], submitted.json["data"]["id"]);
    assert_eq!(message.text("status"), "completed");
    let secret = server.get("/api/v3/webhook/secret");
    let secret = secret.json["data"]["secret"].as_str().unwrap().strip_prefix("whsec_").unwrap().to_string();
    let header = |name: &str| message.header(name).unwrap();
    let mut signed = format!("{}.{}.", header("webhook-id"), header("webhook-timestamp")).into_bytes();
    signed.extend_from_slice(&message.bytes);
    assert_eq!(header("webhook-signature"), format!("v3,{}", hmac(secret.as_bytes(), &signed)));
}
