//! Options of a job and of loading a model, shared by the command line, the library, the server and the
//! benchmarks. Nothing here opens a file or a device.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use models::guidance::Guidance;

use crate::options::named_enum::named_enum;

mod error;
mod device;
mod batch;
mod blend;
mod duration;
mod encoding;
mod face;
mod frame_range;
mod key;
mod named_enum;
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
pub(crate) use rate::WHISPER_ROWS_PER_FRAME;
pub use rate::{FPS, FrameRate, OutputRate, Steadiness};
pub use silence::SilenceMode;

/// The denoising steps are spread over the 1000 steps of the training; 999 is the last usable one.
pub const MAX_STEPS: usize = 999;
/// Above this scale the guided prediction is far outside the distribution that the model was trained on.
pub const MAX_GUIDANCE_SCALE: f64 = 10.0;
/// In degrees. Beyond this angle the far half of the mouth is hidden, the nose is outside the far eyebrow,
/// and the landmarks are unreliable.
pub const DEFAULT_MAX_YAW: f32 = 55.0;
/// DeepCache interval of the original.
pub const DEFAULT_DEEPCACHE_INTERVAL: usize = 3;

/// Options of a job. The defaults are those of the hosted APIs.
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
    /// Random if `None`; the report contains the seed that was used.
    pub seed: Option<u64>,
    /// Policy for voice and video of different lengths.
    pub duration: DurationPolicy,
    /// DeepCache interval: the full network runs at every n-th step. `None`: at every step.
    pub deepcache: Option<usize>,
    /// Frame rate of the output.
    pub fps: OutputRate,
    pub face: FaceSelector,
    pub on_missing_face: OnMissingFace,
    /// Faces turned to the side by more than this angle, in degrees, pass through unchanged.
    pub max_yaw: f32,
    pub silence: SilenceMode,
    /// Soft edge around the face.
    pub feather: Feather,
    /// Soft edge of the mouth mask inside the face. It extends inwards and so reduces the fully visible
    /// generated area.
    pub mask_feather: Feather,
    pub colour_match: ColourMatch,
    pub decoder: DecoderChoice,
    /// Codec, quality and container of the output.
    pub encoding: Encoding,
    /// Reproduce the original where this engine deviates from it: colours are read as BT.601 regardless of
    /// the tags, two extra frames are generated at the end, InsightFace receives BGR, Whisper windows of 30 s
    /// do not overlap, each frame's largest face is used, detection gaps are not bridged, cuts are not
    /// detected, and `max_yaw` is ignored. Overrides `fps`, `face`, `silence`, both feathers and
    /// `colour_match`. `on_missing_face` still applies; the original fails.
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
    /// Checks that all values are in range. The error names the option.
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

    /// The options that take effect: `reference_compat` overrides others.
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

/// Options for loading a model.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LoadOptions {
    pub device: DeviceChoice,
    pub dtype: DTypeChoice,
    /// Number of chunks per UNet batch. Not an option of the job, because it does not affect the result.
    pub batch_chunks: BatchChunks,
    pub face_detector: FaceDetectorChoice,
    /// Consent to the licence of the InsightFace networks (non-commercial research only). Without it they are
    /// neither downloaded nor loaded.
    pub accept_insightface_license: bool,
    /// Never use the network: missing files are an error.
    pub offline: bool,
}

/// A published model, the built-in demo model, or a directory of checkpoint files.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ModelChoice {
    /// Faces of 512 × 512 pixels.
    #[default]
    LatentSync16,
    /// Faces of 256 × 256 pixels: a quarter of the work.
    LatentSync15,
    /// Drawn faces of 128 × 128 pixels. Built into the program with the feature `demo`.
    Demo,
    Directory(PathBuf),
}

impl FromStr for ModelChoice {
    type Err = InvalidOption;

    /// The name of a model, else a path. A word without a path separator that is not an existing path is
    /// refused as an unknown name.
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

named_enum! {
    /// Face detector.
    #[derive(Default)]
    pub enum FaceDetectorChoice: "face_detector" {
        /// SeetaFace and dlib, which need no consent and no download except a system package.
        #[default]
        Auto = "auto",
        SeetaDlib = "seeta-dlib",
        InsightFace = "insightface",
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
