//! The interface of the face detectors.

use candle_core::{Result, Tensor};

use super::types::Face;

/// Finds faces in RGB frames, (height, width, 3) u8.
pub trait FaceDetector: Send {
    /// Searches the whole frame.
    fn detect(&mut self, frame: &Tensor) -> Result<Vec<Face>>;

    /// Searches the whole frame, including faces that are too small for [`Self::detect`]; may be slower.
    fn detect_all(&mut self, frame: &Tensor) -> Result<Vec<Face>> {
        self.detect(frame)
    }

    /// Searches around the last position of a face that [`Self::detect`] no longer finds.
    fn detect_near(&mut self, _frame: &Tensor, _lost: &Face) -> Result<Vec<Face>> {
        Ok(Vec::new())
    }

    /// Finds the face of `previous` in the next frame; `None` if it is gone.
    fn follow(&mut self, frame: &Tensor, previous: &Face) -> Result<Option<Face>>;

    /// Discards all state of earlier frames.
    fn reset(&mut self) {}
}
