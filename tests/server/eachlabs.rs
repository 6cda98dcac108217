//! eachlabs: the page's own example, its errors, its limits and its webhook.

use serde_json::{Value, json};

use crate::common::{FAST, SLOW, Server, Webhooks, hmac};

fn example(server: &Server) -> Value {
    let (video, audio) = server.inputs();
    json!({"model": "latentsync", "input": {"video_url": video, "audio_url": audio}})
}

fn create(server: &Server, body: &Value) -> String {
    let answer = server.post("/v1/prediction/", body.clone());
    assert_eq!((answer.status, answer.text("status")), (200, "success"), "{answer:#?}");
    answer.text("predictionID").to_string()
}

#[test]
fn a_prediction_is_created_and_polled() {
    let server = Server::start(FAST);
    let body = example(&server);
    assert_eq!(
        server.post("/v1/prediction", body.clone()).text("message"),
        "Prediction created successfully"
    );
    let id = create(&server, &body);
    let done = server.until(&format!("/v1/prediction/{id}"), |answer| answer.json["status"] != "processing");
    assert_eq!((done.text("status"), done.text("predictionID")), ("success", id.as_str()));
    assert_eq!(server.get(done.text("output")).status, 200);
    assert!(done.json["metrics"]["predict_time"].is_f64());
    assert_eq!(done.json["input"], body["input"]);
    let run = server.post("/v1/prediction/run", body);
    assert_eq!((run.status, run.text("status"), run.text("error")), (200, "success", ""));
}

#[test]
fn mistakes_are_told_in_both_published_shapes() {
    let server = Server::with(FAST, |config| {
        config.addresses = latentsync::input::AddressPolicy::PublicOnly;
    });
    let good = example(&server);
    let with = |path: &str, value: Value| {
        let mut body = good.clone();
        *body.pointer_mut(path).unwrap() = value;
        server.post("/v1/prediction", body)
    };
    for (path, value) in [
        ("/input/video_url", json!("data:video/mp4;base64,AAAA")),
        ("/input/video_url", json!("http://localhost:8000/v.mp4")),
        ("/input/video_url", json!("http://127.0.0.1/v.mp4")),
        ("/input/audio_url", json!(7)),
        ("/input/audio_url", Value::Null),
        ("/input", json!("nothing")),
        ("/model", Value::Null),
    ] {
        let answer = with(path, value.clone());
        assert_eq!((answer.status, answer.text("status")), (400, "error"), "{path} {value}");
        assert!(answer.json["message"].is_string() && answer.json["details"].is_string());
        assert_eq!(answer.json["error"], answer.json["details"]);
    }
    assert_eq!(with("/model", json!("other")).status, 404);
    assert_eq!(server.get("/v1/prediction/nobody").status, 404);
}

#[test]
fn ten_predictions_at_once_and_no_more() {
    let server = Server::start(SLOW);
    let body = example(&server);
    let ids: Vec<String> = (0..10).map(|_| create(&server, &body)).collect();
    assert_eq!(server.post("/v1/prediction", body.clone()).status, 429);
    for id in [&ids[9], &ids[0]] {
        let cancelled = server.post(&format!("/v1/prediction/{id}/cancel"), Value::Null);
        assert_eq!((cancelled.status, cancelled.text("status")), (200, "cancelled"));
        server.until(&format!("/v1/prediction/{id}"), |answer| answer.json["status"] == "cancelled");
        assert_eq!(server.post(&format!("/v1/prediction/{id}/cancel"), Value::Null).status, 400);
    }
    create(&server, &body);
}

#[test]
fn a_hundred_creates_a_minute_and_no_more() {
    let server = Server::start(FAST);
    let body = example(&server);
    let mut created = 0;
    // Refusals for other reasons do not count.
    while created < 100 {
        match server.post("/v1/prediction", body.clone()).status {
            200 => created += 1,
            _ => std::thread::sleep(std::time::Duration::from_millis(20)),
        }
    }
    let refused = server.post("/v1/prediction", body);
    assert_eq!((refused.status, refused.text("message")), (429, "Rate limit exceeded"));
}

#[test]
fn a_webhook_carries_the_caller_s_signature() {
    let server = Server::start(FAST);
    let webhooks = Webhooks::start();
    let mut body = example(&server);
    body["webhook_url"] = webhooks.url.as_str().into();
    body["webhook_secret"] = "secret".into();
    let id = create(&server, &body);
    let message = webhooks.next();
    assert_eq!((message.text("exec_id"), message.text("status")), (id.as_str(), "succeeded"));
    assert_eq!((message.text("error"), message.text("output").is_empty()), ("", false));
    assert_eq!(message.header("x-webhook-signature"), Some(hmac(b"secret", &message.bytes).as_str()));
    let logged = server
        .until(&format!("/v1/webhooks/{id}"), |answer| answer.json["webhooks"][0]["status"] == "succeeded");
    assert_eq!(logged.json["webhooks"][0]["attempts"], 1);
    assert_eq!(server.get("/v1/webhooks").json["webhooks"].as_array().unwrap().len(), 1);
}
