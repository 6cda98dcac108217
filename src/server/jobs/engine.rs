//! What the worker computes with.

use crate::error::Result;
use crate::face::finder::FaceFinder;
use crate::options::{LoadOptions, ModelChoice};
use crate::pipeline::Job;
use crate::pipeline::LipSync;
use crate::pipeline::report::{Progress, Report};
use crate::system::allocator;
use crate::system::cancel::CancelToken;
use crate::weights::HubSettings;

/// Runs jobs, one at a time, on the worker's thread.
pub trait Engine: Send {
    /// Gets ready for the first job, or again after [`Self::unload`].
    fn load(&mut self) -> Result<()>;

    /// Writes `job.output`: all of it, or nothing.
    fn run(&mut self, job: &Job, progress: &mut dyn Progress, cancel: &CancelToken) -> Result<Report>;

    /// Gives its memory back until it is needed again.
    fn unload(&mut self);
}

/// The model, loaded when it is needed.
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
        // What is missing for faces is said before gigabytes are read for the rest.
        FaceFinder::new(&self.options, HubSettings::for_loading(&self.options)).check()?;
        self.loaded().map(|_| ())
    }

    fn run(&mut self, job: &Job, progress: &mut dyn Progress, cancel: &CancelToken) -> Result<Report> {
        self.loaded()?.run(job, progress, cancel)
    }

    fn unload(&mut self) {
        if self.loaded.take().is_some() {
            allocator::give_back();
            tracing::info!("unloaded {}", self.model);
        }
    }
}
