//! Every knob of a job and of loading, validated once; shared by the command line, the library, the
//! server and the benchmarks. Nothing here opens a file or a device.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use models::guidance::Guidance;

mod error;
mod device;
mod batch;
mod blend;
mod duration;
mod encoding;
mod face;
mod frame_range;
mod rate;
mod silence;

pub use batch::{BatchChunks, MAX_BATCH_CHUNKS};
pub use blend::{ColourMatch, Feather};
pub use device::{DTypeChoice, DeviceChoice};
pub use duration::{AudioLonger, DurationPolicy, LoopMode, PlaybackType, SyncMode, VideoLonger};
pub use encoding::{Container, DecoderChoice, EncoderChoice, Encoding, VideoCodec};
pub use error::{InvalidOption, Result};
pub use face::{FaceSelector, OnMissingFace};
pub use frame_range::FrameRange;
pub use rate::{FPS, FrameRate, OutputRate, Steadiness};
pub(crate) use rate::{WHISPER_ROWS_PER_FRAME, frames_in};
pub use silence::SilenceMode;

/// Denoising steps are spaced over the 1000 the model was trained with; the last usable one is 999.
pub const MAX_STEPS: usize = 999;
/// Beyond this the guided prediction is far outside of what the model was trained to follow.
pub const MAX_GUIDANCE_SCALE: f64 = 10.0;
/// Beyond this, in degrees, the far half of the mouth is hidden, the nose stands outside of the far brow, and landmarks
/// stop following.
pub const DEFAULT_MAX_YAW: f32 = 55.0;
/// The interval of the original's DeepCache.
pub const DEFAULT_DEEPCACHE_INTERVAL: usize = 3;

/// How one job is computed. The defaults are those of the hosted APIs.
///
/// ```
/// use latentsync::Options;
/// let options = Options { steps: 10, seed: Some(7), ..Options::default() };
/// options.validate()?;
/// # Ok::<(), latentsync::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// Scale of classifier-free guidance: how strongly the mouth follows the voice. 1 turns guidance off; more than 1
    /// doubles the work of the UNet.
    pub guidance_scale: f64,
    /// Denoising steps, 1 to [`MAX_STEPS`].
    pub steps: usize,
    /// Drawn at random when absent; the report says which one was used.
    pub seed: Option<u64>,
    /// What happens when voice and video differ in length.
    pub duration: DurationPolicy,
    /// Run the whole network only on every n-th step; `None` runs it on all of them.
    pub deepcache: Option<usize>,
    /// Frames a second of the output.
    pub fps: OutputRate,
    pub face: FaceSelector,
    pub on_missing_face: OnMissingFace,
    /// A face that is turned further to the side than this, in degrees, passes through untouched.
    pub max_yaw: f32,
    pub silence: SilenceMode,
    /// The soft edge around the face.
    pub feather: Feather,
    /// The soft edge of the mouth mask within the face. It reaches inwards: less of the generated part shows in full.
    pub mask_feather: Feather,
    pub colour_match: ColourMatch,
    pub decoder: DecoderChoice,
    /// Codec, quality and container of the output.
    pub encoding: Encoding,
    /// Do as the original does wherever this engine departs from it: colours are read as BT.601 whatever the file
    /// says, two frames too many are made at the end, InsightFace sees red and blue exchanged, the voice is heard in
    /// half minutes that do not overlap, each frame's largest face is taken, lost ones are not bridged, cuts are not
    /// noticed, and profiles are not spared. Overrides `fps`, `face`, `silence`, both feathers and `colour_match`; what
    /// happens without a face stays `on_missing_face`'s to say: the original gives up.
    pub reference_compat: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            guidance_scale: 1.0,
            steps: 20,
            seed: None,
            duration: DurationPolicy::default(),
            deepcache: None,
            fps: OutputRate::default(),
            face: FaceSelector::default(),
            on_missing_face: OnMissingFace::default(),
            max_yaw: DEFAULT_MAX_YAW,
            silence: SilenceMode::default(),
            feather: Feather::default(),
            mask_feather: Feather::HARD,
            colour_match: ColourMatch::default(),
            decoder: DecoderChoice::default(),
            encoding: Encoding::default(),
            reference_compat: false,
        }
    }
}

impl Options {
    /// Refuses values that no job can be computed with, naming the option.
    pub fn validate(&self) -> Result<()> {
        let refuse =
            |option, value: String, expected: String| Err(InvalidOption::Value { option, value, expected });
        if !(1.0..=MAX_GUIDANCE_SCALE).contains(&self.guidance_scale) {
            return refuse(
                "guidance_scale",
                self.guidance_scale.to_string(),
                format!("a number between 1 and {MAX_GUIDANCE_SCALE}"),
            );
        }
        if !(1..=MAX_STEPS).contains(&self.steps) {
            return refuse(
                "steps",
                self.steps.to_string(),
                format!("a whole number between 1 and {MAX_STEPS}"),
            );
        }
        if !(0.0..=180.0).contains(&self.max_yaw) {
            return refuse("max_yaw", self.max_yaw.to_string(), "degrees between 0 and 180".to_string());
        }
        self.encoding.validate()?;
        match self.deepcache {
            Some(interval) if !(1..=MAX_STEPS).contains(&interval) => {
                refuse("deepcache", interval.to_string(), format!("a whole number between 1 and {MAX_STEPS}"))
            }
            _ => Ok(()),
        }
    }

