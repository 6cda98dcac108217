//! Data that is computed once per face of a source frame, and its serialisation.

use kernels::warp_affine::Affine;

use crate::face::posteriors::FacePosteriors;
use crate::face::track::Found;
use crate::face::{Error, Result};
use crate::system;
use crate::weights::LatentShape;

/// The face of one source frame.
#[derive(Debug, Clone)]
pub struct FaceRecord {
    /// From the pixels of the frame to those of the crop.
    pub matrix: Affine,
    pub found: Found,
    /// Opacity of the generated mouth, 0 to 1.
    pub strength: f32,
    /// `None` until the model uses this frame; at rates above 25 it does not use all.
    pub posteriors: Option<FacePosteriors>,
}

/// Sizes for deserialising faces.
#[derive(Debug, Clone, Copy)]
pub struct FaceShape {
    pub resolution: usize,
    pub latents: LatentShape,
}

impl FaceRecord {
    /// Appends matrix, strength, [`Found`] and posteriors, in this order.
    pub fn write_to(&self, bytes: &mut Vec<u8>) -> Result<()> {
        bytes.extend(self.matrix.0.as_flattened().iter().flat_map(|v| v.to_le_bytes()));
        bytes.extend(self.strength.to_le_bytes());
        bytes.push(self.found.to_byte());
        if let Some(posteriors) = &self.posteriors {
            bytes.extend(posteriors.to_bytes().map_err(stored)?);
        }
        Ok(())
    }

    /// Inverse of [`Self::write_to`]. Empty bytes mean that there is no face.
    pub fn from_bytes(bytes: &[u8], shape: FaceShape) -> Result<Option<Self>> {
        if bytes.is_empty() {
            return Ok(None);
        }
        let read = || {
            let (matrix, rest) = bytes.split_first_chunk::<MATRIX>()?;
            let (strength, rest) = rest.split_first_chunk()?;
            let (&found, posteriors) = rest.split_first()?;
            Some((matrix, f32::from_le_bytes(*strength), Found::from_byte(found)?, posteriors))
        };
        let (matrix, strength, found, posteriors) =
            read().ok_or_else(|| stored(candle_core::Error::Msg("invalid bytes of a face".into())))?;
        let posteriors = match posteriors {
            [] => None,
            bytes => Some(FacePosteriors::from_bytes(bytes, shape.latents).map_err(stored)?),
        };
        Ok(Some(Self { matrix: matrix_from(matrix), found, strength, posteriors }))
    }
}

const MATRIX: usize = 6 * size_of::<f64>();

fn matrix_from(bytes: &[u8; MATRIX]) -> Affine {
    let mut values = [[0.0; 3]; 2];
    let (chunks, _) = bytes.as_chunks();
    for (value, bytes) in values.as_flattened_mut().iter_mut().zip(chunks) {
        *value = f64::from_le_bytes(*bytes);
    }
    Affine(values)
}

pub(crate) fn stored(source: candle_core::Error) -> Error {
    system::Error::Compute { stage: "faces kept for reuse", source: source.into() }.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_face_survives_serialisation() {
        let shape = FaceShape { resolution: 64, latents: LatentShape { height: 2, width: 2, channels: 1 } };
        let posteriors: Vec<u8> = (0..16u8).flat_map(|i| f32::from(i).to_le_bytes()).collect();
        for posteriors in [None, Some(FacePosteriors::from_bytes(&posteriors, shape.latents).unwrap())] {
            let matrix = Affine([[1.0, 0.1, -3.5], [-0.1, 1.0, 1e-9]]);
            let face = FaceRecord { matrix, found: Found::Bridged, strength: 0.25, posteriors };
            let mut bytes = Vec::new();
            face.write_to(&mut bytes).unwrap();
            let back = FaceRecord::from_bytes(&bytes, shape).unwrap().unwrap();
            assert_eq!(back.matrix.0, face.matrix.0);
            assert_eq!((back.found, back.strength), (face.found, face.strength));
            let values = |face: &FaceRecord| face.posteriors.as_ref().map(|p| p.to_bytes().unwrap());
            assert_eq!(values(&back), values(&face));
            assert!(FaceRecord::from_bytes(&bytes[..40], shape).is_err());
        }
        assert!(FaceRecord::from_bytes(&[], shape).unwrap().is_none());
    }
}
