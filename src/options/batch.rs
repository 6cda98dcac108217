//! How many chunks of a job go through the UNet together.

use std::fmt;
use std::num::NonZeroUsize;
use std::str::FromStr;

use candle_core::Device;

use crate::options::{InvalidOption, Result};

/// The most that can be asked for: a batch ends with its segment of the output, after which a killed job goes on, and a
/// segment has fifteen chunks.
pub const MAX_BATCH_CHUNKS: usize = 15;

/// Chunks, of 16 frames each, that go through the UNet together. They see nothing of each other: a CPU makes the same
/// of them bit for bit, on a GPU the last bits of a sum depend on how many they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BatchChunks {
    /// On a CUDA device as many as its free memory holds, up to [`Self::AUTO_MOST`]. Elsewhere one: it keeps all cores of
    /// a CPU busy, and Metal does not say what is free.
    #[default]
    Auto,
    /// So many, or fewer where the memory does not hold them.
    AtMost(NonZeroUsize),
}

impl BatchChunks {
    /// 128 frames, half of a segment. With so many even the UNet's smallest images are thousands of rows, which fill the
    /// largest GPU; beyond that a job only holds more frames, and its output comes in larger portions.
    pub const AUTO_MOST: usize = 8;

    /// The most chunks that go together on `device`, whatever its memory.
    pub fn most_on(self, device: &Device) -> usize {
        match self {
            Self::Auto if device.is_cuda() => Self::AUTO_MOST,
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
    fn a_batch_is_automatic_or_a_number() {
        for text in ["auto", "1", "15"] {
            assert_eq!(text.parse::<BatchChunks>().unwrap().to_string(), text);
        }
        for text in ["0", "16", "-1", "many", ""] {
            let message = text.parse::<BatchChunks>().unwrap_err().to_string();
            assert!(message.contains("batch_chunks") && message.contains("between 1 and 15"), "{message}");
        }
    }

    #[test]
    fn a_cpu_computes_one_chunk_at_a_time_unless_told_otherwise() {
        let most = |text: &str| text.parse::<BatchChunks>().unwrap().most_on(&Device::Cpu);
        assert_eq!((most("auto"), most("3")), (1, 3));
    }
}
