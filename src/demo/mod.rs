//! The built-in demo: a clip of a drawn person, two spoken sentences and a model trained on drawn faces, so
//! that [`crate::LipSync`] can be tried without a download. `scripts/train_demo` generates all of them.

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

/// Fixed seed, so that every run has the same result.
const SEED: u64 = 1;

/// One of the two sentences.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sentence {
    First,
    Second,
}

impl Sentence {
    pub const ALL: [Self; 2] = [Self::First, Self::Second];

    /// Number in file names.
    fn number(self) -> usize {
        match self {
            Self::First => 1,
            Self::Second => 2,
        }
    }

    /// Expected mouth opening in each frame for the phonemes of the sentence, relative to the distance
    /// between the eyebrows.
    pub fn expected_openings(self) -> Result<Vec<f64>> {
        Ok(MouthMeter::built_in(MOUTH)?.expected(self).to_vec())
    }
}

/// The demo's input files.
#[derive(Debug, Clone)]
pub struct DemoInputs {
    /// Directory of the files.
    pub directory: PathBuf,
    /// Silent clip, 480 × 480 pixels at 25 frames per second.
    pub face: PathBuf,
    /// Anchor points of the face. The default detector finds it as well, but its file may not be installed.
    pub anchors: PathBuf,
}

/// Result for one sentence.
#[derive(Debug, Clone)]
pub struct DemoResult {
    pub video: PathBuf,
    /// Picture with frames of the input, the same frames of the output, and a plot of the loudness (grey),
    /// the expected mouth opening (dark) and the mouth opening measured in the output (orange).
    pub strip: PathBuf,
    /// Pearson correlation between expected and measured mouth opening.
    pub correlation: f64,
    pub report: Report,
}

impl DemoInputs {
    /// Writes the inputs to `directory`, which is created if necessary. Fails if a file with one of the names
    /// has other content: it belongs to the user.
    pub fn write(directory: &Path) -> Result<Self> {
        let refuse = |path: &Path, source| system::Error::WriteFile { path: path.to_path_buf(), source };
        fs::create_dir_all(directory).map_err(|source| refuse(directory, source))?;
        let write = |name: &str, bytes: &[u8]| {
            let path = directory.join(name);
            match fs::read(&path) {
                Ok(there) if there == bytes => return Ok(path),
                Ok(_) => {
                    let kind = io::ErrorKind::AlreadyExists;
                    return Err(refuse(
                        &path,
                        io::Error::new(kind, "a different file with this name exists"),
                    ));
                }
                Err(_) => {}
            }
            // Renamed when complete: a partial file would be taken for the user's the next time.
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

    /// File with the spoken sentence, 16 kHz mono.
    pub fn voice(&self, sentence: Sentence) -> PathBuf {
        self.directory.join(format!("voice-{}.wav", sentence.number()))
    }

    /// Job for a sentence, with output `spoken-1.mp4` or `spoken-2.mp4` beside the inputs.
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

/// Lip-syncs the clip to a sentence and writes the picture beside the video, replacing the files of an
/// earlier run. `model` should be [`crate::ModelChoice::Demo`].
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
    let (openings, expected) = (meter.measure(&output), meter.expected(sentence));
    let samples = load_speech(inputs.voice(sentence))?.samples;
    let picture =
        Strip { input: &input, output: &output, openings: &openings, expected, samples: &samples }.draw();
    let strip = job.output.with_extension("png");
    picture.save(&strip).map_err(|error| {
        let source = match error {
            image::ImageError::IoError(source) => source,
            other => io::Error::other(other),
        };
        system::Error::WriteFile { path: strip.clone(), source }
    })?;
    let correlation = correlation(&openings, expected);
    Ok(DemoResult { video: job.output, strip, correlation, report })
}

/// Mouth opening measured in each frame of a video that was generated from the demo's clip, relative to the
/// distance between the eyebrows.
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

/// Converts (height, width, 3) u8.
fn rgb_image(rgb: &Tensor) -> candle_core::Result<RgbImage> {
    let (height, width, _) = rgb.dims3()?;
    let pixels = rgb.flatten_all()?.to_vec1()?;
    RgbImage::from_raw(width as u32, height as u32, pixels)
        .ok_or_else(|| candle_core::Error::msg("expected a picture with three channels"))
}
