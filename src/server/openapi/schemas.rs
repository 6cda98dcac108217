//! The bodies of requests and answers.

use serde_json::{Value, json};

use crate::options::{LoopMode, PlaybackType, SyncMode};

pub fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

pub fn string() -> Value {
    json!({"type": "string"})
}

fn integer() -> Value {
    json!({"type": "integer"})
}

fn number() -> Value {
    json!({"type": "number"})
}

fn list_of(items: Value) -> Value {
    json!({"type": "array", "items": items})
}

fn one_of(names: &[&str]) -> Value {
    json!({"type": "string", "enum": names})
}

/// One of the names, or `null` for the default.
fn optional(names: &[&str]) -> Value {
    let names: Vec<Value> = names.iter().map(|&name| name.into()).chain([Value::Null]).collect();
    json!({"type": ["string", "null"], "enum": names})
}

fn or_null(kind: &str) -> Value {
    json!({"type": [kind, "null"]})
}

/// An object with these fields; a `?` marks those that may be missing.
fn object<const N: usize>(fields: [(&str, Value); N]) -> Value {
    let required: Vec<&str> =
        fields.iter().map(|(name, _)| *name).filter(|name| !name.ends_with('?')).collect();
    let properties: serde_json::Map<String, Value> = fields
        .iter()
        .map(|(name, schema)| (name.trim_end_matches('?').to_string(), schema.clone()))
        .collect();
    json!({"type": "object", "properties": properties, "required": required})
}

/// What fal and eachlabs take.
fn input() -> Value {
    object([
        ("video_url", string()),
        ("audio_url", string()),
        ("guidance_scale?", json!({"type": ["number", "null"], "minimum": 1, "maximum": 2})),
        ("seed?", json!({"type": ["integer", "null"], "minimum": -1})),
        ("loop_mode?", optional(LoopMode::NAMES)),
    ])
}

/// What wavespeed gives, around `data`.
fn envelope(data: Value) -> Value {
    object([("code", integer()), ("message", string()), ("data", data)])
}

/// What wavespeed takes with every model.
fn wavespeed_input(sync_mode: Option<Value>) -> Value {
    let mut schema = object([
        ("video", string()),
        ("audio", string()),
        ("enable_sync_mode?", or_null("boolean")),
        ("webhook_url?", or_null("string")),
    ]);
    if let Some(sync_mode) = sync_mode {
        schema["properties"]["sync_mode"] = sync_mode;
    }
    schema
}

/// All of them, by name.
pub fn all() -> Value {
    let mut schemas = json!({});
    for part in [fal(), eachlabs(), wavespeed(), jogg_and_sync_so(), own()] {
        for (name, schema) in part.as_object().into_iter().flatten() {
            schemas[name] = schema.clone();
        }
    }
    schemas
}

fn fal() -> Value {
    let file = object([
        ("url", string()),
        ("content_type", string()),
        ("file_name", string()),
        ("file_size", integer()),
    ]);
    let log = object([
        ("message", string()),
        ("level", one_of(&["INFO", "WARN", "ERROR"])),
        ("source", string()),
        ("timestamp", string()),
    ]);
    let detail = object([
        ("loc", list_of(string())),
        ("msg", string()),
        ("type", string()),
        ("url?", string()),
        ("ctx?", json!({"type": "object"})),
        ("input?", json!({})),
    ]);
    let key = object([("kty", string()), ("crv", string()), ("kid", string()), ("x", string())]);
    json!({
        "FalInput": input(),
        "FalOutput": object([("video", file)]),
        "FalStatus": object([
            ("status", one_of(&["IN_QUEUE", "IN_PROGRESS", "COMPLETED"])),
            ("request_id", string()),
            ("response_url", string()),
            ("status_url", string()),
            ("cancel_url", string()),
            ("queue_position?", integer()),
            ("logs", list_of(log)),
            ("metrics?", object([("inference_time", number())])),
            ("error?", string()),
            ("error_type?", string()),
        ]),
        "FalCancel": object([
            ("status", one_of(&["CANCELLATION_REQUESTED", "ALREADY_COMPLETED", "NOT_FOUND"])),
        ]),
        "FalInvalid": object([("detail", list_of(detail))]),
        "FalError": object([("detail", string()), ("error_type?", string())]),
        "FalFileName": object([("file_name?", string()), ("content_type?", string())]),
        "FalSlot": object([("upload_url", string()), ("file_url", string())]),
        "FalToken": object([
            ("token", string()), ("token_type", string()), ("base_url", string()), ("expires_at", string()),
        ]),
        "FalUploaded": object([("access_url", string()), ("uploadId?", string())]),
        "Jwks": object([("keys", list_of(key))]),
    })
}

