//! Selection of the face, and frames without it.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::options::named_enum::named_enum;
use crate::options::{InvalidOption, Result};

/// Which person is lip-synced in a video with several.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum FaceSelector {
    /// The person whose face is the largest in the first frame with a face.
    #[default]
    Largest,
    Left,
    Right,
    /// The n-th face from the left, from 0, in the first frame with enough faces.
    Index(usize),
    /// The face that contains this point, else the nearest one, in the first frame with a face. x and y in
    /// pixels of the upright frame.
    At([f32; 2]),
    /// The person most similar to the largest face in this picture.
    Picture(PathBuf),
}

impl FaceSelector {
    /// Text for keys of stored results. It does not contain the path of a picture, whose content is a field
    /// of its own.
    pub(crate) fn key_text(&self) -> String {
        match self {
            Self::Picture(_) => "picture".to_string(),
            Self::At([x, y]) => format!("at {:08x} {:08x}", x.to_bits(), y.to_bits()),
            other => other.to_string(),
        }
    }
}

impl FromStr for FaceSelector {
    type Err = InvalidOption;

    /// Any text other than a keyword, a number or `X,Y` is the path of a picture, which must exist.
    fn from_str(text: &str) -> Result<Self> {
        let point = || {
            let (x, y) = text.split_once(',')?;
            let [x, y] = [x, y].map(|v| v.trim().parse::<f32>().ok().filter(|v| v.is_finite()));
            Some(Self::At([x?, y?]))
        };
        let picture = || {
            let path = PathBuf::from(text);
            path.is_file().then_some(Self::Picture(path))
        };
        let by_number = || text.parse().ok().map(Self::Index);
        match text {
            "largest" => Ok(Self::Largest),
            "left" => Ok(Self::Left),
            "right" => Ok(Self::Right),
            _ => by_number().or_else(point).or_else(picture).ok_or_else(|| InvalidOption::Value {
                option: "face",
                value: text.to_string(),
                expected: "`largest`, `left`, `right`, a number from 0, a point `X,Y` or a picture file"
                    .into(),
            }),
        }
    }
}

impl fmt::Display for FaceSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Largest => f.write_str("largest"),
            Self::Left => f.write_str("left"),
            Self::Right => f.write_str("right"),
            Self::Index(index) => index.fmt(f),
            Self::At([x, y]) => write!(f, "{x},{y}"),
            Self::Picture(path) => path.display().fmt(f),
        }
    }
}

named_enum! {
    /// What happens to a frame in which no face is found.
    #[derive(Default)]
    pub enum OnMissingFace: "on_missing_face" {
        /// The frame passes through unchanged and is listed in the report.
        #[default]
        Pass = "pass",
        /// The last position of the face is used until the face is found again or the shot ends.
        Hold = "hold",
        /// The job fails with an error that names the frame.
        Error = "error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_are_parsed_and_printed() {
        for (text, selector) in [
            ("largest", FaceSelector::Largest),
            ("left", FaceSelector::Left),
            ("right", FaceSelector::Right),
            ("2", FaceSelector::Index(2)),
            ("640,359.5", FaceSelector::At([640.0, 359.5])),
            ("Cargo.toml", FaceSelector::Picture("Cargo.toml".into())),
        ] {
            assert_eq!(text.parse::<FaceSelector>().unwrap(), selector);
            assert_eq!(selector.to_string(), text);
        }
        for text in ["middle", "-1", "1,2,3", "nan,4", "", "no/such.png"] {
            let message = text.parse::<FaceSelector>().unwrap_err().to_string();
            assert!(message.contains("face is") && message.contains("X,Y"), "{text}: {message}");
        }
    }
}
