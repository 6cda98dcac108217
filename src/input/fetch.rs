//! A URL, streamed to a temporary file.

use std::error::Error as StdError;
use std::io;
use std::pin::pin;
use std::time::Duration;

use reqwest::{Client, Response, Url, redirect};
use tempfile::TempPath;

use super::Input;
use super::address::{AddressPolicy, NotPublic, PublicResolver};
use super::problem::FetchProblem;
use super::spool::{FetchLimits, Spool, SpoolFile};
use crate::input::{Error, Result};
use crate::system::cancel::CancelToken;
use crate::system::temp_outputs::Unfinished;

/// How often it is looked whether the job was cancelled and whether there is still time.
const TICK: Duration = Duration::from_millis(100);
/// File name extensions are passed on up to this length.
const LONGEST_EXTENSION: usize = 5;

/// What ends a fetch.
enum Stop {
    Problem(FetchProblem),
    Other(Error),
}

impl From<FetchProblem> for Stop {
    fn from(problem: FetchProblem) -> Self {
        Self::Problem(problem)
    }
}

impl<E: Into<Error>> From<E> for Stop {
    fn from(error: E) -> Self {
        Self::Other(error.into())
    }
}

/// Fetches `url`, which is what `input` is.
pub(super) fn fetch(
    input: &Input,
    url: &str,
    spool: &Spool,
    cancel: &CancelToken,
) -> Result<(TempPath, Unfinished)> {
    let work = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|e| FetchProblem::Connection(e.to_string()))?;
        let fetched = runtime.block_on(Fetch { spool, cancel }.run(url));
        // A name that is still being looked up is not waited for.
        runtime.shutdown_background();
        fetched
    };
    // A thread of its own, since inside another runtime both blocking and dropping this one would panic.
    let done = std::thread::scope(|scope| {
        scope.spawn(work).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    done.map_err(|stop| match stop {
        Stop::Problem(problem) => Error::Fetch { input: input.to_string(), problem },
        Stop::Other(error) => error,
    })
}

/// One URL on its way.
struct Fetch<'a> {
    spool: &'a Spool,
    cancel: &'a CancelToken,
}

impl Fetch<'_> {
    async fn run(&self, url: &str) -> Result<(TempPath, Unfinished), Stop> {
        let url = Url::parse(url).map_err(|e| FetchProblem::BadUrl(e.to_string()))?;
        if !self.spool.addresses.allows(&url) {
            return Err(FetchProblem::PrivateAddress.into());
        }
        let mut file = SpoolFile::create(self.spool, extension(&url).as_deref())?;
        let client = client(&self.spool.limits, self.spool.addresses)
            .map_err(|e| FetchProblem::Connection(chain(&e)))?;
        let sent = self.wait(client.get(url).send(), &file).await?;
        let mut response = sent.map_err(|e| problem(e, &self.spool.limits))?;
        if !response.status().is_success() {
            return Err(FetchProblem::Status { status: response.status().as_u16() }.into());
        }
        let expected = response.content_length();
        expected.map_or(Ok(()), |expected| file.check_announced(expected))?;
        file.called_html = is_html(&response);
        loop {
            match self.wait(response.chunk(), &file).await? {
                Ok(Some(bytes)) => file.write(&bytes)??,
                Ok(None) => break,
                Err(error) => {
                    let got = file.bytes();
                    return Err(match expected {
                        Some(expected) if got < expected => FetchProblem::Truncated { got, expected },
                        _ => problem(error, &self.spool.limits),
                    }
                    .into());
                }
            }
        }
        Ok(file.finish()??)
    }

    /// Waits for the network as long as nobody cancels and `file` has time.
    async fn wait<T>(&self, future: impl Future<Output = T>, file: &SpoolFile) -> Result<T, Stop> {
        let mut future = pin!(future);
        loop {
            self.cancel.check()?;
            file.check_time()?;
            if let Ok(output) = tokio::time::timeout(TICK, &mut future).await {
                return Ok(output);
            }
        }
    }
}

/// Connects to what `addresses` allow, through redirects and whatever names resolve to.
pub(crate) fn client(limits: &FetchLimits, addresses: AddressPolicy) -> reqwest::Result<Client> {
    let most = limits.max_redirects;
    let redirects = redirect::Policy::custom(move |attempt| {
        if attempt.previous().len() > most {
            attempt.error(TooManyRedirects)
        } else if !addresses.allows(attempt.url()) {
            attempt.error(NotPublic)
        } else {
            attempt.follow()
        }
    });
    let client = Client::builder()
        .user_agent(concat!("latentsync/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(limits.connect)
        .referer(false)
        .redirect(redirects);
    match addresses {
        AddressPolicy::Any => client,
        // A proxy would resolve the names itself.
        AddressPolicy::PublicOnly => client.no_proxy().dns_resolver(PublicResolver),
    }
    .build()
}

#[derive(Debug, thiserror::Error)]
#[error("too many redirects")]
struct TooManyRedirects;

fn is_html(response: &Response) -> bool {
    let header = response.headers().get(reqwest::header::CONTENT_TYPE);
    let kind = header.and_then(|value| value.to_str().ok()).unwrap_or_default().to_ascii_lowercase();
    kind.starts_with("text/html") || kind.starts_with("application/xhtml")
}

/// That of the file's name, where it looks like one.
fn extension(url: &Url) -> Option<String> {
    let (_, extension) = url.path().rsplit('/').next()?.rsplit_once('.')?;
    let plain = extension.len() <= LONGEST_EXTENSION && extension.bytes().all(|b| b.is_ascii_alphanumeric());
    (plain && !extension.is_empty()).then(|| extension.to_ascii_lowercase())
}

/// Which problem a failure is. The URL, which may hold a signature, is taken out first.
fn problem(error: reqwest::Error, limits: &FetchLimits) -> FetchProblem {
    let error = error.without_url();
    if caused_by::<TooManyRedirects>(&error).is_some() {
        return FetchProblem::TooManyRedirects(limits.max_redirects);
    }
    if caused_by::<NotPublic>(&error).is_some() {
        return FetchProblem::PrivateAddress;
    }
    if error.is_builder() {
        return FetchProblem::BadUrl("it has no host".into());
    }
    let text = chain(&error);
    let refused =
        caused_by::<io::Error>(&error).is_some_and(|e| e.kind() == io::ErrorKind::ConnectionRefused);
    match () {
        () if error.is_connect() && error.is_timeout() => FetchProblem::ConnectTimeout(limits.connect),
        () if error.is_connect() && text.contains("dns error") => FetchProblem::NoSuchHost,
        () if refused => FetchProblem::Refused,
        () if error.is_connect()
            && ["certificate", "tls", "handshake", "corrupt message"]
                .iter()
                .any(|word| text.to_ascii_lowercase().contains(word)) =>
        {
            FetchProblem::Tls(last(&error))
        }
        () => FetchProblem::Connection(last(&error)),
    }
}

/// The first cause of a type.
fn caused_by<'a, E: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a E> {
    causes(error).find_map(|cause| cause.downcast_ref())
}

fn causes<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    let mut next = Some(error);
    std::iter::from_fn(move || {
        let cause = next?;
        next = cause.source();
        Some(cause)
    })
}

fn chain(error: &(dyn StdError + 'static)) -> String {
    causes(error).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// The cause of all the others.
fn last(error: &(dyn StdError + 'static)) -> String {
    causes(error).last().map(ToString::to_string).unwrap_or_default()
}
