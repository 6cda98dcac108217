//! Between reading a video and aligning its faces: which frames start a shot, where the chosen person's face is
//! in each frame, and what happens where it is not. Frames leave in the order in which they came, one frame
//! late or, while a face may be flickering, a few.

use std::collections::VecDeque;

use candle_core::Tensor;
use models::face::Anchors;

use crate::face::anchor_file::AnchorSource;
use crate::face::{Error, Result};
use crate::options::FPS;
use crate::options::{OnMissingFace, Options};
use crate::system::compute;

mod cuts;
mod yaw;

pub use cuts::CutDetector;
pub use yaw::yaw;

/// Seconds without a face that are bridged.
const FLICKER: f64 = 0.2;
/// Farthest that a face may have moved over a bridged gap, in eyebrow distances in a 25th of a second …
const FASTEST: f32 = 0.5;
/// … and largest ratio of its sizes before and after.
const GROWTH: f32 = 1.4;
/// Most that the strength changes in a 25th of a second: noise in the angle must not make it flicker.
const STRENGTH_STEP: f32 = 0.2;

/// What becomes of frames whose face is missing, flickers or is turned away.
#[derive(Debug, Clone, PartialEq)]
pub struct TrackOptions {
    pub on_missing_face: OnMissingFace,
    /// Degrees from which a face counts as turned away; 10 degrees before, the strength starts to fall.
    pub max_yaw: f32,
    /// Frames in a row without a face that are bridged, at most; the look-ahead.
    pub bridged: usize,
    /// Whether shots are told apart.
    pub cuts: bool,
    /// Frames a second.
    pub fps: f64,
}

impl TrackOptions {
    /// For a video of `fps` frames a second.
    pub fn new(options: &Options, fps: f64) -> Self {
        let on_missing_face = options.on_missing_face;
        match options.reference_compat {
            true => Self { on_missing_face, max_yaw: f32::INFINITY, bridged: 0, cuts: false, fps },
            false => Self {
                on_missing_face,
                max_yaw: options.max_yaw,
                bridged: (FLICKER * fps).round() as usize,
                cuts: true,
                fps,
            },
        }
    }
}

impl TrackOptions {
    /// A frame's time in 25ths of a second.
    fn frame(&self) -> f32 {
        (FPS as f64 / self.fps) as f32
    }
}

/// How a face's place is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    Seen,
    /// Interpolated between the frames before and after.
    Bridged,
    /// The last place, kept because the caller wants it so.
    Held,
}

impl Found {
    const ALL: [Self; 3] = [Self::Seen, Self::Bridged, Self::Held];

    pub(crate) fn to_byte(self) -> u8 {
        self as u8
    }

    /// The inverse of [`Self::to_byte`].
    pub(crate) fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.get(usize::from(byte)).copied()
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TrackedFace {
    pub anchors: Anchors,
    pub found: Found,
    /// How much of the generated mouth to show, 0 to 1.
    pub strength: f32,
}

impl TrackedFace {
    /// Whether the face looks so far to the side that its frame passes as it is.
    pub fn turned_away(&self) -> bool {
        self.strength == 0.0
    }
}

/// A frame with all that is known about its face.
#[derive(Debug, Clone)]
pub struct TrackedFrame<T> {
    pub index: usize,
    pub payload: T,
    /// (height, width, 3) u8.
    pub rgb: Tensor,
    pub face: Option<TrackedFace>,
    /// The alignment must not be smoothed across this frame's beginning.
    pub starts_shot: bool,
}

/// Tracks the face through the frames of one video; `T` travels along.
pub struct FaceTrack<T> {
    anchors: AnchorSource,
    options: TrackOptions,
    cuts: CutDetector,
    /// Frames taken in so far.
    pushed: usize,
    /// The last frame, as long as it is not known whether it starts a shot.
    undecided: Option<TrackedFrame<T>>,
    /// Frames without a face since `last_seen`, which may be a flicker.
    gap: VecDeque<TrackedFrame<T>>,
    ready: VecDeque<TrackedFrame<T>>,
    /// The last face that was seen, as long as a gap after it may be bridged.
    last_seen: Option<Anchors>,
    /// The last face of this shot.
    held: Option<TrackedFace>,
    strength: Option<f32>,
}

impl<T> FaceTrack<T> {
    pub fn new(anchors: AnchorSource, options: TrackOptions) -> Self {
        // A file's `null` is deliberate.
        let bridged = if anchors.may_flicker() { options.bridged } else { 0 };
        Self {
            anchors,
            options: TrackOptions { bridged, ..options },
            cuts: CutDetector::default(),
            pushed: 0,
            undecided: None,
            gap: VecDeque::new(),
            ready: VecDeque::new(),
            last_seen: None,
            held: None,
            strength: None,
        }
    }

