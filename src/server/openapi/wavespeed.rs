//! wavespeed: both models, their predictions, the uploads.

use serde_json::{Value, json};

use super::schemas::{
    binary, integer, list_of, object, one_of, optional, or_null, reference, string, text, webhook_query,
    webhook_url,
};
use super::{Operation, Paths};
use crate::options::SyncMode;

const TAG: &str = "wavespeed";
const STATUSES: [&str; 5] = ["created", "processing", "completed", "failed", "cancelled"];

pub fn paths(paths: &mut Paths) {
    let call = |summary: &str, answer: &str, statuses: &[u16]| {
        let operation = Operation::new(summary).gives(200, reference(answer));
        operation.gives(400, reference("WavespeedError")).fails("WavespeedError", statuses)
    };
    for (model, input) in
        [("bytedance/latentsync", "WavespeedInput"), ("sync/lipsync-1.9.0-beta", "WavespeedLipsyncInput")]
    {
        let submit = call("submit; in sync mode, wait", "WavespeedEnvelope", &[408, 413, 429, 503]);
        let submit = submit.takes(reference(input)).asks("query", "webhook", webhook_query());
        paths.add(TAG, "post", &format!("/api/v3/{model}"), submit);
    }
    for path in ["/api/v3/predictions/{id}", "/api/v3/predictions/{id}/result"] {
        paths.add(TAG, "get", path, call("a prediction", "WavespeedEnvelope", &[404]));
    }
    let list = || call("predictions, the newest first", "WavespeedPage", &[408, 413]);
    paths.add(TAG, "post", "/api/v3/predictions", list().takes(reference("WavespeedFilter")));
    let list = ["model", "created_after", "created_before"].iter().fold(list(), |list, name| match *name {
        "model" => list.query(name),
        _ => list.asks("query", name, date()),
    });
    let list = list
        .asks("query", "status", status())
        .asks("query", "page", json!({"type": "integer", "minimum": 1, "maximum": u32::MAX, "default": 1}))
        .asks("query", "page_size", json!({"type": "integer", "minimum": 1, "maximum": 100, "default": 10}));
    paths.add(TAG, "get", "/api/v3/predictions", list);
    let delete = call("remove predictions that have ended", "WavespeedDeleted", &[408, 413]);
    paths.add(TAG, "post", "/api/v3/predictions/delete", delete.takes(reference("WavespeedIds")));
    let ticket = call("a URL to put a file to", "WavespeedTicket", &[408, 413]);
    paths.add(TAG, "post", "/api/v3/media/uploads", ticket.takes(reference("WavespeedFileName")));
    let fields = object([("file", binary())]);
    let upload = call("a file", "WavespeedUploaded", &[408, 413]).takes_as("multipart/form-data", fields);
    paths.add(TAG, "post", "/api/v3/media/upload/binary", upload);
    let secret = call("the secret that webhooks are signed with", "WavespeedSecret", &[]);
    paths.add(TAG, "get", "/api/v3/webhook/secret", secret);
}

pub fn webhook() -> Value {
    Operation::new("a prediction that was submitted with a webhook has ended")
        .takes(reference("WavespeedMessage"))
        .into_webhook(&["webhook-id", "webhook-timestamp", "webhook-signature"])
}

/// A date or a time; empty for any.
fn date() -> Value {
    json!({"anyOf": [
        {"type": "string", "format": "date-time"}, {"type": "string", "format": "date"}, {"const": ""},
    ]})
}

/// A status; empty for any.
fn status() -> Value {
    json!({"anyOf": [one_of(&STATUSES), {"const": ""}]})
}

/// What every answer is wrapped in.
fn envelope(data: Value) -> Value {
    object([("code", integer()), ("message", string()), ("data", data)])
}

/// What both models take.
fn input(sync_mode: Option<Value>) -> Value {
    let mut schema = object([
        ("video", text()),
        ("audio", text()),
        ("enable_sync_mode?", or_null("boolean")),
        ("webhook_url?", webhook_url()),
    ]);
    if let Some(sync_mode) = sync_mode {
        schema["properties"]["sync_mode"] = sync_mode;
    }
    schema
}

pub fn schemas(max_upload: u64) -> Value {
    let prediction = object([
        ("id", string()),
        ("model", string()),
        ("outputs", list_of(string())),
        ("urls", object([("get", string())])),
        ("has_nsfw_contents", list_of(json!({"type": "boolean"}))),
        ("status", one_of(&STATUSES)),
        ("created_at", string()),
        ("error", string()),
        ("timings", object([("inference", integer())])),
    ]);
    let mut message = prediction.clone();
    message["properties"]["input"] = json!({"type": "object"});
    let upload = object([("method", string()), ("url", string()), ("headers", json!({"type": "object"}))]);
    let nullable = |schema: Value| json!({"anyOf": [schema, {"type": "null"}]});
    json!({
        "WavespeedInput": input(None),
        "WavespeedLipsyncInput": input(Some(optional(SyncMode::NAMES))),
        "WavespeedPrediction": prediction,
        "WavespeedEnvelope": envelope(reference("WavespeedPrediction")),
        "WavespeedMessage": message,
        "WavespeedError": object([("code", integer()), ("message", string())]),
        "WavespeedFilter": object([
            ("page?", json!({"type": ["integer", "null"], "minimum": 1, "maximum": u32::MAX})),
            ("page_size?", json!({"type": ["integer", "null"], "minimum": 1, "maximum": 100})),
            ("model?", or_null("string")),
            ("status?", nullable(status())),
            ("created_after?", nullable(date())),
            ("created_before?", nullable(date())),
        ]),
        "WavespeedPage": envelope(object([
            ("page", integer()),
            ("page_size", integer()),
            ("total", integer()),
            ("items", list_of(reference("WavespeedPrediction"))),
        ])),
        "WavespeedIds": object([("ids", json!({"type": "array", "items": string(), "maxItems": 100}))]),
        "WavespeedDeleted": envelope(object([("deleted_count", integer())])),
        "WavespeedFileName": object([
            ("filename", string()),
            ("size", json!({"type": "integer", "minimum": 0, "maximum": max_upload})),
            ("content_type?", or_null("string")),
        ]),
        "WavespeedTicket": envelope(object([("upload", upload), ("download_url", string())])),
        "WavespeedUploaded": envelope(object([
            ("type", string()), ("download_url", string()), ("filename", string()), ("size", integer()),
        ])),
        "WavespeedSecret": envelope(object([("secret", string())])),
    })
}
