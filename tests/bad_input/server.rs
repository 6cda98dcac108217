//! A web server that misbehaves in the way that the path names.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

/// Starts the server, which ends with the process. Returns `http://127.0.0.1:PORT`.
pub fn start() -> String {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let address = format!("http://{}", listener.local_addr().expect("an address"));
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // The client may close the connection at any time.
            thread::spawn(move || answer(stream).ok());
        }
    });
    address
}

fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut request = String::new();
    reader.read_line(&mut request)?;
    for line in reader.lines() {
        if line?.is_empty() {
            break;
        }
    }
    let path = request.split(' ').nth(1).unwrap_or_default();
    let (name, query) = path.split_once('?').unwrap_or((path, "0"));
    match name {
        "/page.mp4" => {
            let body = "<!DOCTYPE html><html><body>Please log in</body></html>";
            let length = body.len();
            write!(
                stream,
                "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {length}\r\n\r\n{body}"
            )
        }
        "/round.mp4" => {
            let next: u32 = query.parse().unwrap_or(0) + 1;
            write!(
                stream,
                "HTTP/1.1 302 Found\r\nLocation: /round.mp4?{next}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            )
        }
        // No length, and bytes without an end.
        "/endless.mp4" => {
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Type: video/mp4\r\nConnection: close\r\n\r\n")?;
            loop {
                stream.write_all(&[0; 1 << 16])?;
            }
        }
        // A length beyond the limit.
        "/huge.mp4" => {
            write!(
                stream,
                "HTTP/1.1 200 OK\r\nContent-Type: video/mp4\r\nContent-Length: 99999999999\r\n\r\n"
            )?;
            loop {
                stream.write_all(&[0; 1 << 16])?;
            }
        }
        // A byte every 50 ms: no single read times out.
        "/slow.mp4" => {
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Type: video/mp4\r\nConnection: close\r\n\r\n")?;
            loop {
                stream.write_all(&[0])?;
                thread::sleep(Duration::from_millis(50));
            }
        }
        // No response.
        "/silent.mp4" => {
            thread::sleep(Duration::from_secs(600));
            Ok(())
        }
        "/short.mp4" => {
            write!(
                stream,
                "HTTP/1.1 200 OK\r\nContent-Type: video/mp4\r\nContent-Length: 5000\r\nConnection: close\r\n\r\nshort"
            )
        }
        _ => {
            write!(
                stream,
                "HTTP/1.1 404 Not Found\r\nContent-Length: 9\r\nConnection: close\r\n\r\nnot here\n"
            )
        }
    }
}
