//! The choice of a face detector, and its loading.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use candle_core::Tensor;
use models::face::{
    Appearance, ChannelOrder, Face, FaceChoice, FaceDetector, FaceTracker, InsightFace, SeetaDlib,
};

use crate::face::{Error, Result};
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
        // The original takes each frame's largest face: it knows neither persons nor cuts.
        match options.reference_compat {
            true => Ok(FaceTracker::without_memory(detector)),
            false => Ok(FaceTracker::choosing(detector, choice)),
        }
    }

    /// The choice of the person whose face is the largest in `image`, (height, width, 3) u8, which was read
    /// from `path`.
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
