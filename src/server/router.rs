//! The whole router: the routes of every vendor and of the server itself, their OpenAPI document, and the
//! middleware.

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::DefaultBodyLimit;
use axum::http::{Request, StatusCode};
use axum::middleware::map_request;
use axum::response::Response;
use axum::routing::get;
use serde_json::{Value, json};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::request_id::{MakeRequestUuid, PropagateRequestIdLayer, SetRequestIdLayer};
use tower_http::trace::TraceLayer;

use super::app::App;
use super::config::ServerConfig;
use super::openapi::{self, Operation};
use super::routes::Routes;
use super::vendors::VENDORS;
use super::{health, limits, local, media, origin, page, reply};

/// Every route, with the middleware.
pub fn router(app: App) -> Router {
    let config = &app.config;
    let grace = config.body_grace;
    let exposed = VENDORS.into_iter().flat_map(|vendor| vendor.exposed_headers().iter().cloned());
    let (routes, document) = documented(config);
    let document = get(move || std::future::ready(reply::json(StatusCode::OK, &document)));
    routes
        .undocumented(DOCUMENT, document)
        .into_router()
        .fallback(unknown)
        .layer(DefaultBodyLimit::max(config.max_body))
        .layer(map_request(move |request| limits::slow_body::watch(request, grace)))
        .layer(origin::cors(config, exposed))
        .layer(CatchPanicLayer::new())
        .layer(PropagateRequestIdLayer::x_request_id())
        .layer(TraceLayer::new_for_http().make_span_with(span).on_response(log_response).on_failure(()))
        .layer(SetRequestIdLayer::x_request_id(MakeRequestUuid))
        .with_state(app)
}

const DOCUMENT: &str = "/openapi.json";

/// Every route but the document's own, and the document.
fn documented(config: &ServerConfig) -> (Routes, Value) {
    let mut routes = Routes::new(health::TAG)
        .merge(health::routes())
        .merge(media::routes())
        .merge(local::routes())
        .merge(page::routes());
    let mut schemas = vec![media::schemas(), local::schemas(), health::schemas()];
    let mut webhooks = serde_json::Map::new();
    for vendor in VENDORS {
        routes = routes.merge(vendor.routes().errors(move |problem| vendor.error_response(problem)));
        schemas.push(vendor.schemas(config.max_upload));
        webhooks.insert(vendor.name().to_string(), vendor.webhook_operation());
    }
    let operation = Operation::new("this document").response(200, json!({"type": "object"})).without_key();
    let routes = routes.documented("get", DOCUMENT, operation);
    let keys = config.keys.are_required();
    let document = openapi::document(openapi::Parts { paths: routes.paths(), webhooks, schemas, keys });
    (routes, document)
}

/// The tracing span of a request. Queries and headers are left out because they may contain secrets, and so
/// are the names of files, because knowing one is the permission to read the file.
fn span(request: &Request<Body>) -> tracing::Span {
    let id = request.headers().get("x-request-id").and_then(|id| id.to_str().ok()).unwrap_or_default();
    let path = request.uri().path();
    let path = if path.starts_with("/media/") { "/media/…" } else { path };
    tracing::info_span!("request", id, method = %request.method(), path)
}

/// Logs a response: server errors as errors, except 503, which readiness checks get while the model is
/// loaded.
fn log_response(response: &Response, took: Duration, _: &tracing::Span) {
    let (status, ms) = (response.status().as_u16(), took.as_millis() as u64);
    match response.status() {
        StatusCode::SERVICE_UNAVAILABLE => tracing::debug!(status, ms, "answered"),
        failed if failed.is_server_error() => tracing::error!(status, ms, "answered"),
        _ => tracing::debug!(status, ms, "answered"),
    }
}

async fn unknown() -> Response {
    reply::json(StatusCode::NOT_FOUND, &json!({"detail": "Not Found"}))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document() -> Value {
        documented(&ServerConfig::new("data".into())).1
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
    fn every_reference_resolves_and_every_schema_is_used() {
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

    #[test]
    fn every_vendor_has_operations_and_a_webhook_in_the_document() {
        let document = document();
        for vendor in VENDORS {
            let paths = document["paths"].as_object().unwrap().values();
            let operations = paths.flat_map(|methods| methods.as_object().unwrap().values());
            let tagged = operations.filter(|operation| operation["tags"] == json!([vendor.name()])).count();
            assert!(tagged > 0, "{}", vendor.name());
            assert!(document["webhooks"][vendor.name()].is_object(), "{}", vendor.name());
        }
    }
}
