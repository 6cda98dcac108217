//! Follows one person from frame to frame by position, size and appearance: past other people, through short
//! absences and across cuts.

use candle_core::{Result, Tensor};

use super::appearance::Appearance;
use super::choice::FaceChoice;
use super::detector::FaceDetector;
use super::types::{Face, iou};

/// Appearance distance up to which two faces are certainly the same person (see [`Appearance::distance`]).
const SAME_PERSON_DISTANCE: f32 = 0.9;
/// Maximum distance for a face that is detected near the person's last position.
const MAX_DISTANCE_NEARBY: f32 = 1.1;
/// Maximum distance for a face that the detector has followed from the previous frame.
const MAX_DISTANCE_FOLLOWED: f32 = 1.35;
/// Maximum distance between a photograph ([`FaceChoice::Like`]) and the person in the video.
const MAX_DISTANCE_PHOTO: f32 = 1.1;
/// An unbroken track may resemble another known person more than its own by this distance.
const CONTINUITY_MARGIN: f32 = 0.15;
/// Weight of the current frame in the exponential average of a person's appearance.
const APPEARANCE_RATE: f32 = 0.05;
/// Frames between two searches for the chosen person while a substitute is followed.
const SUBSTITUTE_SEARCH_PERIOD: usize = 12;
/// Maximum movement since a person was last seen, in side lengths of the face, after any number of frames.
const MAX_MOVEMENT: f32 = 1.5;
/// Missing frames after which a choice that applies to every shot takes another face: 3 s at 25 fps.
const MAX_MISSING: usize = 75;
/// Frames between searches for other people: while another person is known, and while none is.
const SEARCH_PERIODS: [usize; 2] = [25, 50];
/// Frames between searches while the person is uncertain or missing.
const UNCERTAIN_SEARCH_PERIOD: usize = 5;
/// Maximum number of other people that are remembered.
const MAX_OTHERS: usize = 6;

/// What a tracker keeps from frame to frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Memory {
    OnePerson,
    /// Nothing: every frame is independent.
    None,
}

/// A known person: the last position and the average appearance.
struct Person {
    face: Face,
    appearance: Appearance,
    /// Frames since the person was last seen.
    missing: usize,
}

/// A face in the current frame that may be the person.
struct Candidate {
    face: Face,
    appearance: Appearance,
    /// Found by [`FaceDetector::follow`], not by a search.
    followed: bool,
}

/// Takes the frames of one video in order and follows one person.
pub struct FaceTracker {
    detector: Box<dyn FaceDetector>,
    memory: Memory,
    choice: FaceChoice,
    /// Appearance of the chosen person, who is searched for again after a cut.
    chosen: Option<Appearance>,
    /// The person followed in this shot.
    person: Option<Person>,
    /// Whether `person` is the chosen person and not a substitute for this shot.
    is_chosen: bool,
    /// Other people, seen in the same frame as the followed person at least once.
    others: Vec<Person>,
    /// Frames since the last search of the whole frame.
    frames_since_search: usize,
    /// Consecutive frames in which the identity of the followed face was uncertain.
    uncertain_frames: usize,
    /// Frames since the last search that included small faces; `None` in a new shot.
    frames_since_full_search: Option<usize>,
}

impl FaceTracker {
    /// Follows the largest face of the first frame that has one.
    pub fn new(detector: Box<dyn FaceDetector>) -> Self {
        Self::choosing(detector, FaceChoice::Largest)
    }

    /// Follows the face that `choice` selects.
    pub fn choosing(detector: Box<dyn FaceDetector>, choice: FaceChoice) -> Self {
        let mut tracker = Self {
            detector,
            memory: Memory::OnePerson,
            choice,
            chosen: None,
            person: None,
            is_chosen: false,
            others: Vec::new(),
            frames_since_search: 0,
            uncertain_frames: 0,
            frames_since_full_search: None,
        };
        tracker.reset();
        tracker
    }

