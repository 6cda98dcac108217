//! eachlabs' routes and their OpenAPI operations and schemas.

use serde_json::{Value, json};

use super::{cancel, create, run, show, webhook_log, webhooks};
use crate::options::LoopMode;
use crate::server::openapi::Operation;
use crate::server::openapi::schemas::{
    integer, list_of, merged, number, object, one_of, optional, or_null, reference, seed, string, web_url,
    webhook_url,
};
use crate::server::routes::Routes;

pub const TAG: &str = "eachlabs";

pub fn routes() -> Routes {
    let call = |summary: &str, answer: &str, statuses: &[u16]| {
        let operation = Operation::new(summary).response(200, reference(answer));
        operation.response(400, reference("EachlabsError")).error_responses("EachlabsError", statuses)
    };
    let creation = |summary: &str, answer: &str| {
        call(summary, answer, &[404, 408, 413, 429, 503]).request_body(reference("EachlabsCreate"))
    };
    let limit = json!({"type": "integer", "minimum": 1, "maximum": 100, "default": 50});
    let offset = json!({"type": "integer", "minimum": 0, "maximum": u32::MAX, "default": 0});
    let list = call("the log of all webhooks", "EachlabsWebhooks", &[])
        .parameter("query", "limit", limit)
        .parameter("query", "offset", offset);
    let log = call("a prediction's webhook, with every attempt", "EachlabsWebhookLog", &[404]).parameter(
        "path",
        "id",
        json!({"type": "string", "format": "uuid"}),
    );
    Routes::new(TAG)
        .post("/v1/prediction", create, creation("create a prediction", "EachlabsCreated"))
        .post("/v1/prediction/", create, creation("create a prediction", "EachlabsCreated"))
        .post("/v1/prediction/run", run, creation("create one and wait for it", "EachlabsRun"))
        .get("/v1/prediction/{id}", show, call("a prediction", "EachlabsPrediction", &[404]))
        .post("/v1/prediction/{id}/cancel", cancel, call("cancel", "EachlabsCancelled", &[404]))
        .get("/v1/webhooks", webhooks, list)
        .get("/v1/webhooks/{id}", webhook_log, log)
        .not_found_below("/v1", "path")
}

pub fn webhook_operation() -> Value {
    Operation::new("a prediction that was created with `webhook_url` has ended")
        .request_body(reference("EachlabsMessage"))
        .into_webhook(&["X-Webhook-Signature"])
}

/// What eachlabs lets in: HTTPS, or a file of this server's own.
fn public_url() -> Value {
    let own = "^https?://([a-z]+(\\.[a-z]+)*|127\\.0\\.0\\.1)(:[0-9]{1,4})?/media/\
               [0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}/[A-Za-z0-9._-]+$";
    json!({
        "description": "a public HTTPS address, or the one of a file of this server; with `--allow-local-urls` any",
        "anyOf": [web_url("https"), {"type": "string", "pattern": own}],
    })
}

fn metrics() -> Value {
    object([("predict_time", number()), ("cost", number())])
}

pub fn schemas() -> Value {
    merged([prediction_schemas(), webhook_schemas()])
}

fn prediction_schemas() -> Value {
    let input = object([
        ("video_url", public_url()),
        ("audio_url", public_url()),
        ("guidance_scale?", json!({"type": ["number", "null"], "minimum": 1, "maximum": 2})),
        ("seed?", seed(&["integer", "null"])),
        ("loop_mode?", optional(LoopMode::NAMES)),
    ]);
    json!({
        "EachlabsCreate": object([
            ("model", one_of(&["latentsync"])),
            ("version?", or_null("string")),
            ("input", input),
            ("webhook_url?", webhook_url()),
            ("webhook_secret?", or_null("string")),
        ]),
        "EachlabsCreated": object([
            ("status", one_of(&["success"])), ("message", string()), ("predictionID", string()),
        ]),
        "EachlabsPrediction": object([
            ("id", string()),
            ("predictionID", string()),
            ("status", one_of(&["processing", "success", "error", "cancelled"])),
            ("input", json!({"type": "object"})),
            ("output", or_null("string")),
            ("logs", string()),
            ("metrics", metrics()),
            ("urls", object([("get", string()), ("cancel", string())])),
            ("message?", string()),
            ("details?", string()),
            ("error?", string()),
        ]),
        "EachlabsRun": object([
            ("status", one_of(&["success", "error"])),
            ("message", string()),
            ("predictionID", string()),
            ("output", string()),
            ("error", string()),
        ]),
        "EachlabsCancelled": object([
            ("status", one_of(&["cancelled"])), ("message", string()), ("predictionID", string()),
        ]),
        "EachlabsError": object([
            ("status", one_of(&["error"])), ("message", string()), ("details", string()), ("error", string()),
        ]),
    })
}

/// The log of webhooks, and their message.
fn webhook_schemas() -> Value {
    let attempt = object([
        ("status", one_of(&["PENDING", "SUCCESS", "FAILED"])),
        ("status_code", or_null("integer")),
        ("response", or_null("string")),
        ("error_message", or_null("string")),
        ("created_at", string()),
    ]);
    let webhook = object([
        ("execution_id", string()),
        ("url", string()),
        ("request", string()),
        ("headers", json!({"type": "object"})),
        ("source", string()),
        ("created_at", string()),
    ]);
    let mut log = webhook.clone();
    log["properties"]["attempts"] = list_of(attempt);
    log["required"] =
        json!(["execution_id", "url", "request", "headers", "source", "created_at", "attempts"]);
    json!({
        "EachlabsWebhooks": object([
            ("webhooks", list_of(webhook)), ("limit", integer()), ("offset", integer()),
        ]),
        "EachlabsWebhookLog": log,
        "EachlabsMessage": object([
            ("exec_id", string()),
            ("id", string()),
            ("status", one_of(&["succeeded", "failed"])),
            ("output", string()),
            ("error", string()),
            ("input", json!({"type": "object"})),
            ("metrics", metrics()),
            ("logs", string()),
        ]),
    })
}
