//! Where downloads live and how the hub is reached: `huggingface_hub`'s cache layout and environment, so that
//! what other programs have fetched is found, and the other way round.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::ManifestFile;
use crate::options::LoadOptions;
use crate::system::digest::hex;

/// Whether the user has accepted that InsightFace's networks are for non-commercial research only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum InsightFaceLicence {
    #[default]
    NotAccepted,
    Accepted,
}

/// The hub's address and the cache's place.
#[derive(Clone)]
pub struct HubSettings {
    /// `HF_HUB_CACHE`, or `$HF_HOME/hub`, or `~/.cache/huggingface/hub`.
    pub cache: PathBuf,
    /// `HF_ENDPOINT`; the public hub when absent.
    pub endpoint: Option<String>,
    /// `HF_TOKEN`; when absent, the token that `hf auth login` stored is used.
    pub token: Option<String>,
    /// `HF_HUB_OFFLINE`: never touch the network.
    pub offline: bool,
}

impl std::fmt::Debug for HubSettings {
    /// Without the token, which has no place in a log.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HubSettings")
            .field("cache", &self.cache)
            .field("endpoint", &self.endpoint)
            .field("token", &self.token.is_some())
            .field("offline", &self.offline)
            .finish()
    }
}

impl HubSettings {
    /// What the environment says.
    pub fn from_env() -> Self {
        Self::from_vars(|name| std::env::var_os(name))
    }

    /// What the environment says, and offline as well where the options ask for it.
    pub fn for_loading(options: &LoadOptions) -> Self {
        let settings = Self::from_env();
        Self { offline: settings.offline || options.offline, ..settings }
    }

    /// What variables of the names in the fields' documentation say; an empty one counts as absent.
    pub fn from_vars<T: Into<OsString>>(var: impl Fn(&str) -> Option<T>) -> Self {
        let var = |name: &str| {
            let value = var(name).map(Into::into);
            value.filter(|value: &OsString| value.to_str().is_none_or(|text| !text.trim().is_empty()))
        };
        // A directory may have any name; the others are words.
        let directory = |name: &str| var(name).map(PathBuf::from);
        let text = |name: &str| var(name).and_then(|value| value.into_string().ok());
        let cache = directory("HF_HUB_CACHE").unwrap_or_else(|| {
            let home = directory("HF_HOME").unwrap_or_else(|| {
                let in_home = || directory("HOME").unwrap_or_else(|| ".".into()).join(".cache");
                directory("XDG_CACHE_HOME").unwrap_or_else(in_home).join("huggingface")
            });
            home.join("hub")
        });
        let on = |value: String| !matches!(value.to_ascii_lowercase().as_str(), "0" | "false" | "no" | "off");
        Self {
            cache,
            endpoint: text("HF_ENDPOINT"),
            token: text("HF_TOKEN"),
            offline: text("HF_HUB_OFFLINE").is_some_and(on),
        }
    }

    /// The cache's directory for the repository of `file`.
    pub(super) fn repository(&self, file: &ManifestFile) -> PathBuf {
        self.cache.join(repository_folder(file))
    }

    /// Held, as hf-hub holds it, while `file` is being downloaded.
    pub(super) fn lock(&self, file: &ManifestFile, sha256: &str) -> PathBuf {
        let locks = self.cache.join(".locks").join(repository_folder(file));
        locks.join(format!("{sha256}.lock"))
    }

    /// Where the bytes of a file with this hash go. The hub uses the hash as the name as well.
    pub(super) fn blob(&self, file: &ManifestFile, sha256: &str) -> PathBuf {
        self.repository(file).join("blobs").join(sha256)
    }

    /// Where the bytes are collected until they are complete.
    pub(super) fn incomplete(&self, file: &ManifestFile, sha256: &str) -> PathBuf {
        self.repository(file).join("blobs").join(format!("{sha256}.incomplete"))
    }

    /// The path of `file` as of `commit`, which is a link to its blob.
    pub(super) fn pointer(&self, file: &ManifestFile, commit: &str) -> PathBuf {
        self.repository(file).join("snapshots").join(commit).join(&file.path)
    }

    /// Where the hash of the file at `path`, anywhere on this machine, is noted. In `.locks`, since programs
    /// that list the cache take every other directory for a repository.
    pub(super) fn hash_note(&self, path: &Path) -> PathBuf {
        let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let name = hex(&Sha256::digest(path.as_os_str().as_encoded_bytes()));
        self.cache.join(".locks/latentsync-hashes").join(name)
    }

    /// `file` in the cache, if it is there.
    pub(super) fn find(&self, file: &ManifestFile) -> Option<PathBuf> {
        let reference = self.repository(file).join("refs").join(&file.revision);
        let commit = std::fs::read_to_string(reference).unwrap_or_else(|_| file.revision.clone());
        let pointer = self.pointer(file, commit.trim());
        let blob = file.sha256.as_ref().map(|sha256| self.blob(file, sha256));
        [Some(pointer), blob].into_iter().flatten().find(|path| path.is_file())
    }
}

fn repository_folder(file: &ManifestFile) -> String {
    format!("models--{}", file.repository.replace('/', "--"))
}

/// The hash of a cached file, which its blob has as its name.
pub(super) fn hash_in_name(path: &Path) -> Option<String> {
    let blob = path.canonicalize().ok()?;
    let in_blobs = blob.parent()?.file_name()? == "blobs";
    let name = blob.file_name()?.to_str()?;
    let is_hash = name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit());
    (in_blobs && is_hash).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(vars: &[(&str, &str)]) -> HubSettings {
        HubSettings::from_vars(|name| {
            let found = vars.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn the_cache_follows_the_environment() {
        let home = ("HOME", "/home/me");
        assert_eq!(settings(&[home]).cache, Path::new("/home/me/.cache/huggingface/hub"));
        assert_eq!(settings(&[home, ("XDG_CACHE_HOME", "/c")]).cache, Path::new("/c/huggingface/hub"));
        assert_eq!(settings(&[home, ("HF_HOME", "/h")]).cache, Path::new("/h/hub"));
        assert_eq!(settings(&[("HF_HOME", "/h"), ("HF_HUB_CACHE", "/x")]).cache, Path::new("/x"));
    }

    #[cfg(unix)]
    #[test]
    fn the_cache_may_have_a_name_that_is_not_utf_8() {
        use std::os::unix::ffi::OsStringExt;
        let home = OsString::from_vec(b"/h\xff".to_vec());
        let settings = HubSettings::from_vars(|name| (name == "HF_HOME").then(|| home.clone()));
        assert_eq!(settings.cache, PathBuf::from(home.clone()).join("hub"));
    }

    #[test]
    fn empty_and_zero_mean_off() {
        for (value, offline) in
            [("1", true), ("TRUE", true), ("on", true), ("0", false), ("false", false), ("", false)]
        {
            assert_eq!(settings(&[("HF_HUB_OFFLINE", value)]).offline, offline, "{value:?}");
        }
        assert_eq!(settings(&[("HF_ENDPOINT", " ")]).endpoint, None);
        assert_eq!(settings(&[("HF_ENDPOINT", "http://h")]).endpoint.as_deref(), Some("http://h"));
    }

    #[test]
    fn the_token_is_not_printed() {
        let printed = format!("{:?}", settings(&[("HF_TOKEN", "hf_secret")]));
        assert!(!printed.contains("hf_secret"), "{printed}");
    }
}
