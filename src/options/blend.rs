//! How the generated mouth is joined to the original picture.

use std::fmt;
use std::str::FromStr;

use crate::options::{InvalidOption, Result};

/// The width of a soft edge as a part of the face's side: the weight is half at that distance from the
/// edge, and full at twice the distance. 0 is a hard edge.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct Feather(f64);

impl Feather {
    /// No soft edge.
    pub const HARD: Self = Self(0.0);
    /// A twentieth, the original's for the edge of the face.
    pub const ORIGINAL: Self = Self(0.05);
    /// Beyond it the edges of two sides meet, and nothing shows the face in full.
    pub const MAX: f64 = 0.25;

    /// `share`: 0 to [`Self::MAX`]; `option`: what the user calls it.
    pub fn new(option: &'static str, share: f64) -> Result<Self> {
        if (0.0..=Self::MAX).contains(&share) {
            return Ok(Self(share));
        }
        Err(refused(option, share.to_string()))
    }

    /// The edge's width in pixels on a face whose side has `side` of them.
    pub fn pixels(self, side: usize) -> usize {
        (side as f64 * self.0) as usize
    }
}

impl Default for Feather {
    fn default() -> Self {
        Self::ORIGINAL
    }
}

impl FromStr for Feather {
    type Err = InvalidOption;

    fn from_str(text: &str) -> Result<Self> {
        text.parse()
            .map_or_else(|_| Err(refused("feather", text.to_string())), |share| Self::new("feather", share))
    }
}

impl fmt::Display for Feather {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

fn refused(option: &'static str, value: String) -> InvalidOption {
    let expected = format!("a part of the face's side, 0 to {}", Feather::MAX);
    InvalidOption::Value { option, value, expected }
}

/// Whether the generated skin takes on the original's colour at the seam.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ColourMatch {
    /// As generated; what the original does.
    #[default]
    Off,
    On,
}

impl FromStr for ColourMatch {
    type Err = InvalidOption;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "off" => Ok(Self::Off),
            "on" => Ok(Self::On),
            _ => Err(InvalidOption::Value {
                option: "colour_match",
                value: text.to_string(),
                expected: "`on` or `off`".to_string(),
            }),
        }
    }
}

impl fmt::Display for ColourMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Off => "off",
            Self::On => "on",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_width_is_a_twentieth_of_any_side() {
        assert!((0..20_000).all(|side| Feather::default().pixels(side) == side / 20));
        assert_eq!(Feather::HARD.pixels(10_000), 0);
    }

    #[test]
    fn widths_beyond_a_quarter_are_refused_by_name() {
        for (text, good) in [("0", true), ("0.25", true), ("0.26", false), ("-0.1", false), ("NaN", false)] {
            assert_eq!(text.parse::<Feather>().is_ok(), good, "{text}");
        }
        let error = Feather::new("mask_feather", 0.3).unwrap_err();
        assert!(error.to_string().contains("mask_feather"), "{error}");
        assert!("wide".parse::<Feather>().unwrap_err().to_string().contains("wide"));
    }

    #[test]
    fn colour_match_is_on_or_off() {
        for choice in [ColourMatch::On, ColourMatch::Off] {
            assert_eq!(choice.to_string().parse::<ColourMatch>().unwrap(), choice);
        }
        assert!("yes".parse::<ColourMatch>().is_err());
    }
}
