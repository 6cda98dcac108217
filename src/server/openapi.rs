//! `/openapi.json`: every path that the server answers, as an OpenAPI 3.1 document.

mod schemas;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use serde_json::{Map, Value, json};

use super::app::App;
use super::reply;
use schemas::{reference, string};

pub fn router() -> Router<App> {
    Router::new().route("/openapi.json", get(|| async { reply::json(StatusCode::OK, &document()) }))
}

/// The whole document.
pub fn document() -> Value {
    let mut paths = Paths::default();
    fal(&mut paths);
    fal_storage(&mut paths);
    eachlabs(&mut paths);
    wavespeed(&mut paths);
    jogg(&mut paths);
    sync_so(&mut paths);
    media(&mut paths);
    own(&mut paths);
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "latentsync serve",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "The hosted LatentSync APIs, answered by this machine. Where the server has keys, \
                            one is asked for in any of the vendors' header styles.",
        },
        "security": [{}, {"key": []}, {"bearer": []}],
        "paths": paths.0,
        "components": {
            "securitySchemes": {
                "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
                "bearer": {"type": "http", "scheme": "bearer"},
            },
            "schemas": schemas::all(),
        },
    })
}

#[derive(Default)]
struct Paths(Map<String, Value>);

impl Paths {
    fn add(&mut self, tag: &str, method: &str, path: &str, operation: Operation) {
        let mut value = operation.0;
        value["tags"] = json!([tag]);
        let named = path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
        let named =
            named.map(|name| json!({"name": name, "in": "path", "required": true, "schema": string()}));
        let mut parameters: Vec<Value> = named.collect();
        parameters.extend(value["parameters"].as_array().into_iter().flatten().cloned());
        value["parameters"] = parameters.into();
        let methods = self.0.entry(path.to_string()).or_insert_with(|| json!({}));
        methods[method] = value;
    }
}

/// One method of a path.
struct Operation(Value);

impl Operation {
    fn new(summary: &str) -> Self {
        Self(json!({"summary": summary, "responses": {}}))
    }

    fn takes(self, schema: Value) -> Self {
        self.takes_as("application/json", schema)
    }

    fn takes_as(mut self, kind: &str, schema: Value) -> Self {
        self.0["requestBody"] = json!({"required": true, "content": {kind: {"schema": schema}}});
        self
    }

    fn asks(mut self, place: &str, name: &str, schema: Value) -> Self {
        let required = name == "x-fal-target-url";
        let parameter = json!({"name": name, "in": place, "required": required, "schema": schema});
        match self.0["parameters"].as_array_mut() {
            Some(parameters) => parameters.push(parameter),
            None => self.0["parameters"] = json!([parameter]),
        }
        self
    }

    fn query(self, name: &str) -> Self {
        self.asks("query", name, string())
    }

    fn gives(self, status: u16, schema: Value) -> Self {
        self.gives_as(status, "application/json", schema)
    }

    fn gives_as(mut self, status: u16, kind: &str, schema: Value) -> Self {
        self.0["responses"][status.to_string()] =
            json!({"description": meaning(status), "content": {kind: {"schema": schema}}});
        self
    }

    fn gives_nothing(mut self, status: u16) -> Self {
        self.0["responses"][status.to_string()] = json!({"description": meaning(status)});
        self
    }

    /// Errors of one shape; those that any path may have come with it.
    fn fails(self, schema: &str, statuses: &[u16]) -> Self {
        let always = [401, 403, 500];
        always
            .iter()
            .chain(statuses)
            .fold(self, |operation, &status| operation.gives(status, reference(schema)))
    }

    fn open(mut self) -> Self {
        self.0["security"] = json!([]);
        self
    }
}

fn meaning(status: u16) -> &'static str {
    match status {
        200 => "done",
        201 => "created",
        202 => "accepted, or not finished",
        206 => "the range that was asked for",
        400 => "wrong, too early or too late",
        401 => "no key, or a wrong one",
        403 => "sent by a foreign web page",
        404 => "unknown",
        409 => "contradicts the upload's state",
        413 => "too large",
        416 => "no such range",
        422 => "mistakes in the request or in its files",
        429 => "more than is allowed now",
        499 => "cancelled",
        503 => "not ready",
        504 => "not started in time",
        _ => "failed",
    }
}

