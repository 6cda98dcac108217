//! The routes of [`local`](super) and their OpenAPI operations and schemas.

use serde_json::{Value, json};

use super::{cancel, events, list, server, show};
use crate::server::openapi::Operation;
use crate::server::openapi::schemas::{
    events as event_stream, integer, list_of, number, object, one_of, or_null, reference, string,
};
use crate::server::reply::detail;
use crate::server::routes::Routes;

pub fn routes() -> Routes {
    let call = |summary: &str, statuses: &[u16]| Operation::new(summary).error_responses("Detail", statuses);
    let settings = call("what the server's command line says", &[]).response(200, reference("LocalServer"));
    let jobs = call("the key's newest jobs, whatever API they came by", &[]);
    let job = call("a job", &[404]).response(200, reference("LocalJob"));
    let stream = call("a job and what is new in its log, as server-sent events", &[404])
        .parameter("header", "Last-Event-ID", string())
        .response_as(200, "text/event-stream", event_stream("the job and the lines of the log that are new"));
    let cancellation = call("cancel", &[404, 409]).response(202, reference("LocalJob"));
    Routes::new("page")
        .get("/local/server", server, settings)
        .get("/local/jobs", list, jobs.response(200, reference("LocalJobs")))
        .get("/local/jobs/{id}", show, job)
        .get("/local/jobs/{id}/events", events, stream)
        .post("/local/jobs/{id}/cancel", cancel, cancellation)
        .errors(detail)
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
