//! Inputs other than regular files: pipes, and URLs of a server that misbehaves in various ways.

#[cfg(unix)]
#[path = "support/programs.rs"]
mod programs;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use latentsync::input::{AddressPolicy, FetchLimits, FetchProblem, LocalInput, Spool};
use latentsync::system;
use latentsync::{CancelToken, Error, ErrorKind, Input, input, media};
use tempfile::tempdir;

/// Bytes that pass for an MP4 file when fetched.
const MEDIA: &[u8] = &[0, 0, 0, 24, b'f', b't', b'y', b'p', 1, 2, 3, 0xFF];

/// A server that answers every request by its path until the process ends. Returns `http://127.0.0.1:port`.
fn server() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || answer(stream));
        }
    });
    base
}

/// Answers one request. `None` if the client closes the connection.
fn answer(mut stream: TcpStream) -> Option<()> {
    let mut request = Vec::new();
    let mut byte = [0];
    while !request.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).ok()?;
        request.push(byte[0]);
        // The first byte of a TLS handshake: this server speaks HTTP only.
        if request == [0x16] {
            let _ = stream.read(&mut [0; 4096]);
            return stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").ok();
        }
    }
    let request = String::from_utf8(request).ok()?;
    let path = request.split(' ').nth(1)?.split('?').next()?.to_string();
    let mut send = |head: &str, body: &[u8]| {
        let head = format!("HTTP/1.1 {head}\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body)).ok()
    };
    let length = |bytes: &[u8]| format!("200 OK\r\nContent-Length: {}", bytes.len());
    match path.as_str() {
        "/clip.MP4" => send(&length(MEDIA), MEDIA),
        // Media with the content type of a web page.
        "/mislabelled" => send(&format!("{}\r\nContent-Type: text/html", length(MEDIA)), MEDIA),
        "/moved" => send("302 Found\r\nLocation: /clip.MP4?signature=secret", b""),
        "/page" => send("200 OK\r\nContent-Type: text/html", b"<!-- hello --><p>Log in to see this file"),
        "/unlabelled-page" => send("200 OK", b"\xEF\xBB\xBF \n<!DOCTYPE HTML><p>hello"),
        "/playlist.m3u8" => send("200 OK", b"#EXTM3U\nfile:///etc/passwd\n"),
        "/circle" => send("302 Found\r\nLocation: /circle", b""),
        "/announced" => send("200 OK\r\nContent-Length: 1000000", b""),
        "/short" => send("200 OK\r\nContent-Length: 100", MEDIA),
        "/silent" => {
            send("200 OK\r\nContent-Length: 100", MEDIA)?;
            std::thread::sleep(Duration::from_secs(20));
            None
        }
        "/endless" | "/drip" => {
            send("200 OK", b"")?;
            loop {
                stream.write_all(&[7; 1000]).ok()?;
                if path == "/drip" {
                    std::thread::sleep(Duration::from_millis(50));
                }
            }
        }
        "/login" => send("403 Forbidden", b""),
        "/gone" => send("410 Gone", b""),
        "/broken" => send("503 Service Unavailable", b""),
        _ => send("404 Not Found", b""),
    }
}

fn spool(directory: &Path) -> Spool {
    let limits = FetchLimits {
        max_bytes: 100_000,
        total: Duration::from_secs(3),
        connect: Duration::from_secs(2),
        stall: Duration::from_secs(1),
        max_redirects: 3,
    };
    Spool { limits, ..Spool::in_directory(directory) }
}

fn is_empty(directory: &Path) -> bool {
    std::fs::read_dir(directory).unwrap().next().is_none()
}

#[test]
fn a_url_is_fetched_into_a_temporary_file() {
    let (base, directory) = (server(), tempdir().unwrap());
    for path in ["/clip.MP4", "/moved", "/mislabelled"] {
        let input = Input::from(format!("{base}{path}"));
        let local = LocalInput::open(&input, &spool(directory.path()), &CancelToken::new()).unwrap();
        assert_eq!(std::fs::read(local.path()).unwrap(), MEDIA, "{path}");
        assert_eq!(local.path().parent().unwrap(), directory.path());
        assert_eq!(local.path().extension().is_some_and(|e| e == "mp4"), path == "/clip.MP4");
        // An error about the file names the URL.
        let unread = media::Error::NoVideoStream { path: local.path().to_path_buf() };
        assert_eq!(
            Error::from(unread).naming(&local).to_string(),
            format!("`{base}{path}` has no video stream")
        );
        drop(local);
        assert!(is_empty(directory.path()), "{path}");
    }
}

