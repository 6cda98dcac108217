//! HTTP requests to a Hugging Face hub: byte ranges of files, and the commit of a branch.
//!
//! hf-hub's own downloader always starts at the first byte (huggingface/hf-hub#196), and from version 1.0 on
//! brings the Xet stack, a sixth of this program's build time. Its cache layout is used in `hub.rs`.

use std::ops::Range;
use std::time::Duration;

use reqwest::header::{AUTHORIZATION, RANGE};
use reqwest::{Client, Response, StatusCode, Url};

use super::HubSettings;

const DEFAULT_ENDPOINT: &str = "https://huggingface.co";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// Pauses before a request that failed for a passing reason is sent again.
const RETRY_DELAYS: [Duration; 2] = [Duration::from_millis(300), Duration::from_millis(1500)];
/// The hub's description of a revision lists all files of the repository.
const MAX_INFO_BYTES: usize = 16 << 20;

/// Why the hub did not deliver.
#[derive(Debug, thiserror::Error)]
pub(super) enum HubError {
    #[error("the hub asks for a token")]
    AuthRequired,
    #[error("the token may not read this repository")]
    Forbidden,
    #[error("not found")]
    NotFound,
    #[error("too many requests")]
    RateLimited,
    #[error("the hub answered {0}")]
    Status(StatusCode),
    #[error("the address of the hub is not usable: {0}")]
    Endpoint(String),
    #[error(transparent)]
    Transport(#[from] reqwest::Error),
    #[error("{0}")]
    Other(String),
}

/// One revision of one repository of the hub.
pub(super) struct HubClient {
    client: Client,
    endpoint: Url,
    token: Option<String>,
    repository: String,
    revision: String,
}

impl HubClient {
    /// # Errors
    /// [`HubError::Endpoint`] if `HF_ENDPOINT` is not an `http` or `https` URL.
    pub fn new(repository: &str, revision: &str, settings: &HubSettings) -> Result<Self, HubError> {
        let endpoint = settings.endpoint.as_deref().unwrap_or(DEFAULT_ENDPOINT);
        let url = Url::parse(endpoint).map_err(|error| HubError::Endpoint(error.to_string()))?;
        if url.cannot_be_a_base() || !matches!(url.scheme(), "http" | "https") {
            return Err(HubError::Endpoint(format!("`{}` URLs are not supported", url.scheme())));
        }
        crate::system::tls::install_provider();
        let client = Client::builder()
            .user_agent(concat!("latentsync/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            .build()?;
        let token = settings.token.clone().or_else(|| hf_hub::Cache::from_env().token());
        Ok(Self { client, endpoint: url, token, repository: repository.into(), revision: revision.into() })
    }

    /// The bytes `range` of a file, or all of it. The server may ignore the range.
    pub async fn file(&self, path: &str, range: Option<Range<u64>>) -> Result<Response, HubError> {
        let url = self.url(&[], &["resolve", &self.revision], path)?;
        self.get(url, range).await
    }

    /// The commit that the revision points to: 40 hexadecimal digits. `None` if the hub does not say.
    pub async fn commit(&self) -> Result<Option<String>, HubError> {
        let url = self.url(&["api", "models"], &["revision", &self.revision], "")?;
        let mut response = self.get(url, None).await?;
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await? {
            if body.len() + chunk.len() > MAX_INFO_BYTES {
                return Ok(None);
            }
            body.extend_from_slice(&chunk);
        }
        let info: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
        Ok(info["sha"].as_str().filter(|sha| is_commit(sha)).map(str::to_owned))
    }

    fn url(&self, before: &[&str], after: &[&str], path: &str) -> Result<Url, HubError> {
        let mut url = self.endpoint.clone();
        url.path_segments_mut()
            .map_err(|()| HubError::Endpoint("it has no path".into()))?
            .pop_if_empty()
            .extend(before)
            .extend(self.repository.split('/'))
            .extend(after)
            .extend(path.split('/').filter(|segment| !segment.is_empty()));
        Ok(url)
    }

    async fn get(&self, url: Url, range: Option<Range<u64>>) -> Result<Response, HubError> {
        let mut delays = RETRY_DELAYS.iter();
        loop {
            let mut request = self.client.get(url.clone());
            if let Some(token) = &self.token {
                request = request.header(AUTHORIZATION, format!("Bearer {token}"));
            }
            if let Some(range) = &range {
                request = request.header(RANGE, format!("bytes={}-{}", range.start, range.end - 1));
            }
            let error = match request.send().await {
                Ok(response) => match refusal(response.status()) {
                    None => return Ok(response),
                    Some(error) => error,
                },
                Err(error) => HubError::Transport(error),
            };
            let passing = match &error {
                HubError::Transport(error) => error.is_connect() || error.is_timeout(),
                HubError::Status(status) => status.is_server_error(),
                HubError::RateLimited => true,
                _ => false,
            };
            match delays.next() {
                Some(delay) if passing => tokio::time::sleep(*delay).await,
                _ => return Err(error),
            }
        }
    }
}

/// Whether `revision` is a commit's name. Names from a server become part of paths only if they are.
pub(super) fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn refusal(status: StatusCode) -> Option<HubError> {
    match status {
        _ if status.is_success() => None,
        StatusCode::UNAUTHORIZED => Some(HubError::AuthRequired),
        StatusCode::FORBIDDEN => Some(HubError::Forbidden),
        StatusCode::NOT_FOUND => Some(HubError::NotFound),
        StatusCode::TOO_MANY_REQUESTS => Some(HubError::RateLimited),
        status => Some(HubError::Status(status)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(endpoint: &str) -> Result<HubClient, HubError> {
        let settings = HubSettings::from_vars(|name| (name == "HF_ENDPOINT").then(|| endpoint.to_owned()));
        HubClient::new("owner/name", "main", &settings)
    }

    #[test]
    fn urls_are_those_of_the_hub() {
        let client = client("http://host/mirror/").unwrap();
        let file = client.url(&[], &["resolve", "main"], "a b/c.bin").unwrap();
        assert_eq!(file.as_str(), "http://host/mirror/owner/name/resolve/main/a%20b/c.bin");
        let info = client.url(&["api", "models"], &["revision", "main"], "").unwrap();
        assert_eq!(info.as_str(), "http://host/mirror/api/models/owner/name/revision/main");
    }

    #[test]
    fn endpoints_without_http_are_refused() {
        for endpoint in ["ftp://host", "host", "mailto:me@host"] {
            assert!(matches!(client(endpoint), Err(HubError::Endpoint(_))), "{endpoint}");
        }
    }

    #[test]
    fn a_commit_has_40_hexadecimal_digits() {
        assert!(is_commit("0123456789abcdef0123456789abcdef01234567"));
        for name in ["", "main", "../../../../../../../../../../../../../../x", "/absolute"] {
            assert!(!is_commit(name), "{name}");
        }
    }
}
