//! The rule that selects one of several faces.

use super::appearance::Appearance;
use super::types::Face;

/// Which of several faces to follow. Left and right are as seen in the picture.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum FaceChoice {
    /// The face with the largest box.
    #[default]
    Largest,
    Left,
    Right,
    /// Counted from 0 at the left, in the first frame that has enough faces.
    Index(usize),
    /// The face that contains this point, otherwise the nearest one, in the first frame that has a face; x
    /// and y in pixels of the upright frame.
    At([f32; 2]),
    /// The most similar person, from the first frame in which the person appears.
    Like(Appearance),
}

impl FaceChoice {
    /// Index of the selected face by position or size; `None` for [`FaceChoice::Like`], which selects by
    /// appearance.
    pub(super) fn select(&self, faces: &[&Face]) -> Option<usize> {
        let center = |i: &usize| faces[*i].center();
        let mut order: Vec<usize> = (0..faces.len()).collect();
        match self {
            // The first of equally large faces.
            Self::Largest => order
                .into_iter()
                .reduce(|best, i| if faces[i].area() > faces[best].area() { i } else { best }),
            Self::At(point) => order.into_iter().min_by(|a, b| {
                let (a, b) = (faces[*a].distance_to(*point), faces[*b].distance_to(*point));
                a.total_cmp(&b)
            }),
            Self::Left | Self::Right | Self::Index(_) => {
                order.sort_by(|a, b| center(a)[0].total_cmp(&center(b)[0]));
                match self {
                    Self::Left => order.first().copied(),
                    Self::Right => order.last().copied(),
                    Self::Index(index) => order.get(*index).copied(),
                    _ => None,
                }
            }
            Self::Like(_) => None,
        }
    }

    /// Whether the rule selects a face in any shot, not one particular person.
    pub(super) fn applies_to_every_shot(&self) -> bool {
        matches!(self, Self::Largest | Self::Left | Self::Right)
    }

    /// Whether the rule must see small faces that a fast search misses.
    pub(super) fn includes_small_faces(&self) -> bool {
        !matches!(self, Self::Largest)
    }
}
