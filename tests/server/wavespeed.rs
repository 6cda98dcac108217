//! wavespeed: both models, sync mode, uploads and signed webhooks.

use std::time::Duration;

use latentsync::options::SyncMode;
use serde_json::{Value, json};

use crate::common::{AUDIO, FAST, SLOW, Server, VIDEO, Webhooks, hmac, options_of};

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
fn the_five_sync_modes_are_accepted_and_no_other() {
    let server = Server::start(FAST);
    let mut body = body(&server);
    body["enable_sync_mode"] = true.into();
    for mode in ["bounce", "loop", "cut_off", "silence", "remap"] {
        body["sync_mode"] = mode.into();
        let answer = server.post(LIPSYNC, body.clone());
        assert_eq!(answer.json["data"]["status"], "completed", "{mode}");
        let options = options_of(answer.json["data"]["id"].as_str().unwrap());
        assert_eq!(options.duration, mode.parse::<SyncMode>().unwrap().policy(), "{mode}");
    }
    body["sync_mode"] = Value::Null;
    let answer = server.post(LIPSYNC, body.clone());
    assert_eq!(options_of(answer.json["data"]["id"].as_str().unwrap()).duration, SyncMode::CutOff.policy());
    for mode in [json!("pingpong"), json!(1)] {
        body["sync_mode"] = mode;
        let refused = server.post(LIPSYNC, body.clone());
        assert_eq!((refused.status, &refused.json["code"]), (400, &json!(400)));
        assert!(refused.text("message").contains("sync_mode"));
    }
    // The documented example for bytedance/latentsync has no files.
    assert_eq!(server.post(LATENTSYNC, json!({})).status, 400);
    assert_eq!(server.post("/api/v3/another/model", json!({})).status, 404);
}

