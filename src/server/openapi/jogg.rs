//! JoggAI: tasks, uploads, webhook endpoints. Mistakes are answered with 200, and told by `code`.

use serde_json::{Value, json};

use super::schemas::{
    integer, list_of, number, object, one_of, optional, or_null, reference, string, text, web_url,
};
use super::{Operation, Paths};
use crate::options::PlaybackType;

const TAG: &str = "JoggAI";

pub fn paths(paths: &mut Paths) {
    let call = |summary: &str, answer: &str| {
        let answer = json!({"anyOf": [reference(answer), reference("JoggError")]});
        let operation = Operation::new(summary).gives(200, answer);
        [408, 429, 503].iter().fold(operation, |call, &status| call.gives(status, reference("JoggError")))
    };
    for base in ["/open/v2", "/v2"] {
        let mut add = |method: &str, path: &str, operation: Operation| {
            paths.add(TAG, method, &format!("{base}{path}"), operation);
        };
        add(
            "post",
            "/create_lip_sync_video",
            call("create a task", "JoggCreated").takes(reference("JoggInput")),
        );
        add("get", "/lip_sync_video/{id}", call("a task", "JoggTask"));
        let find = call("the newest task with these inputs", "JoggTask");
        let find = find.query("video_url").query("audio_url").query("playback_type");
        add("get", "/lip_sync_video", find);
        let asset = call("a URL to put a file to", "JoggAsset").takes(reference("JoggFileName"));
        add("post", "/upload/asset", asset);
        let endpoint = |summary: &str| call(summary, "JoggEndpointAnswer").takes(reference("JoggSettings"));
        add("post", "/endpoint", endpoint("register an endpoint for webhooks"));
        add("put", "/endpoint/{id}", endpoint("change it"));
        add("delete", "/endpoint/{id}", call("remove it", "JoggNothing"));
        add("get", "/endpoints", call("all of them", "JoggEndpoints"));
        add("get", "/events", call("what they can be told of", "JoggEvents"));
    }
}

pub fn webhook() -> Value {
    Operation::new("a task has ended, and a registered endpoint wants to know")
        .takes(reference("JoggMessage"))
        .into_webhook(&["X-Webhook-Event", "X-Webhook-Signature"])
}

/// What everything that went well is wrapped in.
fn envelope(data: Value) -> Value {
    object([("code", json!({"const": 0})), ("msg", string()), ("data", data)])
}

pub fn schemas() -> Value {
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
        "JoggInput": object([
            ("video_url", text()), ("audio_url", text()), ("playback_type?", optional(PlaybackType::NAMES)),
        ]),
        "JoggFileName": object([
            ("filename", string()),
            ("content_type?", or_null("string")),
            ("file_size?", json!({"type": ["integer", "null"], "minimum": 0})),
        ]),
        "JoggSettings": object([
            ("url", web_url("https?")),
            ("events", json!({"type": "array", "items": string(), "minItems": 1})),
            ("status?", optional(&["enabled", "disabled"])),
        ]),
        "JoggCreated": envelope(object([("task_id", string()), ("status", one_of(&["pending"]))])),
        "JoggTask": envelope(task),
        "JoggAsset": envelope(object([("sign_url", string()), ("asset_url", string())])),
        "JoggEndpoint": endpoint,
        "JoggEndpointAnswer": envelope(reference("JoggEndpoint")),
        "JoggEndpoints": envelope(object([("endpoints", list_of(reference("JoggEndpoint")))])),
        "JoggEvents": envelope(object([("events", list_of(string()))])),
        "JoggNothing": envelope(json!({"type": "object"})),
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
