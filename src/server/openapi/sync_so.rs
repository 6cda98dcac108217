//! sync.so: generations.

use serde_json::{Value, json};

use super::schemas::{
    binary, list_of, object, one_of, optional, or_null, reference, string, text, webhook_url,
};
use super::{Operation, Paths};
use crate::options::SyncMode;

const TAG: &str = "sync.so";

pub fn paths(paths: &mut Paths) {
    let call = |summary: &str, statuses: &[u16]| {
        Operation::new(summary).gives(400, reference("SyncError")).fails("SyncError", statuses)
    };
    let options = json!({"type": "object", "properties": {"sync_mode": one_of(SyncMode::NAMES)}});
    let fields =
        object([("model", string()), ("video", binary()), ("audio", binary()), ("options?", options)]);
    let create = call("create a generation", &[408, 413, 429, 503])
        .takes(reference("SyncCreate"))
        .takes_as("multipart/form-data", fields)
        .gives(201, reference("SyncGeneration"));
    paths.add(TAG, "post", "/v2/generate", create);
    let show = call("a generation", &[404]).gives(200, reference("SyncGeneration"));
    paths.add(TAG, "get", "/v2/generate/{id}", show);
    let list = list_of(reference("SyncGeneration"));
    let list = call("generations, the newest first", &[]).query("status").gives(200, list);
    paths.add(TAG, "get", "/v2/generations", list);
    let cost = call("what a generation would cost: nothing", &[408, 413])
        .takes(reference("SyncCreate"))
        .gives(200, list_of(json!({"type": "object"})));
    paths.add(TAG, "post", "/v2/analyze/cost", cost);
    let secret = call("the secret that webhooks are signed with", &[]);
    paths.add(TAG, "get", "/v2/webhook/secret", secret.gives(200, object([("secret", string())])));
}

pub fn webhook() -> Value {
    Operation::new("a generation that was created with `webhookUrl` has ended")
        .takes(reference("SyncGeneration"))
        .into_webhook(&["Sync-Signature"])
}

pub fn schemas() -> Value {
    let input = |kinds: &[&str]| object([("type", one_of(kinds)), ("url", text())]);
    let mut inputs = list_of(input(&["video", "audio"]));
    inputs["minItems"] = 2.into();
    inputs["maxItems"] = 2.into();
    inputs["allOf"] = json!([{"contains": input(&["video"])}, {"contains": input(&["audio"])}]);
    let options = json!({
        "type": ["object", "null"], "properties": {"sync_mode": optional(SyncMode::NAMES)},
    });
    json!({
        "SyncCreate": object([
            ("model", string()),
            ("input", inputs),
            ("options?", options),
            ("segments?", json!({"type": ["array", "null"], "maxItems": 0})),
            ("webhookUrl?", webhook_url()),
            ("outputFileName?", json!({"type": ["string", "null"], "pattern": "^[A-Za-z0-9_-]{1,255}$"})),
        ]),
        "SyncGeneration": object([
            ("id", string()),
            ("createdAt", string()),
            ("status", one_of(&["PENDING", "PROCESSING", "COMPLETED", "FAILED", "REJECTED", "CANCELED"])),
            ("model", string()),
            ("input", list_of(json!({"type": "object"}))),
            ("options", or_null("object")),
            ("outputFileName", or_null("string")),
            ("webhookUrl", or_null("string")),
            ("outputUrl", or_null("string")),
            ("outputDuration", or_null("number")),
            ("segmentOutputUrl", or_null("string")),
            ("error", or_null("string")),
            ("error_code", or_null("string")),
            ("errorCode", or_null("string")),
        ]),
        "SyncError": object([
            ("message", string()), ("statusCode", json!({"type": "integer"})), ("error", string()),
        ]),
    })
}
