//! The operating system: memory, disks, paths, temporary outputs, cancellation, compute devices.

mod error;
pub mod cancel;
pub mod device;
pub mod machine;
pub mod allocator;
pub(crate) mod digest;
pub mod paths;
pub(crate) mod temp_outputs;
pub(crate) mod cache_key;

pub use cancel::CancelToken;
pub(crate) use error::compute;
#[cfg(feature = "media")]
pub(crate) use error::write_error;
pub use error::{Error, Result};
pub use temp_outputs::remove_unfinished_outputs;
