//! Progress of a job: counted by its three threads, reported on the caller's thread.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::pipeline::report::{Progress, Stage};

/// Frames that have passed each stage, shared by the threads.
#[derive(Default)]
pub(crate) struct StageCounters([AtomicUsize; Stage::ALL.len()]);

impl StageCounters {
    pub fn add(&self, stage: Stage) {
        self.0[stage as usize].fetch_add(1, Ordering::Relaxed);
    }

    fn get(&self, stage: Stage) -> usize {
        self.0[stage as usize].load(Ordering::Relaxed)
    }
}

/// Total amount of work.
#[derive(Clone, Copy)]
pub(crate) struct Totals {
    /// Distinct frames of the video that are used.
    pub source_frames: usize,
    /// Frames of the output.
    pub frames: usize,
    /// Denoising steps per output frame.
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

/// Reports changes to the caller's [`Progress`]. Stays on the caller's thread.
pub(crate) struct ProgressReporter<'a> {
    progress: &'a mut dyn Progress,
    counters: &'a StageCounters,
    totals: Totals,
    reported: [usize; Stage::ALL.len()],
}

impl<'a> ProgressReporter<'a> {
    pub fn new(progress: &'a mut dyn Progress, counters: &'a StageCounters, totals: Totals) -> Self {
        Self { progress, counters, totals, reported: [0; Stage::ALL.len()] }
    }

    /// Reports that `done` units of a stage are finished, unless that was the last report of the stage.
    pub fn report(&mut self, stage: Stage, done: usize) {
        let total = self.totals.of(stage);
        // The source thread reads more frames than are used.
        let done = done.min(total);
        if std::mem::replace(&mut self.reported[stage as usize], done) != done {
            self.progress.stage(stage, done, Some(total));
        }
    }

    /// Reports the counters of the other two threads.
    pub fn report_counters(&mut self) {
        for stage in [Stage::DecodeVideo, Stage::AlignFaces, Stage::BlendFaces, Stage::MuxVideo] {
            self.report(stage, self.counters.get(stage));
        }
    }

    /// Reports the end of all stages. `totals`: the actual amount of work.
    pub fn finish(self, totals: Totals) {
        for stage in Stage::ALL.into_iter().filter(|&stage| stage != Stage::AudioFeatures) {
            let total = totals.of(stage);
            self.progress.stage(stage, total, Some(total));
        }
    }
}
