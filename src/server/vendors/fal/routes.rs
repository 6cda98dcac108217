//! fal's routes and their OpenAPI operations and schemas.

use axum::extract::State;
use serde_json::{Value, json};

use super::{MAX_BODY, events, proxy, queue, run, storage_routes, submit_or_run};
use crate::options::{LoopMode, SyncMode};
use crate::server::app::App;
use crate::server::openapi::Operation;
use crate::server::openapi::schemas::{
    events as event_stream, integer, list_of, merged, number, object, one_of, reference, seed, string, text,
    webhook_query,
};
use crate::server::problem::Problem;
use crate::server::routes::Routes;

pub const TAG: &str = "fal";
/// The URLs that the proxy accepts.
const TARGETS: &str = r"^https://((queue\.)?(fal\.run|falrun\.com)|rest(\.alpha)?\.fal\.ai|v3\.fal\.media)(/[A-Za-z0-9._~/?=&:-]*)?$";

/// The whole API.
pub fn routes() -> Routes {
    let hosts = hosts();
    // The proxy calls the other routes; an unknown path is answered as fal does.
    let proxied = hosts.router().clone().fallback(|| async { Problem::NotFound("path") });
    let forward = move |State(app): State<App>, request| proxy::forward(app, proxied.clone(), request);
    hosts
        .get("/fal/proxy", forward.clone(), proxy_call())
        .post(
            "/fal/proxy",
            forward.clone(),
            proxy_call().optional_request_body("application/json", json!({})),
        )
        .put("/fal/proxy", forward, proxy_call().optional_request_body("application/json", json!({})))
}

/// The routes of fal's hosts: each below the prefix of its host, and all of them at the root.
fn hosts() -> Routes {
    let storage = storage_routes::routes();
    Routes::new(TAG)
        .nest("/fal/queue", queue_submissions().merge(requests()))
        .nest("/fal/run", runs())
        .nest("/fal/rest", storage.clone())
        .merge(submissions_at_the_root().merge(requests()))
        .merge(storage)
}

const APPLICATION: &str = "/fal-ai/{alias}";
const APPLICATION_BELOW: &str = "/fal-ai/{alias}/{*subpath}";
/// The applications without sub-paths, and the schemas of their inputs.
const APPLICATIONS: [(&str, &str); 2] = [("latentsync", "FalInput"), ("sync-lipsync", "FalLipsyncInput")];

fn runs() -> Routes {
    let run = |input: &str| {
        with_headers(runnable("fal.run: run and wait", input).response(200, reference("FalOutput")))
    };
    Routes::new(TAG)
        .post_variants(
            APPLICATION,
            run::run,
            APPLICATIONS.map(|(alias, input)| (format!("/fal-ai/{alias}"), run(input))),
        )
        .post_variants(APPLICATION_BELOW, run::run, streams())
        .body_limit(Some(MAX_BODY))
}

fn queue_submissions() -> Routes {
    let queued = |input: &str| {
        with_headers(
            submission("queue.fal.run: submit", input)
                .parameter("query", "fal_webhook", webhook_query())
                .parameter("header", "X-Fal-Queue-Priority", string())
                .response(200, reference("FalStatus")),
        )
    };
    let below = [("v2", "FalLipsync2Input"), ("v2/pro", "FalLipsync3Input"), ("v3", "FalLipsync3Input")];
    Routes::new(TAG)
        .post_variants(
            APPLICATION,
            queue::submit,
            APPLICATIONS.map(|(alias, input)| (format!("/fal-ai/{alias}"), queued(input))),
        )
        .post_variants(
            APPLICATION_BELOW,
            queue::submit,
            below.map(|(subpath, input)| (format!("/fal-ai/sync-lipsync/{subpath}"), queued(input))),
        )
        .body_limit(Some(MAX_BODY))
}

/// The paths that fal.run and queue.fal.run share.
fn submissions_at_the_root() -> Routes {
    let either = json!({"anyOf": [reference("FalOutput"), reference("FalStatus")]});
    let by_request = |input: &str| {
        with_headers(
            runnable("fal.run; queue.fal.run where host, header or webhook say so", input)
                .parameter("query", "fal_webhook", webhook_query())
                .parameter("header", "X-Fal-Queue-Priority", string())
                .response(200, either.clone()),
        )
    };
    Routes::new(TAG)
        .post_variants(
            APPLICATION,
            submit_or_run,
            APPLICATIONS.map(|(alias, input)| (format!("/fal-ai/{alias}"), by_request(input))),
        )
        .post_variants(APPLICATION_BELOW, submit_or_run, streams())
        .body_limit(Some(MAX_BODY))
}

