//! stderr: the log, and on a terminal the progress bars, which must not overwrite each other.

use std::io::{self, IsTerminal, Write};

use clap::ValueEnum;
use indicatif::{MultiProgress, ProgressDrawTarget};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use super::Verbosity;

/// Where progress is shown.
#[derive(Clone)]
pub struct Screen {
    bars: MultiProgress,
    /// Bars are shown; otherwise progress is log lines.
    pub is_terminal: bool,
}

impl Screen {
    /// The place for bars; hidden where there is no terminal.
    pub fn bars(&self) -> &MultiProgress {
        &self.bars
    }

    /// Takes the bars away, for the last words.
    pub fn clear(&self) {
        // Only a terminal that is gone can fail here, and then nobody looks.
        let _ = self.bars.clear();
    }
}

/// How the log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line, for programs.
    Json,
}

/// Starts logging to stderr: `-q` before all, then RUST_LOG where it is set, else by `-v`. On a terminal the
/// bars tell what the log's stage lines tell elsewhere, so that only warnings are logged there. hf-hub's own
/// complaints come before every repetition, and the last one is in the error.
pub fn start(verbosity: Verbosity, format: LogFormat) -> Screen {
    let is_terminal = io::stderr().is_terminal() && !verbosity.quiet && format == LogFormat::Text;
    let bars = MultiProgress::with_draw_target(match is_terminal {
        true => ProgressDrawTarget::stderr(),
        false => ProgressDrawTarget::hidden(),
    });
    let screen = Screen { bars, is_terminal };
    let level = match (verbosity.quiet, verbosity.verbose) {
        (true, _) => "error,hf_hub=off",
        (_, 0) if is_terminal => "warn,hf_hub=off",
        (_, 0) => "warn,hf_hub=off,latentsync=info",
        (_, 1) => "info,latentsync=debug,latentsync_models=debug,latentsync_kernels=debug",
        (_, _) => "trace",
    };
    let asked = EnvFilter::try_from_default_env().ok().filter(|_| !verbosity.quiet);
    let filter = asked.unwrap_or_else(|| EnvFilter::new(level));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(screen.clone())
        .with_ansi(is_terminal)
        // It would complain on stderr about a stderr that is gone, and end the job with that.
        .log_internal_errors(false)
        .with_target(verbosity.verbose > 0);
    match format {
        LogFormat::Text => log.without_time().init(),
        LogFormat::Json => log.json().flatten_event(true).with_span_list(false).init(),
    }
    screen
}

impl<'a> MakeWriter<'a> for Screen {
    type Writer = LogWriter;

    fn make_writer(&'a self) -> LogWriter {
        LogWriter { bars: self.bars.clone() }
    }
}

/// Takes the bars away for the moment of writing.
pub struct LogWriter {
    bars: MultiProgress,
}

impl Write for LogWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.bars.suspend(|| io::stderr().write(line))
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}
