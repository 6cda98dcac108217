//! The routes of [`media`](super) and their OpenAPI operations and schemas.

use serde_json::{Value, json};

use super::{complete, complete_python, read, write, write_part, write_python_part};
use crate::server::openapi::Operation;
use crate::server::openapi::schemas::{binary, integer, list_of, object, reference, string};
use crate::server::reply::detail;
use crate::server::routes::Routes;

pub fn routes() -> Routes {
    let call = |summary: &str, statuses: &[u16]| {
        statuses.iter().fold(Operation::new(summary).without_key(), |operation, &status| {
            operation.response(status, reference("Detail"))
        })
    };
    let reading = call("a result or an upload, whole or in ranges", &[404, 500])
        .response_as(200, "*/*", binary())
        .response_as(206, "*/*", binary())
        .empty_response(304)
        .empty_response(412)
        .empty_response(416);
    let writing = || {
        call("the content of an upload, or a part of it", &[400, 404, 408, 409, 413, 500])
            .request_body_as("application/octet-stream", binary())
    };
    let part = || writing().response(200, reference("Part")).response_header("ETag");
    let completion = || {
        let completion = call("join the parts", &[400, 404, 408, 409, 413, 500]);
        completion.request_body(reference("Parts")).empty_response(200)
    };
    // The routes with `multipart` are those of fal's Python client. Files have a limit of their own.
    Routes::new("files")
        .get("/media/{id}/{name}", read, reading)
        .put("/media/{id}/{name}", write, writing().empty_response(200))
        .put("/media/{id}/{name}/{part}", write_part, part())
        .put("/media/{id}/{name}/multipart/{again}/{part}", write_python_part, part())
        .body_limit(None)
        .post("/media/{id}/{name}/complete", complete, completion())
        .post("/media/{id}/{name}/multipart/{again}/complete", complete_python, completion())
        .errors(detail)
}

pub fn schemas() -> Value {
    let part = object([("partNumber", integer()), ("etag?", string())]);
    json!({
        "Part": object([("partNumber", integer()), ("etag", string())]),
        "Parts": object([("parts", list_of(part))]),
    })
}
