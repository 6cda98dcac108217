//! `/openapi.json`: the OpenAPI 3.1 document of every route. Each operation is defined beside its handler
//! (see [`Routes`](super::routes::Routes)); this module has the operation builder and puts the document
//! together.
//!
//! The document comes from no crate. utoipa and aide derive one path per axum route and one schema per Rust
//! type; here several documented paths share a route (fal's `{alias}` and sub-paths), the schemas describe
//! the vendors' JSON with keywords that those crates' types lack (`contains`, `const`, `pattern` beside
//! `anyOf`), and the bodies are `Value`s that have no Rust type.

pub mod schemas;

use serde_json::{Map, Value, json};

use schemas::{reference, string};

/// What the document is made from.
pub struct Parts {
    pub paths: Map<String, Value>,
    /// The webhook operation of each vendor, by name.
    pub webhooks: Map<String, Value>,
    pub schemas: Vec<Value>,
    /// Requests need an API key.
    pub keys: bool,
}

/// The whole document.
pub fn document(parts: Parts) -> Value {
    let mut schemas = Map::new();
    for part in parts.schemas {
        schemas.extend(part.as_object().cloned().unwrap_or_default());
    }
    let mut document = json!({
        "openapi": "3.1.0",
        "info": {
            "title": "latentsync serve",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "The hosted LatentSync APIs, answered by this machine.",
        },
        "paths": parts.paths,
        "webhooks": parts.webhooks,
        "components": {"schemas": schemas},
    });
    if parts.keys {
        document["security"] = json!([{"fal": []}, {"bearer": []}, {"key": []}]);
        document["components"]["securitySchemes"] = json!({
            "fal": {"type": "apiKey", "in": "header", "name": "Authorization", "description": "`Key`, a blank, the key"},
            "bearer": {"type": "http", "scheme": "bearer"},
            "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        });
    }
    document
}

/// An OpenAPI operation: one method of a path.
#[derive(Clone)]
pub struct Operation(Value);

impl Operation {
    pub fn new(summary: &str) -> Self {
        Self(json!({"summary": summary, "responses": {}}))
    }

    /// A required JSON request body.
    pub fn request_body(self, schema: Value) -> Self {
        self.request_body_as("application/json", schema)
    }

    pub fn request_body_as(self, kind: &str, schema: Value) -> Self {
        let mut operation = self.optional_request_body(kind, schema);
        operation.0["requestBody"]["required"] = true.into();
        operation
    }

    /// A request body that may be absent.
    pub fn optional_request_body(mut self, kind: &str, schema: Value) -> Self {
        self.0["requestBody"]["content"][kind] = json!({"schema": schema});
        self
    }

    /// A parameter in `place`: `query`, `header` or `path`. Those of paths are required, the others optional.
    pub fn parameter(self, place: &str, name: &str, schema: Value) -> Self {
        self.parameter_in(place, name, schema, place == "path")
    }

    /// A required header.
    pub fn required_header(self, name: &str, schema: Value) -> Self {
        self.parameter_in("header", name, schema, true)
    }

    fn parameter_in(mut self, place: &str, name: &str, schema: Value, required: bool) -> Self {
        let parameter = json!({"name": name, "in": place, "required": required, "schema": schema});
        match self.0["parameters"].as_array_mut() {
            Some(parameters) => parameters.push(parameter),
            None => self.0["parameters"] = json!([parameter]),
        }
        self
    }

    /// A query parameter that is any string.
    pub fn query_parameter(self, name: &str) -> Self {
        self.parameter("query", name, string())
    }

    /// A JSON response.
    pub fn response(self, status: u16, schema: Value) -> Self {
        self.response_as(status, "application/json", schema)
    }

    pub fn response_as(mut self, status: u16, kind: &str, schema: Value) -> Self {
        self.0["responses"][status.to_string()] =
            json!({"description": meaning(status), "content": {kind: {"schema": schema}}});
        self
    }

    pub fn empty_response(mut self, status: u16) -> Self {
        self.0["responses"][status.to_string()] = json!({"description": meaning(status)});
        self
    }

    /// A header that some or all of the responses so far have.
    pub fn response_header(mut self, name: &str) -> Self {
        for (_, response) in self.0["responses"].as_object_mut().into_iter().flatten() {
            response["headers"][name] = json!({"schema": string()});
        }
        self
    }

    /// Error responses of one schema, for `statuses` and for those that any operation may have.
    pub fn error_responses(self, schema: &str, statuses: &[u16]) -> Self {
        let always = [401, 403, 500];
        let each = always.iter().chain(statuses);
        each.fold(self, |operation, &status| operation.response(status, reference(schema)))
    }

    /// The operation needs no API key.
    pub fn without_key(mut self) -> Self {
        self.0["security"] = json!([]);
        self
    }

    pub(super) fn tagged(mut self, tag: &str) -> Self {
        self.0["tags"] = json!([tag]);
        self
    }

    pub(super) fn into_value(self) -> Value {
        self.0
    }

    /// The operation as a webhook message that this server sends.
    pub fn into_webhook(mut self, headers: &[&str]) -> Value {
        for name in headers {
            self = self.parameter("header", name, string());
        }
        self.0["responses"] = json!({"2XX": {"description": "received; everything else is tried again"}});
        json!({"post": self.0})
    }
}

/// The description of a status. Clients and the published document depend on the text.
fn meaning(status: u16) -> &'static str {
    match status {
        200 => "done",
        201 => "created",
        202 => "accepted, or not finished",
        206 => "the range that was asked for",
        304 => "as it was",
        400 => "wrong, too early or too late",
        401 => "no key, or a wrong one",
        403 => "sent by a foreign web page",
        404 => "unknown",
        408 => "the body comes too slowly",
        409 => "contradicts the upload's state",
        412 => "not as it was",
        413 => "too large",
        416 => "no such range",
        422 => "mistakes in the request or in its files",
        429 => "more than is allowed now",
        499 => "cancelled",
        503 => "not ready, or shutting down",
        504 => "not started in time",
        _ => "failed",
    }
}
