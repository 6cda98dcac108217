//! sync.so's routes and their OpenAPI operations and schemas.

use serde_json::{Value, json};

use super::{cost, create, list, secret, show};
use crate::options::SyncMode;
use crate::server::openapi::Operation;
use crate::server::openapi::schemas::{
    binary, list_of, object, one_of, optional, or_null, reference, string, text, webhook_url,
};
use crate::server::routes::Routes;

pub const TAG: &str = "sync.so";

pub fn routes() -> Routes {
    let call = |summary: &str, statuses: &[u16]| {
        Operation::new(summary).response(400, reference("SyncError")).error_responses("SyncError", statuses)
    };
    let options = json!({"type": "object", "properties": {"sync_mode": one_of(SyncMode::NAMES)}});
    let fields =
        object([("model", string()), ("video", binary()), ("audio", binary()), ("options?", options)]);
    let creation = call("create a generation", &[408, 413, 429, 503])
        .request_body(reference("SyncCreate"))
        .request_body_as("multipart/form-data", fields)
        .response(201, reference("SyncGeneration"));
    let generation = call("a generation", &[404]).response(200, reference("SyncGeneration"));
    let generations = call("generations, the newest first", &[])
        .query_parameter("status")
        .response(200, list_of(reference("SyncGeneration")));
    let estimate = call("what a generation would cost: nothing", &[408, 413])
        .request_body(reference("SyncCreate"))
        .response(200, list_of(json!({"type": "object"})));
    let shared = call("the secret that webhooks are signed with", &[]);
    let shared = shared.response(200, object([("secret", string())]));
    // Multipart files have a limit of their own; the handler limits JSON.
    Routes::new(TAG)
        .post("/v2/generate", create, creation)
        .body_limit(None)
        .get("/v2/generate/{id}", show, generation)
        .get("/v2/generations", list, generations)
        .post("/v2/analyze/cost", cost, estimate)
        .get("/v2/webhook/secret", secret, shared)
        .not_found_below("/v2", "path")
}

pub fn webhook_operation() -> Value {
    Operation::new("a generation that was created with `webhookUrl` has ended")
        .request_body(reference("SyncGeneration"))
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
