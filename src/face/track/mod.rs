//! Face tracking: detects cuts, locates the selected person's face in each frame and handles frames without
//! it. Frames keep their order and are delayed by one frame, or by a few while a detection gap may be
//! bridged.

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

/// Maximum duration in seconds of a detection gap that is bridged.
const MAX_GAP_SECONDS: f64 = 0.2;
/// Maximum speed of a face across a bridged gap, in eyebrow distances per 1/25 s.
const MAX_SPEED: f32 = 0.5;
/// Maximum ratio of the sizes of a face before and after a bridged gap.
const MAX_GROWTH: f32 = 1.4;
/// Maximum change of the strength per 1/25 s, so that noise in the angle does not cause flicker.
const MAX_STRENGTH_STEP: f32 = 0.2;

/// Handling of missing faces, detection gaps and faces that are turned away.
#[derive(Debug, Clone, PartialEq)]
pub struct TrackOptions {
    pub on_missing_face: OnMissingFace,
    /// Angle in degrees from which a face counts as turned away. The strength starts to fall 10 degrees
    /// before.
    pub max_yaw: f32,
    /// Maximum number of consecutive frames without a face that are bridged; the look-ahead.
    pub bridged: usize,
    /// Whether cuts are detected.
    pub cuts: bool,
    /// Frames per second.
    pub fps: f64,
}

impl TrackOptions {
    /// Options for a video with `fps` frames per second.
    pub fn new(options: &Options, fps: f64) -> Self {
        let on_missing_face = options.on_missing_face;
        match options.reference_compat {
            true => Self { on_missing_face, max_yaw: f32::INFINITY, bridged: 0, cuts: false, fps },
            false => Self {
                on_missing_face,
                max_yaw: options.max_yaw,
                bridged: (MAX_GAP_SECONDS * fps).round() as usize,
                cuts: true,
                fps,
            },
        }
    }

    /// Duration of a frame in units of 1/25 s.
    fn frame(&self) -> f32 {
        (FPS as f64 / self.fps) as f32
    }
}

/// How the position of a face was determined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// Detected.
    Seen,
    /// Interpolated between the frames before and after.
    Bridged,
    /// The last position (`on_missing_face: hold`).
    Held,
}

impl Found {
    const ALL: [Self; 3] = [Self::Seen, Self::Bridged, Self::Held];

    pub(crate) fn to_byte(self) -> u8 {
        self as u8
    }

    /// Inverse of [`Self::to_byte`].
    pub(crate) fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.get(usize::from(byte)).copied()
    }
}

/// The face of a tracked frame.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TrackedFace {
    pub anchors: Anchors,
    pub found: Found,
    /// Opacity of the generated mouth, 0 to 1.
    pub strength: f32,
}

impl TrackedFace {
    /// Whether the face is turned away so far that its frame passes through unchanged.
    pub fn turned_away(&self) -> bool {
        self.strength == 0.0
    }
}

/// A frame after tracking.
#[derive(Debug, Clone)]
pub struct TrackedFrame<T> {
    pub index: usize,
    pub payload: T,
    /// (height, width, 3) u8.
    pub rgb: Tensor,
    pub face: Option<TrackedFace>,
    /// Whether a shot starts with this frame, so the alignment must not be smoothed across its start.
    pub starts_shot: bool,
}

/// Tracker for the frames of one video. `T`: payload of each frame.
pub struct FaceTrack<T> {
    anchors: AnchorSource,
    options: TrackOptions,
    cuts: CutDetector,
    /// Number of frames pushed so far.
    pushed: usize,
    /// The last frame, while it is not known whether it starts a shot.
    undecided: Option<TrackedFrame<T>>,
    /// Frames without a face since `last_seen`, which may be bridged.
    gap: VecDeque<TrackedFrame<T>>,
    ready: VecDeque<TrackedFrame<T>>,
    /// Anchors of the last detected face, while a gap after it may be bridged.
    last_seen: Option<Anchors>,
    /// The last face of the current shot.
    held: Option<TrackedFace>,
    strength: Option<f32>,
}

impl<T> FaceTrack<T> {
    pub fn new(anchors: AnchorSource, options: TrackOptions) -> Self {
        // `null` in a file is intended.
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

    /// Adds the next frame; `rgb`: (height, width, 3) u8. Fails if the face is missing and
    /// [`OnMissingFace::Error`] is set.
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
        let target = yaw::strength(&anchors, self.options.max_yaw);
        let strength = match self.strength {
            Some(last) => {
                let step = MAX_STRENGTH_STEP * self.options.frame();
                target.clamp(last - step, last + step)
            }
            None => target,
        };
        self.strength = Some(strength);
        let face = TrackedFace { anchors, found, strength };
        self.held = Some(face);
        face
    }

    /// Interpolates the faces in the gap.
    fn bridge(&mut self, before: &Anchors, after: &Anchors) {
        let steps = (self.gap.len() + 1) as f32;
        for step in 1.. {
            let Some(mut frame) = self.gap.pop_front() else { break };
            frame.face = Some(self.face(between(before, after, step as f32 / steps), Found::Bridged));
            self.ready.push_back(frame);
        }
    }

    /// Releases the frames of a gap that cannot be bridged.
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

/// Whether a face may have moved from `before` to `after` in `time`, in units of 1/25 s.
fn close_enough(before: &Anchors, after: &Anchors, time: f32) -> bool {
    let sizes = [before.brow_distance(), after.brow_distance()];
    let [small, large] = [sizes[0].min(sizes[1]), sizes[0].max(sizes[1])];
    let [dx, dy] = [0, 1].map(|i| after.nose[i] - before.nose[i]);
    dx.hypot(dy) <= MAX_SPEED * large * time && large <= MAX_GROWTH * small
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
