//! `/`: the web page. Its files are built into the program, load nothing from other hosts, and are
//! revalidated by ETag at every visit. The page uses the vendors' APIs, and [`local`](super::local) for what
//! they lack.

use std::sync::LazyLock;

use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::health::TAG;
use super::keys::sha256;
use super::openapi::Operation;
use super::openapi::schemas::string;
use super::routes::Routes;
use crate::system::digest::hex;

/// Content security policy: only this server's own files and responses; no inline script or style, no frames.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; media-src 'self'; \
                      connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const SCRIPT: &str = "text/javascript; charset=utf-8";

/// A file of the page: path, content type, text.
type File = (&'static str, &'static str, &'static str);

/// Every file; the first is the document. Links between them are relative, so that the page also works below
/// a path of a proxy.
const FILES: [File; 11] = [
    ("/", "text/html; charset=utf-8", include_str!("index.html")),
    ("/page/style.css", "text/css; charset=utf-8", include_str!("style.css")),
    ("/page/icon.svg", "image/svg+xml", include_str!("icon.svg")),
    ("/page/app.js", SCRIPT, include_str!("app.js")),
    ("/page/apis.js", SCRIPT, include_str!("apis.js")),
    ("/page/samples.js", SCRIPT, include_str!("samples.js")),
    ("/page/server.js", SCRIPT, include_str!("server.js")),
    ("/page/media.js", SCRIPT, include_str!("media.js")),
    ("/page/job.js", SCRIPT, include_str!("job.js")),
    ("/page/history.js", SCRIPT, include_str!("history.js")),
    ("/page/dom.js", SCRIPT, include_str!("dom.js")),
];

/// The ETags of [`FILES`], in the same order.
static TAGS: LazyLock<[String; FILES.len()]> =
    LazyLock::new(|| FILES.map(|(_, _, text)| format!("\"{}\"", hex(&sha256(text.as_bytes())[..12]))));

pub fn routes() -> Routes {
    let document = Operation::new("the page; its other files are below /page").without_key();
    let document = document.response_as(200, "text/html", string()).empty_response(304);
    let [index, others @ ..] = FILES;
    let [index_tag, tags @ ..] = &*TAGS;
    let serve = |file: File, tag: &'static str| {
        move |headers: HeaderMap| std::future::ready(response(file, tag, &headers))
    };
    let routes = Routes::new(TAG).get(index.0, serve(index, index_tag), document);
    others
        .into_iter()
        .zip(tags)
        .fold(routes, |routes, (file, tag)| routes.undocumented(file.0, get(serve(file, tag))))
}

fn response((_, content_type, text): File, tag: &'static str, headers: &HeaderMap) -> Response {
    let common = [
        (ETAG, tag),
        (CACHE_CONTROL, "no-cache"),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
    ];
    match is_known(headers, tag) {
        true => (StatusCode::NOT_MODIFIED, common).into_response(),
        false => (common, [(CONTENT_TYPE, content_type)], text).into_response(),
    }
}

/// Whether the browser has the current text. A proxy that compresses responses makes the ETag weak.
fn is_known(headers: &HeaderMap, tag: &str) -> bool {
    let tags = headers.get_all(IF_NONE_MATCH).iter().filter_map(|tags| tags.to_str().ok());
    tags.flat_map(|tags| tags.split(',')).any(|known| {
        let known = known.trim();
        known == "*" || known.strip_prefix("W/").unwrap_or(known) == tag
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unchanged_file_is_not_sent_again() {
        let file = FILES[0];
        let with = |value: &'static str| HeaderMap::from_iter([(IF_NONE_MATCH, value.parse().unwrap())]);
        for known in ["\"a\"", "W/\"a\"", "\"b\", \"a\"", "*"] {
            assert_eq!(response(file, "\"a\"", &with(known)).status(), StatusCode::NOT_MODIFIED, "{known}");
        }
        for other in ["\"b\"", "a", "W/\"aa\""] {
            assert_eq!(response(file, "\"a\"", &with(other)).status(), StatusCode::OK, "{other}");
        }
        let fresh = response(file, "\"a\"", &HeaderMap::new());
        assert_eq!(fresh.headers()[ETAG], "\"a\"");
        assert_eq!(fresh.headers()[CONTENT_TYPE], "text/html; charset=utf-8");
    }

    #[test]
    fn the_page_is_small_and_links_only_to_its_own_files() {
        let bytes: usize = FILES.iter().map(|(_, _, text)| text.len()).sum();
        assert!(bytes < 60_000, "{bytes} bytes");
        for (path, _, text) in FILES {
            let (directory, _) = path.rsplit_once('/').unwrap();
            let ours = |word: &&str| [".js", ".css", ".svg"].iter().any(|ending| word.ends_with(ending));
            let quoted = text.split('"').filter(ours);
            for word in quoted {
                let wanted = match word.strip_prefix("./") {
                    Some(name) => format!("{directory}/{name}"),
                    None => format!("/{word}"),
                };
                assert!(FILES.iter().any(|(path, _, _)| *path == wanted), "{path} names {word}");
            }
        }
    }
}
