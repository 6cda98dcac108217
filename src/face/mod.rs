//! Detection, tracking and caching of faces.

mod error;
pub mod anchor_file;
pub mod finder;
#[cfg(feature = "media")]
pub mod track;
pub mod patch;
pub mod posteriors;
#[cfg(feature = "media")]
pub(crate) mod record;
#[cfg(feature = "media")]
pub(crate) mod cache;

pub use error::{Error, Result};