#[test]
fn sync_mode_responds_with_the_result() {
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
fn sync_mode_has_a_time_limit() {
    let server = Server::with(SLOW, |config| config.sync_mode = Duration::from_millis(100));
    let mut body = body(&server);
    body["enable_sync_mode"] = true.into();
    let answer = server.post(LATENTSYNC, body.clone());
    assert_eq!((answer.status, &answer.json["code"]), (200, &json!(5004)), "{answer:#?}");
    assert!(answer.json["data"]["id"].is_string());
    body["enable_sync_mode"] = "yes".into();
    assert_eq!(server.post(LATENTSYNC, body).status, 400);
}

#[test]
fn predictions_are_listed_and_deleted() {
    let server = Server::start(FAST);
    let ids: Vec<String> = [LATENTSYNC, LIPSYNC, LATENTSYNC]
        .map(|path| {
            let mut body = body(&server);
            body["enable_sync_mode"] = true.into();
            server.post(path, body).json["data"]["id"].as_str().unwrap().to_string()
        })
        .into();
    let list = |body: Value| server.post("/api/v3/predictions", body).json["data"].clone();
    let found = |data: &Value| -> Vec<String> {
        data["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|item| item["id"].as_str().unwrap().to_string())
            .collect()
    };
    let all = list(json!({}));
    assert_eq!((&all["total"], &all["page"]), (&json!(3), &json!(1)));
    assert_eq!(found(&all), [ids[2].as_str(), &ids[1], &ids[0]]);
    assert_eq!(found(&list(json!({"page": 2, "page_size": 2}))), [ids[0].as_str()]);
    assert_eq!(found(&list(json!({"model": "sync/lipsync-1.9.0-beta"}))), [ids[1].as_str()]);
    assert_eq!(list(json!({"status": "failed"}))["total"], 0);
    assert_eq!(list(json!({"created_after": "2999-01-01"}))["total"], 0);
    assert_eq!(list(json!({"created_before": "2999-01-01T00:00:00Z"}))["total"], 3);
    let query = server.get("/api/v3/predictions?page_size=1&status=completed");
    assert_eq!(found(&query.json["data"]), [ids[2].as_str()]);
    for wrong in [
        json!({"page": 0}),
        json!({"page_size": 101}),
        json!({"status": "ended"}),
        json!({"created_after": "soon"}),
    ] {
        assert_eq!(server.post("/api/v3/predictions", wrong.clone()).status, 400, "{wrong}");
    }
    let removed = server.post("/api/v3/predictions/delete", json!({"ids": [ids[0], "nobody"]}));
    assert_eq!(removed.json["data"]["deleted_count"], 1, "{removed:#?}");
    assert_eq!(server.get(&format!("/api/v3/predictions/{}", ids[0])).status, 404);
    assert_eq!(list(json!({}))["total"], 2);
    for wrong in [json!({}), json!({"ids": "x"}), json!({"ids": [1]})] {
        assert_eq!(server.post("/api/v3/predictions/delete", wrong.clone()).status, 400, "{wrong}");
    }
}

#[test]
fn files_are_uploaded_by_url_and_by_form() {
    let server = Server::start(FAST);
    let ticket = server.post(
        "/api/v3/media/uploads",
        json!({"filename": "v.mp4", "size": VIDEO.len(), "content_type": "video/mp4"}),
    );
    for wrong in [
        json!({"size": 1}),
        json!({"filename": 1, "size": 1}),
        json!({"filename": "v", "size": -1}),
        json!({"filename": "v", "size": 1, "content_type": {}}),
    ] {
        assert_eq!(server.post("/api/v3/media/uploads", wrong.clone()).status, 400, "{wrong}");
    }
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
fn a_webhook_is_signed_with_the_published_secret() {
    let server = Server::start(FAST);
    let webhooks = Webhooks::start();
    let hook: String = url::form_urlencoded::byte_serialize(webhooks.url.as_bytes()).collect();
    let submitted = server.post(&format!("{LATENTSYNC}?webhook={hook}"), body(&server));
    let message = webhooks.next();
    assert_eq!(message.json["id"], submitted.json["data"]["id"]);
    assert_eq!(message.text("status"), "completed");
    assert!(message.json["input"]["video"].is_string(), "{message:#?}");
    // An empty query parameter does not override the body.
    let mut named = body(&server);
    named["webhook_url"] = webhooks.url.as_str().into();
    server.post(&format!("{LATENTSYNC}?webhook="), named);
    assert_eq!(webhooks.next().json["input"].get("webhook_url"), None);
    check_invalid_webhook(&server, "?webhook=nowhere", json!(null), "`webhook`");
    check_invalid_webhook(&server, "", json!("nowhere"), "`webhook_url`");
    check_invalid_webhook(&server, "?webhook=https://example.com", json!("nowhere"), "`webhook_url`");
    let secret = server.get("/api/v3/webhook/secret");
    let secret = secret.json["data"]["secret"].as_str().unwrap().strip_prefix("whsec_").unwrap().to_string();
    let header = |name: &str| message.header(name).unwrap();
    let mut signed = format!("{}.{}.", header("webhook-id"), header("webhook-timestamp")).into_bytes();
    signed.extend_from_slice(&message.bytes);
    assert_eq!(header("webhook-signature"), format!("v3,{}", hmac(secret.as_bytes(), &signed)));
}

fn check_invalid_webhook(server: &Server, query: &str, in_body: Value, field: &str) {
    let mut body = body(server);
    body["webhook_url"] = in_body;
    let refused = server.post(&format!("{LATENTSYNC}{query}"), body);
    assert_eq!(refused.status, 400);
    assert!(refused.text("message").starts_with(field), "{refused:#?}");
}

#[test]
fn nothing_is_disclosed_without_a_key() {
    let server = Server::with(SLOW, |config| {
        config.keys = latentsync::server::keys::Keys::new(&["key".to_string()]);
    });
    // Not even which models exist.
    assert_eq!(server.post("/api/v3/another/model", json!({})).status, 401);
    let key = [("authorization", "Bearer key")];
    let body = json!({"video": "https://example.com/v", "audio": "https://example.com/a"}).to_string();
    let submitted = server.call("POST", LATENTSYNC, &key, body.into_bytes());
    let id = submitted.json["data"]["id"].as_str().unwrap();
    assert_eq!(server.call("DELETE", LATENTSYNC, &key, Vec::new()).json["code"], 405);
    assert_eq!(server.call("GET", &format!("/v1/prediction/{id}"), &key, Vec::new()).status, 404);
}
