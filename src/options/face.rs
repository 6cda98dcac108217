//! Whom to sync, and what happens where that face is not to be seen.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::options::{InvalidOption, Result};

/// Whom to sync when a video shows several people.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum FaceSelector {
    /// Whose face is the largest in the first frame that has one.
    #[default]
    Largest,
    Left,
    Right,
    /// Counted from 0 at the left, in the first frame that has enough faces.
    Index(usize),
    /// Whose face is around or nearest to this point in the first frame that has one; x and y in pixels of the
    /// upright frame.
    At([f32; 2]),
    /// Who looks like the largest face in this picture.
    Picture(PathBuf),
}

impl FromStr for FaceSelector {
    type Err = InvalidOption;

    /// What is neither a word, a number nor two numbers with a comma is the path of a picture, which must exist.
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

/// What to do with a frame in which no face is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnMissingFace {
    /// The frame goes to the output untouched and is listed in the report.
    #[default]
    Pass,
    /// The face's last place is kept until the face is found again or the shot ends.
    Hold,
    /// The job fails and names the frame.
    Error,
}

impl FromStr for OnMissingFace {
    type Err = InvalidOption;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "pass" => Ok(Self::Pass),
            "hold" => Ok(Self::Hold),
            "error" => Ok(Self::Error),
            _ => Err(InvalidOption::Value {
                option: "on_missing_face",
                value: text.to_string(),
                expected: "`pass`, `hold` or `error`".to_string(),
            }),
        }
    }
}

impl fmt::Display for OnMissingFace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pass => "pass",
            Self::Hold => "hold",
            Self::Error => "error",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
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

    #[test]
    fn what_happens_without_a_face_parses_and_prints_alike() {
        for text in ["pass", "hold", "error"] {
            assert_eq!(text.parse::<OnMissingFace>().unwrap().to_string(), text);
        }
        assert!("skip".parse::<OnMissingFace>().unwrap_err().to_string().contains("`hold`"));
    }
}
