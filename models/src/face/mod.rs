//! Face detection and tracking. The result for a frame is three anchor points that place the crop: the
//! centres of the two eyebrows and the nose. Two detectors implement [`FaceDetector`]; [`FaceTracker`]
//! follows one person.

mod error;
mod types;
mod detector;
mod pixels;
mod face_frame;
mod dlib_reader;
mod dlib_shape_predictor;
mod seeta_boxes;
mod seeta_dlib;
mod onnx_wire;
mod onnx_network;
mod opencv_resample;
mod scrfd;
mod insightface;
mod appearance;
mod choice;
mod tracker;

pub use appearance::Appearance;
pub use choice::FaceChoice;
pub use detector::FaceDetector;
pub use dlib_shape_predictor::ShapePredictor;
pub use error::FaceModelError;
pub use face_frame::FaceFrame;
pub use insightface::InsightFace;
pub use pixels::{ChannelOrder, Rgb};
pub use seeta_boxes::SEETA_LICENSE;
pub use seeta_dlib::SeetaDlib;
pub use tracker::FaceTracker;
pub use types::{Anchors, Face};