    /// Guidance is on for every scale above 1, as in the original.
    pub(crate) fn guidance(&self) -> Guidance {
        match self.guidance_scale {
            scale if scale > 1.0 => Guidance::ClassifierFree { scale },
            _ => Guidance::Off,
        }
    }

    /// These options as a job reads them: `reference_compat` overrides others.
    pub(crate) fn effective(&self) -> Self {
        if !self.reference_compat {
            return self.clone();
        }
        Self {
            fps: OutputRate::default(),
            face: FaceSelector::Largest,
            silence: SilenceMode::Follow,
            feather: Feather::ORIGINAL,
            mask_feather: Feather::HARD,
            colour_match: ColourMatch::Off,
            ..self.clone()
        }
    }
}

/// How a model is loaded, and what is loaded with it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LoadOptions {
    pub device: DeviceChoice,
    pub dtype: DTypeChoice,
    /// How much of a job is computed at once. Not an option of the job, whose result it does not change.
    pub batch_chunks: BatchChunks,
    pub face_detector: FaceDetectorChoice,
    /// InsightFace's networks are for non-commercial research only: they are neither downloaded nor
    /// loaded before the user says that this is known.
    pub accept_insightface_license: bool,
    /// Never ask the network; what is not on this machine is an error.
    pub offline: bool,
}

/// Which model to run: one of the published ones or the built-in one by name, or a directory of checkpoint files.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ModelChoice {
    /// 512-pixel faces.
    #[default]
    LatentSync16,
    /// 256-pixel faces: a quarter of the work.
    LatentSync15,
    /// 128-pixel drawn faces: a part of the program, where it was built with the feature `demo`.
    Demo,
    Directory(PathBuf),
}

impl FromStr for ModelChoice {
    type Err = InvalidOption;

    /// A published model's name, or else a path. A bare word that is no directory is refused as a
    /// mistyped name.
    fn from_str(text: &str) -> Result<Self> {
        match text {
            "latentsync-1.6" => Ok(Self::LatentSync16),
            "latentsync-1.5" => Ok(Self::LatentSync15),
            "demo" => Ok(Self::Demo),
            _ => {
                let path = PathBuf::from(text);
                if !path.exists() && !text.contains(std::path::is_separator) {
                    return Err(InvalidOption::Value {
                        option: "model",
                        value: text.to_string(),
                        expected: "`latentsync-1.6`, `latentsync-1.5`, `demo` or a directory".to_string(),
                    });
                }
                Ok(Self::Directory(path))
            }
        }
    }
}

impl fmt::Display for ModelChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LatentSync16 => f.write_str("latentsync-1.6"),
            Self::LatentSync15 => f.write_str("latentsync-1.5"),
            Self::Demo => f.write_str("demo"),
            Self::Directory(path) => path.display().fmt(f),
        }
    }
}

/// Who finds the faces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FaceDetectorChoice {
    /// SeetaFace and dlib, which need no consent and no download beyond a system package.
    #[default]
    Auto,
    SeetaDlib,
    InsightFace,
}

impl FromStr for FaceDetectorChoice {
    type Err = InvalidOption;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "auto" => Ok(Self::Auto),
            "seeta-dlib" => Ok(Self::SeetaDlib),
            "insightface" => Ok(Self::InsightFace),
            _ => Err(InvalidOption::Value {
                option: "face_detector",
                value: text.to_string(),
                expected: "`auto`, `seeta-dlib` or `insightface`".to_string(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn out_of_range_options_are_refused_by_name() {
        let refused = |options: Options| options.validate().unwrap_err().to_string();
        for guidance_scale in [0.99, 10.01, f64::NAN, f64::INFINITY] {
            let message = refused(Options { guidance_scale, ..Options::default() });
            assert!(message.contains("guidance_scale"), "{message}");
        }
        assert!(refused(Options { steps: 0, ..Options::default() }).contains("steps"));
        assert!(refused(Options { steps: 1000, ..Options::default() }).contains("999"));
        assert!(refused(Options { deepcache: Some(0), ..Options::default() }).contains("deepcache"));
        let edge = Options { guidance_scale: 10.0, steps: 999, deepcache: Some(1), ..Options::default() };
        assert!(edge.validate().is_ok());
    }

    #[test]
    fn a_model_is_a_name_or_a_directory() {
        assert_eq!("latentsync-1.5".parse::<ModelChoice>().unwrap(), ModelChoice::LatentSync15);
        assert_eq!("./mine".parse::<ModelChoice>().unwrap(), ModelChoice::Directory("./mine".into()));
        let message = "latentsync-1.7".parse::<ModelChoice>().unwrap_err().to_string();
        assert!(message.contains("latentsync-1.7") && message.contains("latentsync-1.6"), "{message}");
    }
}
