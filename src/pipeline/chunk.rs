//! Chunks: the frames that the UNet processes as one sequence.

use std::collections::BTreeMap;
use std::ops::Range;

use candle_core::Tensor;

use crate::pipeline::CHUNKS_PER_SEGMENT;
use crate::pipeline::source_frames::SourceFrame;
use crate::stages::colour_match::ColourCorrection;

/// A chunk that has not been read yet.
pub(super) struct ChunkPlan {
    pub number: usize,
    /// Output frames of a full chunk.
    pub outputs: Range<usize>,
    /// The frames were encoded before the job was killed.
    pub is_done: bool,
}

/// The output frames whose mouths are generated as one sequence.
pub(super) struct Chunk {
    pub number: usize,
    /// Numbers of the output frames.
    pub outputs: Range<usize>,
    pub frames: Vec<SourceFrame>,
    /// The frames were encoded before the job was killed.
    pub is_done: bool,
    /// The output ends with this chunk, which may be shorter than others.
    pub is_last: bool,
}

impl Chunk {
    pub fn ends_segment(&self) -> bool {
        (self.number + 1).is_multiple_of(CHUNKS_PER_SEGMENT)
    }

    /// Whether the next chunk starts a new batch. Segments consist of whole batches, so a resumed job
    /// computes in the same batches as an uninterrupted one.
    pub fn ends_batch(&self) -> bool {
        self.is_done || self.is_last || self.ends_segment()
    }

    /// The source frame from which a model frame is generated.
    pub fn source(&self, frame: ModelFrame) -> &SourceFrame {
        &self.frames[frame.position]
    }
}

/// A model frame whose source frame has a face.
#[derive(Clone, Copy)]
pub(super) struct ModelFrame {
    pub number: usize,
    /// Index of the source frame in [`Chunk::frames`].
    pub position: usize,
}

/// Output of the UNet for one chunk.
pub(super) struct GeneratedChunk {
    /// At least one.
    pub model_frames: Vec<ModelFrame>,
    /// (1, model frames, height, width, channels)
    pub latents: Tensor,
    /// Number of chunks in the UNet's batch, including this one.
    pub batch_chunks: usize,
}

/// The generated face of one model frame.
pub(super) struct Mouth {
    pub model_frame: usize,
    /// Output of the VAE, (resolution, resolution, 3) f32.
    pub decoded: Tensor,
    pub colour: ColourCorrection,
}

/// Groups the chunks of a batch that can share a tensor: for each number of faces except 0, the positions of
/// the chunks with that number.
pub(super) fn group_by_faces(faces: &[usize]) -> Vec<Vec<usize>> {
    let mut groups = BTreeMap::<usize, Vec<usize>>::new();
    for (position, &count) in faces.iter().enumerate() {
        if count > 0 {
            groups.entry(count).or_default().push(position);
        }
    }
    groups.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_with_equal_numbers_of_faces_share_a_batch() {
        assert_eq!(group_by_faces(&[16, 16, 9, 16]), [vec![2], vec![0, 1, 3]]);
        assert_eq!(group_by_faces(&[0, 3, 0, 3, 5]), [vec![1, 3], vec![4]]);
        assert_eq!(group_by_faces(&[7]), [vec![0]]);
        assert!(group_by_faces(&[0, 0]).is_empty() && group_by_faces(&[]).is_empty());
    }

    #[test]
    fn a_batch_ends_with_its_segment_and_with_the_output() {
        let ends = |number, is_done, is_last| {
            Chunk { number, outputs: 0..0, frames: Vec::new(), is_done, is_last }.ends_batch()
        };
        let numbers: Vec<usize> = (0..40).filter(|&number| ends(number, false, false)).collect();
        assert_eq!(numbers, [14, 29]);
        assert!(ends(3, true, false) && ends(3, false, true));
    }
}
