//! How far a job is: counted by three threads, told to the caller's [`Progress`] by the caller's own.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::pipeline::report::{Progress, Stage};

/// Frames that have passed each stage. Shared by the threads.
#[derive(Default)]
pub(crate) struct Counters([AtomicUsize; Stage::ALL.len()]);

impl Counters {
    pub fn add(&self, stage: Stage) {
        self.0[stage as usize].fetch_add(1, Ordering::Relaxed);
    }

    fn get(&self, stage: Stage) -> usize {
        self.0[stage as usize].load(Ordering::Relaxed)
    }
}

/// What there is to do.
#[derive(Clone, Copy)]
pub(crate) struct Totals {
    /// Distinct frames of the video that are used.
    pub source_frames: usize,
    /// Frames of the output.
    pub frames: usize,
    /// Steps of denoising for each of these.
    pub steps: usize,
}

impl Totals {
    fn of(&self, stage: Stage) -> usize {
        match stage {
            Stage::DecodeVideo | Stage::AlignFaces | Stage::EncodeLatents => self.source_frames,
            Stage::DenoiseLatents => self.frames * self.steps,
            Stage::DecodeLatents | Stage::BlendFaces | Stage::MuxVideo => self.frames,
            Stage::AudioFeatures => 1,
        }
    }
}

/// Tells what has changed since it told last. Stays on the caller's thread.
pub(crate) struct Meter<'a> {
    progress: &'a mut dyn Progress,
    counters: &'a Counters,
    totals: Totals,
    told: [usize; Stage::ALL.len()],
}

impl<'a> Meter<'a> {
    pub fn new(progress: &'a mut dyn Progress, counters: &'a Counters, totals: Totals) -> Self {
        Self { progress, counters, totals, told: [0; Stage::ALL.len()] }
    }

    /// `done` units of a stage that runs on the caller's thread are finished.
    pub fn tell(&mut self, stage: Stage, done: usize) {
        let total = self.totals.of(stage);
        // The source thread reads ahead of what is used.
        let done = done.min(total);
        if std::mem::replace(&mut self.told[stage as usize], done) != done {
            self.progress.stage(stage, done, Some(total));
        }
    }

    /// Tells what the other threads have counted.
    pub fn forward(&mut self) {
        for stage in [Stage::DecodeVideo, Stage::AlignFaces, Stage::BlendFaces, Stage::MuxVideo] {
            self.tell(stage, self.counters.get(stage));
        }
    }

    /// Everything is done, and `totals` is what it was.
    pub fn end(self, totals: Totals) {
        for stage in Stage::ALL.into_iter().filter(|&stage| stage != Stage::AudioFeatures) {
            let total = totals.of(stage);
            self.progress.stage(stage, total, Some(total));
        }
    }
}
