//! Ctrl-C, and the polite ways of being told to stop by the system.

use std::process;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, ThreadId};
use std::time::Duration;

use anyhow::Context;
use latentsync::{CancelToken, system};

use super::failure;
use super::logging::Screen;

/// How long a job may take to stop by itself: less than the second that a user is promised.
const PATIENCE: Duration = Duration::from_millis(700);
/// How long a server may take to finish its answers and its job's step.
const SERVICE_PATIENCE: Duration = Duration::from_secs(20);

/// The first Ctrl-C asks the job to stop and to clean up after itself, and ends the process if it has not done
/// so in time; a second one ends it at once. While nothing is at work the first one does.
#[derive(Clone)]
pub struct Interrupts {
    token: CancelToken,
    working: Arc<AtomicBool>,
    /// The work is a service: it ends with the answers that it is giving.
    serving: Arc<AtomicBool>,
    /// The thread that says how the program ended.
    speaker: Arc<OnceLock<ThreadId>>,
    screen: Screen,
    json: bool,
}

impl Interrupts {
    /// `json`: the caller reads JSON from stdout, also about an interruption.
    pub fn install(screen: &Screen, json: bool) -> anyhow::Result<Self> {
        let interrupts = Self {
            token: CancelToken::new(),
            working: Arc::default(),
            serving: Arc::default(),
            speaker: Arc::default(),
            screen: screen.clone(),
            json,
        };
        let handler = interrupts.clone();
        ctrlc::set_handler(move || handler.interrupt()).context("cannot listen for Ctrl-C")?;
        Ok(interrupts)
    }

    /// From here on there is something to clean up: whoever works looks at the token.
    pub fn start_work(&self) -> &CancelToken {
        self.working.store(true, Ordering::SeqCst);
        &self.token
    }

    /// [`Self::start_work`] for a server: it is given the time to finish what it is answering.
    #[cfg(feature = "server")]
    pub fn start_service(&self) -> &CancelToken {
        self.serving.store(true, Ordering::SeqCst);
        self.start_work()
    }

    /// To be called before the outcome is printed, so that it is said once. Where an interruption is just ending
    /// the process, this does not return.
    pub fn before_last_words(&self) {
        while !self.speaks() {
            thread::park();
        }
    }

    /// Whether the last words are this thread's: the first to ask has them.
    fn speaks(&self) -> bool {
        let this = thread::current().id();
        *self.speaker.get_or_init(|| this) == this
    }

    fn interrupt(&self) {
        if self.token.is_cancelled() || !self.working.load(Ordering::SeqCst) {
            self.end();
        }
        self.token.cancel();
        let in_time = self.clone();
        let patience = if self.serving.load(Ordering::SeqCst) { SERVICE_PATIENCE } else { PATIENCE };
        thread::spawn(move || {
            thread::sleep(patience);
            // Where the outcome is already being told, the process is about to end by itself.
            if in_time.speaks() {
                in_time.end();
            }
        });
    }

    /// Ends the process; what is half-written goes with it.
    fn end(&self) -> ! {
        // Asked first: the job fails once its output is gone, and must not tell of that.
        let speaks = self.speaks();
        latentsync::remove_unfinished_outputs();
        if speaks {
            failure::report(system::Error::Interrupted.into(), &self.screen, self.json);
        }
        process::exit(failure::INTERRUPTED.into());
    }
}