fn streams() -> [(String, Operation); 2] {
    APPLICATIONS.map(|(alias, input)| {
        let stream = submission("fal.run: run, and tell of it in server-sent events", input).response_as(
            200,
            "text/event-stream",
            event_stream("how far it is, and of the last one the output"),
        );
        (format!("/fal-ai/{alias}/stream"), with_headers(stream))
    })
}

fn submission(summary: &str, input: &str) -> Operation {
    Operation::new(summary)
        .request_body(reference(input))
        .parameter("header", "X-Fal-Request-Timeout", json!({"type": "number", "exclusiveMinimum": 0.1}))
        .response(422, reference("FalInvalid"))
        .error_responses("FalError", &[400, 404, 408, 413, 429, 503])
}

/// A submission whose response may be that of the finished job.
fn runnable(summary: &str, input: &str) -> Operation {
    submission(summary, input).response(499, reference("FalError")).response(504, reference("FalError"))
}

/// Routes of a submitted request.
fn requests() -> Routes {
    let of_request = |summary: &str| {
        Operation::new(summary)
            .parameter("path", "alias", one_of(&["latentsync", "sync-lipsync"]))
            .response(422, reference("FalInvalid"))
            .error_responses("FalError", &[404])
    };
    let result = of_request("the result")
        .response(200, reference("FalOutput"))
        .response(400, reference("FalError"))
        .response(499, reference("FalError"))
        .response(504, reference("FalError"));
    let status = of_request("the status")
        .query_parameter("logs")
        .response(200, reference("FalStatus"))
        .response(202, reference("FalStatus"));
    let stream = of_request("the status, as server-sent events").query_parameter("logs");
    let stream = stream.response_as(200, "text/event-stream", event_stream("a FalStatus"));
    let cancel = [200, 202, 400]
        .iter()
        .fold(of_request("cancel"), |cancel, &status| cancel.response(status, reference("FalCancel")));
    let unknown = json!({"anyOf": [reference("FalCancel"), reference("FalError")]});
    Routes::new(TAG)
        .get("/fal-ai/{alias}/requests/{id}", queue::result, with_headers(result))
        .get("/fal-ai/{alias}/requests/{id}/status", queue::status, with_headers(status))
        .get("/fal-ai/{alias}/requests/{id}/status/stream", events::status, with_headers(stream))
        .put(
            "/fal-ai/{alias}/requests/{id}/cancel",
            queue::cancel,
            with_headers(cancel.response(404, unknown)),
        )
}

/// The proxy returns the responses of the other routes.
fn proxy_call() -> Operation {
    let call = [200, 202, 404]
        .iter()
        .fold(Operation::new("what the URL in the header would answer"), |call, &status| {
            call.response(status, json!({}))
        })
        .required_header("x-fal-target-url", json!({"type": "string", "pattern": TARGETS}))
        .response(422, reference("FalInvalid"))
        .error_responses("FalError", &[405, 408, 413, 429, 499, 503, 504])
        .response(400, json!({}));
    with_headers(call)
}

/// The headers that fal's responses have.
fn with_headers(operation: Operation) -> Operation {
    operation
        .response_header("x-fal-request-id")
        .response_header("x-fal-error-type")
        .response_header("x-fal-retryable")
}

pub fn webhook_operation() -> Value {
    Operation::new("a request that was submitted with `fal_webhook` has ended")
        .request_body(reference("FalWebhook"))
        .into_webhook(&[
            "X-Fal-Webhook-Request-Id",
            "X-Fal-Webhook-User-Id",
            "X-Fal-Webhook-Timestamp",
            "X-Fal-Webhook-Signature",
        ])
}

/// The input of sync.so's models. `models` are the names that the body may contain; empty if it has no such
/// field.
fn lipsync(models: &[&str]) -> Value {
    let mut schema =
        object([("video_url", text()), ("audio_url", text()), ("sync_mode?", one_of(SyncMode::NAMES))]);
    if !models.is_empty() {
        schema["properties"]["model"] = one_of(models);
    }
    schema
}

pub fn schemas() -> Value {
    merged([input_schemas(), response_schemas()])
}

fn input_schemas() -> Value {
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
    })
}

/// Responses, and the webhook message.
fn response_schemas() -> Value {
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
    json!({
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
