//! `latentsync sync`: what was typed, resolved into a job, and the job's report printed.

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use clap::builder::{FalseyValueParser, OsStringValueParser, TypedValueParser};
use clap::{ArgGroup, Args};
use latentsync::device::{DTypeChoice, DeviceChoice};
use latentsync::options::{
    DEFAULT_DEEPCACHE_INTERVAL, DurationPolicy, FaceDetectorChoice, LoopMode, PlaybackType, SyncMode,
};
use latentsync::request::{Api, FieldError, Request, local_path};
use latentsync::{Error, Job, LipSync, LoadOptions, ModelChoice, Options, Report};

use super::interrupt::Interrupts;
use super::logging::Screen;
use super::{parse, progress, text};

/// A video and a voice go in, a lip-synced video comes out.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("duration"))]
pub struct SyncArgs {
    /// The video whose mouth is to move
    #[arg(long, value_name = "FILE", required_unless_present = "request", help_heading = "Files")]
    video: Option<PathBuf>,
    /// The voice it is to follow
    #[arg(long, value_name = "FILE", required_unless_present = "request", help_heading = "Files")]
    audio: Option<PathBuf>,
    /// Where the result goes (mp4)
    #[arg(short, long, value_name = "FILE", help_heading = "Files")]
    out: PathBuf,
    /// Anchor points of every source frame (JSON), instead of searching for the face
    #[arg(long, value_name = "FILE", help_heading = "Files")]
    anchors: Option<PathBuf>,
    /// The body of a hosted API's request, with paths in place of URLs; other options override what it says
    ///
    /// A relative path is looked up in the current directory and then beside FILE.
    #[arg(long, value_name = "FILE", help_heading = "Files")]
    request: Option<PathBuf>,
    /// Whose request it is, where its fields leave that open [fal, eachlabs, wavespeed-latentsync,
    /// wavespeed-lipsync, jogg, sync-so]
    #[arg(long, value_name = "API", requires = "request", value_parser = parse::<Api>, help_heading = "Files")]
    request_api: Option<Api>,

    /// How strongly the mouth follows the voice; above 1 costs twice the time [default: 1]
    #[arg(long, value_name = "NUMBER", help_heading = "Quality")]
    guidance_scale: Option<f64>,
    /// Denoising steps
    #[arg(long, value_name = "N", default_value_t = Options::default().steps, help_heading = "Quality")]
    steps: usize,
    /// The same seed, inputs and device give the same file [default: random, and printed]
    #[arg(long, value_name = "N", help_heading = "Quality")]
    seed: Option<u64>,
    /// Run the whole network only on every INTERVAL-th step (3 when no number is given): faster, a little less
    /// exact
    #[arg(long, value_name = "INTERVAL", help_heading = "Quality")]
    deepcache: Option<Option<usize>>,

    /// What the video does where the voice is longer: pingpong or loop [default: pingpong]
    #[arg(long, value_name = "MODE", value_parser = parse::<LoopMode>, group = "duration", help_heading = "Duration")]
    loop_mode: Option<LoopMode>,
    /// The same in sync.so's words: bounce, loop, cut_off, silence or remap
    #[arg(long, value_name = "MODE", value_parser = parse::<SyncMode>, group = "duration", help_heading = "Duration")]
    sync_mode: Option<SyncMode>,
    /// The same in JoggAI's words: normal, normal_reverse or normal_reverse_by_audio
    #[arg(long, value_name = "TYPE", value_parser = parse::<PlaybackType>, group = "duration", help_heading = "Duration")]
    playback_type: Option<PlaybackType>,

    /// latentsync-1.6, latentsync-1.5 or a directory of checkpoint files
    #[arg(long, value_name = "MODEL", value_parser = OsStringValueParser::new().try_map(model_choice),
          default_value = "latentsync-1.6", help_heading = "Model")]
    model: ModelChoice,
    /// auto, cpu, cuda:N or metal
    #[arg(long, value_parser = parse::<DeviceChoice>, default_value = "auto", help_heading = "Model")]
    device: DeviceChoice,
    /// auto, f32, bf16 or f16
    #[arg(long, value_parser = parse::<DTypeChoice>, default_value = "auto", help_heading = "Model")]
    dtype: DTypeChoice,
    /// auto, seeta-dlib or insightface
    #[arg(long, value_name = "NAME", value_parser = parse::<FaceDetectorChoice>, default_value = "auto",
          help_heading = "Model")]
    face_detector: FaceDetectorChoice,
    /// I know that InsightFace's models are for non-commercial research only
    #[arg(long, env = "LATENTSYNC_ACCEPT_INSIGHTFACE_LICENSE", value_parser = FalseyValueParser::new(),
          help_heading = "Model")]
    accept_insightface_license: bool,
    /// Never ask the network for a model [also: HF_HUB_OFFLINE=1]
    #[arg(long, help_heading = "Model")]
    offline: bool,

    /// Print the report, or the error, as one JSON object on stdout
    #[arg(long)]
    pub json: bool,
}

/// Runs the job that `args` describe.
pub fn run(args: &SyncArgs, screen: &Screen, interrupts: &Interrupts) -> Result<()> {
    let job = args.job()?;
    job.options.validate()?;
    check_files(&job)?;
    let load_options = args.load_options();
    latentsync::preflight(&job, &args.model, &load_options)?;
    tracing::info!("loading {}", args.model);
    let lipsync = LipSync::load(&args.model, &load_options)?;
    let cancel = interrupts.start_work();
    let report = lipsync.run(&job, progress::of_job(screen).as_mut(), cancel)?;
    interrupts.before_last_words();
    screen.clear();
    print(&report, args.json)
}

