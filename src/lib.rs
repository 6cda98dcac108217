//! A local LatentSync engine: a video and a voice go in, a lip-synced video comes out.
//!
//! [`LipSync`] is a loaded model: load once, run many [`Job`]s. [`Options`] has every knob of a job,
//! [`LoadOptions`] those of loading, [`Report`] what a job did, [`Error`] what can go wrong. `pipeline` tells
//! how a video goes through; read it first.
//!
#![cfg_attr(feature = "demo", doc = "```")]
#![cfg_attr(not(feature = "demo"), doc = "```ignore")]
//! use latentsync::demo::{DemoInputs, Sentence};
//! use latentsync::{CancelToken, Job, LipSync, LoadOptions, ModelChoice, Options};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let directory = tempfile::tempdir()?;
//! # let output = directory.path().join("out.mp4");
//! // A model of drawn faces that is built in, with a clip to try it on; `ModelChoice::LatentSync16` is the published one.
//! let lipsync = LipSync::load(&ModelChoice::Demo, &LoadOptions::default())?;
//! let inputs = DemoInputs::write(directory.path())?;
//!
//! let job = Job {
//!     options: Options { steps: 2, seed: Some(7), ..Options::default() },
//!     anchors: Some(inputs.anchors.clone()), // or none: then the face is searched for
//!     ..Job::new(inputs.face.clone(), inputs.voice(Sentence::Second), &output)
//! };
//! // `()` keeps the progress to itself; the token's clones stop the job from another thread.
//! let report = lipsync.run(&job, &mut (), &CancelToken::new())?;
//! println!("{} frames in {:.1} s", report.frames, report.seconds);
//! # assert_eq!((report.seed, report.frames), (7, Sentence::Second.expected_openings()?.len()));
//! # assert!(output.is_file());
//! # Ok(())
//! # }
//! ```

#[cfg(feature = "server")]
pub mod server;
#[cfg(feature = "bench")]
pub mod bench;
#[cfg(feature = "demo")]
pub mod demo;
#[cfg(feature = "media")]
pub mod pipeline;
pub mod stages;
pub mod error;
#[cfg_attr(not(feature = "media"), allow(dead_code))]
pub mod audio;
#[cfg(feature = "media")]
pub mod media;
#[cfg_attr(not(feature = "media"), allow(dead_code))]
pub mod face;
pub mod weights;
pub mod request;
pub mod input;
pub mod options;
pub mod system;

pub use error::{Error, ErrorKind, InputRole, Result};
pub use input::Input;
pub use options::{LoadOptions, ModelChoice, Options};
#[cfg(feature = "media")]
pub use pipeline::{FetchedJob, Job, LipSync, Progress, Report, Stage, preflight};
pub use system::{CancelToken, remove_unfinished_outputs};

/// Entry points of the parsers of untrusted bytes, for `tests/fuzz` and its corpus test. Not part of the library's
/// interface.
#[doc(hidden)]
pub mod fuzzing {
    pub use crate::face::anchor_file::parse_for_fuzzing as anchors;
    pub use crate::weights::fuzzing::{pickle, tensor_file, unet_config};
}

/// README.md's example, compiled with the tests.
#[cfg(all(doctest, feature = "media"))]
#[doc = include_str!("../README.md")]
struct Readme;
