//! `/openapi.json`: every path that the server answers, as an OpenAPI 3.1 document. One file per vendor says what is
//! its own; what a schema cannot say, such as that an address must be a public one, its description does.

mod schemas;
mod fal;
mod fal_storage;
mod eachlabs;
mod wavespeed;
mod jogg;
mod sync_so;
mod files;
mod local;
mod own;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use serde_json::{Map, Value, json};

use super::app::App;
use super::reply;
use schemas::{reference, string};

pub fn router() -> Router<App> {
    let answer = |State(app): State<App>| async move {
        let facts = Facts { keys: app.config.keys.are_required(), max_upload: app.config.max_upload };
        reply::json(StatusCode::OK, &document(facts))
    };
    Router::new().route("/openapi.json", get(answer))
}

/// What the document says of this very server.
#[derive(Clone, Copy)]
struct Facts {
    keys: bool,
    max_upload: u64,
}

/// The whole document.
fn document(facts: Facts) -> Value {
    let mut paths = Paths::default();
    fal::paths(&mut paths);
    fal_storage::paths(&mut paths);
    eachlabs::paths(&mut paths);
    wavespeed::paths(&mut paths);
    jogg::paths(&mut paths);
    sync_so::paths(&mut paths);
    files::paths(&mut paths);
    local::paths(&mut paths);
    own::paths(&mut paths);
    let mut schemas = Map::new();
    for part in [
        fal::schemas(),
        fal_storage::schemas(),
        eachlabs::schemas(),
        wavespeed::schemas(facts.max_upload),
        jogg::schemas(),
        sync_so::schemas(),
        files::schemas(),
        local::schemas(),
        own::schemas(),
    ] {
        schemas.extend(part.as_object().cloned().unwrap_or_default());
    }
    let mut document = json!({
        "openapi": "3.1.0",
        "info": {
            "title": "latentsync serve",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "The hosted LatentSync APIs, answered by this machine.",
        },
        "paths": paths.0,
        "webhooks": {
            "fal": fal::webhook(),
            "eachlabs": eachlabs::webhook(),
            "wavespeed": wavespeed::webhook(),
            "JoggAI": jogg::webhook(),
            "sync.so": sync_so::webhook(),
        },
        "components": {"schemas": schemas},
    });
    if facts.keys {
        document["security"] = json!([{"fal": []}, {"bearer": []}, {"key": []}]);
        document["components"]["securitySchemes"] = json!({
            "fal": {"type": "apiKey", "in": "header", "name": "Authorization", "description": "`Key`, a blank, the key"},
            "bearer": {"type": "http", "scheme": "bearer"},
            "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        });
    }
    document
}

#[derive(Default)]
struct Paths(Map<String, Value>);

impl Paths {
    fn add(&mut self, tag: &str, method: &str, path: &str, operation: Operation) {
        let mut value = operation.0;
        value["tags"] = json!([tag]);
        let mut parameters: Vec<Value> = value["parameters"].as_array().cloned().unwrap_or_default();
        for name in path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}')) {
            if !parameters.iter().any(|parameter| parameter["name"] == name) {
                parameters.push(json!({"name": name, "in": "path", "required": true, "schema": string()}));
            }
        }
        value["parameters"] = parameters.into();
        let methods = self.0.entry(path.to_string()).or_insert_with(|| json!({}));
        methods[method] = value;
    }
}

/// One method of a path.
#[derive(Clone)]
struct Operation(Value);

impl Operation {
    fn new(summary: &str) -> Self {
        Self(json!({"summary": summary, "responses": {}}))
    }

    fn takes(self, schema: Value) -> Self {
        self.takes_as("application/json", schema)
    }

    fn takes_as(self, kind: &str, schema: Value) -> Self {
        let mut operation = self.may_take(kind, schema);
        operation.0["requestBody"]["required"] = true.into();
        operation
    }

    /// A body that may be missing.
    fn may_take(mut self, kind: &str, schema: Value) -> Self {
        self.0["requestBody"]["content"][kind] = json!({"schema": schema});
        self
    }

    fn asks(mut self, place: &str, name: &str, schema: Value) -> Self {
        // What stands in a path is always there, and without its target the proxy has nothing to do.
        let required = place == "path" || name == "x-fal-target-url";
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

    /// A header that answers have, at least some of them.
    fn tells(mut self, name: &str) -> Self {
        for (_, response) in self.0["responses"].as_object_mut().into_iter().flatten() {
            response["headers"][name] = json!({"schema": string()});
        }
        self
    }

    /// Errors of one shape; those that any path may have come with it.
    fn fails(self, schema: &str, statuses: &[u16]) -> Self {
        let always = [401, 403, 500];
        let each = always.iter().chain(statuses);
        each.fold(self, |operation, &status| operation.gives(status, reference(schema)))
    }

    fn open(mut self) -> Self {
        self.0["security"] = json!([]);
        self
    }

    /// As a message that this server sends.
    fn into_webhook(mut self, headers: &[&str]) -> Value {
        for name in headers {
            self = self.asks("header", name, string());
        }
        self.0["responses"] = json!({"2XX": {"description": "received; everything else is tried again"}});
        json!({"post": self.0})
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    fn whole() -> Value {
        document(Facts { keys: true, max_upload: 1 })
    }

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
        let document = whole();
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

    /// The routers' own words for their paths. What begins with `{*` answers for all that is not there.
    #[test]
    fn every_route_is_in_the_document() {
        let sources = [
            include_str!("mod.rs"),
            include_str!("../health.rs"),
            include_str!("../media.rs"),
            include_str!("../eachlabs/mod.rs"),
            include_str!("../wavespeed/mod.rs"),
            include_str!("../jogg/mod.rs"),
            include_str!("../sync_so/mod.rs"),
            include_str!("../fal/mod.rs"),
            include_str!("../fal/storage.rs"),
            include_str!("../local.rs"),
        ];
        let document = whole();
        let known: Vec<&str> = document["paths"].as_object().unwrap().keys().map(String::as_str).collect();
        let mut routes = 0;
        for source in sources {
            for after in source.split(".route(").skip(1) {
                let path = after.trim_start().strip_prefix('"').and_then(|path| path.split('"').next());
                let Some(path) = path.filter(|path| path.starts_with('/') && !path.contains("{*")) else {
                    continue;
                };
                // Some are below a prefix, and some name what the document spells out.
                let fits = |known: &&str| fits(known, path);
                assert!(known.iter().any(fits), "{path} is not in the document");
                routes += 1;
            }
        }
        assert!(routes > 45, "only {routes} routes were found in the sources");
    }

    /// Whether `known` ends in `path`; the alias of fal's applications may be any.
    fn fits(known: &str, path: &str) -> bool {
        let mut known = known.rsplit('/');
        path.rsplit('/').filter(|part| !part.is_empty()).all(|part| {
            known.next().is_some_and(|other| other == part || part == "{alias}" && !other.is_empty())
        })
    }
}
