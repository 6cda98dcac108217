//! A job's progress for people: a bar per stage on a terminal, a line at a stage's start and end elsewhere.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use latentsync::{Progress, Stage};

use super::logging::Screen;
use super::text::{bytes, duration};

/// Off a terminal, a stage that takes longer than this says how far it is.
const REMINDER: Duration = Duration::from_secs(60);

/// The progress of one job, in the way that suits `screen`.
pub fn of_job(screen: &Screen) -> Box<dyn Progress> {
    if screen.is_terminal {
        Box::new(Bars { screen: screen.clone(), bars: [const { None }; Stage::ALL.len()] })
    } else {
        Box::new(Lines { stages: [None; Stage::ALL.len()] })
    }
}

/// Stage names for people; the longest decides the bars' left edge.
fn title(stage: Stage) -> &'static str {
    match stage {
        Stage::DecodeVideo => "reading the video",
        Stage::AlignFaces => "finding the face",
        Stage::AudioFeatures => "hearing the voice",
        Stage::EncodeLatents => "encoding faces",
        Stage::DenoiseLatents => "denoising",
        Stage::DecodeLatents => "decoding faces",
        Stage::BlendFaces => "blending faces",
        Stage::MuxVideo => "writing the video",
    }
}

struct Bars {
    screen: Screen,
    bars: [Option<ProgressBar>; Stage::ALL.len()],
}

impl Progress for Bars {
    fn stage(&mut self, stage: Stage, done: usize, total: Option<usize>) {
        let bar = self.bars[stage as usize].get_or_insert_with(|| {
            self.screen.bars().add(ProgressBar::no_length().with_message(title(stage)))
        });
        if bar.is_finished() {
            return;
        }
        match total {
            Some(total) => {
                if bar.length() != Some(total as u64) {
                    bar.set_style(style("{msg:17} {wide_bar} {pos}/{len} {elapsed:>4}, {eta} left"));
                    bar.set_length(total as u64);
                }
            }
            None => bar.set_style(style("{msg:17} {spinner} {pos} {elapsed:>4}")),
        }
        bar.set_position(done as u64);
        if total == Some(done) {
            bar.set_style(style("{msg:17} {wide_bar} {pos}/{len} {elapsed:>4}"));
            bar.finish();
        }
    }

    fn log(&mut self, message: &str) {
        // A terminal that is gone is no reason to stop.
        let _ = self.screen.bars().suspend(|| writeln!(io::stderr(), "{message}"));
    }
}

fn style(template: &str) -> ProgressStyle {
    // The templates are the ones above; a mistake in one shows as indicatif's plain bar.
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// What the log has been told of one stage.
#[derive(Clone, Copy)]
struct Told {
    started: Instant,
    reminded: Instant,
    ended: bool,
}

struct Lines {
    stages: [Option<Told>; Stage::ALL.len()],
}

impl Progress for Lines {
    fn stage(&mut self, stage: Stage, done: usize, total: Option<usize>) {
        let now = Instant::now();
        let told = self.stages[stage as usize].get_or_insert_with(|| {
            tracing::info!("{}: started", stage.name());
            Told { started: now, reminded: now, ended: false }
        });
        let elapsed = now - told.started;
        if told.ended {
            return;
        }
        if total == Some(done) {
            told.ended = true;
            tracing::info!("{}: {done} done in {}", stage.name(), duration(elapsed));
        } else if now - told.reminded >= REMINDER {
            told.reminded = now;
            match total.filter(|_| done > 0) {
                Some(total) => {
                    let left = elapsed.mul_f64(total.saturating_sub(done) as f64 / done as f64);
                    tracing::info!("{}: {done} of {total}, {} left", stage.name(), duration(left));
                }
                None => tracing::info!("{}: {done}", stage.name()),
            }
        }
    }
}

/// The progress of files that are fetched, hashed or converted, one after the other.
pub struct Files {
    screen: Screen,
    current: Option<(String, ProgressBar)>,
}

impl Files {
    pub fn new(screen: &Screen) -> Self {
        Self { screen: screen.clone(), current: None }
    }

    pub fn update(&mut self, file: &str, done: u64, total: u64) {
        if self.current.as_ref().is_none_or(|(name, _)| name != file) {
            self.finish();
            tracing::info!("{file}: {}", bytes(total));
            let bar = self.screen.bars().add(ProgressBar::new(total).with_message(file.to_string()));
            bar.set_style(style("{msg:34!} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec}, {eta} left"));
            self.current = Some((file.to_string(), bar));
        }
        if let Some((_, bar)) = &self.current {
            bar.set_length(total);
            bar.set_position(done);
        }
    }

    pub fn finish(&mut self) {
        if let Some((_, bar)) = self.current.take() {
            bar.finish();
        }
    }
}
