//! The HTTP client for webhooks. It reaches the same addresses as the one for inputs.

use std::time::Duration;

use url::Url;

use crate::input::{AddressPolicy, FetchLimits, client};

/// Sends to addresses that the policy allows; the resolved address of a name is checked too.
#[derive(Clone)]
pub struct Outbound {
    client: reqwest::Client,
    addresses: AddressPolicy,
}

impl Outbound {
    pub fn new(limits: &FetchLimits, addresses: AddressPolicy) -> Result<Self, String> {
        // A redirect would turn the POST into a GET without a body.
        let limits = FetchLimits { max_redirects: 0, ..*limits };
        let client = client(&limits, addresses).map_err(|error| cause(&error))?;
        Ok(Self { client, addresses })
    }

    /// A POST request with a JSON body.
    pub fn post(
        &self,
        url: &str,
        body: Vec<u8>,
        timeout: Duration,
    ) -> Result<reqwest::RequestBuilder, String> {
        let url = self.checked(url)?;
        Ok(self.client.post(url).header("content-type", "application/json").body(body).timeout(timeout))
    }

    /// The parsed URL, if the policy allows it. The host name is not resolved here.
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

/// The cause of a failed request, without the URL, which may contain a secret.
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
    fn a_url_is_checked_before_it_is_requested() {
        let outbound = |addresses| Outbound::new(&FetchLimits::default(), addresses).unwrap();
        let (public, any) = (outbound(AddressPolicy::PublicOnly), outbound(AddressPolicy::Any));
        // The last two are other notations of 127.0.0.1.
        for url in ["http://127.0.0.1/a", "http://[::1]/a", "http://2130706433/a", "http://0x7f.1/a"] {
            assert!(public.checked(url).is_err() && any.checked(url).is_ok(), "{url}");
        }
        for url in ["file:///etc/passwd", "ftp://host/a", "no url"] {
            assert!(any.checked(url).is_err(), "{url}");
        }
    }
}
