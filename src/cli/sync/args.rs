//! What can be typed after `latentsync sync`, and the job that it means.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytesize::ByteSize;
use clap::builder::{FalseyValueParser, OsStringValueParser, TypedValueParser};
use clap::{ArgGroup, Args};
use latentsync::input::media_input;
use latentsync::input::{AddressPolicy, FetchLimits};
use latentsync::options::{
    BatchChunks, ColourMatch, Container, DEFAULT_DEEPCACHE_INTERVAL, DEFAULT_MAX_YAW, DecoderChoice,
    DurationPolicy, EncoderChoice, Encoding, FaceDetectorChoice, FaceSelector, Feather, LoopMode,
    OnMissingFace, OutputRate, PlaybackType, SilenceMode, SyncMode, VideoCodec,
};
use latentsync::options::{DTypeChoice, DeviceChoice};
use latentsync::request::{self, Api, FieldError, Request};
use latentsync::weights::{self, HubSettings};
use latentsync::{Input, Job, LoadOptions, ModelChoice, Options};

use crate::cli::failure::CommandError;
use crate::cli::parse;

/// A video and a voice go in, a lip-synced video comes out.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("duration"))]
pub struct SyncArgs {
    /// The video whose mouth is to move
    ///
    /// A file or a URL of anything that FFmpeg reads, also a still image, or `-` for standard input.
    #[arg(long, value_name = "FILE|URL", required_unless_present = "request", help_heading = "Files")]
    video: Option<OsString>,
    /// The voice it is to follow: a file or a URL of anything with sound, also a video
    #[arg(long, value_name = "FILE|URL", required_unless_present = "request", help_heading = "Files")]
    audio: Option<OsString>,
    /// Where the result goes; its ending (mp4, mov, mkv) is the container
    #[arg(short, long, value_name = "FILE", help_heading = "Files")]
    out: PathBuf,
    /// software, or auto: H.264, HEVC and VP9 on an NVIDIA card where there is one; the pictures are the same
    #[arg(long, value_name = "WHICH", value_parser = parse::<DecoderChoice>, default_value_t, help_heading = "Files")]
    decoder: DecoderChoice,
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
    /// Go on where a killed run of the same command has ended
    #[arg(long, help_heading = "Files")]
    resume: bool,
    /// Keep what is found out about the video's faces in DIR: the next voice for it needs no search
    #[arg(long, value_name = "DIR", help_heading = "Files")]
    cache: Option<PathBuf>,
    /// The most that a URL or a pipe may deliver, such as 500MB
    #[arg(long, value_name = "SIZE", default_value_t = ByteSize(FetchLimits::default().max_bytes),
          help_heading = "Files")]
    max_download: ByteSize,
    /// The longest that a URL or a pipe may take
    #[arg(long, value_name = "SECONDS", default_value_t = FetchLimits::default().total.as_secs(),
          help_heading = "Files")]
    download_timeout: u64,

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
    /// What the mouth does where the voice is silent: `keep` leaves the original one, `close` lets the model hear
    /// nothing at all, `follow` makes nothing of it
    #[arg(long, value_name = "MODE", value_parser = parse::<SilenceMode>, default_value_t, help_heading = "Quality")]
    silence: SilenceMode,
    /// The width of the soft edge around the face, as a part of its side
    #[arg(long, value_name = "PART", value_parser = parse::<Feather>, default_value_t, help_heading = "Quality")]
    feather: Feather,
    /// The same for the edge of the generated part within the face; 0.02 where that edge shows
    #[arg(long, value_name = "PART", value_parser = parse::<Feather>, default_value_t = Feather::HARD,
          help_heading = "Quality")]
    mask_feather: Feather,
    /// Match the generated skin's colour to the original's: on or off
    #[arg(long, alias = "color-match", value_name = "ON|OFF", value_parser = parse::<ColourMatch>, default_value_t,
          help_heading = "Quality")]
    colour_match: ColourMatch,
    /// Do as the original Python does, wherever this engine departs from it
    #[arg(long, help_heading = "Quality")]
    reference_compat: bool,

    /// Whose mouth: largest, left, right, a number from 0 counted from the left, a point X,Y, or a picture of the
    /// person
    #[arg(long, value_name = "FACE", value_parser = parse::<FaceSelector>, default_value_t, help_heading = "Faces")]
    face: FaceSelector,
    /// What to do with a frame in which the face is not found: pass, hold its last place, or error
    #[arg(long, value_name = "WHAT", value_parser = parse::<OnMissingFace>, default_value_t, help_heading = "Faces")]
    on_missing_face: OnMissingFace,
    /// A face that is turned further to the side, in degrees, is left as it is
    #[arg(long, value_name = "DEGREES", default_value_t = DEFAULT_MAX_YAW, help_heading = "Faces")]
    max_yaw: f32,

    /// Frames a second of the output: 25, source, or a number such as 30000/1001
    #[arg(long, value_name = "RATE", value_parser = parse::<OutputRate>, default_value_t, help_heading = "Output")]
    fps: OutputRate,
    /// h264, hevc, prores or ffv1 (lossless)
    #[arg(long, value_parser = parse::<VideoCodec>, default_value_t, help_heading = "Output")]
    codec: VideoCodec,
    /// Quality of h264 and hevc: 0 is lossless or nearly so, 51 the worst [default: 18, hevc 20]
    #[arg(long, value_name = "NUMBER", help_heading = "Output")]
    crf: Option<f32>,
    /// mp4, mov or mkv [default: the output's ending, else mp4]
    #[arg(long, value_parser = parse::<Container>, help_heading = "Output")]
    container: Option<Container>,
    /// software, auto, hardware, or an encoder's name: hardware is faster, and not the same on every machine
    #[arg(long, value_name = "WHICH", value_parser = parse::<EncoderChoice>, default_value_t, help_heading = "Output")]
    encoder: EncoderChoice,

    /// What the video does where the voice is longer: pingpong or loop [default: pingpong]
    #[arg(long, value_name = "MODE", value_parser = parse::<LoopMode>, group = "duration", help_heading = "Duration")]
    loop_mode: Option<LoopMode>,
    /// The same in sync.so's words: bounce, loop, cut_off, silence or remap
    #[arg(long, value_name = "MODE", value_parser = parse::<SyncMode>, group = "duration", help_heading = "Duration")]
    sync_mode: Option<SyncMode>,
    /// The same in JoggAI's words: normal, normal_reverse or normal_reverse_by_audio
    #[arg(long, value_name = "TYPE", value_parser = parse::<PlaybackType>, group = "duration", help_heading = "Duration")]
    playback_type: Option<PlaybackType>,

    /// latentsync-1.6, latentsync-1.5, demo or a directory of checkpoint files [default: a published one that is here]
    #[arg(long, value_name = "MODEL", value_parser = OsStringValueParser::new().try_map(model_choice),
          help_heading = "Model")]
    model: Option<ModelChoice>,
    /// auto, cpu, cuda:N or metal
    #[arg(long, value_parser = parse::<DeviceChoice>, default_value = "auto", help_heading = "Model")]
    device: DeviceChoice,
    /// auto, f32, bf16 or f16
    #[arg(long, value_parser = parse::<DTypeChoice>, default_value = "auto", help_heading = "Model")]
    dtype: DTypeChoice,
    /// Chunks of 16 frames that go through the network together: auto, or 1 to 15
    ///
    /// By itself a CUDA device takes as many, up to 8, as fit into its free memory, and a CPU one. More than fit are never
    /// taken.
    #[arg(long, value_name = "N", value_parser = parse::<BatchChunks>, default_value_t, help_heading = "Model")]
    batch_chunks: BatchChunks,
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

