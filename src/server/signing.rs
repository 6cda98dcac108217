//! Webhook signatures and upload tokens: an Ed25519 key pair whose public key is published, and secrets that
//! are shared with the receiver.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac::{self, HMAC_SHA256};
use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{Ed25519KeyPair, KeyPair};
use serde_json::{Value, json};

use super::jobs::Store;
use super::keys::sha256;
use crate::server::{Error, Result};
use crate::system::digest::hex;

/// The server's secrets. They are generated at the first start and kept in the database.
pub struct Signer {
    pair: Ed25519KeyPair,
    key_id: String,
    /// Shared secrets by name.
    shared: BTreeMap<&'static str, String>,
    uploads: Vec<u8>,
}

impl Signer {
    /// Reads the secrets, or generates them. `shared` are the names of the shared secrets.
    pub fn open(store: &Store, shared: impl IntoIterator<Item = &'static str>) -> Result<Self> {
        let seed = store.secret("ed25519", random)?;
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed)
            .map_err(|_| Error::Internal("the database's signing key is damaged".to_string()))?;
        let key_id = hex(&sha256(pair.public_key().as_ref())[..8]);
        Ok(Self {
            pair,
            key_id,
            shared: shared
                .into_iter()
                .map(|name| Ok((name, hex(&store.secret(name, random)?))))
                .collect::<Result<_>>()?,
            uploads: store.secret("uploads", random)?,
        })
    }

    /// The Ed25519 signature of `message`, in hexadecimal.
    pub fn ed25519(&self, message: &[u8]) -> String {
        hex(self.pair.sign(message).as_ref())
    }

    /// The public key as a JSON Web Key Set.
    pub fn jwks(&self) -> Value {
        let public = URL_SAFE_NO_PAD.encode(self.pair.public_key().as_ref());
        json!({"keys": [{
            "kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA", "kid": self.key_id, "x": public,
        }]})
    }

    /// `owner`'s part of the shared secret `name`, in hexadecimal. It must be one of those that
    /// [`Self::open`] was given.
    pub fn secret_of(&self, name: &str, owner: &str) -> String {
        derived(&self.shared[name], owner)
    }

    /// HMAC-SHA256 of `message` with [`Self::secret_of`], in hexadecimal.
    pub fn sign(&self, name: &str, owner: &str, message: &[u8]) -> String {
        hmac_hex(self.secret_of(name, owner).as_bytes(), message)
    }

    /// A token that permits uploads as `owner` until `expires` (milliseconds since 1970).
    pub fn upload_token(&self, owner: &str, expires: i64) -> String {
        let claim = format!("{owner}.{expires}");
        format!("{claim}.{}", hmac_hex(&self.uploads, claim.as_bytes()))
    }

    /// The owner of `token`; `None` if it is invalid or has expired at `now`.
    pub fn upload_owner(&self, token: &str, now: i64) -> Option<String> {
        let (claim, signature) = token.rsplit_once('.')?;
        let (owner, expires) = claim.rsplit_once('.')?;
        let key = hmac::Key::new(HMAC_SHA256, &self.uploads);
        hmac::verify(&key, claim.as_bytes(), &unhex(signature)?).ok()?;
        (expires.parse::<i64>().ok()? > now).then(|| owner.to_string())
    }
}

/// The secret of one owner, derived from the server's: an owner cannot sign messages to the receivers of
/// another.
fn derived(secret: &str, owner: &str) -> String {
    hmac_hex(secret.as_bytes(), owner.as_bytes())
}

/// HMAC-SHA256 in hexadecimal.
pub fn hmac_hex(secret: &[u8], message: &[u8]) -> String {
    hex(hmac::sign(&hmac::Key::new(HMAC_SHA256, secret), message).as_ref())
}

/// A random secret for one webhook endpoint.
pub fn new_secret() -> Result<String> {
    Ok(format!("whsec_{}", hex(&random()?[..16])))
}

fn random() -> Result<Vec<u8>> {
    let mut bytes = vec![0; 32];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| Error::Internal("the system has no random numbers".to_string()))?;
    Ok(bytes)
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |i: usize| u8::from_str_radix(text.get(i..i + 2)?, 16).ok();
    (0..text.len()).step_by(2).map(digit).collect()
}

#[cfg(test)]
mod tests {
    use ring::signature::{ED25519, UnparsedPublicKey};

    use super::*;

    fn signer(directory: &std::path::Path) -> Signer {
        let store = Store::open(&directory.join("jobs.sqlite"), &()).unwrap();
        Signer::open(&store, ["a", "b"]).unwrap()
    }

    #[test]
    fn the_published_key_verifies_signatures_after_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let signature = signer(directory.path()).ed25519(b"message");
        let jwks = signer(directory.path()).jwks();
        let public = URL_SAFE_NO_PAD.decode(jwks["keys"][0]["x"].as_str().unwrap()).unwrap();
        let public = UnparsedPublicKey::new(&ED25519, public);
        assert!(public.verify(b"message", &unhex(&signature).unwrap()).is_ok());
        assert!(public.verify(b"other", &unhex(&signature).unwrap()).is_err());
    }

    #[test]
    fn owners_have_different_secrets() {
        let directory = tempfile::tempdir().unwrap();
        let signer = signer(directory.path());
        assert_ne!(signer.secret_of("a", "me"), signer.secret_of("a", "you"));
        assert_ne!(signer.secret_of("a", "me"), signer.secret_of("b", "me"));
        assert_eq!(signer.sign("a", "me", b"m"), hmac_hex(signer.secret_of("a", "me").as_bytes(), b"m"));
    }

    #[test]
    fn an_upload_token_names_its_owner_and_expires() {
        let directory = tempfile::tempdir().unwrap();
        let signer = signer(directory.path());
        let token = signer.upload_token("me", 1000);
        assert_eq!(signer.upload_owner(&token, 999).as_deref(), Some("me"));
        assert_eq!(signer.upload_owner(&token, 1000), None);
        assert_eq!(signer.upload_owner(&token.replace("me.", "you."), 0), None);
        assert_eq!(signer.upload_owner("é.1.x", 0), None);
    }
}
