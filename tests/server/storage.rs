//! fal's storage, in the three ways that its clients use it.

use serde_json::json;

use crate::common::{FAST, Server};

#[test]
fn the_javascript_client_uploads_large_files_in_parts() {
    let server = Server::start(FAST);
    let slot = server.post(
        "/storage/upload/initiate-multipart?storage_type=fal-cdn-v3",
        json!({"content_type": "video/mp4", "file_name": "my clip.mp4"}),
    );
    let url = slot.text("upload_url").to_string();
    assert!(url.ends_with("/my_clip.mp4"), "{url}");
    let parts: Vec<_> = [(2, "second"), (1, "first ")]
        .iter()
        .map(|(number, content)| {
            let answer = server.call("PUT", &format!("{url}/{number}"), &[], content.as_bytes().to_vec());
            assert_eq!((answer.status, &answer.json["partNumber"]), (200, &json!(number)));
            json!({"partNumber": number, "etag": answer.text("etag")})
        })
        .collect();
    assert_eq!(server.get(&url).status, 404, "not before it is complete");
    let gap = server.post(&format!("{url}/complete"), json!({"parts": [{"partNumber": 2}]}));
    assert_eq!(gap.status, 409);
    assert_eq!(server.post(&format!("{url}/complete"), json!({"parts": parts})).status, 200);
    assert_eq!(server.get(slot.text("file_url")).bytes, b"first second");
    assert_eq!(std::fs::read_dir(server.directory().join("uploads")).unwrap().count(), 1);
}

#[test]
fn the_python_client_uploads_with_a_token() {
    let server = Server::with(FAST, |config| {
        config.keys = latentsync::server::keys::Keys::new(&["key".to_string()]);
    });
    let key = [("authorization", "Key key")];
    let token = server.call("POST", "/storage/auth/token?storage_type=fal-cdn-v3", &key, b"{}".to_vec());
    assert_eq!(token.text("base_url"), server.url);
    assert!(token.text("expires_at").ends_with("+00:00"));
    let bearer = format!("{} {}", token.text("token_type"), token.text("token"));
    let headers =
        [("authorization", bearer.as_str()), ("content-type", "video/mp4"), ("x-fal-file-name", "v.mp4")];
    let uploaded = server.call("POST", "/files/upload", &headers, b"content".to_vec());
    assert_eq!(server.get(uploaded.text("access_url")).bytes, b"content");

    let begun = server.call("POST", "/files/upload/multipart", &headers, Vec::new());
    let url = format!("{}/multipart/{}", begun.text("access_url"), begun.text("uploadId"));
    let part = server.call("PUT", &format!("{url}/1"), &headers, b"large".to_vec());
    let parts = json!({"parts": [{"partNumber": 1, "etag": part.header("etag").unwrap()}]});
    let complete = server.call("POST", &format!("{url}/complete"), &headers, parts.to_string().into_bytes());
    assert_eq!(complete.status, 200, "{complete:#?}");
    assert_eq!(server.get(begun.text("access_url")).bytes, b"large");

    let forged = [("authorization", "Bearer .9999999999999.00")];
    assert_eq!(server.call("POST", "/files/upload", &forged, Vec::new()).status, 401);
    assert_eq!(server.call("POST", "/storage/upload/initiate", &[], b"{}".to_vec()).status, 401);
}
