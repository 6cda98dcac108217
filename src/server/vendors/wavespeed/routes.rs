//! wavespeed's routes and their OpenAPI operations and schemas.

use serde_json::{Value, json};

use super::{predictions, secret, show, submit_latentsync, submit_lipsync, uploads};
use crate::options::SyncMode;
use crate::server::openapi::Operation;
use crate::server::openapi::schemas::{
    binary, integer, list_of, merged, object, one_of, optional, or_null, reference, string, text,
    webhook_query, webhook_url,
};
use crate::server::routes::Routes;

pub const TAG: &str = "wavespeed";
const STATUSES: [&str; 5] = ["created", "processing", "completed", "failed", "cancelled"];

pub fn routes() -> Routes {
    let deletion = call("remove predictions that have ended", "WavespeedDeleted", &[408, 413]);
    let ticket = call("a URL to put a file to", "WavespeedTicket", &[408, 413]);
    let fields = object([("file", binary())]);
    let upload =
        call("a file", "WavespeedUploaded", &[408, 413]).request_body_as("multipart/form-data", fields);
    let prediction = || call("a prediction", "WavespeedEnvelope", &[404]);
    let shared = call("the secret that webhooks are signed with", "WavespeedSecret", &[]);
    let uploads =
        Routes::new(TAG).post("/api/v3/media/upload/binary", uploads::form, upload).body_limit(None);
    Routes::new(TAG)
        .post("/api/v3/bytedance/latentsync", submit_latentsync, submission("WavespeedInput"))
        .post("/api/v3/sync/lipsync-1.9.0-beta", submit_lipsync, submission("WavespeedLipsyncInput"))
        .get("/api/v3/predictions", predictions::list, list())
        .post("/api/v3/predictions", predictions::search, page().request_body(reference("WavespeedFilter")))
        .post(
            "/api/v3/predictions/delete",
            predictions::delete,
            deletion.request_body(reference("WavespeedIds")),
        )
        .get("/api/v3/predictions/{id}", show, prediction())
        .get("/api/v3/predictions/{id}/result", show, prediction())
        .post("/api/v3/media/uploads", uploads::begin, ticket.request_body(reference("WavespeedFileName")))
        .merge(uploads)
        .get("/api/v3/webhook/secret", secret, shared)
        .not_found_below("/api/v3", "model")
}

fn call(summary: &str, answer: &str, statuses: &[u16]) -> Operation {
    let operation = Operation::new(summary).response(200, reference(answer));
    operation.response(400, reference("WavespeedError")).error_responses("WavespeedError", statuses)
}

fn submission(input: &str) -> Operation {
    call("submit; in sync mode, wait", "WavespeedEnvelope", &[408, 413, 429, 503])
        .request_body(reference(input))
        .parameter("query", "webhook", webhook_query())
}

fn page() -> Operation {
    call("predictions, the newest first", "WavespeedPage", &[408, 413])
}

fn list() -> Operation {
    page()
        .query_parameter("model")
        .parameter("query", "created_after", date())
        .parameter("query", "created_before", date())
        .parameter("query", "status", status())
        .parameter(
            "query",
            "page",
            json!({"type": "integer", "minimum": 1, "maximum": u32::MAX, "default": 1}),
        )
        .parameter(
            "query",
            "page_size",
            json!({"type": "integer", "minimum": 1, "maximum": 100, "default": 10}),
        )
}

pub fn webhook_operation() -> Value {
    Operation::new("a prediction that was submitted with a webhook has ended")
        .request_body(reference("WavespeedMessage"))
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
    merged([prediction_schemas(), upload_schemas(max_upload)])
}

fn prediction_schemas() -> Value {
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
        "WavespeedSecret": envelope(object([("secret", string())])),
    })
}

fn upload_schemas(max_upload: u64) -> Value {
    let upload = object([("method", string()), ("url", string()), ("headers", json!({"type": "object"}))]);
    json!({
        "WavespeedFileName": object([
            ("filename", string()),
            ("size", json!({"type": "integer", "minimum": 0, "maximum": max_upload})),
            ("content_type?", or_null("string")),
        ]),
        "WavespeedTicket": envelope(object([("upload", upload), ("download_url", string())])),
        "WavespeedUploaded": envelope(object([
            ("type", string()), ("download_url", string()), ("filename", string()), ("size", integer()),
        ])),
    })
}
