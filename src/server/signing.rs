//! Webhook signatures: fal's with a key pair whose public half is published, the others' with shared secrets.

use aws_lc_rs::hmac::{self, HMAC_SHA256};
use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::jobs::Store;
use super::keys::sha256;
use crate::server::{Error, Result};
use crate::system::digest::hex;

/// This server's secrets. They are made on the first start and stay in its database.
pub struct Signer {
    pair: Ed25519KeyPair,
    key_id: String,
    wavespeed: String,
    sync_so: String,
    uploads: Vec<u8>,
}

impl Signer {
    pub fn open(store: &Store) -> Result<Self> {
        let seed = store.secret("ed25519", random)?;
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed)
            .map_err(|_| Error::Internal("the database's signing key is damaged".to_string()))?;
        let key_id = hex(&sha256(pair.public_key().as_ref())[..8]);
        Ok(Self {
            pair,
            key_id,
            wavespeed: hex(&store.secret("wavespeed", random)?),
            sync_so: hex(&store.secret("sync.so", random)?),
            uploads: store.secret("uploads", random)?,
        })
    }

    /// Signs fal's webhook messages; hexadecimal.
    pub fn ed25519(&self, message: &[u8]) -> String {
        hex(self.pair.sign(message).as_ref())
    }

    /// The public key, as fal publishes its own.
    pub fn jwks(&self) -> Value {
        let public = URL_SAFE_NO_PAD.encode(self.pair.public_key().as_ref());
        json!({"keys": [{
            "kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA", "kid": self.key_id, "x": public,
        }]})
    }

    /// What wavespeed's clients verify with, in their notation.
    pub fn wavespeed_secret(&self, owner: &str) -> String {
        format!("whsec_{}", owner_s(&self.wavespeed, owner))
    }

    /// wavespeed signs with its secret's text, less the prefix.
    pub fn wavespeed(&self, owner: &str, message: &[u8]) -> String {
        hmac_hex(owner_s(&self.wavespeed, owner).as_bytes(), message)
    }

    /// What sync.so shows its customers in the dashboard.
    pub fn sync_so_secret(&self, owner: &str) -> String {
        owner_s(&self.sync_so, owner)
    }

    pub fn sync_so(&self, owner: &str, message: &[u8]) -> String {
        hmac_hex(owner_s(&self.sync_so, owner).as_bytes(), message)
    }

    /// A permission to upload as `owner` until `expires` (milliseconds since 1970).
    pub fn upload_token(&self, owner: &str, expires: i64) -> String {
        let claim = format!("{owner}.{expires}");
        format!("{claim}.{}", hmac_hex(&self.uploads, claim.as_bytes()))
    }

    /// Who may upload with `token` at `now`; `None` if nobody.
    pub fn upload_owner(&self, token: &str, now: i64) -> Option<String> {
        let (claim, signature) = token.rsplit_once('.')?;
        let (owner, expires) = claim.rsplit_once('.')?;
        let key = hmac::Key::new(HMAC_SHA256, &self.uploads);
        hmac::verify(&key, claim.as_bytes(), &unhex(signature)?).ok()?;
        (expires.parse::<i64>().ok()? > now).then(|| owner.to_string())
    }
}

/// The part of a secret that one key may know: with it nobody signs messages to another's receiver.
fn owner_s(secret: &str, owner: &str) -> String {
    hmac_hex(secret.as_bytes(), owner.as_bytes())
}

pub fn hmac_hex(secret: &[u8], message: &[u8]) -> String {
    hex(hmac::sign(&hmac::Key::new(HMAC_SHA256, secret), message).as_ref())
}

/// A secret for one receiver of webhooks.
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
    use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};

    use super::*;

    fn signer(directory: &std::path::Path) -> Signer {
        Signer::open(&Store::open(&directory.join("jobs.sqlite")).unwrap()).unwrap()
    }

    #[test]
    fn the_published_key_verifies_and_outlives_the_server() {
        let directory = tempfile::tempdir().unwrap();
        let signature = signer(directory.path()).ed25519(b"message");
        let jwks = signer(directory.path()).jwks();
        let public = URL_SAFE_NO_PAD.decode(jwks["keys"][0]["x"].as_str().unwrap()).unwrap();
        let public = UnparsedPublicKey::new(&ED25519, public);
        assert!(public.verify(b"message", &unhex(&signature).unwrap()).is_ok());
        assert!(public.verify(b"other", &unhex(&signature).unwrap()).is_err());
    }

    #[test]
    fn each_owner_has_secrets_of_its_own() {
        let directory = tempfile::tempdir().unwrap();
        let signer = signer(directory.path());
        assert_ne!(signer.sync_so_secret("me"), signer.sync_so_secret("you"));
        assert_ne!(signer.wavespeed_secret("me"), signer.wavespeed_secret("you"));
        assert_eq!(signer.sync_so("me", b"m"), hmac_hex(signer.sync_so_secret("me").as_bytes(), b"m"));
        let secret = signer.wavespeed_secret("me");
        assert_eq!(
            signer.wavespeed("me", b"m"),
            hmac_hex(secret.trim_start_matches("whsec_").as_bytes(), b"m")
        );
    }

    #[test]
    fn an_upload_token_is_its_owner_s_and_ends() {
        let directory = tempfile::tempdir().unwrap();
        let signer = signer(directory.path());
        let token = signer.upload_token("me", 1000);
        assert_eq!(signer.upload_owner(&token, 999).as_deref(), Some("me"));
        assert_eq!(signer.upload_owner(&token, 1000), None);
        assert_eq!(signer.upload_owner(&token.replace("me.", "you."), 0), None);
        assert_eq!(signer.upload_owner("é.1.x", 0), None);
    }
}
