//! eachlabs: the example of its documentation, errors, limits and webhooks.

use latentsync::options::LoopMode;
use serde_json::{Value, json};

use crate::common::{FAST, SLOW, Server, Webhooks, hmac, options_of};

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
fn errors_have_both_published_shapes() {
    let server = Server::with(FAST, |config| {
        config.addresses = latentsync::input::AddressPolicy::PublicOnly;
    });
    let mut good = example(&server);
    for field in ["version", "webhook_url", "webhook_secret"] {
        good[field] = Value::Null;
    }
    good["input"]["seed"] = Value::Null;
    let with = |path: &str, value: Value| {
        let mut body = good.clone();
        *body.pointer_mut(path).unwrap() = value;
        server.post("/v1/prediction", body)
    };
    for (path, value) in [
        ("/input/video_url", json!("data:video/mp4;base64,AAAA")),
        ("/input/video_url", json!("http://localhost:8000/v.mp4")),
        ("/input/video_url", json!("http://127.0.0.1/v.mp4")),
        // A public address without HTTPS.
        ("/input/video_url", json!("http://example.com/v.mp4")),
        ("/input/seed", json!(1.5)),
        ("/version", json!({})),
        ("/webhook_url", json!("nowhere")),
        ("/webhook_secret", json!(7)),
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
    assert_eq!(
        with("/webhook_url", json!("nowhere")).text("error"),
        "`webhook_url` is not a URL: relative URL without a base"
    );
    let unknown = with("/model", json!("other"));
    assert_eq!((unknown.status, unknown.text("details")), (404, "Model not found"));
    let unknown = server.get("/v1/prediction/nobody");
    assert_eq!((unknown.status, unknown.text("details")), (404, "Prediction not found"));
    // Unknown paths and methods have eachlabs' error format.
    for (method, path, status) in [("GET", "/v1/models", 404), ("DELETE", "/v1/prediction", 405)] {
        let answer = server.call(method, path, &[], Vec::new());
        assert_eq!((answer.status, answer.text("status")), (status, "error"), "{path}");
    }
}

#[test]
fn a_seed_may_be_any_integer_as_number_or_text() {
    let server = Server::start(FAST);
    for (seed, expected) in [(json!(7.0), 7), (json!(-5), u64::MAX - 4)] {
        let mut body = example(&server);
        body["input"]["seed"] = seed;
        body["input"]["loop_mode"] = "loop".into();
        let run = server.post("/v1/prediction/run", body);
        let options = options_of(run.text("predictionID"));
        assert_eq!((options.seed, options.duration), (Some(expected), LoopMode::Loop.policy()));
    }
}

#[test]
fn at_most_ten_predictions_run_at_once() {
    let server = Server::start(SLOW);
    let body = example(&server);
    let ids: Vec<String> = (0..10).map(|_| create(&server, &body)).collect();
    assert_eq!(server.post("/v1/prediction", body.clone()).status, 429);
    for id in [&ids[9], &ids[0]] {
        let cancelled = server.post(&format!("/v1/prediction/{id}/cancel"), Value::Null);
        assert_eq!((cancelled.status, cancelled.text("status")), (200, "cancelled"));
        assert_eq!(cancelled.text("message"), "Prediction canceled successfully");
        server.until(&format!("/v1/prediction/{id}"), |answer| answer.json["status"] == "cancelled");
        assert_eq!(server.post(&format!("/v1/prediction/{id}/cancel"), Value::Null).status, 400);
    }
    create(&server, &body);
}

#[test]
fn at_most_a_hundred_predictions_are_created_per_minute() {
    let server = Server::start(FAST);
    let body = example(&server);
    let mut created = 0;
    // Requests that are refused for other reasons do not count.
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
fn a_webhook_is_signed_with_the_caller_s_secret() {
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
    assert!(message.text("logs").contains("denoise_latents"), "{message:#?}");
}

#[test]
fn the_webhook_log_has_every_attempt() {
    let server = Server::start(FAST);
    let webhooks = Webhooks::start();
    let mut body = example(&server);
    body["webhook_url"] = webhooks.url.as_str().into();
    body["webhook_secret"] = "secret".into();
    let id = create(&server, &body);
    let message = webhooks.next();
    let path = format!("/v1/webhooks/{id}");
    let logged = server.until(&path, |answer| answer.json["attempts"][0]["status"] == "SUCCESS");
    assert_eq!((logged.text("execution_id"), logged.text("url")), (id.as_str(), webhooks.url.as_str()));
    assert_eq!(logged.text("request").as_bytes(), message.bytes);
    assert_eq!(logged.json["headers"]["x-webhook-signature"], hmac(b"secret", &message.bytes));
    let attempts = logged.json["attempts"].as_array().unwrap();
    assert_eq!(
        (attempts.len(), &attempts[0]["status_code"], &attempts[0]["response"]),
        (1, &json!(200), &json!("ok"))
    );

    // The discard port has no listener.
    body["webhook_url"] = "http://127.0.0.1:9/hook".into();
    let failing = create(&server, &body);
    let path = format!("/v1/webhooks/{failing}");
    let logged =
        server.until(&path, |answer| answer.json["attempts"].as_array().is_some_and(|list| list.len() == 2));
    let statuses = [0, 1].map(|i| logged.json["attempts"][i]["status"].as_str().unwrap().to_string());
    assert_eq!(statuses, ["FAILED", "PENDING"]);
    assert!(logged.json["attempts"][0]["error_message"].is_string());

    let list = |query: &str| server.get(&format!("/v1/webhooks{query}"));
    let ids = |query: &str| -> Vec<String> {
        let list = list(query).json["webhooks"].as_array().unwrap().clone();
        list.iter().map(|webhook| webhook["execution_id"].as_str().unwrap().to_string()).collect()
    };
    assert_eq!(ids(""), [failing.as_str(), id.as_str()]);
    assert_eq!(ids("?limit=1&offset=1"), [id.as_str()]);
    assert_eq!((&list("").json["limit"], &list("").json["offset"]), (&json!(50), &json!(0)));
    for query in ["?limit=0", "?limit=101", "?limit=x", "?offset=-1", "?limit=4661587182701"] {
        assert_eq!(list(query).status, 400, "{query}");
    }

    body["webhook_url"] = Value::Null;
    let without = create(&server, &body);
    let unknown = server.get(&format!("/v1/webhooks/{without}"));
    assert_eq!((unknown.status, unknown.text("error")), (404, "webhook not found"));
    let invalid = server.get("/v1/webhooks/nobody");
    assert_eq!((invalid.status, invalid.text("error")), (400, "invalid execution_id"));
}