    /// Selects the largest face of every frame independently, as the original does.
    pub fn without_memory(detector: Box<dyn FaceDetector>) -> Self {
        Self { memory: Memory::None, ..Self::new(detector) }
    }

    /// Returns the person's face in the next frame, (height, width, 3) u8, or `None` if it is not visible.
    pub fn next(&mut self, frame: &Tensor) -> Result<Option<Face>> {
        if self.memory == Memory::None {
            let mut faces = self.detector.detect(frame)?;
            let largest = FaceChoice::Largest.select(&faces.iter().collect::<Vec<_>>());
            return Ok(largest.map(|i| faces.swap_remove(i)));
        }
        self.frames_since_full_search = self.frames_since_full_search.map(|frames| frames + 1);
        match self.person.take() {
            Some(person) => self.track(person, frame),
            None => self.acquire(frame),
        }
    }

    /// Starts a new shot: from the next frame on, the same person is searched for in the whole frame.
    pub fn cut(&mut self) {
        if let Some(person) = self.person.take()
            && self.is_chosen
        {
            self.chosen = Some(person.appearance);
        }
        self.others.clear();
        (self.frames_since_search, self.uncertain_frames, self.frames_since_full_search) = (0, 0, None);
        self.detector.reset();
    }

    /// Starts a new video: the person is forgotten.
    pub fn reset(&mut self) {
        self.cut();
        self.chosen = match &self.choice {
            FaceChoice::Like(appearance) => Some(appearance.clone()),
            _ => None,
        };
    }

    /// Selects the person for a shot without one: the chosen person if visible, otherwise the face that the
    /// choice selects.
    fn acquire(&mut self, frame: &Tensor) -> Result<Option<Face>> {
        let mut faces = self.detector.detect(frame)?;
        let due = self.frames_since_full_search.is_none_or(|frames| frames >= UNCERTAIN_SEARCH_PERIOD)
            && !faces.is_empty();
        if self.choice.includes_small_faces() && due {
            faces = self.detector.detect_all(frame)?;
            self.frames_since_full_search = Some(0);
        }
        let candidates = candidates_of(frame, faces)?;
        let reacquired = self.chosen.as_ref().and_then(|appearance| {
            let limit = if matches!(self.choice, FaceChoice::Like(_)) {
                MAX_DISTANCE_PHOTO
            } else {
                SAME_PERSON_DISTANCE
            };
            let distances = candidates.iter().map(|candidate| candidate.appearance.distance(appearance));
            let nearest = distances.enumerate().min_by(|a, b| a.1.total_cmp(&b.1));
            nearest.filter(|(_, distance)| *distance <= limit).map(|(i, _)| i)
        });
        let by_choice = || {
            let allowed = self.chosen.is_none() || self.choice.applies_to_every_shot();
            // Positions count only among all faces, including the small ones that a fast search misses.
            let complete = !self.choice.includes_small_faces() || self.frames_since_full_search == Some(0);
            let faces: Vec<&Face> = candidates.iter().map(|candidate| &candidate.face).collect();
            if allowed && complete { self.choice.select(&faces) } else { None }
        };
        let Some(index) = reacquired.or_else(by_choice) else { return Ok(None) };
        self.is_chosen = reacquired.is_some() || self.chosen.is_none();
        Ok(Some(self.start_track(candidates, index)))
    }

    /// Starts to follow candidate `index`; the rest are other people.
    fn start_track(&mut self, mut candidates: Vec<Candidate>, index: usize) -> Face {
        let Candidate { face, appearance, .. } = candidates.swap_remove(index);
        if self.is_chosen {
            self.chosen = Some(appearance.clone());
        }
        self.person = Some(Person { face: face.clone(), appearance, missing: 0 });
        (self.frames_since_search, self.uncertain_frames) = (0, 0);
        self.others.clear();
        self.remember_others(candidates, &face);
        face
    }

