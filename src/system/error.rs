//! Errors of files, of memory and of the compute device.

use std::io;
#[cfg(feature = "media")]
use std::path::Path;
use std::path::PathBuf;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Failure of the operating system or of a compute device, or a request to stop.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error("cannot read `{}`", path.display())]
    ReadFile {
        path: PathBuf,
        #[source]
        source: io::Error,
    },

    #[error("cannot write `{}`", path.display())]
    WriteFile {
        path: PathBuf,
        #[source]
        source: io::Error,
    },

    #[error("no space left for `{}`", path.display())]
    DiskFull { path: PathBuf },

    /// The job was cancelled, or the process is about to end.
    #[error("interrupted")]
    Interrupted,

    #[error("device `{device}` cannot be used")]
    Device {
        device: String,
        #[source]
        source: Box<candle_core::Error>,
    },

    /// Both sizes are in bytes.
    #[error("not enough memory: {:.1} GB needed, {:.1} GB available", *needed as f64 / 1e9, *available as f64 / 1e9)]
    Memory { needed: u64, available: u64 },

    #[error("computation failed in {stage}")]
    Compute {
        stage: &'static str,
        #[source]
        source: Box<candle_core::Error>,
    },
}

impl Error {
    /// Whether a computation failed because the device had no memory left. The same computation may succeed with a
    /// smaller batch.
    pub fn is_out_of_memory(&self) -> bool {
        let Error::Compute { source, .. } = self else { return false };
        // Messages of the CUDA driver and of cuBLAS. Their error types exist only in builds with the feature `cuda`.
        let message = source.to_string();
        ["CUDA_ERROR_OUT_OF_MEMORY", "CUBLAS_STATUS_ALLOC_FAILED"].iter().any(|word| message.contains(word))
    }
}

/// Error of a failed write to `path`: [`Error::DiskFull`] or [`Error::WriteFile`].
#[cfg(feature = "media")]
pub(crate) fn write_error(path: &Path, source: io::Error) -> Error {
    let path = path.to_path_buf();
    match source.kind() {
        io::ErrorKind::StorageFull => Error::DiskFull { path },
        _ => Error::WriteFile { path, source },
    }
}

/// Returns a function that adds a stage's name to the error of a failed computation.
pub(crate) fn compute(stage: &'static str) -> impl Fn(candle_core::Error) -> Error {
    move |source| Error::Compute { stage, source: source.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The messages are those of cudarc, which candle passes on.
    #[test]
    fn a_full_gpu_is_distinguished_from_other_failures() {
        let failed = |message: &str| compute("denoise_latents")(candle_core::Error::msg(message));
        assert!(failed("DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")").is_out_of_memory());
        let other =
            failed("DriverError(CUDA_ERROR_ILLEGAL_ADDRESS, \"an illegal memory access was encountered\")");
        assert!(!other.is_out_of_memory());
        assert!(!Error::Interrupted.is_out_of_memory());
    }
}
