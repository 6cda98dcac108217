//! API keys, and the headers that carry them.

use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, HeaderName};
use ring::digest::{SHA256, digest};
use subtle::ConstantTimeEq;

use crate::system::digest::hex;

const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// The accepted API keys, as digests. With none, requests need no key.
#[derive(Clone, Default)]
pub struct Keys {
    digests: Vec<[u8; 32]>,
}

impl Keys {
    pub fn new(keys: &[String]) -> Self {
        Self { digests: keys.iter().map(|key| sha256(key.as_bytes())).collect() }
    }

    pub fn are_required(&self) -> bool {
        !self.digests.is_empty()
    }

    /// The owner of a request, derived from its key; `None` if the key is missing or unknown.
    ///
    /// A key is sent as `Authorization: Key …` (fal), `Authorization: Bearer …` (fal, wavespeed),
    /// `X-API-Key` (eachlabs) or `x-api-key` (JoggAI, sync.so).
    pub fn owner(&self, headers: &HeaderMap) -> Option<String> {
        if !self.are_required() {
            return Some(String::new());
        }
        let given = sha256(key_in(headers)?.as_bytes());
        // Compares with every key, so that the time does not depend on which one matches.
        let known = self.digests.iter().fold(false, |known, digest| bool::from(digest.ct_eq(&given)) | known);
        known.then(|| hex(&given[..8]))
    }
}

/// The key in a request's headers.
pub fn key_in(headers: &HeaderMap) -> Option<&str> {
    let text = |name: &HeaderName| headers.get(name)?.to_str().ok();
    // Other schemes may belong to a proxy in between.
    let authorised = text(&AUTHORIZATION).and_then(|value| {
        let (scheme, key) = value.split_once(' ')?;
        let known = scheme.eq_ignore_ascii_case("key") || scheme.eq_ignore_ascii_case("bearer");
        known.then(|| key.trim())
    });
    authorised.or_else(|| text(&API_KEY).map(str::trim))
}

pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut result = [0; 32];
    result.copy_from_slice(digest(&SHA256, bytes).as_ref());
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_accepted_in_four_forms() {
        let keys = Keys::new(&["first".to_string(), "id:secret".to_string()]);
        let with = |name: &'static str, value: &'static str| {
            keys.owner(&HeaderMap::from_iter([(name.parse().unwrap(), value.parse().unwrap())]))
        };
        let owner = with("authorization", "Key id:secret");
        assert!(owner.is_some());
        assert_eq!(with("authorization", "Bearer id:secret"), owner);
        assert_eq!(with("X-API-Key", "id:secret"), owner);
        assert_eq!(with("x-api-key", "id:secret"), owner);
        assert_ne!(with("x-api-key", "first"), owner);
        assert_eq!(with("x-api-key", "third"), None);
        assert_eq!(with("authorization", "Basic id:secret"), None);
        assert_eq!(keys.owner(&HeaderMap::new()), None);
        assert_eq!(Keys::default().owner(&HeaderMap::new()), Some(String::new()));
    }
}