    /// One frame of a track: follows the person's face, and searches the frame if that is due or the result
    /// is uncertain.
    fn track(&mut self, mut person: Person, frame: &Tensor) -> Result<Option<Face>> {
        let mut candidates = Vec::new();
        if person.missing == 0
            && let Some(face) = self.detector.follow(frame, &person.face)?
        {
            self.follow_others(frame, &face)?;
            candidates = candidates_of(frame, vec![face])?;
            candidates[0].followed = true;
        }
        let certain = candidates.first().is_some_and(|candidate| {
            candidate.appearance.distance(&person.appearance) <= SAME_PERSON_DISTANCE
                && self.identify(std::slice::from_ref(candidate), &person).is_some()
        });
        self.uncertain_frames = if certain { 0 } else { self.uncertain_frames + 1 };
        self.frames_since_search += 1;
        let is_substitute = !self.is_chosen && self.chosen.is_some();
        let period = match is_substitute {
            // The chosen person may be visible in this shot.
            true => SUBSTITUTE_SEARCH_PERIOD,
            false => SEARCH_PERIODS[usize::from(self.others.is_empty())],
        };
        let uncertain =
            !certain && (candidates.is_empty() || self.uncertain_frames % UNCERTAIN_SEARCH_PERIOD == 1);
        if uncertain || self.frames_since_search >= period {
            let mut faces = self.detector.detect(frame)?;
            if uncertain && !faces.iter().any(|face| iou(face.bbox, person.face.bbox) > 0.0) {
                faces.extend(self.detector.detect_near(frame, &person.face)?);
            }
            // A followed face is positioned more precisely than a detected one.
            faces.retain(|face| {
                candidates.first().is_none_or(|followed| !is_same_place(face, &followed.face))
            });
            candidates.extend(candidates_of(frame, faces)?);
            self.frames_since_search = 0;
        }
        if is_substitute && let Some(index) = self.find_chosen(&candidates, &person) {
            self.is_chosen = true;
            return Ok(Some(self.start_track(candidates, index)));
        }
        let Some(index) = self.identify(&candidates, &person) else {
            return self.handle_missing(person, candidates);
        };
        let found = candidates.swap_remove(index);
        // If two faces touch, the patch contains parts of both.
        let alone = self.others.iter().all(|other| iou(other.face.bbox, found.face.bbox) == 0.0);
        if alone && found.appearance.distance(&person.appearance) <= SAME_PERSON_DISTANCE {
            person.appearance.blend(&found.appearance, APPEARANCE_RATE);
        }
        (person.face, person.missing) = (found.face.clone(), 0);
        self.person = Some(person);
        self.remember_others(candidates, &found.face);
        Ok(Some(found.face))
    }

    /// Index of the chosen person among `candidates`, while a substitute is followed.
    fn find_chosen(&self, candidates: &[Candidate], substitute: &Person) -> Option<usize> {
        let chosen = self.chosen.as_ref()?;
        let limit = SAME_PERSON_DISTANCE.min(substitute.appearance.distance(chosen));
        let distances = candidates.iter().map(|candidate| candidate.appearance.distance(chosen)).enumerate();
        distances.filter(|(_, distance)| *distance < limit).min_by(|a, b| a.1.total_cmp(&b.1)).map(|(i, _)| i)
    }

    /// Handles a frame without the person. After [`MAX_MISSING`] frames a choice that applies to every shot
    /// selects another face as a substitute.
    fn handle_missing(&mut self, mut person: Person, candidates: Vec<Candidate>) -> Result<Option<Face>> {
        person.missing += 1;
        if person.missing >= MAX_MISSING && self.choice.applies_to_every_shot() {
            let faces: Vec<&Face> = candidates.iter().map(|candidate| &candidate.face).collect();
            if let Some(index) = self.choice.select(&faces) {
                self.chosen = if self.is_chosen { Some(person.appearance) } else { self.chosen.take() };
                self.is_chosen = false;
                return Ok(Some(self.start_track(candidates, index)));
            }
        }
        self.person = Some(person);
        Ok(None)
    }

