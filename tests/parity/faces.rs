//! Affine matrices of a whole video, from the anchor points of its faces.

use candle_core::{Result, Tensor};
use latentsync::stages::align_faces::FaceAligner;
use models::face::Anchors;

use crate::golden::GoldenSet;

/// Side of the face crop of the golden job, in pixels.
const RESOLUTION: usize = 128;

/// Compares the affine matrix of every frame with `want`, (frames, 2, 3). The aligner smooths a bias from frame to
/// frame, so the order matters.
pub fn check_affine_matrices(anchors: &[Anchors], resolution: usize, want: &Tensor) -> Result<()> {
    let want = want.to_vec3::<f32>()?;
    assert_eq!(anchors.len(), want.len(), "one matrix per frame");
    let mut aligner = FaceAligner::new(resolution);
    let mut max_error = 0f64;
    for (anchors, want) in anchors.iter().zip(&want) {
        let matrix = aligner.matrix(anchors)?.0;
        for (out, &want) in matrix.as_flattened().iter().zip(want.iter().flatten()) {
            max_error = max_error.max((out - f64::from(want)).abs());
        }
    }
    eprintln!("affine matrices: largest error {max_error:.1e}");
    assert!(max_error <= 1e-3, "{max_error}");
    Ok(())
}

#[test]
fn affine_matrices_equal_the_original() -> Result<()> {
    let set = GoldenSet::in_repository();
    let tensors = set.tensors(&set.manifest.job.as_ref().expect("a job").file);
    let point = |row: &[f32]| [row[0], row[1]];
    let anchors: Vec<Anchors> = tensors["anchors"]
        .to_vec3::<f32>()?
        .iter()
        .map(|face| Anchors {
            left_brow: point(&face[0]),
            right_brow: point(&face[1]),
            nose: point(&face[2]),
        })
        .collect();
    check_affine_matrices(&anchors, RESOLUTION, &tensors["affine_matrices"])
}
