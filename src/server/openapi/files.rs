//! Results and uploads, whatever vendor's they are.

use serde_json::{Value, json};

use super::schemas::{binary, integer, list_of, object, reference, string};
use super::{Operation, Paths};

const TAG: &str = "files";

pub fn paths(paths: &mut Paths) {
    let call = |summary: &str, statuses: &[u16]| {
        statuses.iter().fold(Operation::new(summary).open(), |operation, &status| {
            operation.gives(status, reference("Detail"))
        })
    };
    let read = call("a result or an upload, whole or in ranges", &[404, 500])
        .gives_as(200, "*/*", binary())
        .gives_as(206, "*/*", binary())
        .gives_nothing(304)
        .gives_nothing(412)
        .gives_nothing(416);
    paths.add(TAG, "get", "/media/{id}/{name}", read);
    let write = || {
        let write = call("the content of an upload, or a part of it", &[400, 404, 408, 409, 413, 500]);
        write.takes_as("application/octet-stream", binary())
    };
    let part = || write().gives(200, reference("Part")).tells("ETag");
    let complete = || {
        let complete = call("join the parts", &[400, 404, 408, 409, 413, 500]);
        complete.takes(reference("Parts")).gives_nothing(200)
    };
    paths.add(TAG, "put", "/media/{id}/{name}", write().gives_nothing(200));
    paths.add(TAG, "put", "/media/{id}/{name}/{part}", part());
    paths.add(TAG, "post", "/media/{id}/{name}/complete", complete());
    // fal's Python client has its own way to say the same.
    paths.add(TAG, "put", "/media/{id}/{name}/multipart/{again}/{part}", part());
    paths.add(TAG, "post", "/media/{id}/{name}/multipart/{again}/complete", complete());
}

pub fn schemas() -> Value {
    let part = object([("partNumber", integer()), ("etag?", string())]);
    json!({
        "Part": object([("partNumber", integer()), ("etag", string())]),
        "Parts": object([("parts", list_of(part))]),
    })
}
