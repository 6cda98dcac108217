//! The server's own: the page, its health, its numbers, this document.

use serde_json::{Value, json};

use super::schemas::{integer, object, reference, string};
use super::{Operation, Paths};

const TAG: &str = "server";

pub fn paths(paths: &mut Paths) {
    let file = Operation::new("the page; its other files are below /page").open();
    let file = file.gives_as(200, "text/html", string()).gives_nothing(304);
    paths.add(TAG, "get", "/", file);
    let status = |summary: &str| Operation::new(summary).gives(200, reference("Status")).open();
    paths.add(TAG, "get", "/healthz", status("is it alive"));
    paths.add(TAG, "get", "/readyz", status("does it take jobs").gives(503, reference("Status")));
    let metrics = Operation::new("numbers for Prometheus").gives_as(200, "text/plain", string());
    paths.add(TAG, "get", "/metrics", metrics.fails("Detail", &[]));
    let document = Operation::new("this document").gives(200, json!({"type": "object"})).open();
    paths.add(TAG, "get", "/openapi.json", document);
}

pub fn schemas() -> Value {
    json!({
        "Detail": object([("detail", string())]),
        "Status": object([("status", string()), ("queued?", integer())]),
    })
}
