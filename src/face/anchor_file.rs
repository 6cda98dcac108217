//! Anchor points of each frame: from a tracker or from a file.

use std::path::{Path, PathBuf};

use candle_core::Tensor;
use models::face::{Anchors, FaceTracker};

use crate::face::{Error, Result};
use crate::system;

/// Source of the anchor points.
pub enum AnchorSource {
    Tracker(Box<FaceTracker>),
    File(AnchorFile),
}

impl AnchorSource {
    /// Declares that the next frame starts a new shot.
    pub fn cut(&mut self) {
        if let Self::Tracker(tracker) = self {
            tracker.cut();
        }
    }

    /// Whether a frame without a face may be a detection error. In a file it is intended.
    pub fn may_flicker(&self) -> bool {
        matches!(self, Self::Tracker(_))
    }

    /// Anchors of source frame `index` with pixels `rgb`, (height, width, 3) u8; `None` if it has no face.
    pub fn next(&mut self, index: usize, rgb: &Tensor) -> Result<Option<Anchors>> {
        match self {
            Self::File(file) => file.get(index),
            Self::Tracker(tracker) => {
                let face = tracker
                    .next(rgb)
                    .map_err(|source| Error::Search { frame: index, source: source.into() })?;
                Ok(face.map(|face| face.anchors))
            }
        }
    }
}

/// A file with anchor points: a JSON array with one `[[x, y], [x, y], [x, y]]` (left eyebrow, right eyebrow,
/// nose; in pixels; left as seen in the picture) or `null` per frame of the video at 25 frames per second.
pub struct AnchorFile {
    path: PathBuf,
    frames: Vec<Option<[[f32; 2]; 3]>>,
}

impl AnchorFile {
    /// Reads a file and checks that it has at least `needed` frames.
    pub fn read(path: &Path, needed: usize) -> Result<Self> {
        let refuse = |source| system::Error::ReadFile { path: path.to_path_buf(), source };
        // The file is read twice, before and after the model is loaded. A pipe would be empty the second time
        // and might block the first time.
        if !std::fs::metadata(path).map_err(refuse)?.is_file() {
            return Err(Error::Anchors { path: path.to_path_buf(), reason: "not a regular file".into() });
        }
        let text = std::fs::read_to_string(path).map_err(refuse)?;
        Self::parse(path, &text, needed)
    }

    /// Parses `text`. `path` is used in errors.
    pub fn parse(path: &Path, text: &str, needed: usize) -> Result<Self> {
        let frames = serde_json::from_str::<Vec<Option<[[f32; 2]; 3]>>>(text)
            .map_err(|source| Error::Anchors { path: path.to_path_buf(), reason: source.to_string() })?;
        if let Some(frame) = frames.iter().position(|f| f.is_some_and(|points| !plausible(&points))) {
            let reason = format!("frame {frame}: the three points must be finite and not all in one place");
            return Err(Error::Anchors { path: path.to_path_buf(), reason });
        }
        if frames.len() < needed {
            let reason = format!("it has {} frames, the job needs {needed}", frames.len());
            return Err(Error::Anchors { path: path.to_path_buf(), reason });
        }
        Ok(Self { path: path.to_path_buf(), frames })
    }

    fn get(&self, index: usize) -> Result<Option<Anchors>> {
        let Some(points) = self.frames.get(index) else {
            let reason = format!("it has {} frames, the video has more (frame {index})", self.frames.len());
            return Err(Error::Anchors { path: self.path.clone(), reason });
        };
        Ok(points.map(|[left_brow, right_brow, nose]| Anchors { left_brow, right_brow, nose }))
    }
}

/// Parses the text of an anchor file, for `tests/fuzz`.
pub fn parse_for_fuzzing(text: &str) -> Result<()> {
    AnchorFile::parse(Path::new("anchors.json"), text, 0).map(drop)
}

/// Whether a similarity transform can be fitted to the points after rounding to whole pixels, as
/// `FaceAligner` does.
fn plausible(points: &[[f32; 2]; 3]) -> bool {
    let rounded = points.map(|p| p.map(f32::round_ties_even));
    points.as_flattened().iter().all(|v| v.is_finite()) && rounded.iter().any(|p| *p != rounded[0])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<AnchorFile> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        AnchorFile::read(file.path(), 0)
    }

    #[test]
    fn a_frame_has_three_points_or_null() {
        let file = read("[[[1, 2], [3, 4], [2, 6.5]], null]").unwrap();
        assert_eq!(file.get(0).unwrap().unwrap().nose, [2.0, 6.5]);
        assert!(file.get(1).unwrap().is_none());
        assert!(file.get(2).unwrap_err().to_string().contains("it has 2 frames"));
    }

    #[test]
    fn invalid_anchors_are_refused_with_their_location() {
        for (text, place) in [
            ("[[[1, 2], [3, 4]]]", "line 1"),
            ("{}", "line 1"),
            ("[null, [[5, 5], [5, 5], [5.2, 5]]]", "frame 1"),
            ("[null, [[4, 5], [4, 5], [4.5, 5]]]", "frame 1"),
            ("[[[1e39, 2], [3, 4], [2, 6]]]", ""),
        ] {
            let message = read(text).map(|_| ()).unwrap_err().to_string();
            assert!(message.contains(place), "{text}: {message}");
        }
    }
}
