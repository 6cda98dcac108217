//! What the page needs and no vendor has.

use serde_json::{Value, json};

use super::schemas::{events, integer, list_of, number, object, one_of, or_null, reference, string};
use super::{Operation, Paths};

const TAG: &str = "page";

pub fn paths(paths: &mut Paths) {
    let call = |summary: &str, statuses: &[u16]| Operation::new(summary).fails("Detail", statuses);
    let server = call("what the server's command line says", &[]).gives(200, reference("LocalServer"));
    paths.add(TAG, "get", "/local/server", server);
    let list = call("the key's newest jobs, whatever API they came by", &[]);
    paths.add(TAG, "get", "/local/jobs", list.gives(200, reference("LocalJobs")));
    let job = call("a job", &[404]).gives(200, reference("LocalJob"));
    paths.add(TAG, "get", "/local/jobs/{id}", job);
    let events = call("a job and what is new in its log, as server-sent events", &[404])
        .asks("header", "Last-Event-ID", string())
        .gives_as(200, "text/event-stream", events("the job and the lines of the log that are new"));
    paths.add(TAG, "get", "/local/jobs/{id}/events", events);
    let cancel = call("cancel", &[404, 409]).gives(202, reference("LocalJob"));
    paths.add(TAG, "post", "/local/jobs/{id}/cancel", cancel);
}

pub fn schemas() -> Value {
    let stage = object([("name", string()), ("done", integer()), ("total", or_null("integer"))]);
    let mut error = object([("field", or_null("string")), ("message", string())]);
    error["type"] = json!(["object", "null"]);
    let mut output = object([
        ("url", string()),
        ("bytes", integer()),
        ("seconds", number()),
        ("seed", string()),
        ("frames", or_null("integer")),
        ("frames_without_face", integer()),
        ("warnings", integer()),
    ]);
    output["type"] = json!(["object", "null"]);
    json!({
        "LocalServer": object([
            ("version", string()), ("model", or_null("string")), ("steps", integer()), ("max_upload", integer()),
        ]),
        "LocalJobs": object([("jobs", list_of(reference("LocalJob")))]),
        "LocalJob": object([
            ("id", string()),
            ("api", string()),
            ("state", one_of(&["queued", "running", "completed", "failed", "cancelled"])),
            ("created_at", integer()),
            ("started_at", or_null("integer")),
            ("ended_at", or_null("integer")),
            ("attempts", integer()),
            ("body", json!({"type": "object"})),
            ("position", or_null("integer")),
            ("stages", list_of(stage)),
            ("error", error),
            ("output", output),
        ]),
    })
}
