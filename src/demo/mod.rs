//! A clip of a drawn person and two sentences, built into the program together with a model that knows drawn faces:
//! what [`crate::LipSync`] does, to be seen without a download. `scripts/train_demo` makes all of it.

mod opening;
mod strip;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use candle_core::Tensor;
use image::RgbImage;

use crate::audio::load_speech;
use crate::error::{Result, compute};
use crate::options::{Options, VideoLonger};
use crate::pipeline::Job;
use crate::pipeline::LipSync;
use crate::pipeline::report::{Progress, Report};
use crate::stages::decode_video::{VideoOptions, VideoReader};
use crate::system;
use crate::system::cancel::CancelToken;

use opening::MouthMeter;
pub use opening::correlation;
use strip::Strip;

const FACE: &[u8] = include_bytes!("../../models/demo/face.mp4");
const ANCHORS: &[u8] = include_bytes!("../../models/demo/face.anchors.json");
const MOUTH: &[u8] = include_bytes!("../../models/demo/face.mouth.json");
const FIRST_VOICE: &[u8] = include_bytes!("../../models/demo/voice-1.wav");
const SECOND_VOICE: &[u8] = include_bytes!("../../models/demo/voice-2.wav");

/// The same mouth at every run.
const SEED: u64 = 1;

/// Which of the two sentences.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sentence {
    First,
    Second,
}

impl Sentence {
    pub const ALL: [Self; 2] = [Self::First, Self::Second];

    /// As file names count them.
    fn number(self) -> usize {
        match self {
            Self::First => 1,
            Self::Second => 2,
        }
    }

    /// How far its sounds want the mouth open in each frame: in parts of the distance between the brows.
    pub fn wanted_openings(self) -> Result<Vec<f64>> {
        Ok(MouthMeter::built_in(MOUTH)?.wanted(self).to_vec())
    }
}

/// The demo's input, as files.
#[derive(Debug, Clone)]
pub struct DemoInputs {
    /// Where the files are.
    pub directory: PathBuf,
    /// A silent clip, 480 × 480 at 25 frames a second.
    pub face: PathBuf,
    /// Where its face is. The default detector would find it as well; its file may not be here.
    pub anchors: PathBuf,
}

/// One sentence's result.
#[derive(Debug, Clone)]
pub struct DemoResult {
    pub video: PathBuf,
    /// A picture: frames of the input, the same frames of the output, and below them the sentence's loudness (grey), how
    /// far its sounds want the mouth open (dark) and how far it is open in the output's pixels (orange).
    pub strip: PathBuf,
    /// How well the mouth's opening follows what the sentence's sounds want: Pearson's correlation over the frames.
    pub correlation: f64,
    pub report: Report,
}

impl DemoInputs {
    /// Writes the inputs into `directory`, which is made if it is not there. A file of the same name with other content is
    /// somebody else's, and an error.
    pub fn write(directory: &Path) -> Result<Self> {
        let refuse = |path: &Path, source| system::Error::WriteFile { path: path.to_path_buf(), source };
        fs::create_dir_all(directory).map_err(|source| refuse(directory, source))?;
        let write = |name: &str, bytes: &[u8]| {
            let path = directory.join(name);
            match fs::read(&path) {
                Ok(there) if there == bytes => return Ok(path),
                Ok(_) => {
                    let kind = io::ErrorKind::AlreadyExists;
                    return Err(refuse(&path, io::Error::new(kind, "another file of this name is there")));
                }
                Err(_) => {}
            }
            // All of it or nothing: half a file would be somebody else's the next time.
            let unfinished = directory.join(format!(".{name}.part"));
            let written = fs::write(&unfinished, bytes).and_then(|()| fs::rename(&unfinished, &path));
            written.map_err(|source| refuse(&path, source))?;
            Ok(path)
        };
        write("voice-1.wav", FIRST_VOICE)?;
        write("voice-2.wav", SECOND_VOICE)?;
        Ok(Self {
            directory: directory.to_path_buf(),
            face: write("face.mp4", FACE)?,
            anchors: write("face.anchors.json", ANCHORS)?,
        })
    }

    /// The spoken sentence, 16 kHz mono.
    pub fn voice(&self, sentence: Sentence) -> PathBuf {
        self.directory.join(format!("voice-{}.wav", sentence.number()))
    }

    /// What makes the face say it, beside the inputs as `spoken-1.mp4` or `spoken-2.mp4`.
    pub fn job(&self, sentence: Sentence) -> Job {
        let mut options = Options { seed: Some(SEED), ..Options::default() };
        options.duration.video_longer = VideoLonger::Trim;
        let output = self.directory.join(format!("spoken-{}.mp4", sentence.number()));
        Job {
            options,
            anchors: Some(self.anchors.clone()),
            ..Job::new(self.face.clone(), self.voice(sentence), output)
        }
    }
}

/// Makes the face say a sentence, and a picture of it beside the video; what an earlier run made is replaced. `model` is meant to be
/// [`crate::ModelChoice::Demo`].
pub fn run(
    model: &LipSync,
    inputs: &DemoInputs,
    sentence: Sentence,
    progress: &mut dyn Progress,
    cancel: &CancelToken,
) -> Result<DemoResult> {
    let job = inputs.job(sentence);
    let report = model.run(&job, progress, cancel)?;

    let output = frames(&job.output)?;
    let mut input = frames(&inputs.face)?;
    input.truncate(output.len());
    let meter = MouthMeter::built_in(MOUTH)?;
    let (openings, wanted) = (meter.measure(&output), meter.wanted(sentence));
    let samples = load_speech(inputs.voice(sentence))?.samples;
    let picture =
        Strip { input: &input, output: &output, openings: &openings, wanted, samples: &samples }.draw();
    let strip = job.output.with_extension("png");
    picture.save(&strip).map_err(|error| {
        let source = match error {
            image::ImageError::IoError(source) => source,
            other => io::Error::other(other),
        };
        system::Error::WriteFile { path: strip.clone(), source }
    })?;
    let correlation = correlation(&openings, wanted);
    Ok(DemoResult { video: job.output, strip, correlation, report })
}

/// How far the face's mouth is open in each frame of a video that was made from the demo's clip, by its pixels: in parts of the
/// distance between the brows.
pub fn openings(video: &Path) -> Result<Vec<f64>> {
    Ok(MouthMeter::built_in(MOUTH)?.measure(&frames(video)?))
}

/// All frames of a short video.
fn frames(path: &Path) -> Result<Vec<RgbImage>> {
    let mut reader = VideoReader::open(path, VideoOptions::default())?;
    let mut frames = Vec::new();
    while let Some(picture) = reader.next()? {
        frames.push(rgb_image(&picture.to_rgb()?).map_err(compute("the demo's picture"))?);
    }
    Ok(frames)
}

/// (height, width, 3) u8.
fn rgb_image(rgb: &Tensor) -> candle_core::Result<RgbImage> {
    let (height, width, _) = rgb.dims3()?;
    let pixels = rgb.flatten_all()?.to_vec1()?;
    RgbImage::from_raw(width as u32, height as u32, pixels)
        .ok_or_else(|| candle_core::Error::msg("a picture of other than three channels"))
}