fn eachlabs() -> Value {
    let delivery = object([
        ("execution_id", string()),
        ("webhook_url", string()),
        ("status", one_of(&["succeeded", "pending", "failed"])),
        ("attempts", integer()),
        ("http_status", or_null("integer")),
        ("error", or_null("string")),
        ("created_at", string()),
        ("delivered_at", or_null("string")),
    ]);
    json!({
        "EachlabsCreate": object([
            ("model", one_of(&["latentsync"])),
            ("version?", or_null("string")),
            ("input", input()),
            ("webhook_url?", or_null("string")),
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
            ("metrics", object([("predict_time", number()), ("cost", number())])),
            ("urls", object([("get", string()), ("cancel", string())])),
            ("created_at", string()),
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
        "EachlabsWebhooks": object([("webhooks", list_of(delivery))]),
    })
}

fn wavespeed() -> Value {
    let prediction = object([
        ("id", string()),
        ("model", string()),
        ("outputs", list_of(string())),
        ("urls", object([("get", string())])),
        ("has_nsfw_contents", list_of(json!({"type": "boolean"}))),
        ("status", one_of(&["created", "processing", "completed", "failed", "cancelled"])),
        ("created_at", string()),
        ("error", string()),
        ("timings", object([("inference", integer())])),
    ]);
    let upload = object([("method", string()), ("url", string()), ("headers", json!({"type": "object"}))]);
    json!({
        "WavespeedInput": wavespeed_input(None),
        "WavespeedLipsyncInput": wavespeed_input(Some(optional(SyncMode::NAMES))),
        "WavespeedEnvelope": envelope(prediction),
        "WavespeedError": object([("code", integer()), ("message", string())]),
        "WavespeedFileName": object([
            ("filename", string()), ("size", json!({"type": "integer", "minimum": 0})), ("content_type?", string()),
        ]),
        "WavespeedTicket": envelope(object([("upload", upload), ("download_url", string())])),
        "WavespeedUploaded": envelope(object([
            ("type", string()), ("download_url", string()), ("filename", string()), ("size", integer()),
        ])),
        "WavespeedSecret": envelope(object([("secret", string())])),
    })
}

fn jogg_and_sync_so() -> Value {
    let sync_input = object([("type", one_of(&["video", "audio"])), ("url", string())]);
    let options = json!({
        "type": ["object", "null"], "properties": {"sync_mode": optional(SyncMode::NAMES)},
    });
    json!({
        "JoggInput": object([
            ("video_url", string()), ("audio_url", string()), ("playback_type?", optional(PlaybackType::NAMES)),
        ]),
        "JoggFileName": object([
            ("filename", string()), ("content_type", string()), ("file_size?", integer()),
        ]),
        "JoggAnswer": object([("code", integer()), ("msg", string()), ("data", or_null("object"))]),
        "SyncCreate": object([
            ("model", string()),
            ("input", json!({"type": "array", "items": sync_input, "minItems": 2, "maxItems": 2})),
            ("options?", options),
            ("webhookUrl?", or_null("string")),
            ("outputFileName?", or_null("string")),
        ]),
        "SyncGeneration": object([
            ("id", string()),
            ("createdAt", string()),
            ("status", one_of(&["PENDING", "PROCESSING", "COMPLETED", "FAILED", "REJECTED", "CANCELED"])),
            ("model", string()),
            ("input", list_of(json!({"type": "object"}))),
            ("options", or_null("object")),
            ("webhookUrl", or_null("string")),
            ("outputUrl", or_null("string")),
            ("outputDuration", or_null("number")),
            ("segmentOutputUrl", or_null("string")),
            ("error", or_null("string")),
            ("error_code", or_null("string")),
        ]),
        "SyncError": object([("message", string()), ("statusCode", integer()), ("error", string())]),
    })
}

fn own() -> Value {
    let part = object([("partNumber", integer()), ("etag?", string())]);
    json!({
        "Part": object([("partNumber", integer()), ("etag", string())]),
        "Parts": object([("parts", list_of(part))]),
        "Detail": object([("detail", string())]),
        "Status": object([("status", string()), ("queued?", integer())]),
    })
}
