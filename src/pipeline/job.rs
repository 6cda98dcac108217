//! A job: inputs, output and options.

use std::path::{Path, PathBuf};

use crate::error::{InputRole, Result, in_input};
use crate::input::{AddressPolicy, FetchLimits, Input, LocalInput, Spool};
use crate::options::Options;
use crate::system::cancel::CancelToken;
use crate::system::paths::directory_of;

/// One run of the engine: animates the mouth in `video` to match `audio` and writes `output`.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// File or URL of a video, or of a picture (a video of one frame).
    pub video: Input,
    /// File or URL with an audio stream; may be a video.
    pub audio: Input,
    pub output: PathBuf,
    pub options: Options,
    /// File with the anchor points of every source frame, which replaces detection: a JSON array with one
    /// `[[x, y], [x, y], [x, y]]` (left eyebrow, right eyebrow, nose) or `null` per frame.
    pub anchors: Option<PathBuf>,
    /// Resume a killed run of the same job, if there is one.
    pub resume: bool,
    /// Directory of the face cache, which speeds up later jobs with the same video.
    pub cache: Option<PathBuf>,
    /// Limits for inputs that are URLs or pipes.
    pub limits: FetchLimits,
    /// Addresses that URLs may resolve to.
    pub addresses: AddressPolicy,
}

impl Job {
    /// A job with default options.
    pub fn new(video: impl Into<Input>, audio: impl Into<Input>, output: impl Into<PathBuf>) -> Self {
        Self {
            video: video.into(),
            audio: audio.into(),
            output: output.into(),
            options: Options::default(),
            anchors: None,
            resume: false,
            cache: None,
            limits: FetchLimits::default(),
            addresses: AddressPolicy::default(),
        }
    }

    /// Copies inputs that are URLs or pipes to temporary files beside the output. Regular files are used in
    /// place.
    pub fn fetch(&self, cancel: &CancelToken) -> Result<FetchedJob> {
        let directory = directory_of(&self.output).to_path_buf();
        let spool = Spool { directory, limits: self.limits, addresses: self.addresses };
        let fetch = |input, role| LocalInput::open(input, &spool, cancel).map_err(in_input(role));
        let video = fetch(&self.video, InputRole::Video)?;
        let audio = fetch(&self.audio, InputRole::Voice)?;
        let job = Self {
            video: video.path().into(),
            audio: audio.path().into(),
            options: self.options.effective(),
            ..self.clone()
        };
        Ok(FetchedJob { job, requested: self.clone(), video, audio })
    }
}

/// A job with local inputs. Dropping it removes the fetched files.
pub struct FetchedJob {
    job: Job,
    requested: Job,
    video: LocalInput,
    audio: LocalInput,
}

impl FetchedJob {
    pub fn job(&self) -> &Job {
        &self.job
    }

    /// The job as the caller requested it.
    pub(crate) fn requested(&self) -> &Job {
        &self.requested
    }

    pub(crate) fn video(&self) -> &Path {
        self.video.path()
    }

    pub(crate) fn audio(&self) -> &Path {
        self.audio.path()
    }

    /// Replaces the names of fetched temporary files in an error by the inputs that the caller passed.
    pub fn name_in<T>(&self, result: Result<T>) -> Result<T> {
        result.map_err(|error| error.naming(&self.audio).naming(&self.video))
    }
}
