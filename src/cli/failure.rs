//! What went wrong, said once: the chain of causes on one line, what to do about it on the next.

use std::error::Error as StdError;
use std::io::{self, Write};
use std::process::ExitCode;

use latentsync::Error;
use serde_json::json;

use super::logging::Screen;

/// Prints `error` on stderr and, where the caller reads JSON, as an object on stdout as well. Returns the
/// process's exit code.
pub fn report(error: &anyhow::Error, screen: &Screen, json: bool) -> ExitCode {
    // `latentsync … | head`: whoever read the output has seen enough.
    if is_broken_stdout(error) {
        return ExitCode::SUCCESS;
    }
    screen.clear();
    let known = error.downcast_ref::<Error>();
    let code = known.map_or(1, Error::exit_code);
    let hint = known.and_then(Error::hint);
    let chain = chain(error.as_ref());
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

/// The library's own errors are about files and connections, so that only what is left is about stdout.
fn is_broken_stdout(error: &anyhow::Error) -> bool {
    let is_broken = |cause: &(dyn StdError + 'static)| {
        let kind = match cause.downcast_ref::<serde_json::Error>() {
            Some(json) => json.io_error_kind(),
            None => cause.downcast_ref::<io::Error>().map(io::Error::kind),
        };
        kind == Some(io::ErrorKind::BrokenPipe)
    };
    error.downcast_ref::<Error>().is_none() && error.chain().any(is_broken)
}

/// What `error` says, and then its causes.
pub fn chain(error: &(dyn StdError + 'static)) -> Vec<String> {
    std::iter::successors(Some(error), |&error| error.source()).map(message).collect()
}

/// One of them. With RUST_BACKTRACE=1 candle's errors carry the whole stack in their text.
fn message(cause: &(dyn StdError + 'static)) -> String {
    cause.downcast_ref::<candle_core::Error>().map_or_else(|| cause.to_string(), computation)
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
        let of_a_file = Error::WriteFile { path: "pipe".into(), source: broken() };
        assert!(!is_broken_stdout(&of_a_file.into()));
    }

    #[test]
    fn a_computation_s_error_comes_without_its_backtrace() {
        let error = candle_core::Error::WithBacktrace {
            inner: Box::new(candle_core::Error::Msg("shapes differ".into())),
            backtrace: Box::new(Backtrace::force_capture()),
        };
        assert!(error.to_string().lines().count() > 1);
        assert_eq!(message(&error.context("in attention")), "in attention: shapes differ");
    }
}