/// A published model's name or a directory, whose name need not be UTF-8.
pub fn model_choice(text: OsString) -> Result<ModelChoice, String> {
    match text.to_str() {
        Some(text) => parse(text),
        None => Ok(ModelChoice::Directory(text.into())),
    }
}

/// What was named, or else a published one.
pub fn model_or_published(named: Option<&ModelChoice>) -> ModelChoice {
    named.cloned().unwrap_or_else(|| weights::published_here(&HubSettings::from_env()))
}

impl SyncArgs {
    pub fn model(&self) -> ModelChoice {
        model_or_published(self.model.as_ref())
    }

    pub fn load_options(&self) -> LoadOptions {
        LoadOptions {
            device: self.device,
            dtype: self.dtype,
            batch_chunks: self.batch_chunks,
            face_detector: self.face_detector,
            accept_insightface_license: self.accept_insightface_license,
            offline: self.offline,
        }
    }

    /// The request's values, and over them what was typed.
    pub fn job(&self) -> anyhow::Result<Job> {
        let request = self.request.as_deref().map(|path| read_request(path, self.request_api)).transpose()?;
        let (asked_video, asked_audio, options) = match request {
            Some(request) => (Some(request.video), Some(request.audio), request.options),
            None => (None, None, Options::default()),
        };
        let input = |typed: &Option<OsString>, asked: Option<Input>, name: &str| match typed {
            Some(text) => typed_input(text, name),
            None => asked.ok_or_else(|| CommandError::Usage(format!("--{name} is missing"))),
        };
        let options = Options {
            steps: self.steps,
            deepcache: self.deepcache.map(|interval| interval.unwrap_or(DEFAULT_DEEPCACHE_INTERVAL)),
            duration: self.duration().unwrap_or(options.duration),
            guidance_scale: self.guidance_scale.unwrap_or(options.guidance_scale),
            seed: self.seed.or(options.seed),
            fps: self.fps,
            face: self.face.clone(),
            on_missing_face: self.on_missing_face,
            max_yaw: self.max_yaw,
            silence: self.silence,
            feather: self.feather,
            mask_feather: self.mask_feather,
            colour_match: self.colour_match,
            decoder: self.decoder,
            encoding: Encoding {
                codec: self.codec,
                crf: self.crf,
                container: self.container,
                encoder: self.encoder,
            },
            reference_compat: self.reference_compat,
        };
        Ok(Job {
            video: input(&self.video, asked_video, "video")?,
            audio: input(&self.audio, asked_audio, "audio")?,
            output: self.out.clone(),
            options,
            anchors: self.anchors.clone(),
            resume: self.resume,
            cache: self.cache.clone(),
            limits: FetchLimits {
                max_bytes: self.max_download.as_u64(),
                total: Duration::from_secs(self.download_timeout),
                ..FetchLimits::default()
            },
            addresses: AddressPolicy::default(),
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
fn typed_input(text: &OsStr, name: &str) -> Result<Input, CommandError> {
    match text.to_str() {
        Some(url) if !Path::new(text).exists() => media_input(url, Path::new(""))
            .map_err(|problem| CommandError::Usage(format!("--{name} {problem}"))),
        _ => Ok(Input::File(text.into())),
    }
}

/// A request whose paths are found.
struct LocalRequest {
    video: Input,
    audio: Input,
    options: Options,
}

fn read_request(path: &Path, api: Option<Api>) -> request::Result<LocalRequest> {
    let request = Request::read(path, api)?;
    for field in &request.ignored {
        tracing::warn!("`{}`: `{field}` has no effect here", path.display());
    }
    let directory = path.parent().unwrap_or(Path::new(""));
    let local = |text: &str, field: &str| {
        media_input(text, directory).map_err(|problem| request::Error::Refused {
            path: path.to_path_buf(),
            source: FieldError::new(field, &problem),
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
