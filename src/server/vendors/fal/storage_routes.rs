//! Routes of fal's storage, with their OpenAPI operations and schemas. They exist at the root and below
//! `/fal/rest`.

use serde_json::{Value, json};

use super::routes::TAG;
use super::storage;
use crate::server::openapi::Operation;
use crate::server::openapi::schemas::{binary, list_of, object, or_null, reference, string};
use crate::server::routes::Routes;

pub fn routes() -> Routes {
    let call = |summary: &str, answer: &str, statuses: &[u16]| {
        Operation::new(summary)
            .response(200, reference(answer))
            .response(422, reference("FalInvalid"))
            .error_responses("FalError", statuses)
            .response_header("x-fal-request-id")
    };
    let named = |operation: Operation| operation.parameter("header", "X-Fal-File-Name", string());
    let initiation = || {
        let initiation = call("a URL to put a file to, or its parts below it", "FalSlot", &[408, 413]);
        initiation.request_body(reference("FalFileName"))
    };
    // A file may be empty.
    let upload = named(call("a file, in one piece", "FalUploaded", &[408, 413]))
        .optional_request_body("application/octet-stream", binary());
    let beginning = named(call("the beginning of a file in parts", "FalUploaded", &[]));
    let key = Operation::new("the key that webhooks are signed with").response(200, reference("Jwks"));
    Routes::new(TAG)
        .post("/files/upload", storage::upload, upload)
        .body_limit(None)
        .post("/storage/upload/initiate", storage::initiate, initiation())
        .post("/storage/upload/initiate-multipart", storage::initiate, initiation())
        .post("/storage/auth/token", storage::token, call("a permission to upload", "FalToken", &[]))
        .post("/files/upload/multipart", storage::begin, beginning)
        .get("/.well-known/jwks.json", storage::jwks, key.without_key())
}

pub fn schemas() -> Value {
    let key = object([("kty", string()), ("crv", string()), ("kid", string()), ("x", string())]);
    json!({
        "FalFileName": object([("file_name?", or_null("string")), ("content_type?", or_null("string"))]),
        "FalSlot": object([("upload_url", string()), ("file_url", string())]),
        "FalToken": object([
            ("token", string()), ("token_type", string()), ("base_url", string()), ("expires_at", string()),
        ]),
        "FalUploaded": object([("access_url", string()), ("uploadId?", string())]),
        "Jwks": object([("keys", list_of(key))]),
    })
}
