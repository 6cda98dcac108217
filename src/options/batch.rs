//! Number of chunks per UNet batch.

use std::fmt;
use std::num::NonZeroUsize;
use std::str::FromStr;

use candle_core::Device;

use crate::options::{InvalidOption, Result};

/// Maximum number of chunks per batch: batches end with segments, the units of resuming, and a segment has 15
/// chunks.
pub const MAX_BATCH_CHUNKS: usize = 15;

/// Number of 16-frame chunks per UNet batch. The chunks of a batch are independent: on a CPU the results are
/// bit-identical for every batch size; on a GPU the last bits of sums depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BatchChunks {
    /// On a CUDA device as many as fit in its free memory, up to [`Self::AUTO_MAX`]. Otherwise one, which
    /// occupies all cores of a CPU; Metal does not report its free memory.
    #[default]
    Auto,
    /// This number, or fewer if they do not fit in memory.
    AtMost(NonZeroUsize),
}

impl BatchChunks {
    /// 128 frames, about half a segment. At this size the lowest resolution of the UNet already has thousands
    /// of rows, which occupy the largest GPU; larger batches only hold more frames in memory and delay the
    /// output.
    pub const AUTO_MAX: usize = 8;

    /// Maximum number of chunks per batch on `device`, regardless of its memory.
    pub fn max_on(self, device: &Device) -> usize {
        match self {
            Self::Auto if device.is_cuda() => Self::AUTO_MAX,
            Self::Auto => 1,
            Self::AtMost(chunks) => chunks.get(),
        }
    }
}

impl FromStr for BatchChunks {
    type Err = InvalidOption;

    fn from_str(text: &str) -> Result<Self> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        match text.parse::<NonZeroUsize>() {
            Ok(chunks) if chunks.get() <= MAX_BATCH_CHUNKS => Ok(Self::AtMost(chunks)),
            _ => Err(InvalidOption::Value {
                option: "batch_chunks",
                value: text.to_string(),
                expected: format!("`auto` or a whole number between 1 and {MAX_BATCH_CHUNKS}"),
            }),
        }
    }
}

impl fmt::Display for BatchChunks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::AtMost(chunks) => chunks.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_size_is_automatic_or_a_number() {
        for text in ["auto", "1", "15"] {
            assert_eq!(text.parse::<BatchChunks>().unwrap().to_string(), text);
        }
        for text in ["0", "16", "-1", "many", ""] {
            let message = text.parse::<BatchChunks>().unwrap_err().to_string();
            assert!(message.contains("batch_chunks") && message.contains("between 1 and 15"), "{message}");
        }
    }

    #[test]
    fn the_default_on_a_cpu_is_one_chunk() {
        let max = |text: &str| text.parse::<BatchChunks>().unwrap().max_on(&Device::Cpu);
        assert_eq!((max("auto"), max("3")), (1, 3));
    }
}
