//! API keys: which ones open the server, and which header they come in.

use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, HeaderName};
use ring::digest::{SHA256, digest};
use subtle::ConstantTimeEq;

use crate::system::digest::hex;

const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// The keys that open the server; with none, it is open to all who reach it. Only their digests are held.
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

    /// Whose request it is; `None` if it is nobody's who may ask.
    ///
    /// A key may come as `Authorization: Key …` (fal), `Authorization: Bearer …` (fal, wavespeed),
    /// `X-API-Key` (eachlabs) or `x-api-key` (JoggAI, sync.so).
    pub fn owner(&self, headers: &HeaderMap) -> Option<String> {
        if !self.are_required() {
            return Some(String::new());
        }
        let given = sha256(key_in(headers)?.as_bytes());
        // Every key is compared with, so that the time says nothing about which one was right.
        let known = self.digests.iter().fold(false, |known, digest| bool::from(digest.ct_eq(&given)) | known);
        known.then(|| hex(&given[..8]))
    }
}

/// The key that a request comes with.
pub fn key_in(headers: &HeaderMap) -> Option<&str> {
    let text = |name: &HeaderName| headers.get(name)?.to_str().ok();
    // A proxy on the way may want an authorisation of its own kind.
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
    fn four_ways_to_bring_a_key() {
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