#[test]
fn the_error_says_what_the_server_did_wrong() {
    let (base, directory) = (server(), tempdir().unwrap());
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let secure = base.replace("http:", "https:");
    for (url, message) in [
        (format!("{base}/missing"), "the server answered 404 (not found)"),
        (format!("{base}/gone"), "the server answered 410 (gone)"),
        (format!("{base}/login"), "the server answered 403 (forbidden)"),
        (format!("{base}/broken"), "the server answered 503 (its own failure)"),
        (format!("{base}/page"), "the server answered with a web page"),
        (format!("{base}/unlabelled-page"), "the server answered with a web page"),
        (format!("{base}/playlist.m3u8"), "the server answered with a playlist"),
        (format!("{base}/circle"), "more than 3 redirects"),
        (format!("{base}/announced"), "it has 1000000 bytes, and 100000 are allowed"),
        (format!("{base}/endless"), "it has more bytes, and 100000 are allowed"),
        (format!("{base}/drip"), "not complete after 3 s"),
        (format!("{base}/silent"), "nothing came for 1 s"),
        (format!("{base}/short"), "it ended after 12 of 100 bytes"),
        (format!("http://{closed}/a"), "the connection was refused"),
        (format!("{secure}/a"), "no secure connection"),
        ("http://no-such-host.invalid/a".into(), "the host's name cannot be resolved"),
        ("http://".into(), "not a URL that can be fetched"),
        ("https://host:port/".into(), "not a URL that can be fetched"),
    ] {
        // With a password and a signature, which must not appear in the error.
        let secret = url.replacen("://", "://me:hunter2@", 1) + "?X-Amz-Signature=hunter2";
        let started = Instant::now();
        let limits = spool(directory.path());
        let error = LocalInput::open(&Input::from(secret), &limits, &CancelToken::new()).unwrap_err();
        let text = error.to_string();
        assert!(text.contains(message), "{url}: {text}");
        assert!(text.starts_with(&format!("cannot fetch {url}: ")), "{url}: {text}");
        assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
        assert_eq!(Error::from(error).kind(), ErrorKind::Input);
        assert!(started.elapsed() < Duration::from_secs(6), "{url} took {:?}", started.elapsed());
        assert!(is_empty(directory.path()), "{url} left a file");
    }
}

#[test]
fn a_fetch_can_be_cancelled() {
    let (base, directory) = (server(), tempdir().unwrap());
    let cancel = CancelToken::new();
    let clone = cancel.clone();
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300));
        clone.cancel();
    });
    let started = Instant::now();
    let error = LocalInput::open(&Input::from(format!("{base}/drip")), &spool(directory.path()), &cancel)
        .unwrap_err();
    assert!(matches!(error, input::Error::System(system::Error::Interrupted)), "{error:?}");
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    assert!(is_empty(directory.path()));
}

#[test]
fn a_private_address_is_refused_if_only_public_ones_are_allowed() {
    let (base, directory) = (server(), tempdir().unwrap());
    let spool = Spool { addresses: AddressPolicy::PublicOnly, ..spool(directory.path()) };
    let localhost = base.replace("127.0.0.1", "localhost");
    let mapped = base.replace("127.0.0.1", "[::ffff:127.0.0.1]");
    for url in [&base, &localhost, &mapped, "http://169.254.169.254/latest/meta-data/"] {
        let error = LocalInput::open(&Input::from(url), &spool, &CancelToken::new()).unwrap_err();
        assert!(
            matches!(error, input::Error::Fetch { problem: FetchProblem::PrivateAddress, .. }),
            "{url}: {error:?}"
        );
    }
    assert!(is_empty(directory.path()));
}

#[test]
fn a_regular_file_is_not_copied() {
    let directory = tempdir().unwrap();
    let path = directory.path().join("clip.mp4");
    std::fs::write(&path, MEDIA).unwrap();
    let nowhere = spool(&directory.path().join("missing"));
    for path in [path.clone(), directory.path().join("no-such-file"), directory.path().to_path_buf()] {
        let input = Input::from(path.as_path());
        let local = LocalInput::open(&input, &nowhere, &CancelToken::new()).unwrap();
        assert_eq!(local.path(), path);
    }
    assert!(path.exists());
}

#[cfg(unix)]
fn make_pipe(path: &Path) {
    programs::run("mkfifo", &[path.to_str().expect("UTF-8")]);
}

#[test]
#[cfg(unix)]
fn a_pipe_is_read_to_its_end() {
    let (directory, spooled) = (tempdir().unwrap(), tempdir().unwrap());
    let path = directory.path().join("pipe.mp4");
    make_pipe(&path);
    let content: Vec<u8> = (0..90_000u32).map(|i| (i % 251) as u8).collect();
    let writer = std::thread::spawn({
        let (path, content) = (path.clone(), content.clone());
        move || std::fs::write(path, content).unwrap()
    });
    let local =
        LocalInput::open(&Input::from(path.as_path()), &spool(spooled.path()), &CancelToken::new()).unwrap();
    writer.join().unwrap();
    assert!(std::fs::read(local.path()).unwrap() == content);
    assert_eq!(local.path().extension().unwrap(), "mp4");
    drop(local);
    assert!(is_empty(spooled.path()));
}

#[test]
#[cfg(unix)]
fn pipes_without_data_or_without_end_are_refused() {
    let (directory, spooled) = (tempdir().unwrap(), tempdir().unwrap());
    let path = directory.path().join("pipe.mp4");
    make_pipe(&path);
    let silent = Input::from(path.as_path());
    for (input, want) in
        [(silent, "not complete after 3 s"), (Input::from("/dev/zero"), "100000 are allowed")]
    {
        let error = LocalInput::open(&input, &spool(spooled.path()), &CancelToken::new()).unwrap_err();
        assert!(error.to_string().contains(want), "{error}");
        assert!(error.to_string().contains(&input.to_string()), "{error}");
        assert!(is_empty(spooled.path()));
    }
    let cancel = CancelToken::new();
    cancel.cancel();
    let error = LocalInput::open(&Input::from("/dev/zero"), &spool(spooled.path()), &cancel).unwrap_err();
    assert!(matches!(error, input::Error::System(system::Error::Interrupted)), "{error:?}");
}
