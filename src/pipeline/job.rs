//! What is to be done: inputs, output, options.

use std::path::{Path, PathBuf};

use crate::error::{InputRole, Result, in_input};
use crate::input::{AddressPolicy, FetchLimits, Input, LocalInput, Spool};
use crate::options::Options;
use crate::system::cancel::CancelToken;
use crate::system::paths::directory_of;

/// One run of the engine: a video and a voice go in, `output` comes out.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// A video, or a picture, which is a video of one frame: a file or a URL.
    pub video: Input,
    /// Anything with sound in it, a video too.
    pub audio: Input,
    pub output: PathBuf,
    pub options: Options,
    /// Anchor points of every source frame, brought by the caller: a JSON array with one
    /// `[[x, y], [x, y], [x, y]]` (left eyebrow, right eyebrow, nose) or `null` per frame.
    pub anchors: Option<PathBuf>,
    /// Go on where a killed run of the same job has ended, if there was one.
    pub resume: bool,
    /// A directory that keeps what was found out about a video's faces, for the next voice.
    pub cache: Option<PathBuf>,
    /// For inputs that are URLs or pipes.
    pub limits: FetchLimits,
    /// Which addresses URLs may lead to.
    pub addresses: AddressPolicy,
}

impl Job {
    /// With the default options.
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

    /// Brings inputs that are URLs or pipes to this machine, beside the output. Files stay where they are.
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
        Ok(FetchedJob { job, asked: self.clone(), video, audio })
    }
}

/// A job whose inputs are files. What was fetched for it goes with it.
pub struct FetchedJob {
    job: Job,
    asked: Job,
    video: LocalInput,
    audio: LocalInput,
}

impl FetchedJob {
    pub fn job(&self) -> &Job {
        &self.job
    }

    /// As the caller knows it.
    pub(crate) fn asked(&self) -> &Job {
        &self.asked
    }

    pub(crate) fn video(&self) -> &Path {
        self.video.path()
    }

    pub(crate) fn audio(&self) -> &Path {
        self.audio.path()
    }

    /// Puts the inputs that were asked for in place of temporary files' names, in an error about an input.
    pub fn name_in<T>(&self, result: Result<T>) -> Result<T> {
        result.map_err(|error| error.naming(&self.audio).naming(&self.video))
    }
}