/// A published model's name or a directory, whose name need not be UTF-8.
pub(super) fn model_choice(text: OsString) -> Result<ModelChoice, String> {
    match text.to_str() {
        Some(text) => parse(text),
        None => Ok(ModelChoice::Directory(text.into())),
    }
}

impl SyncArgs {
    fn load_options(&self) -> LoadOptions {
        LoadOptions {
            device: self.device,
            dtype: self.dtype,
            face_detector: self.face_detector,
            accept_insightface_license: self.accept_insightface_license,
            offline: self.offline,
        }
    }

    /// The request's values, and over them what was typed.
    fn job(&self) -> Result<Job, Error> {
        let request = self.request.as_deref().map(|path| read_request(path, self.request_api)).transpose()?;
        let (asked_video, asked_audio, mut options) = match request {
            Some(request) => (Some(request.video), Some(request.audio), request.options),
            None => (None, None, Options::default()),
        };
        let file = |typed: &Option<PathBuf>, asked: Option<PathBuf>, name: &str| match typed {
            Some(path) => typed_path(path, name),
            None => asked.ok_or_else(|| Error::Usage(format!("--{name} is missing"))),
        };
        options.steps = self.steps;
        options.deepcache = self.deepcache.map(|interval| interval.unwrap_or(DEFAULT_DEEPCACHE_INTERVAL));
        if let Some(duration) = self.duration() {
            options.duration = duration;
        }
        if let Some(guidance_scale) = self.guidance_scale {
            options.guidance_scale = guidance_scale;
        }
        options.seed = self.seed.or(options.seed);
        Ok(Job {
            video: file(&self.video, asked_video, "video")?,
            audio: file(&self.audio, asked_audio, "audio")?,
            output: self.out.clone(),
            options,
            anchors: self.anchors.clone(),
        })
    }

    /// clap lets only one of the three through.
    fn duration(&self) -> Option<DurationPolicy> {
        let loop_mode = self.loop_mode.map(LoopMode::policy);
        let sync_mode = self.sync_mode.map(SyncMode::policy);
        loop_mode.or(sync_mode).or(self.playback_type.map(PlaybackType::policy))
    }
}

/// What was typed for a file. A URL is understood as it is in a request.
fn typed_path(path: &Path, name: &str) -> Result<PathBuf, Error> {
    match path.to_str() {
        Some(text) if !path.exists() => {
            local_path(text, Path::new("")).map_err(|problem| Error::Usage(format!("--{name} {problem}")))
        }
        _ => Ok(path.to_path_buf()),
    }
}

/// A request whose URLs have become paths.
struct LocalRequest {
    video: PathBuf,
    audio: PathBuf,
    options: Options,
}

fn read_request(path: &Path, api: Option<Api>) -> Result<LocalRequest, Error> {
    let request = Request::read(path, api)?;
    for field in &request.ignored {
        tracing::warn!("`{}`: `{field}` has no effect here", path.display());
    }
    let directory = path.parent().unwrap_or(Path::new(""));
    let local = |text: &str, field: &str| {
        local_path(text, directory).map_err(|problem| Error::Request {
            path: path.to_path_buf(),
            source: FieldError { field: field.to_string(), problem },
        })
    };
    let mut options = Options::default();
    request.apply(&mut options);
    tracing::debug!("`{}` is a request to {}", path.display(), request.api);
    Ok(LocalRequest {
        video: local(&request.video, "video")?,
        audio: local(&request.audio, "audio")?,
        options,
    })
}

/// Finds mistakes in paths before a model of several gigabytes is loaded for them.
fn check_files(job: &Job) -> Result<(), Error> {
    for path in [Some(&job.video), Some(&job.audio), job.anchors.as_ref()].into_iter().flatten() {
        let refuse = |source| Error::ReadFile { path: path.clone(), source };
        if path.metadata().map_err(refuse)?.is_dir() {
            return Err(refuse(io::ErrorKind::IsADirectory.into()));
        }
        if same_file(path, &job.output) {
            return Err(Error::OutputIsInput { path: path.clone() });
        }
    }
    let refuse = |source| Error::WriteFile { path: job.output.clone(), source };
    if job.output.is_dir() {
        return Err(refuse(io::ErrorKind::IsADirectory.into()));
    }
    match job.output.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        Some(parent) if !parent.is_dir() => {
            Err(refuse(io::Error::new(io::ErrorKind::NotFound, "its directory does not exist")))
        }
        _ => Ok(()),
    }
}

fn same_file(a: &Path, b: &Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
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
        "{}: {} frames ({:.2} s) in {}, {:.1} s per second, seed {}",
        report.output.display(),
        report.frames,
        report.frames as f64 / report.fps,
        text::duration(Duration::from_secs_f64(report.seconds)),
        report.seconds_per_output_second,
        report.seed
    )?;
    if !report.frames_without_face.is_empty() {
        let ranges = report.frames_without_face.iter().map(|range| match range.first == range.last {
            true => range.first.to_string(),
            false => format!("{}–{}", range.first, range.last),
        });
        writeln!(out, "no face in frames {}: left as they were", ranges.collect::<Vec<_>>().join(", "))?;
    }
    Ok(())
}
