//! Location of the shared material: the complete golden set, video clips and voices. They are not part of the
//! repository, so a test that reads them is in a module `shared` and ignored by default:
//!
//!     cargo test --release -- --ignored shared::

use std::path::PathBuf;

/// Directory of the shared material, as an absolute path: `LATENTSYNC_SHARED`, or `../shared`.
///
/// Panics if the directory is missing. A test that needs it must not pass without it.
pub fn directory() -> PathBuf {
    let path = std::env::var_os("LATENTSYNC_SHARED").map_or_else(|| "../shared".into(), PathBuf::from);
    path.canonicalize().unwrap_or_else(|error| {
        panic!("no shared material in `{}`: {error} (set LATENTSYNC_SHARED)", path.display())
    })
}