fn binary() -> Value {
    json!({"type": "string", "format": "binary"})
}

fn fal(paths: &mut Paths) {
    const TAG: &str = "fal";
    let submission = |summary: &str| {
        Operation::new(summary)
            .takes(reference("FalInput"))
            .gives(422, reference("FalInvalid"))
            .fails("FalError", &[413, 429])
    };
    let run = |summary: &str| {
        submission(summary)
            .asks("header", "X-Fal-Request-Timeout", string())
            .gives(499, reference("FalError"))
            .gives(504, reference("FalError"))
    };
    let queued = submission("queue.fal.run: submit").query("fal_webhook").gives(200, reference("FalStatus"));
    paths.add(TAG, "post", "/fal/queue/fal-ai/latentsync", queued);
    let at_once = run("fal.run: run and wait").gives(200, reference("FalOutput"));
    paths.add(TAG, "post", "/fal/run/fal-ai/latentsync", at_once);
    let either = json!({"anyOf": [reference("FalOutput"), reference("FalStatus")]});
    let by_host = run("fal.run; queue.fal.run for a host that begins with `queue.`, or with a webhook")
        .query("fal_webhook")
        .gives(200, either);
    paths.add(TAG, "post", "/fal-ai/latentsync", by_host);

    let of_request = |summary: &str| Operation::new(summary).fails("FalError", &[404]);
    let result = of_request("the result")
        .gives(200, reference("FalOutput"))
        .gives(422, reference("FalInvalid"))
        .gives(400, reference("FalError"))
        .gives(499, reference("FalError"));
    paths.add(TAG, "get", "/fal-ai/latentsync/requests/{id}", result);
    let status = of_request("the status")
        .query("logs")
        .gives(200, reference("FalStatus"))
        .gives(202, reference("FalStatus"));
    paths.add(TAG, "get", "/fal-ai/latentsync/requests/{id}/status", status);
    let stream = of_request("the status, as server-sent events").query("logs");
    let stream = stream.gives_as(200, "text/event-stream", string());
    paths.add(TAG, "get", "/fal-ai/latentsync/requests/{id}/status/stream", stream);
    let cancel = [202, 400, 404]
        .iter()
        .fold(of_request("cancel"), |cancel, &status| cancel.gives(status, reference("FalCancel")));
    paths.add(TAG, "put", "/fal-ai/latentsync/requests/{id}/cancel", cancel);

    let proxy = Operation::new("what the header's URL would answer; also for GET and PUT")
        .asks("header", "x-fal-target-url", string())
        .takes(json!({}))
        .gives(200, json!({}))
        .gives(202, json!({}))
        .gives(422, reference("FalInvalid"))
        .fails("FalError", &[400, 404, 413, 429, 499, 504]);
    paths.add(TAG, "post", "/fal/proxy", proxy);
    let jwks = Operation::new("the key that webhooks are signed with").gives(200, reference("Jwks")).open();
    paths.add(TAG, "get", "/.well-known/jwks.json", jwks);
}

fn fal_storage(paths: &mut Paths) {
    const TAG: &str = "fal";
    for path in ["/storage/upload/initiate", "/storage/upload/initiate-multipart"] {
        let initiate = Operation::new("a URL to put a file to, or its parts below it")
            .takes(reference("FalFileName"))
            .gives(200, reference("FalSlot"))
            .gives(422, reference("FalInvalid"))
            .fails("FalError", &[413]);
        paths.add(TAG, "post", path, initiate);
    }
    let token = Operation::new("a permission to upload").gives(200, reference("FalToken"));
    paths.add(TAG, "post", "/storage/auth/token", token.fails("FalError", &[]));
    let upload = Operation::new("a file, in one piece")
        .takes_as("application/octet-stream", binary())
        .gives(200, reference("FalUploaded"))
        .gives(422, reference("FalInvalid"))
        .fails("FalError", &[413]);
    paths.add(TAG, "post", "/files/upload", upload);
    let begin = Operation::new("the beginning of a file in parts").gives(200, reference("FalUploaded"));
    paths.add(TAG, "post", "/files/upload/multipart", begin.fails("FalError", &[]));
}

