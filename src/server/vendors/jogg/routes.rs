//! JoggAI's routes and their OpenAPI operations and schemas. Errors have status 200 and a `code` that is not
//! 0.

use serde_json::{Value, json};

use super::{begin_upload, create, endpoints, find, show};
use crate::options::PlaybackType;
use crate::server::openapi::Operation;
use crate::server::openapi::schemas::{
    integer, list_of, merged, number, object, one_of, optional, or_null, reference, string, text, web_url,
};
use crate::server::routes::Routes;

pub const TAG: &str = "JoggAI";

pub fn routes() -> Routes {
    // The same routes below both of JoggAI's base paths.
    Routes::new(TAG).nest("/open/v2", below()).nest("/v2", below()).not_found_below("/open/v2", "path")
}

fn below() -> Routes {
    let call = |summary: &str, answer: &str| {
        let answer = json!({"anyOf": [reference(answer), reference("JoggError")]});
        let operation = Operation::new(summary).response(200, answer);
        [408, 429, 503].iter().fold(operation, |call, &status| call.response(status, reference("JoggError")))
    };
    let creation = call("create a task", "JoggCreated").request_body(reference("JoggInput"));
    let search = call("the newest task with these inputs", "JoggTask")
        .query_parameter("video_url")
        .query_parameter("audio_url")
        .query_parameter("playback_type");
    let asset = call("a URL to put a file to", "JoggAsset").request_body(reference("JoggFileName"));
    let endpoint =
        |summary: &str| call(summary, "JoggEndpointAnswer").request_body(reference("JoggSettings"));
    Routes::new(TAG)
        .post("/create_lip_sync_video", create, creation)
        .get("/lip_sync_video/{id}", show, call("a task", "JoggTask"))
        .get("/lip_sync_video", find, search)
        .post("/upload/asset", begin_upload, asset)
        .post("/endpoint", endpoints::add, endpoint("register an endpoint for webhooks"))
        .put("/endpoint/{id}", endpoints::change, endpoint("change it"))
        .delete("/endpoint/{id}", endpoints::remove, call("remove it", "JoggNothing"))
        .get("/endpoints", endpoints::list, call("all of them", "JoggEndpoints"))
        .get("/events", endpoints::events, call("what they can be told of", "JoggEvents"))
}

pub fn webhook_operation() -> Value {
    Operation::new("a task has ended, and a registered endpoint wants to know")
        .request_body(reference("JoggMessage"))
        .into_webhook(&["X-Webhook-Event", "X-Webhook-Signature"])
}

/// What everything that went well is wrapped in.
fn envelope(data: Value) -> Value {
    object([("code", json!({"const": 0})), ("msg", string()), ("data", data)])
}

pub fn schemas() -> Value {
    merged([task_schemas(), endpoint_schemas()])
}

fn task_schemas() -> Value {
    let output = object([("result_url", string()), ("cover_url", string()), ("duration_seconds", number())]);
    let task = object([
        ("task_id", string()),
        ("status", one_of(&["pending", "processing", "success", "failed"])),
        ("created_at", integer()),
        ("completed_at", or_null("integer")),
        ("data?", output),
        ("error?", object([("message", string())])),
    ]);
    let mut ended = task.clone();
    ended["properties"]["video_id"] = string();
    ended["properties"]["video_url"] = or_null("string");
    ended["properties"]["duration"] = or_null("number");
    json!({
        "JoggInput": object([
            ("video_url", text()), ("audio_url", text()), ("playback_type?", optional(PlaybackType::NAMES)),
        ]),
        "JoggFileName": object([
            ("filename", string()),
            ("content_type?", or_null("string")),
            ("file_size?", json!({"type": ["integer", "null"], "minimum": 0})),
        ]),
        "JoggCreated": envelope(object([("task_id", string()), ("status", one_of(&["pending"]))])),
        "JoggTask": envelope(task),
        "JoggAsset": envelope(object([("sign_url", string()), ("asset_url", string())])),
        "JoggMessage": object([
            ("event_id", string()),
            ("event", one_of(&["generated_video_success", "generated_video_failed"])),
            ("timestamp", integer()),
            ("data", ended),
        ]),
        "JoggError": object([
            ("code", json!({"enum": [10104, 10105, 40000, 50000]})),
            ("msg", string()),
            ("data", json!({"type": "null"})),
        ]),
    })
}

fn endpoint_schemas() -> Value {
    let endpoint = object([
        ("endpoint_id", string()),
        ("url", string()),
        ("secret", string()),
        ("status", one_of(&["enabled", "disabled"])),
        ("events", list_of(string())),
        ("username", string()),
        ("created_at", integer()),
    ]);
    json!({
        "JoggSettings": object([
            ("url", web_url("https?")),
            ("events", json!({"type": "array", "items": string(), "minItems": 1})),
            ("status?", optional(&["enabled", "disabled"])),
        ]),
        "JoggEndpoint": endpoint,
        "JoggEndpointAnswer": envelope(reference("JoggEndpoint")),
        "JoggEndpoints": envelope(object([("endpoints", list_of(reference("JoggEndpoint")))])),
        "JoggEvents": envelope(object([("events", list_of(string()))])),
        "JoggNothing": envelope(json!({"type": "object"})),
    })
}
