//! Webhooks' connections, which reach as far as those for inputs do and no further.

use std::time::Duration;

use url::Url;

use crate::input::{AddressPolicy, FetchLimits, client};

/// Sends to what its policy allows, whatever names resolve to.
#[derive(Clone)]
pub struct Outbound {
    client: reqwest::Client,
    addresses: AddressPolicy,
}

impl Outbound {
    pub fn new(limits: &FetchLimits, addresses: AddressPolicy) -> Result<Self, String> {
        // Whoever redirects a message would get it as a question without a body.
        let limits = FetchLimits { max_redirects: 0, ..*limits };
        let client = client(&limits, addresses).map_err(|error| cause(&error))?;
        Ok(Self { client, addresses })
    }

    /// A message to `url`; `body` is JSON.
    pub fn post(
        &self,
        url: &str,
        body: Vec<u8>,
        timeout: Duration,
    ) -> Result<reqwest::RequestBuilder, String> {
        let url = self.checked(url)?;
        Ok(self.client.post(url).header("content-type", "application/json").body(body).timeout(timeout))
    }

    /// Whether `url` may be asked, as far as can be told without resolving its host's name.
    pub fn checked(&self, url: &str) -> Result<Url, String> {
        let url = Url::parse(url).map_err(|error| format!("is not a URL: {error}"))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(format!("must be an http or https URL, not `{}`", url.scheme()));
        }
        match self.addresses.allows(&url) {
            true => Ok(url),
            false => Err("must be a public URL".to_string()),
        }
    }
}

/// What a failure comes from, without the URL, which may hold a secret.
pub fn cause(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "no answer in time".to_string();
    }
    let first = std::error::Error::source(error);
    let last = std::iter::successors(first, |error| error.source()).last();
    last.map_or_else(|| "the connection failed".to_string(), ToString::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_judged_before_it_is_asked() {
        let outbound = |addresses| Outbound::new(&FetchLimits::default(), addresses).unwrap();
        let (public, any) = (outbound(AddressPolicy::PublicOnly), outbound(AddressPolicy::Any));
        // The last two are 127.0.0.1 in other words.
        for url in ["http://127.0.0.1/a", "http://[::1]/a", "http://2130706433/a", "http://0x7f.1/a"] {
            assert!(public.checked(url).is_err() && any.checked(url).is_ok(), "{url}");
        }
        for url in ["file:///etc/passwd", "ftp://host/a", "no url"] {
            assert!(any.checked(url).is_err(), "{url}");
        }
    }
}