fn eachlabs(paths: &mut Paths) {
    const TAG: &str = "eachlabs";
    let creation = |summary: &str, answer: &str| {
        Operation::new(summary)
            .takes(reference("EachlabsCreate"))
            .gives(200, reference(answer))
            .fails("EachlabsError", &[400, 404, 413, 429])
    };
    for path in ["/v1/prediction", "/v1/prediction/"] {
        paths.add(TAG, "post", path, creation("create a prediction", "EachlabsCreated"));
    }
    paths.add(TAG, "post", "/v1/prediction/run", creation("create one and wait for it", "EachlabsRun"));
    let known = |summary: &str, answer: &str, statuses: &[u16]| {
        Operation::new(summary).gives(200, reference(answer)).fails("EachlabsError", statuses)
    };
    paths.add(TAG, "get", "/v1/prediction/{id}", known("a prediction", "EachlabsPrediction", &[404]));
    let cancel = known("cancel", "EachlabsCancelled", &[400, 404]);
    paths.add(TAG, "post", "/v1/prediction/{id}/cancel", cancel);
    let limit = json!({"type": "integer", "minimum": 0});
    let list = known("webhooks' deliveries", "EachlabsWebhooks", &[400]).asks("query", "limit", limit);
    paths.add(TAG, "get", "/v1/webhooks", list);
    paths.add(TAG, "get", "/v1/webhooks/{id}", known("a prediction's", "EachlabsWebhooks", &[404]));
}

fn wavespeed(paths: &mut Paths) {
    const TAG: &str = "wavespeed";
    let call = |summary: &str, answer: &str, statuses: &[u16]| {
        Operation::new(summary).gives(200, reference(answer)).fails("WavespeedError", statuses)
    };
    for (model, input) in
        [("bytedance/latentsync", "WavespeedInput"), ("sync/lipsync-1.9.0-beta", "WavespeedLipsyncInput")]
    {
        let submit = call("submit; in sync mode, wait", "WavespeedEnvelope", &[400, 413, 429]);
        let submit = submit.takes(reference(input)).query("webhook");
        paths.add(TAG, "post", &format!("/api/v3/{model}"), submit);
    }
    for path in ["/api/v3/predictions/{id}", "/api/v3/predictions/{id}/result"] {
        paths.add(TAG, "get", path, call("a prediction", "WavespeedEnvelope", &[404]));
    }
    let ticket = call("a URL to put a file to", "WavespeedTicket", &[400, 413]);
    paths.add(TAG, "post", "/api/v3/media/uploads", ticket.takes(reference("WavespeedFileName")));
    let form = json!({"type": "object", "properties": {"file": binary()}, "required": ["file"]});
    let upload = call("a file", "WavespeedUploaded", &[400, 413]).takes_as("multipart/form-data", form);
    paths.add(TAG, "post", "/api/v3/media/upload/binary", upload);
    let secret = call("the secret that webhooks are signed with", "WavespeedSecret", &[]);
    paths.add(TAG, "get", "/api/v3/webhook/secret", secret);
}

fn jogg(paths: &mut Paths) {
    const TAG: &str = "JoggAI";
    let call = |summary: &str| {
        let operation = Operation::new(summary);
        [200, 413, 429]
            .iter()
            .fold(operation, |operation, &status| operation.gives(status, reference("JoggAnswer")))
    };
    for base in ["/open/v2", "/v2"] {
        let create = call("create a task").takes(reference("JoggInput"));
        paths.add(TAG, "post", &format!("{base}/create_lip_sync_video"), create);
        paths.add(TAG, "get", &format!("{base}/lip_sync_video/{{id}}"), call("a task"));
        let find = call("the newest task with these inputs");
        let find = find.query("video_url").query("audio_url").query("playback_type");
        paths.add(TAG, "get", &format!("{base}/lip_sync_video"), find);
        let asset = call("a URL to put a file to").takes(reference("JoggFileName"));
        paths.add(TAG, "post", &format!("{base}/upload/asset"), asset);
    }
}

