//! Webhook deliveries that fail.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::Duration;

use serde_json::json;

use crate::common::{FAST, Server, Webhooks};

fn submit(server: &Server, hook: &str) -> String {
    let (video, audio) = server.inputs();
    let answer = server.post(
        "/v2/generate",
        json!({
            "model": "lipsync-2",
            "input": [{"type": "video", "url": video}, {"type": "audio", "url": audio}],
            "webhookUrl": hook,
        }),
    );
    answer.text("id").to_string()
}

#[test]
fn a_silent_receiver_does_not_delay_others() {
    let server = Server::start(FAST);
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    // A different host than `127.0.0.1`.
    let hook = format!("http://localhost:{}/hook", silent.local_addr().unwrap().port());
    for _ in 0..30 {
        submit(&server, &hook);
    }
    let webhooks = Webhooks::start();
    let id = submit(&server, &webhooks.url);
    let message = webhooks
        .next_within(Duration::from_secs(10))
        .expect("a webhook before the silent receiver times out");
    assert_eq!(message.text("id"), id);
}

#[test]
fn a_redirect_is_a_failure_and_is_not_followed() {
    let server = Server::start(FAST);
    let elsewhere = Webhooks::start();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let hook = format!("http://{}/hook", listener.local_addr().unwrap());
    submit(&server, &hook);
    let (mut stream, _) = listener.accept().unwrap();
    let mut request = [0; 4096];
    let _ = stream.read(&mut request).unwrap();
    write!(stream, "HTTP/1.1 302 Found\r\nlocation: {}\r\ncontent-length: 0\r\n\r\n", elsewhere.url).unwrap();
    assert!(elsewhere.next_within(Duration::from_secs(1)).is_none());
}

#[test]
fn a_job_is_kept_until_its_webhook_is_delivered() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::at(directory.path(), FAST, |_| {});
    // This port has no listener.
    let id = submit(&server, "http://127.0.0.1:1/hook");
    let path = format!("/v2/generate/{id}");
    server.until(&path, |answer| answer.json["status"] == "COMPLETED");
    std::thread::sleep(Duration::from_millis(200));
    server.stop();
    let server = Server::at(directory.path(), FAST, |config| config.keep.time = Duration::from_millis(1));
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(server.get(&path).status, 200, "delivery attempts remain");
}
