//! fal: the queue, the run, the stream, the proxy, the webhook.

use serde_json::{Value, json};

use super::schemas::{
    events, integer, list_of, number, object, one_of, reference, seed, string, text, webhook_query,
};
use super::{Operation, Paths};
use crate::options::{LoopMode, SyncMode};

const TAG: &str = "fal";
/// The URLs that the proxy stands for.
const TARGETS: &str = r"^https://((queue\.)?(fal\.run|falrun\.com)|rest(\.alpha)?\.fal\.ai|v3\.fal\.media)(/[A-Za-z0-9._~/?=&:-]*)?$";

pub fn paths(paths: &mut Paths) {
    let submission = |summary: &str, input: &str| {
        Operation::new(summary)
            .takes(reference(input))
            .asks("header", "X-Fal-Request-Timeout", json!({"type": "number", "exclusiveMinimum": 0.1}))
            .gives(422, reference("FalInvalid"))
            .fails("FalError", &[400, 404, 408, 413, 429, 503])
    };
    let run = |summary: &str, input: &str| {
        submission(summary, input).gives(499, reference("FalError")).gives(504, reference("FalError"))
    };
    let either = json!({"anyOf": [reference("FalOutput"), reference("FalStatus")]});
    for (alias, input) in [("latentsync", "FalInput"), ("sync-lipsync", "FalLipsyncInput")] {
        let at_once = run("fal.run: run and wait", input).gives(200, reference("FalOutput"));
        add(paths, "post", &format!("/fal/run/fal-ai/{alias}"), at_once);
        let by_request = run("fal.run; queue.fal.run where host, header or webhook say so", input)
            .asks("query", "fal_webhook", webhook_query())
            .asks("header", "X-Fal-Queue-Priority", string())
            .gives(200, either.clone());
        add(paths, "post", &format!("/fal-ai/{alias}"), by_request);
        for prefix in ["/fal/run", ""] {
            let stream = submission("fal.run: run, and tell of it in server-sent events", input).gives_as(
                200,
                "text/event-stream",
                events("how far it is, and of the last one the output"),
            );
            add(paths, "post", &format!("{prefix}/fal-ai/{alias}/stream"), stream);
        }
    }
    for (subpath, input) in [
        ("latentsync", "FalInput"),
        ("sync-lipsync", "FalLipsyncInput"),
        ("sync-lipsync/v2", "FalLipsync2Input"),
        ("sync-lipsync/v2/pro", "FalLipsync3Input"),
        ("sync-lipsync/v3", "FalLipsync3Input"),
    ] {
        let queued = submission("queue.fal.run: submit", input)
            .asks("query", "fal_webhook", webhook_query())
            .asks("header", "X-Fal-Queue-Priority", string())
            .gives(200, reference("FalStatus"));
        add(paths, "post", &format!("/fal/queue/fal-ai/{subpath}"), queued);
    }
    for prefix in ["", "/fal/queue"] {
        requests(paths, prefix);
    }
    proxy(paths);
}

fn requests(paths: &mut Paths, prefix: &str) {
    let of_request = |summary: &str| {
        Operation::new(summary)
            .asks("path", "alias", one_of(&["latentsync", "sync-lipsync"]))
            .gives(422, reference("FalInvalid"))
            .fails("FalError", &[404])
    };
    let path = format!("{prefix}/fal-ai/{{alias}}/requests/{{id}}");
    let result = of_request("the result")
        .gives(200, reference("FalOutput"))
        .gives(400, reference("FalError"))
        .gives(499, reference("FalError"))
        .gives(504, reference("FalError"));
    add(paths, "get", &path, result);
    let status = of_request("the status")
        .query("logs")
        .gives(200, reference("FalStatus"))
        .gives(202, reference("FalStatus"));
    add(paths, "get", &format!("{path}/status"), status);
    let stream = of_request("the status, as server-sent events").query("logs");
    let stream = stream.gives_as(200, "text/event-stream", events("a FalStatus"));
    add(paths, "get", &format!("{path}/status/stream"), stream);
    let cancel = [200, 202, 400]
        .iter()
        .fold(of_request("cancel"), |cancel, &status| cancel.gives(status, reference("FalCancel")));
    let unknown = json!({"anyOf": [reference("FalCancel"), reference("FalError")]});
    add(paths, "put", &format!("{path}/cancel"), cancel.gives(404, unknown));
}