fn sync_so(paths: &mut Paths) {
    const TAG: &str = "sync.so";
    let call = |summary: &str, statuses: &[u16]| Operation::new(summary).fails("SyncError", statuses);
    let create = call("create a generation; also as a form with the files", &[400, 413, 429])
        .takes(reference("SyncCreate"))
        .gives(201, reference("SyncGeneration"));
    paths.add(TAG, "post", "/v2/generate", create);
    let show = call("a generation", &[404]).gives(200, reference("SyncGeneration"));
    paths.add(TAG, "get", "/v2/generate/{id}", show);
    let list = json!({"type": "array", "items": reference("SyncGeneration")});
    let list = call("generations, the newest first", &[]).query("status").gives(200, list);
    paths.add(TAG, "get", "/v2/generations", list);
    let cost = call("what a generation would cost: nothing", &[400, 413])
        .takes(reference("SyncCreate"))
        .gives(200, json!({"type": "array", "items": {"type": "object"}}));
    paths.add(TAG, "post", "/v2/analyze/cost", cost);
}

fn media(paths: &mut Paths) {
    const TAG: &str = "files";
    let call = |summary: &str, statuses: &[u16]| {
        statuses.iter().fold(Operation::new(summary).open(), |operation, &status| {
            operation.gives(status, reference("Detail"))
        })
    };
    let read = call("a result or an upload, whole or in ranges", &[404, 500])
        .gives_as(200, "*/*", binary())
        .gives_as(206, "*/*", binary())
        .gives_nothing(416);
    paths.add(TAG, "get", "/media/{id}/{name}", read);
    let write = || {
        let write = call("the content of an upload, or a part of it", &[400, 404, 409, 413, 500]);
        write.takes_as("application/octet-stream", binary())
    };
    paths.add(TAG, "put", "/media/{id}/{name}", write().gives_nothing(200));
    paths.add(TAG, "put", "/media/{id}/{name}/{part}", write().gives(200, reference("Part")));
    let complete = call("join the parts", &[400, 404, 409, 413, 500]);
    let complete = complete.takes(reference("Parts")).gives_nothing(200);
    paths.add(TAG, "post", "/media/{id}/{name}/complete", complete);
}

fn own(paths: &mut Paths) {
    const TAG: &str = "server";
    let status = |summary: &str| Operation::new(summary).gives(200, reference("Status")).open();
    paths.add(TAG, "get", "/healthz", status("is it alive"));
    paths.add(TAG, "get", "/readyz", status("does it take jobs").gives(503, reference("Status")));
    let metrics = Operation::new("numbers for Prometheus").gives_as(200, "text/plain", string());
    paths.add(TAG, "get", "/metrics", metrics.fails("Detail", &[]));
    let document = Operation::new("this document").gives(200, json!({"type": "object"})).open();
    paths.add(TAG, "get", "/openapi.json", document);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
        match value {
            Value::Object(fields) => {
                found.extend(fields.get("$ref").and_then(Value::as_str));
                fields.values().for_each(|value| references(value, found));
            }
            Value::Array(values) => values.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }

    #[test]
    fn every_reference_leads_somewhere_and_every_schema_is_used() {
        let document = document();
        let mut found = Vec::new();
        references(&document, &mut found);
        for reference in &found {
            let pointer = reference.strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some(), "{reference}");
        }
        for name in document["components"]["schemas"].as_object().unwrap().keys() {
            let reference = format!("#/components/schemas/{name}");
            assert!(found.contains(&reference.as_str()), "{name} is not used");
        }
    }
}
