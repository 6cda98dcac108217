//! fal's storage, which stands at the root and below `/fal/rest`.

use serde_json::{Value, json};

use super::schemas::{binary, list_of, object, or_null, reference, string};
use super::{Operation, Paths};

const TAG: &str = "fal";

pub fn paths(paths: &mut Paths) {
    let call = |summary: &str, answer: &str, statuses: &[u16]| {
        Operation::new(summary)
            .gives(200, reference(answer))
            .gives(422, reference("FalInvalid"))
            .fails("FalError", statuses)
            .tells("x-fal-request-id")
    };
    for prefix in ["", "/fal/rest"] {
        let mut add = |method: &str, path: &str, operation: Operation| {
            paths.add(TAG, method, &format!("{prefix}{path}"), operation);
        };
        for path in ["/storage/upload/initiate", "/storage/upload/initiate-multipart"] {
            let initiate = call("a URL to put a file to, or its parts below it", "FalSlot", &[408, 413]);
            add("post", path, initiate.takes(reference("FalFileName")));
        }
        add("post", "/storage/auth/token", call("a permission to upload", "FalToken", &[]));
        let name = |operation: Operation| operation.asks("header", "X-Fal-File-Name", string());
        let upload = name(call("a file, in one piece", "FalUploaded", &[408, 413]));
        // A file may be empty.
        add("post", "/files/upload", upload.may_take("application/octet-stream", binary()));
        let begin = name(call("the beginning of a file in parts", "FalUploaded", &[]));
        add("post", "/files/upload/multipart", begin);
        let jwks = Operation::new("the key that webhooks are signed with").gives(200, reference("Jwks"));
        add("get", "/.well-known/jwks.json", jwks.open());
    }
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
