//! Selection and loading of the face detector.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use candle_core::Tensor;
use models::face::{
    Appearance, ChannelOrder, Face, FaceChoice, FaceDetector, FaceTracker, InsightFace, SeetaDlib,
};

use crate::face::{Error, Result};
use crate::options::{FaceDetectorChoice, LoadOptions, Options};
use crate::weights::{self, HubSettings, InsightFaceLicence};

/// Creates a tracker for each job. The detector's files are located when the first job needs them; jobs with
/// an anchor file do not.
pub struct FaceFinder {
    choice: FaceDetectorChoice,
    licence: InsightFaceLicence,
    settings: HubSettings,
    /// Cached after the first job, because its file has 100 MB.
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

    /// The detector in use; never `Auto`.
    pub fn choice(&self) -> FaceDetectorChoice {
        match self.choice {
            FaceDetectorChoice::Auto => FaceDetectorChoice::SeetaDlib,
            choice => choice,
        }
    }

    /// Checks that the detector's files exist and may be used, without reading them.
    pub fn check(&self) -> Result<()> {
        match self.choice {
            FaceDetectorChoice::Auto | FaceDetectorChoice::SeetaDlib => {
                weights::shape_predictor(&self.settings)?;
            }
            FaceDetectorChoice::InsightFace => {
                weights::insightface_files(self.licence, &self.settings)?;
            }
        }
        Ok(())
    }

    /// A tracker for the frames of one video.
    pub fn tracker(&self, options: &Options, choice: FaceChoice) -> Result<FaceTracker> {
        let detector = self.detector(options)?;
        // The original uses each frame's largest face, without tracking and cut detection.
        match options.reference_compat {
            true => Ok(FaceTracker::without_memory(detector)),
            false => Ok(FaceTracker::choosing(detector, choice)),
        }
    }

    /// Criterion for the person with the largest face in `image`, (height, width, 3) u8, which was read from
    /// `path`.
    pub fn like(&self, options: &Options, image: &Tensor, path: &Path) -> Result<FaceChoice> {
        let search = |source| Error::ReferenceSearch { path: path.to_path_buf(), source: Box::new(source) };
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
