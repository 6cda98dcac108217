//! What stands in a request where the hosted API has a URL: a path on this machine, or a URL after all.

use std::path::{Path, PathBuf};

use crate::input::Input;

/// The video or voice that `text` names: an `http` or `https` URL, or what [`local_path`] makes of it.
pub fn media_input(text: &str, directory: &Path) -> Result<Input, String> {
    match Input::from(text) {
        url @ Input::Url(_) => Ok(url),
        // The standard input has no directory.
        pipe @ Input::File(_) if text == "-" => Ok(pipe),
        Input::File(_) => local_path(text, directory).map(Input::File),
    }
}

/// The path that `text` names: a plain path, or a `file://` URL (percent-encoded, with no host or
/// `localhost`). A relative path is looked up in the current directory and, if it is not there, beside
/// the request's own file in `directory`. The error is a problem to be told with the field's name.
pub fn local_path(text: &str, directory: &Path) -> Result<PathBuf, String> {
    let path = match text.split_once("://") {
        None if text.starts_with("data:") => {
            return Err("is a data URI; only paths are read here".to_string());
        }
        None => PathBuf::from(text),
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("file") => {
            let host = rest.find('/').map(|slash| &rest[..slash]);
            match host {
                Some("" | "localhost") => decode_percent(&rest[host.unwrap_or_default().len()..])?,
                _ => {
                    return Err(format!("is `{text}`: a file URL must be `file:///` and an absolute path"));
                }
            }
        }
        Some((scheme, rest)) => {
            // What follows the host may be a signature, which has no place in a log.
            let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
            let host = authority.rsplit('@').next().unwrap_or_default();
            return Err(format!(
                "is a URL, `{scheme}://{host}/…`: only `http` and `https` are fetched, and only video and voice; give a path"
            ));
        }
    };
    let beside = directory.join(&path);
    Ok(if path.is_relative() && !path.exists() && beside.exists() { beside } else { path })
}

fn decode_percent(text: &str) -> Result<PathBuf, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digits = (rest.next(), rest.next());
        let value = match digits {
            (Some(high), Some(low)) => hex_digit(high).zip(hex_digit(low)).map(|(high, low)| high * 16 + low),
            _ => None,
        };
        bytes.push(
            value.ok_or_else(|| format!("is `{text}`: a `%` must be followed by two hexadecimal digits"))?,
        );
    }
    String::from_utf8(bytes).map(PathBuf::from).map_err(|_| format!("is `{text}`: not UTF-8 once decoded"))
}

fn hex_digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_file_urls() {
        let here = Path::new("/nowhere");
        for (text, path) in [
            ("/a/b c.mp4", "/a/b c.mp4"),
            ("clip.mp4", "clip.mp4"),
            ("file:///a/b%20c%C3%A9.mp4", "/a/b cé.mp4"),
            ("FILE://localhost/a.mp4", "/a.mp4"),
        ] {
            assert_eq!(local_path(text, here), Ok(PathBuf::from(path)), "{text}");
        }
        for text in [
            "https://host/a.mp4",
            "s3://bucket/a",
            "data:video/mp4;base64,AA",
            "file://host/a",
            "file:///a%2",
        ] {
            assert!(local_path(text, here).is_err(), "{text}");
        }
        let secret = "https://me:secret@host:8080/a.mp4?X-Amz-Signature=secret";
        let problem = local_path(secret, here).unwrap_err();
        assert!(problem.contains("`https://host:8080/…`") && !problem.contains("secret"), "{problem}");
    }

    #[test]
    fn media_may_be_urls() {
        let here = Path::new("");
        assert_eq!(media_input("https://host/a.mp4", here), Ok(Input::Url("https://host/a.mp4".into())));
        assert_eq!(media_input("file:///a%20b", here), Ok(Input::File("/a b".into())));
        assert_eq!(media_input("-", Path::new("/")), Ok(Input::File("-".into())));
        for text in ["s3://bucket/a", "data:video/mp4;base64,AA", "file://host/a"] {
            assert!(media_input(text, here).is_err(), "{text}");
        }
    }

    #[test]
    fn a_relative_path_is_also_looked_up_beside_the_request() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("only-beside.wav"), b"").unwrap();
        let found = local_path("only-beside.wav", directory.path()).unwrap();
        assert_eq!(found, directory.path().join("only-beside.wav"));
        assert_eq!(local_path("nowhere.wav", directory.path()).unwrap(), Path::new("nowhere.wav"));
    }
}
