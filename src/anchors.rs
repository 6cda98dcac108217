//! Where each frame's anchor points come from: a detector, or a file that the caller brings.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use candle_core::Tensor;
use models::face::{
    Anchors, Appearance, ChannelOrder, Face, FaceChoice, FaceDetector, FaceTracker, InsightFace, SeetaDlib,
};

use crate::error::{Error, Result};
use crate::options::{FaceDetectorChoice, LoadOptions, Options};
use crate::weights::{self, HubSettings, InsightFaceLicence};

/// Makes a tracker for each job. Its files are looked for when the first job needs them: one that brings its
/// own anchors needs none.
pub struct FaceFinder {
    choice: FaceDetectorChoice,
    licence: InsightFaceLicence,
    settings: HubSettings,
    /// Kept from the first job on: its file has 100 MB.
    seeta_dlib: Mutex<Option<SeetaDlib>>,
}

impl FaceFinder {
    pub fn new(options: &LoadOptions, settings: HubSettings) -> Self {
        let licence = match options.accept_insightface_license {
            true => InsightFaceLicence::Accepted,
            false => InsightFaceLicence::NotAccepted,
        };
        Self { choice: options.face_detector, licence, settings, seeta_dlib: Mutex::default() }
    }

    /// The detector that is used.
    pub fn choice(&self) -> FaceDetectorChoice {
        match self.choice {
            FaceDetectorChoice::Auto => FaceDetectorChoice::SeetaDlib,
            choice => choice,
        }
    }

    /// Whether the detector's files are here and may be used. Reads none of them.
    pub fn check(&self) -> Result<()> {
        match self.choice {
            FaceDetectorChoice::Auto | FaceDetectorChoice::SeetaDlib => {
                weights::shape_predictor(&self.settings).map(drop)
            }
            FaceDetectorChoice::InsightFace => {
                weights::insightface_files(self.licence, &self.settings).map(drop)
            }
        }
    }

    /// A tracker for the frames of one video.
    pub fn tracker(&self, options: &Options, choice: FaceChoice) -> Result<FaceTracker> {
        let detector = self.detector(options)?;
        // The original takes each frame's largest face: it knows neither persons nor cuts.
        match options.reference_compat {
            true => Ok(FaceTracker::without_memory(detector)),
            false => Ok(FaceTracker::choosing(detector, choice)),
        }
    }

    /// The choice of the person whose face is the largest in `image`, (height, width, 3) u8, which was read
    /// from `path`.
    pub fn like(&self, options: &Options, image: &Tensor, path: &Path) -> Result<FaceChoice> {
        let search = |source| Error::ReferenceFaceSearch { path: path.to_path_buf(), source };
        let faces = self.detector(options)?.detect_all(image).map_err(search)?;
        let larger = |best: Face, face: Face| if face.area() > best.area() { face } else { best };
        let Some(face) = faces.into_iter().reduce(larger) else {
            return Err(Error::NoReferenceFace { path: path.to_path_buf() });
        };
        Appearance::of(image, &face.anchors).map(FaceChoice::Like).map_err(search)
    }

    fn detector(&self, options: &Options) -> Result<Box<dyn FaceDetector>> {
        Ok(match self.choice {
            FaceDetectorChoice::Auto | FaceDetectorChoice::SeetaDlib => Box::new(self.seeta_dlib()?),
            FaceDetectorChoice::InsightFace => {
                let files = weights::insightface_files(self.licence, &self.settings)?;
                let order = match options.reference_compat {
                    true => ChannelOrder::AsOriginal,
                    false => ChannelOrder::Rgb,
                };
                Box::new(InsightFace::open(&files.detector, &files.landmarks, order)?)
            }
        })
    }

    fn seeta_dlib(&self) -> Result<SeetaDlib> {
        let mut loaded = self.seeta_dlib.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(detector) = &*loaded {
            return Ok(detector.clone());
        }
        let detector = SeetaDlib::open(&weights::shape_predictor(&self.settings)?)?;
        Ok(loaded.insert(detector).clone())
    }
}

/// Anchors by frame, in order.
pub enum AnchorSource {
    Tracker(Box<FaceTracker>),
    File(AnchorFile),
}

impl AnchorSource {
    /// The next frame starts another shot.
    pub fn cut(&mut self) {
        if let Self::Tracker(tracker) = self {
            tracker.cut();
        }
    }

    /// Whether a frame without a face may be an oversight. In a file it is deliberate.
    pub fn may_flicker(&self) -> bool {
        matches!(self, Self::Tracker(_))
    }

    /// The anchors of source frame `index`, which is `rgb`, (height, width, 3) u8; `None` where it has no face.
    pub fn next(&mut self, index: usize, rgb: &Tensor) -> Result<Option<Anchors>> {
        match self {
            Self::File(file) => file.get(index),
            Self::Tracker(tracker) => {
                let face = tracker.next(rgb).map_err(|source| Error::FaceSearch { frame: index, source })?;
                Ok(face.map(|face| face.anchors))
            }
        }
    }
}

/// A JSON array with one `[[x, y], [x, y], [x, y]]` (left eyebrow, right eyebrow, nose; pixels; left as seen
/// in the picture) or `null` per frame of the video at 25 frames a second.
pub struct AnchorFile {
    path: PathBuf,
    frames: Vec<Option<[[f32; 2]; 3]>>,
}

impl AnchorFile {
    /// A file with at least `needed` frames.
    pub fn read(path: &Path, needed: usize) -> Result<Self> {
        let refuse = |source| Error::ReadFile { path: path.to_path_buf(), source };
        // It is read twice, before the model is loaded and after: a pipe has nothing to say the second time, and
        // may keep its reader waiting for ever the first.
        if !std::fs::metadata(path).map_err(refuse)?.is_file() {
            return Err(Error::Anchors { path: path.to_path_buf(), reason: "not a regular file".into() });
        }
        let text = std::fs::read_to_string(path).map_err(refuse)?;
        Self::parse(path, &text, needed)
    }

    /// What `path` says, `text`.
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

/// A similarity can be fitted to the points after they are rounded to whole pixels, as `FaceAligner` does.
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
    fn a_frame_has_three_points_or_none() {
        let file = read("[[[1, 2], [3, 4], [2, 6.5]], null]").unwrap();
        assert_eq!(file.get(0).unwrap().unwrap().nose, [2.0, 6.5]);
        assert!(file.get(1).unwrap().is_none());
        assert!(file.get(2).unwrap_err().to_string().contains("it has 2 frames"));
    }

    #[test]
    fn what_is_no_anchor_is_refused_with_its_place() {
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