    /// Index of the person among `candidates`: the most similar one that is similar enough, and more similar
    /// to the person than to any other known person.
    fn identify(&self, candidates: &[Candidate], person: &Person) -> Option<usize> {
        let fit = |candidate: &Candidate| {
            let distance = candidate.appearance.distance(&person.appearance);
            let others = self.others.iter().map(|other| candidate.appearance.distance(&other.appearance));
            let other = others.fold(f32::INFINITY, f32::min);
            let touches = self.others.iter().any(|other| iou(other.face.bbox, candidate.face.bbox) > 0.0);
            let near = is_reachable(&candidate.face, person);
            let limit = match (candidate.followed, near) {
                (true, _) => MAX_DISTANCE_FOLLOWED,
                (false, true) => MAX_DISTANCE_NEARBY,
                (false, false) => SAME_PERSON_DISTANCE,
            };
            let margin = if near && !touches && person.missing < UNCERTAIN_SEARCH_PERIOD {
                CONTINUITY_MARGIN
            } else {
                0.0
            };
            (distance <= limit && distance <= other + margin).then_some(distance)
        };
        let matches = candidates.iter().enumerate().filter_map(|(i, candidate)| Some((i, fit(candidate)?)));
        matches.min_by(|a, b| a.1.total_cmp(&b.1)).map(|(i, _)| i)
    }

    /// Follows the other people close to `face`, because the detector may confuse them with it.
    fn follow_others(&mut self, frame: &Tensor, face: &Face) -> Result<()> {
        for other in &mut self.others {
            if center_distance(&other.face, face) > 2.0 || other.missing > UNCERTAIN_SEARCH_PERIOD {
                continue;
            }
            match self.detector.follow(frame, &other.face)? {
                Some(found) if !is_same_place(&found, face) => (other.face, other.missing) = (found, 0),
                _ => other.missing += 1,
            }
        }
        Ok(())
    }

    /// Records the remaining candidates, which are other people unless they overlap the person's own face.
    fn remember_others(&mut self, candidates: Vec<Candidate>, own: &Face) {
        for Candidate { face, appearance, .. } in candidates {
            if iou(face.bbox, own.bbox) > 0.0 {
                continue;
            }
            let known = |other: &Person| {
                is_same_place(&other.face, &face)
                    || other.appearance.distance(&appearance) < SAME_PERSON_DISTANCE
            };
            match self.others.iter().position(known) {
                Some(index) => {
                    let other = &mut self.others[index];
                    other.appearance.blend(&appearance, 4.0 * APPEARANCE_RATE);
                    (other.face, other.missing) = (face, 0);
                }
                None if self.others.len() < MAX_OTHERS => {
                    self.others.push(Person { face, appearance, missing: 0 });
                }
                None => {}
            }
        }
    }
}

fn candidates_of(frame: &Tensor, faces: Vec<Face>) -> Result<Vec<Candidate>> {
    let candidate = |face: Face| {
        let appearance = Appearance::of(frame, &face.anchors)?;
        Ok(Candidate { face, appearance, followed: false })
    };
    faces.into_iter().map(candidate).collect()
}

fn is_same_place(a: &Face, b: &Face) -> bool {
    iou(a.bbox, b.bbox) > 0.3
}

/// Distance between the centres of two boxes, in side lengths of the larger one.
fn center_distance(a: &Face, b: &Face) -> f32 {
    let (from, to) = (a.center(), b.center());
    (to[0] - from[0]).hypot(to[1] - from[1]) / a.area().max(b.area()).sqrt()
}

/// Whether the person can have moved to `face` since last seen: distance and size have changed plausibly.
fn is_reachable(face: &Face, person: &Person) -> bool {
    let size = (face.area() / person.face.area()).sqrt();
    let reach = (0.5 + 0.1 * person.missing as f32).min(MAX_MOVEMENT);
    center_distance(face, &person.face) <= reach && (0.6..1.6).contains(&size)
}

#[cfg(test)]
mod tests;
