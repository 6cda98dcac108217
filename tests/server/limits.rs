//! Limits: slow clients, large bodies, many connections.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use latentsync::server::ServerConfig;
use serde_json::json;

use crate::common::{AUDIO, FAST, SLOW, Server, VIDEO};

fn short_timeouts(config: &mut ServerConfig) {
    config.head_timeout = Duration::from_millis(300);
    config.body_grace = Duration::from_millis(300);
}

fn connect(server: &Server) -> TcpStream {
    let stream = TcpStream::connect(server.url.trim_start_matches("http://")).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream
}

/// The response up to the end of the connection.
fn until_closed(stream: &mut TcpStream) -> String {
    let mut response = Vec::new();
    stream.read_to_end(&mut response).expect("the server closes the connection");
    String::from_utf8_lossy(&response).into_owned()
}

#[test]
fn a_request_head_that_does_not_come_closes_the_connection() {
    let server = Server::with(FAST, short_timeouts);
    for beginning in ["", "P", "GET /healthz HTTP/1.1\r\nhost: localhost\r\n"] {
        let mut stream = connect(&server);
        stream.write_all(beginning.as_bytes()).unwrap();
        let response = until_closed(&mut stream);
        assert!(response.is_empty() || response.starts_with("HTTP/1.1 408"), "{beginning}: {response}");
    }
}

#[test]
fn a_slow_body_is_refused() {
    let server = Server::with(FAST, short_timeouts);
    let slot = server.post("/storage/upload/initiate", json!({"file_name": "v.mp4"}));
    let upload = format!("/{}", slot.text("upload_url").splitn(4, '/').nth(3).unwrap());
    let paths =
        [("POST", "/fal/queue/fal-ai/latentsync"), ("POST", "/v2/generate"), ("PUT", upload.as_str())];
    for (method, path) in paths {
        let mut stream = connect(&server);
        let head = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        let mut writer = stream.try_clone().unwrap();
        thread::spawn(move || {
            // Until the server closes the connection.
            while writer.write_all(b" ").is_ok() {
                thread::sleep(Duration::from_millis(50));
            }
        });
        let started = Instant::now();
        let mut status = [0; 12];
        stream.read_exact(&mut status).unwrap();
        assert_eq!(&status, b"HTTP/1.1 408", "{path}");
        assert!(started.elapsed() < Duration::from_secs(5), "{path}");
    }
    assert_eq!(std::fs::read_dir(server.directory().join("uploads")).unwrap().count(), 0);
}

#[test]
fn connections_beyond_the_limit_are_closed() {
    let server = Server::with(FAST, |config| config.max_connections = 3);
    thread::sleep(Duration::from_millis(100));
    let held: Vec<TcpStream> = (0..3).map(|_| connect(&server)).collect();
    thread::sleep(Duration::from_millis(100));
    assert_eq!(until_closed(&mut connect(&server)), "");
    drop(held);
    server.until("/healthz", |answer| answer.status == 200);
}

#[test]
fn a_body_with_too_many_values_is_refused() {
    let server = Server::start(SLOW);
    let many = format!(
        r#"{{"video_url": "http://a/v", "audio_url": "http://a/a", "x": [{}0]}}"#,
        "{},".repeat(30_000)
    );
    for path in ["/fal/queue/fal-ai/latentsync", "/open/v2/create_lip_sync_video", "/v2/generate"] {
        let answer = server.call("POST", path, &[], many.clone().into_bytes());
        let refused = answer.status == 413 || answer.json["code"] != 0 && answer.json["code"].is_u64();
        assert!(refused, "{path}: {answer:#?}");
    }
    let long = json!({"video": "http://a/v", "audio": "http://a/a", "x": "y".repeat(2 << 20)});
    assert_eq!(server.post("/api/v3/bytedance/latentsync", long).status, 413);
}

#[test]
fn the_list_of_parts_of_an_upload_has_a_size_limit() {
    let server = Server::start(FAST);
    let endless = vec![b' '; 2 << 20];
    let path = "/media/00000000-0000-4000-8000-000000000000/v.mp4/complete";
    assert_eq!(server.call("POST", path, &[], endless).status, 413);
}

#[test]
fn all_uploads_share_one_quota() {
    let server = Server::with(FAST, |config| config.keep.quota = 100);
    let put = |bytes: usize| {
        let slot = server.post("/storage/upload/initiate", json!({"file_name": "v.mp4"}));
        server.call("PUT", slot.text("upload_url"), &[], vec![0; bytes]).status
    };
    assert_eq!([put(60), put(60), put(30), put(30)], [200, 413, 200, 413]);
}

#[test]
fn an_upload_may_be_repeated_and_attempts_do_not_mix() {
    let server = Server::start(FAST);
    let slot = server.post("/storage/upload/initiate", json!({"file_name": "v.mp4"}));
    let url = slot.text("upload_url").to_string();
    // The first attempt stalls in the middle and keeps its connection.
    let mut stalled = connect(&server);
    let path = url.splitn(4, '/').nth(3).unwrap();
    write!(
        stalled,
        "PUT /{path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000\r\n\r\n{}",
        "x".repeat(500)
    )
    .unwrap();
    thread::sleep(Duration::from_millis(200));
    assert_eq!(server.call("PUT", &url, &[], VIDEO.to_vec()).status, 200);
    stalled.write_all(&[b'x'; 500]).unwrap();
    let mut answer = [0; 12];
    stalled.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 409");
    // A client that did not get the response sends the same file again.
    assert_eq!(server.call("PUT", &url, &[], VIDEO.to_vec()).status, 200);
    assert_eq!(server.call("PUT", &url, &[], AUDIO.to_vec()).status, 409);
    assert_eq!(server.get(&url).bytes, VIDEO);
    assert_eq!(std::fs::read_dir(server.directory().join("uploads")).unwrap().count(), 1);
}

#[test]
fn only_local_web_pages_may_read_responses() {
    let server = Server::start(FAST);
    let preflight = |path: &str, origin: &str| {
        let headers = [
            ("origin", origin),
            ("access-control-request-method", "POST"),
            ("access-control-request-headers", "authorization,x-fal-target-url"),
        ];
        let answer = server.call("OPTIONS", path, &headers, Vec::new());
        answer.header("access-control-allow-origin").map(str::to_string)
    };
    for path in ["/fal/proxy", "/media/a/b", "/api/v3/bytedance/latentsync"] {
        assert_eq!(preflight(path, "http://localhost:3000").as_deref(), Some("http://localhost:3000"));
        assert_eq!(preflight(path, "https://elsewhere.example"), None);
    }
    let answer = server.call("GET", "/healthz", &[("origin", "http://localhost:3000")], Vec::new());
    assert!(answer.header("access-control-expose-headers").unwrap().contains("x-fal-request-id"));
}
