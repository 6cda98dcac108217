//! What went wrong, said once: the chain of causes on one line, what to do about it on the next.

use std::error::Error as StdError;
use std::io::{self, Write};
use std::process::ExitCode;

#[cfg(feature = "server")]
use latentsync::server;
use latentsync::{Error, ErrorKind, audio, bench, face, input, media, options, request, system, weights};
use serde_json::json;

use super::hint;
use super::logging::Screen;

/// Exit code of errors that no other code is for: faults of the program, a closed stderr.
const FAILURE: u8 = 1;
const USAGE: u8 = 2;
const INPUT: u8 = 3;
const MODEL: u8 = 4;
const DEVICE: u8 = 5;
/// As shells report a program that SIGINT has ended.
pub const INTERRUPTED: u8 = 130;

/// An error of the command line itself.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    #[error("{0}")]
    Usage(String),

    #[error("{models}: not complete and intact")]
    ModelsNotIntact {
        models: String,
        /// The first of them.
        first: weights::Package,
    },
}

/// Exit code of the process and the hint, if any, for an error.
struct Advice {
    code: u8,
    hint: Option<String>,
}

impl Advice {
    /// `None` for errors of other crates.
    fn on(error: &anyhow::Error) -> Option<Self> {
        if let Some(error) = error.downcast_ref::<CommandError>() {
            let code = match error {
                CommandError::Usage(_) => USAGE,
                CommandError::ModelsNotIntact { .. } => MODEL,
            };
            return Some(Self { code, hint: hint::of_command(error) });
        }
        if let Some(error) = error.downcast_ref::<bench::Error>() {
            let code = match error {
                bench::Error::Engine(error) => code_of(error.kind()),
                bench::Error::Record { .. } | bench::Error::Peer { .. } => INPUT,
                _ => FAILURE,
            };
            return Some(Self { code, hint: hint::of_bench(error) });
        }
        #[cfg(feature = "server")]
        if let Some(error) = error.downcast_ref::<server::Error>() {
            let code = match error {
                server::Error::Engine(error) => code_of(error.kind()),
                server::Error::Database { .. } => INPUT,
                server::Error::Listen { .. }
                | server::Error::NotADataDir { .. }
                | server::Error::DataDirInUse { .. }
                | server::Error::NewerDatabase { .. } => USAGE,
                _ => FAILURE,
            };
            return Some(Self { code, hint: hint::of_server(error) });
        }
        let error = error.downcast_ref::<Error>()?;
        Some(Self { code: code_of(error.kind()), hint: hint::of_engine(error) })
    }
}

fn code_of(kind: ErrorKind) -> u8 {
    match kind {
        ErrorKind::Usage => USAGE,
        ErrorKind::Input => INPUT,
        ErrorKind::Model => MODEL,
        ErrorKind::Device => DEVICE,
        ErrorKind::Interrupted => INTERRUPTED,
        _ => FAILURE,
    }
}

/// Gives the errors of all layers the engine's form, so that one function decides by them.
fn to_engine_error(error: anyhow::Error) -> anyhow::Error {
    macro_rules! convert {
        ($error:expr, $($layer:ty),+) => {{
            let error = $error;
            $(let error = match error.downcast::<$layer>() {
                Ok(error) => return Error::from(error).into(),
                Err(error) => error,
            };)+
            error
        }};
    }
    convert!(
        error,
        options::InvalidOption,
        request::Error,
        input::Error,
        weights::Error,
        face::Error,
        media::Error,
        audio::Error,
        system::Error
    )
}

/// Prints `error` on stderr and, where the caller reads JSON, as an object on stdout as well. Returns the
/// process's exit code.
pub fn report(error: anyhow::Error, screen: &Screen, json: bool) -> ExitCode {
    // `latentsync … | head`: whoever read the output has seen enough.
    let chain = chain(error.as_ref());
    let error = to_engine_error(error);
    if is_broken_stdout(&error) {
        return ExitCode::SUCCESS;
    }
    screen.clear();
    let Advice { code, hint } = Advice::on(&error).unwrap_or(Advice { code: FAILURE, hint: None });
    // Nobody may listen any more; the exit code remains.
    let mut stderr = io::stderr().lock();
    let _ = writeln!(stderr, "error: {}", chain.join(": "));
    if let Some(hint) = &hint {
        let _ = writeln!(stderr, "hint: {hint}");
    }
    if json {
        let (message, causes) = chain.split_first().unzip();
        let object = json!({"message": message, "causes": causes, "hint": hint, "exit_code": code});
        let _ = writeln!(io::stdout(), "{:#}", json!({ "error": object }));
    }
    ExitCode::from(code)
}

/// Errors of the library and of the command line are about files and connections; only the rest are about stdout.
fn is_broken_stdout(error: &anyhow::Error) -> bool {
    let is_broken = |cause: &(dyn StdError + 'static)| {
        let kind = match cause.downcast_ref::<serde_json::Error>() {
            Some(json) => json.io_error_kind(),
            None => cause.downcast_ref::<io::Error>().map(io::Error::kind),
        };
        kind == Some(io::ErrorKind::BrokenPipe)
    };
    Advice::on(error).is_none() && error.chain().any(is_broken)
}

/// What `error` says, and then its causes.
pub fn chain(error: &(dyn StdError + 'static)) -> Vec<String> {
    std::iter::successors(Some(error), |&error| error.source()).map(message).collect()
}

/// One of them. With RUST_BACKTRACE=1 candle's errors carry the whole stack in their text.
fn message(cause: &(dyn StdError + 'static)) -> String {
    let boxed = || cause.downcast_ref::<Box<candle_core::Error>>().map(|error| &**error);
    cause.downcast_ref().or_else(boxed).map_or_else(|| cause.to_string(), computation)
}

fn computation(error: &candle_core::Error) -> String {
    match error {
        candle_core::Error::WithBacktrace { inner, .. } => computation(inner),
        candle_core::Error::Context { inner, context } => format!("{context}: {}", computation(inner)),
        candle_core::Error::WithPath { inner, path } => {
            format!("`{}`: {}", path.display(), computation(inner))
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::backtrace::Backtrace;

    use super::*;

    #[test]
    fn a_closed_stdout_is_known_in_every_wrapping() {
        let broken = || io::Error::from(io::ErrorKind::BrokenPipe);
        assert!(is_broken_stdout(&broken().into()));
        assert!(is_broken_stdout(&anyhow::Error::from(broken()).context("printing")));
        assert!(is_broken_stdout(&serde_json::Error::io(broken()).into()));
        let of_a_file = system::Error::WriteFile { path: "pipe".into(), source: broken() };
        assert!(!is_broken_stdout(&to_engine_error(of_a_file.into())));
    }

    #[test]
    fn a_computation_s_error_comes_without_its_backtrace() {
        let error = candle_core::Error::WithBacktrace {
            inner: Box::new(candle_core::Error::Msg("shapes differ".into())),
            backtrace: Box::new(Backtrace::force_capture()),
        };
        assert!(error.to_string().lines().count() > 1);
        let error = error.context("in attention");
        assert_eq!(message(&error), "in attention: shapes differ");
        let error = system::Error::Compute { stage: "denoise_latents", source: Box::new(error) };
        assert_eq!(chain(&error), ["computation failed in denoise_latents", "in attention: shapes differ"]);
    }
}