    /// Takes the next frame; `rgb`: (height, width, 3) u8. Fails where a face is missing and must not be.
    pub fn push(&mut self, payload: T, rgb: Tensor) -> Result<()> {
        let cut = self.options.cuts && self.cuts.push(&rgb).map_err(compute("the search for cuts"))?;
        let index = self.pushed;
        self.pushed += 1;
        let starts_shot = index == 0;
        let frame = TrackedFrame { index, payload, rgb, face: None, starts_shot };
        if !self.options.cuts {
            return self.locate(frame);
        }
        match self.undecided.replace(frame) {
            Some(before) => self.locate(TrackedFrame { starts_shot: before.starts_shot || cut, ..before }),
            None => Ok(()),
        }
    }

    /// No frame follows.
    pub fn finish(&mut self) -> Result<()> {
        if let Some(last) = self.undecided.take() {
            let cut = self.cuts.finish();
            self.locate(TrackedFrame { starts_shot: last.starts_shot || cut, ..last })?;
        }
        self.give_up_gap()
    }

    /// The next frame that is done, if any is.
    pub fn pop(&mut self) -> Option<TrackedFrame<T>> {
        self.ready.pop_front()
    }

    fn locate(&mut self, mut frame: TrackedFrame<T>) -> Result<()> {
        if frame.starts_shot {
            self.give_up_gap()?;
            (self.held, self.strength) = (None, None);
            if frame.index > 0 {
                self.anchors.cut();
            }
        }
        let Some(anchors) = self.anchors.next(frame.index, &frame.rgb)? else {
            if self.last_seen.is_none() || self.options.bridged == 0 {
                return self.pass_without(frame);
            }
            self.gap.push_back(frame);
            return if self.gap.len() > self.options.bridged { self.give_up_gap() } else { Ok(()) };
        };
        match self.last_seen {
            Some(before)
                if close_enough(&before, &anchors, (self.gap.len() + 1) as f32 * self.options.frame()) =>
            {
                self.bridge(&before, &anchors)
            }
            _ => self.give_up_gap()?,
        }
        frame.face = Some(self.face(anchors, Found::Seen));
        self.last_seen = Some(anchors);
        self.ready.push_back(frame);
        Ok(())
    }

    fn face(&mut self, anchors: Anchors, found: Found) -> TrackedFace {
        let wanted = yaw::strength(&anchors, self.options.max_yaw);
        let strength = match self.strength {
            Some(last) => {
                let step = STRENGTH_STEP * self.options.frame();
                wanted.clamp(last - step, last + step)
            }
            None => wanted,
        };
        self.strength = Some(strength);
        let face = TrackedFace { anchors, found, strength };
        self.held = Some(face);
        face
    }

    /// The gap was a flicker.
    fn bridge(&mut self, before: &Anchors, after: &Anchors) {
        let steps = (self.gap.len() + 1) as f32;
        for step in 1.. {
            let Some(mut frame) = self.gap.pop_front() else { break };
            frame.face = Some(self.face(between(before, after, step as f32 / steps), Found::Bridged));
            self.ready.push_back(frame);
        }
    }

    /// The gap is none that can be bridged.
    fn give_up_gap(&mut self) -> Result<()> {
        self.last_seen = None;
        while let Some(frame) = self.gap.pop_front() {
            self.pass_without(frame)?;
        }
        Ok(())
    }

    fn pass_without(&mut self, mut frame: TrackedFrame<T>) -> Result<()> {
        match self.options.on_missing_face {
            OnMissingFace::Pass => self.strength = None,
            OnMissingFace::Hold => {
                frame.face = self.held.map(|face| TrackedFace { found: Found::Held, ..face });
            }
            OnMissingFace::Error => {
                let seconds = frame.index as f64 / self.options.fps;
                return Err(Error::Missing { frame: frame.index, seconds });
            }
        }
        self.ready.push_back(frame);
        Ok(())
    }
}

/// Whether a face can have moved like this in `time`, in 25ths of a second.
fn close_enough(before: &Anchors, after: &Anchors, time: f32) -> bool {
    let sizes = [before.brow_distance(), after.brow_distance()];
    let [small, large] = [sizes[0].min(sizes[1]), sizes[0].max(sizes[1])];
    let [dx, dy] = [0, 1].map(|i| after.nose[i] - before.nose[i]);
    dx.hypot(dy) <= FASTEST * large * time && large <= GROWTH * small
}

fn between(before: &Anchors, after: &Anchors, part: f32) -> Anchors {
    let mix = |a: [f32; 2], b: [f32; 2]| [0, 1].map(|i| a[i] + part * (b[i] - a[i]));
    Anchors {
        left_brow: mix(before.left_brow, after.left_brow),
        right_brow: mix(before.right_brow, after.right_brow),
        nose: mix(before.nose, after.nose),
    }
}

#[cfg(test)]
mod tests;
