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
//! # assert_eq!((report.seed, report.frames), (7, Sentence::Second.wanted_openings()?.len()));
//! # assert!(output.is_file());
//! # Ok(())
//! # }
//! ```

#[cfg(feature = "media")]
pub mod pipeline;
#[cfg(feature = "media")]
mod lip_sync;
pub mod stages;
#[cfg(feature = "media")]
mod timing;
#[cfg(feature = "media")]
mod source_frames;
#[cfg(feature = "media")]
pub mod face_track;
#[cfg(feature = "media")]
mod face_record;
#[cfg(feature = "media")]
mod face_cache;
#[cfg_attr(not(feature = "media"), allow(dead_code))]
mod known_faces;
#[cfg(feature = "media")]
mod identity;
#[cfg(feature = "media")]
mod job;
#[cfg(feature = "media")]
mod meter;
#[cfg_attr(not(feature = "media"), allow(dead_code))]
pub mod anchors;
#[cfg(feature = "media")]
mod preflight;
pub mod options;
pub mod request;
pub mod input;
pub mod weights;
pub mod device;
pub mod system;
pub mod memory;
pub mod noise;
pub mod report;
#[cfg(feature = "media")]
pub mod media;
#[cfg(feature = "media")]
pub mod frame_store;
#[cfg(feature = "media")]
pub mod bench;
#[cfg(feature = "demo")]
pub mod demo;
#[cfg(feature = "server")]
pub mod server;
mod unfinished;
pub mod error;
#[doc(hidden)]
pub mod fuzzing;

pub use error::{Error, Result};
pub use input::Input;
#[cfg(feature = "media")]
pub use job::{FetchedJob, Job};
#[cfg(feature = "media")]
pub use lip_sync::LipSync;
pub use options::{LoadOptions, ModelChoice, Options};
#[cfg(feature = "media")]
pub use preflight::preflight;
pub use report::{CancelToken, Progress, Report, Stage};
pub use unfinished::remove_unfinished_outputs;

/// README.md's example, compiled with the tests.
#[cfg(all(doctest, feature = "media"))]
#[doc = include_str!("../README.md")]
struct Readme;
