//! Blending of the generated face into the original picture.

use std::fmt;
use std::str::FromStr;

use crate::options::named_enum::named_enum;
use crate::options::{InvalidOption, Result};

/// Width of a soft edge as a fraction of the face's side. The weight is 0.5 at this distance from the edge
/// and 1 at twice the distance. 0 is a hard edge.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct Feather(f64);

impl Feather {
    /// No soft edge.
    pub const HARD: Self = Self(0.0);
    /// 1/20, the original's value for the edge of the face.
    pub const ORIGINAL: Self = Self(0.05);
    /// Larger edges of opposite sides would overlap, so no part of the face would have the weight 1.
    pub const MAX: f64 = 0.25;

    /// `share`: 0 to [`Self::MAX`]; `option`: name of the option, for the error.
    pub fn new(option: &'static str, share: f64) -> Result<Self> {
        if (0.0..=Self::MAX).contains(&share) {
            return Ok(Self(share));
        }
        Err(invalid(option, share.to_string()))
    }

    /// The width as a fraction of the side.
    pub(crate) fn share(self) -> f64 {
        self.0
    }

    /// Width of the edge in pixels for a face of `side` × `side` pixels.
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
            .map_or_else(|_| Err(invalid("feather", text.to_string())), |share| Self::new("feather", share))
    }
}

impl fmt::Display for Feather {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

fn invalid(option: &'static str, value: String) -> InvalidOption {
    let expected = format!("a fraction of the face's side between 0 and {}", Feather::MAX);
    InvalidOption::Value { option, value, expected }
}

named_enum! {
    /// Whether the colours of the generated face are corrected to match the original around it.
    #[derive(Default)]
    pub enum ColourMatch: "colour_match" {
        /// No correction, as in the original.
        #[default]
        Off = "off",
        On = "on",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_width_is_one_twentieth_of_the_side() {
        assert!((0..20_000).all(|side| Feather::default().pixels(side) == side / 20));
        assert_eq!(Feather::HARD.pixels(10_000), 0);
    }

    #[test]
    fn widths_above_a_quarter_are_refused_by_name() {
        for (text, good) in [("0", true), ("0.25", true), ("0.26", false), ("-0.1", false), ("NaN", false)] {
            assert_eq!(text.parse::<Feather>().is_ok(), good, "{text}");
        }
        let error = Feather::new("mask_feather", 0.3).unwrap_err();
        assert!(error.to_string().contains("mask_feather"), "{error}");
        assert!("wide".parse::<Feather>().unwrap_err().to_string().contains("wide"));
    }
}
