//! The engine interface of the worker, and its implementation.

use crate::error::Result;
use crate::face::finder::FaceFinder;
use crate::options::{LoadOptions, ModelChoice};
use crate::pipeline::report::{Progress, Report};
use crate::pipeline::{FetchedJob, LipSync};
use crate::system::allocator;
use crate::system::cancel::CancelToken;
use crate::weights::HubSettings;

/// Runs jobs one at a time, on the worker thread.
pub trait Engine: Send {
    /// Loads the model, at the start of the server.
    fn load(&mut self) -> Result<()>;

    /// Runs a job whose inputs are local files. Writes its whole output, or nothing.
    fn run(&mut self, job: &FetchedJob, progress: &mut dyn Progress, cancel: &CancelToken) -> Result<Report>;

    /// Frees the model until the next job.
    fn unload(&mut self);
}

/// The engine of the server: loads the model on demand.
pub struct LipSyncEngine {
    model: ModelChoice,
    options: LoadOptions,
    loaded: Option<LipSync>,
}

impl LipSyncEngine {
    pub fn new(model: ModelChoice, options: LoadOptions) -> Self {
        Self { model, options, loaded: None }
    }

    fn loaded(&mut self) -> Result<&LipSync> {
        match &mut self.loaded {
            Some(loaded) => Ok(loaded),
            empty => {
                tracing::info!("loading {}", self.model);
                Ok(empty.insert(LipSync::load(&self.model, &self.options)?))
            }
        }
    }
}

impl Engine for LipSyncEngine {
    fn load(&mut self) -> Result<()> {
        // Missing face models are reported before gigabytes of weights are read.
        FaceFinder::new(&self.options, HubSettings::for_loading(&self.options)).check()?;
        self.loaded().map(|_| ())
    }

    fn run(&mut self, job: &FetchedJob, progress: &mut dyn Progress, cancel: &CancelToken) -> Result<Report> {
        self.loaded()?.run_fetched(job, progress, cancel)
    }

    fn unload(&mut self) {
        if self.loaded.take().is_some() {
            allocator::give_back();
            tracing::info!("unloaded {}", self.model);
        }
    }
}
