//! A local LatentSync engine: a video and a voice go in, a lip-synced video comes out.

pub mod pipeline;
pub mod stages;
pub mod options;
pub mod request;
pub mod weights;
pub mod device;
pub mod noise;
pub mod report;
pub mod error;

pub use error::{Error, Result};
pub use options::{Job, LoadOptions, ModelChoice, Options};
pub use report::{CancelToken, Progress, Report, Stage};
