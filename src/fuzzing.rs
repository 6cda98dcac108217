//! Doors to the parsers of untrusted bytes that have no public one, for `tests/fuzz` and the corpus test. No
//! part of the library's interface.

use std::path::Path;

use crate::Result;
use crate::anchors::AnchorFile;

pub use crate::weights::fuzzing::{pickle, tensor_file, unet_config};

/// Reads an anchor file's text.
pub fn anchors(text: &str) -> Result<()> {
    AnchorFile::parse(Path::new("anchors.json"), text, 0).map(drop)
}