/// The proxy passes on what the others answer.
fn proxy(paths: &mut Paths) {
    let call = || {
        [200, 202, 404]
            .iter()
            .fold(Operation::new("what the URL in the header would answer"), |call, &status| {
                call.gives(status, json!({}))
            })
            .asks("header", "x-fal-target-url", json!({"type": "string", "pattern": TARGETS}))
            .gives(422, reference("FalInvalid"))
            .fails("FalError", &[405, 408, 413, 429, 499, 503, 504])
            .gives(400, json!({}))
    };
    add(paths, "get", "/fal/proxy", call());
    for method in ["post", "put"] {
        let call = call().may_take("application/json", json!({}));
        add(paths, method, "/fal/proxy", call);
    }
}

fn add(paths: &mut Paths, method: &str, path: &str, operation: Operation) {
    let operation = operation.tells("x-fal-request-id").tells("x-fal-error-type").tells("x-fal-retryable");
    paths.add(TAG, method, path, operation);
}

pub fn webhook() -> Value {
    Operation::new("a request that was submitted with `fal_webhook` has ended")
        .takes(reference("FalWebhook"))
        .into_webhook(&[
            "X-Fal-Webhook-Request-Id",
            "X-Fal-Webhook-User-Id",
            "X-Fal-Webhook-Timestamp",
            "X-Fal-Webhook-Signature",
        ])
}

/// What sync.so's models take; `models` are those that may be named, if any.
fn lipsync(models: &[&str]) -> Value {
    let mut schema =
        object([("video_url", text()), ("audio_url", text()), ("sync_mode?", one_of(SyncMode::NAMES))]);
    if !models.is_empty() {
        schema["properties"]["model"] = one_of(models);
    }
    schema
}

pub fn schemas() -> Value {
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
        ("url", string()),
        ("ctx", json!({"type": "object"})),
        ("input", json!({})),
    ]);
    let loop_mode: Vec<Value> =
        LoopMode::NAMES.iter().map(|&name| name.into()).chain([Value::Null]).collect();
    let mut whole = seed(&["integer", "string", "null"]);
    whole["pattern"] = "^[+-]?[0-9]{1,30}$".into();
    // Numbers may come as strings, as pydantic reads them.
    let guidance = json!({"anyOf": [
        {"type": "number", "minimum": 1, "maximum": 2},
        {"type": "string", "pattern": "^(1(\\.[0-9]{0,9})?|2(\\.0{0,9})?)$"},
    ]});
    json!({
        "FalInput": object([
            ("video_url", text()),
            ("audio_url", text()),
            ("guidance_scale?", guidance),
            ("seed?", whole),
            ("loop_mode?", json!({"type": ["string", "null"], "enum": loop_mode})),
        ]),
        "FalLipsyncInput": lipsync(&["lipsync-1.9.0-beta", "lipsync-1.8.0", "lipsync-1.7.1"]),
        "FalLipsync2Input": lipsync(&["lipsync-2", "lipsync-2-pro"]),
        "FalLipsync3Input": lipsync(&[]),
        "FalOutput": object([("video", file)]),
        "FalStatus": object([
            ("status", one_of(&["IN_QUEUE", "IN_PROGRESS", "COMPLETED"])),
            ("request_id", string()),
            ("gateway_request_id?", string()),
            ("response_url", string()),
            ("status_url", string()),
            ("cancel_url", string()),
            ("queue_position?", integer()),
            ("logs", list_of(log)),
            ("metrics?", object([("inference_time", number())])),
            ("error?", json!({"type": ["string", "null"]})),
            ("error_type?", json!({"type": ["string", "null"]})),
        ]),
        "FalCancel": object([
            ("status", one_of(&["OK", "CANCELLATION_REQUESTED", "ALREADY_COMPLETED", "NOT_FOUND"])),
        ]),
        "FalInvalid": object([("detail", list_of(detail))]),
        "FalError": object([("detail", string()), ("error_type?", string())]),
        "FalWebhook": object([
            ("request_id", string()),
            ("gateway_request_id", string()),
            ("status", one_of(&["OK", "ERROR"])),
            ("payload", json!({"anyOf": [
                reference("FalOutput"), reference("FalInvalid"), reference("FalError"),
            ]})),
            ("error?", string()),
        ]),
    })
}
