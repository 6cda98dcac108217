//! Whom to stay with when there are several faces.

use super::{Appearance, Face};

/// Which of several people is meant. Directions are the picture's, not the person's.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum FaceChoice {
    /// The face with the largest box.
    #[default]
    Largest,
    Left,
    Right,
    /// Counted from 0 at the left, in the first frame that has enough faces.
    Index(usize),
    /// The face around this point, or else the nearest one, in the first frame that has a face; x and y in
    /// pixels of the upright frame.
    At([f32; 2]),
    /// The person who looks most like this, wherever she or he first appears.
    Like(Appearance),
}

impl FaceChoice {
    /// Which of `faces` is meant by place or size; [`FaceChoice::Like`] is a matter of looks and names none.
    pub(super) fn among(&self, faces: &[&Face]) -> Option<usize> {
        let center = |i: &usize| faces[*i].center();
        let mut order: Vec<usize> = (0..faces.len()).collect();
        match self {
            // The first of equals.
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

    /// Whether the rule names somebody in any scene, or one person in one place.
    pub(super) fn holds_in_every_shot(&self) -> bool {
        matches!(self, Self::Largest | Self::Left | Self::Right)
    }

    /// Whether faces count that a quick search overlooks.
    pub(super) fn counts_small_faces(&self) -> bool {
        !matches!(self, Self::Largest)
    }
}
