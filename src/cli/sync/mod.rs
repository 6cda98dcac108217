//! `latentsync sync`: what was typed, resolved into a job, and the job's report printed.

mod args;

use std::io::{self, Write};
use std::time::Duration;

use anyhow::Result;
use latentsync::options::FrameRange;
use latentsync::system::paths::is_same_file;
use latentsync::{Error, Input, Job, LipSync, Report, media, system};

use super::interrupt::Interrupts;
use super::logging::Screen;
use super::{progress, text};

pub use args::SyncArgs;
pub(super) use args::model_choice;
#[cfg(feature = "server")]
pub(super) use args::model_or_published;

/// Runs the job that `args` describe.
pub fn run(args: &SyncArgs, screen: &Screen, interrupts: &Interrupts) -> Result<()> {
    let job = args.job()?;
    job.options.validate()?;
    check_files(&job)?;
    let cancel = interrupts.start_work();
    // Before a model of several gigabytes is loaded for it.
    let fetched = job.fetch(cancel)?;
    let job = fetched.job();
    let load_options = args.load_options();
    let model = &args.model();
    fetched.name_in(latentsync::pipeline::preflight(job, model, &load_options))?;
    tracing::info!("loading {model}");
    let lipsync = LipSync::load(model, &load_options)?;
    let report = lipsync.run_fetched(&fetched, progress::of_job(screen).as_mut(), cancel)?;
    interrupts.before_last_words();
    screen.clear();
    print(&report, args.json)
}

/// Finds mistakes in paths before anything is fetched or loaded for them.
fn check_files(job: &Job) -> Result<(), Error> {
    let inputs = [&job.video, &job.audio].into_iter().filter_map(Input::as_file);
    for path in inputs.chain(job.anchors.as_deref()) {
        let refuse = |source| system::Error::ReadFile { path: path.to_path_buf(), source };
        if path.metadata().map_err(refuse)?.is_dir() {
            return Err(refuse(io::ErrorKind::IsADirectory.into()).into());
        }
        if is_same_file(path, &job.output) {
            return Err(media::Error::OutputIsInput { path: path.to_path_buf() }.into());
        }
    }
    let refuse = |source| system::Error::WriteFile { path: job.output.clone(), source };
    if job.output.is_dir() {
        return Err(refuse(io::ErrorKind::IsADirectory.into()).into());
    }
    match job.output.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        Some(parent) if !parent.is_dir() => {
            Err(refuse(io::Error::new(io::ErrorKind::NotFound, "its directory does not exist")).into())
        }
        _ => {
            job.options.encoding.container_for(&job.output)?;
            Ok(())
        }
    }
}

fn print(report: &Report, json: bool) -> Result<()> {
    let mut out = io::stdout().lock();
    if json {
        serde_json::to_writer_pretty(&mut out, report)?;
        writeln!(out)?;
        return Ok(());
    }
    for warning in &report.warnings {
        tracing::warn!("{warning}");
    }
    writeln!(
        out,
        "{}: {} frames ({:.2} s) in {}, {:.1} s per second, model {}, seed {}",
        report.output.display(),
        report.frames,
        report.frames as f64 / report.fps,
        text::duration(Duration::from_secs_f64(report.seconds)),
        report.seconds_per_output_second,
        report.model,
        report.seed
    )?;
    let faces = &report.faces;
    for (frames, what) in [
        (&faces.frames_without_face, "no face was found: left as they were"),
        (&faces.frames_bridged, "the face was lost for a moment: its place was taken from the frames around"),
        (&faces.frames_held, "the face was lost: its last place was kept"),
        (&faces.frames_turned_away, "the face is turned too far away: left as they were"),
        (&faces.frames_silent, "the voice is silent: left as they were"),
    ] {
        if !frames.is_empty() {
            writeln!(out, "frames {}: {what}", ranges(frames))?;
        }
    }
    Ok(())
}

fn ranges(frames: &[FrameRange]) -> String {
    let words = frames.iter().map(|range| match range.first == range.last {
        true => range.first.to_string(),
        false => format!("{}–{}", range.first, range.last),
    });
    words.collect::<Vec<_>>().join(", ")
}
