//! What the mouth does where the voice is silent.

use std::fmt;
use std::str::FromStr;

use crate::options::{InvalidOption, Result};

/// What the mouth does where nobody speaks in the voice's recording.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SilenceMode {
    /// It follows whatever can be heard, breath and noise too, as in the original.
    #[default]
    Follow,
    /// The video's own mouth stays.
    Keep,
    /// The model hears digital silence, and closes it.
    Close,
}

impl SilenceMode {
    /// Every spelling that parses.
    pub const NAMES: &[&str] = &["follow", "keep", "close"];
}

impl FromStr for SilenceMode {
    type Err = InvalidOption;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "follow" => Ok(Self::Follow),
            "keep" => Ok(Self::Keep),
            "close" => Ok(Self::Close),
            _ => Err(InvalidOption::Value {
                option: "silence",
                value: text.to_string(),
                expected: format!("one of {}", Self::NAMES.join(", ")),
            }),
        }
    }
}

impl fmt::Display for SilenceMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Follow => "follow",
            Self::Keep => "keep",
            Self::Close => "close",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_read_and_written() {
        for name in SilenceMode::NAMES {
            assert_eq!(name.parse::<SilenceMode>().unwrap().to_string(), *name);
        }
        assert_eq!("follow".parse::<SilenceMode>().unwrap(), SilenceMode::default());
        let message = "mute".parse::<SilenceMode>().unwrap_err().to_string();
        assert!(message.contains("silence is mute") && message.contains("keep"), "{message}");
    }
}
