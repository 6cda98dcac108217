//! Staying with one person from frame to frame, by place, size and appearance: through crossings with others,
//! short absences and cuts.

use candle_core::{Result, Tensor};

use super::{Appearance, Face, FaceChoice, FaceDetector, overlap};

/// Up to this distance an appearance is beyond doubt (see [`Appearance::distance`]).
const FAMILIAR: f32 = 0.9;
/// A face found where the person was just seen may look this different …
const NEARBY: f32 = 1.1;
/// … and one that was followed there without a break, this.
const FOLLOWED: f32 = 1.35;
/// A photograph may differ this much from the person in the video.
const LIKE: f32 = 1.1;
/// Places that go on without a break outweigh a likeness to somebody else of this much.
const CONTINUITY: f32 = 0.15;
/// Part of today's appearance that becomes part of the remembered one, per frame.
const LEARNING: f32 = 0.05;
/// Frames between two searches for the chosen person while somebody else stands in.
const STAND_IN_PERIOD: usize = 12;
/// Sides of a face beyond which nobody counts as having come from the last place, however long ago that was.
const FARTHEST: f32 = 1.5;
/// After so many frames without the person, a rule that names anybody names somebody new: 3 s at 25 a second.
const GIVE_UP: usize = 75;
/// Frames between searches for others, while somebody else is known and while nobody is.
const SEARCH_PERIODS: [usize; 2] = [25, 50];
/// Frames between searches while a doubt goes on or somebody is waited for.
const DOUBT_PERIOD: usize = 5;
/// More people than this are not told apart.
const MOST_OTHERS: usize = 6;

/// How a tracker goes from frame to frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Memory {
    OnePerson,
    /// Every frame anew.
    None,
}

/// Somebody: where last seen, and how she or he looks.
struct Person {
    face: Face,
    look: Appearance,
    /// Frames since last seen.
    missing: usize,
}

/// A face found in this frame.
struct Seen {
    face: Face,
    look: Appearance,
    followed: bool,
}

/// Takes the frames of one video in order and stays with one person.
pub struct FaceTracker {
    detector: Box<dyn FaceDetector>,
    memory: Memory,
    choice: FaceChoice,
    /// Who was chosen first, and is taken up again after a cut.
    chosen: Option<Appearance>,
    /// Who is followed in this shot.
    person: Option<Person>,
    /// Whether that is the chosen one, or somebody who stands in for a shot.
    is_chosen: bool,
    /// Other people, each once seen beside the one who is followed.
    others: Vec<Person>,
    /// Frames since the whole frame was searched.
    unsearched: usize,
    /// Frames in a row in which it was not beyond doubt who is followed.
    doubts: usize,
    /// Frames since small faces were looked for as well; `None` in a new shot.
    since_thorough: Option<usize>,
}

impl FaceTracker {
    /// Stays with the largest face that it meets.
    pub fn new(detector: Box<dyn FaceDetector>) -> Self {
        Self::choosing(detector, FaceChoice::Largest)
    }

    pub fn choosing(detector: Box<dyn FaceDetector>, choice: FaceChoice) -> Self {
        let mut tracker = Self {
            detector,
            memory: Memory::OnePerson,
            choice,
            chosen: None,
            person: None,
            is_chosen: false,
            others: Vec::new(),
            unsearched: 0,
            doubts: 0,
            since_thorough: None,
        };
        tracker.reset();
        tracker
    }

    /// Takes each frame's largest face, whoever it is, as the original does.
    pub fn without_memory(detector: Box<dyn FaceDetector>) -> Self {
        Self { memory: Memory::None, ..Self::new(detector) }
    }

    /// The person's face in the next frame, (height, width, 3) u8, or `None` where it is not.
    pub fn next(&mut self, frame: &Tensor) -> Result<Option<Face>> {
        if self.memory == Memory::None {
            let mut faces = self.detector.detect(frame)?;
            let largest = FaceChoice::Largest.among(&faces.iter().collect::<Vec<_>>());
            return Ok(largest.map(|i| faces.swap_remove(i)));
        }
        self.since_thorough = self.since_thorough.map(|frames| frames + 1);
        match self.person.take() {
            Some(person) => self.stay_with(person, frame),
            None => self.choose(frame),
        }
    }

    /// The next frame belongs to another shot: the same person is looked for, wherever.
    pub fn cut(&mut self) {
        if let Some(person) = self.person.take()
            && self.is_chosen
        {
            self.chosen = Some(person.look);
        }
        self.others.clear();
        (self.unsearched, self.doubts, self.since_thorough) = (0, 0, None);
        self.detector.reset();
    }

    /// Forgets the person: the next frame belongs to another video.
    pub fn reset(&mut self) {
        self.cut();
        self.chosen = match &self.choice {
            FaceChoice::Like(look) => Some(look.clone()),
            _ => None,
        };
    }

    /// Somebody for a shot that has nobody yet: the chosen person, or who the rule names.
    fn choose(&mut self, frame: &Tensor) -> Result<Option<Face>> {
        let mut faces = self.detector.detect(frame)?;
        let due = self.since_thorough.is_none_or(|frames| frames >= DOUBT_PERIOD) && !faces.is_empty();
        if self.choice.counts_small_faces() && due {
            faces = self.detector.detect_all(frame)?;
            self.since_thorough = Some(0);
        }
        let seen = look_at(frame, faces)?;
        let again = self.chosen.as_ref().and_then(|look| {
            let limit = if matches!(self.choice, FaceChoice::Like(_)) { LIKE } else { FAMILIAR };
            let distances = seen.iter().map(|seen| seen.look.distance(look));
            let nearest = distances.enumerate().min_by(|a, b| a.1.total_cmp(&b.1));
            nearest.filter(|(_, distance)| *distance <= limit).map(|(i, _)| i)
        });
        let by_rule = || {
            let allowed = self.chosen.is_none() || self.choice.holds_in_every_shot();
            // Left of the faces that a quick search finds is not left of all.
            let counted = !self.choice.counts_small_faces() || self.since_thorough == Some(0);
            let faces: Vec<&Face> = seen.iter().map(|seen| &seen.face).collect();
            if allowed && counted { self.choice.among(&faces) } else { None }
        };
        let Some(index) = again.or_else(by_rule) else { return Ok(None) };
        self.is_chosen = again.is_some() || self.chosen.is_none();
        Ok(Some(self.take_up(seen, index)))
    }

    /// Starts to follow one of `seen`; the rest are others.
    fn take_up(&mut self, mut seen: Vec<Seen>, index: usize) -> Face {
        let Seen { face, look, .. } = seen.swap_remove(index);
        if self.is_chosen {
            self.chosen = Some(look.clone());
        }
        self.person = Some(Person { face: face.clone(), look, missing: 0 });
        (self.unsearched, self.doubts) = (0, 0);
        self.others.clear();
        self.remember_others(seen, &face);
        face
    }

    fn stay_with(&mut self, mut person: Person, frame: &Tensor) -> Result<Option<Face>> {
        let mut seen = Vec::new();
        if person.missing == 0
            && let Some(face) = self.detector.follow(frame, &person.face)?
        {
            self.follow_others(frame, &face)?;
            seen = look_at(frame, vec![face])?;
            seen[0].followed = true;
        }
        let sure = seen.first().is_some_and(|seen| {
            seen.look.distance(&person.look) <= FAMILIAR
                && self.recognise(std::slice::from_ref(seen), &person).is_some()
        });
        self.doubts = if sure { 0 } else { self.doubts + 1 };
        self.unsearched += 1;
        let stands_in = !self.is_chosen && self.chosen.is_some();
        let period = match stands_in {
            // The chosen person may be here after all.
            true => STAND_IN_PERIOD,
            false => SEARCH_PERIODS[usize::from(self.others.is_empty())],
        };
        let in_doubt = !sure && (seen.is_empty() || self.doubts % DOUBT_PERIOD == 1);
        if in_doubt || self.unsearched >= period {
            let mut faces = self.detector.detect(frame)?;
            if in_doubt && !faces.iter().any(|face| overlap(face.bbox, person.face.bbox) > 0.0) {
                faces.extend(self.detector.detect_near(frame, &person.face)?);
            }
            // What was followed is placed better than what was found.
            faces.retain(|face| seen.first().is_none_or(|seen| !same_place(face, &seen.face)));
            seen.extend(look_at(frame, faces)?);
            self.unsearched = 0;
        }
        if stands_in && let Some(index) = self.find_chosen(&seen, &person) {
            self.is_chosen = true;
            return Ok(Some(self.take_up(seen, index)));
        }
        let Some(index) = self.recognise(&seen, &person) else {
            return self.miss(person, seen);
        };
        let found = seen.swap_remove(index);
        // Where two faces touch, the patch shows both.
        let alone = self.others.iter().all(|other| overlap(other.face.bbox, found.face.bbox) == 0.0);
        if alone && found.look.distance(&person.look) <= FAMILIAR {
            person.look.learn(&found.look, LEARNING);
        }
        (person.face, person.missing) = (found.face.clone(), 0);
        self.person = Some(person);
        self.remember_others(seen, &found.face);
        Ok(Some(found.face))
    }

    /// The chosen person among `seen`, while somebody else stands in.
    fn find_chosen(&self, seen: &[Seen], stand_in: &Person) -> Option<usize> {
        let chosen = self.chosen.as_ref()?;
        let limit = FAMILIAR.min(stand_in.look.distance(chosen));
        let distances = seen.iter().map(|seen| seen.look.distance(chosen)).enumerate();
        distances.filter(|(_, distance)| *distance < limit).min_by(|a, b| a.1.total_cmp(&b.1)).map(|(i, _)| i)
    }

    /// The person is not among `seen`.
    fn miss(&mut self, mut person: Person, seen: Vec<Seen>) -> Result<Option<Face>> {
        person.missing += 1;
        if person.missing >= GIVE_UP && self.choice.holds_in_every_shot() {
            let faces: Vec<&Face> = seen.iter().map(|seen| &seen.face).collect();
            if let Some(index) = self.choice.among(&faces) {
                self.chosen = if self.is_chosen { Some(person.look) } else { self.chosen.take() };
                self.is_chosen = false;
                return Ok(Some(self.take_up(seen, index)));
            }
        }
        self.person = Some(person);
        Ok(None)
    }

    /// Which of `seen` is the person: one that looks enough like her or him, and not more like anybody else.
    fn recognise(&self, seen: &[Seen], person: &Person) -> Option<usize> {
        let fits = |seen: &Seen| {
            let distance = seen.look.distance(&person.look);
            let others = self.others.iter().map(|other| seen.look.distance(&other.look));
            let other = others.fold(f32::INFINITY, f32::min);
            let touches = self.others.iter().any(|other| overlap(other.face.bbox, seen.face.bbox) > 0.0);
            let near = is_near(&seen.face, person);
            let limit = match (seen.followed, near) {
                (true, _) => FOLLOWED,
                (false, true) => NEARBY,
                (false, false) => FAMILIAR,
            };
            let margin = if near && !touches && person.missing < DOUBT_PERIOD { CONTINUITY } else { 0.0 };
            (distance <= limit && distance <= other + margin).then_some(distance)
        };
        let fitting = seen.iter().enumerate().filter_map(|(i, seen)| Some((i, fits(seen)?)));
        fitting.min_by(|a, b| a.1.total_cmp(&b.1)).map(|(i, _)| i)
    }

    /// Others close to `face` are followed too: whoever comes close may take its place.
    fn follow_others(&mut self, frame: &Tensor, face: &Face) -> Result<()> {
        for other in &mut self.others {
            if gap(&other.face, face) > 2.0 || other.missing > DOUBT_PERIOD {
                continue;
            }
            match self.detector.follow(frame, &other.face)? {
                Some(found) if !same_place(&found, face) => (other.face, other.missing) = (found, 0),
                _ => other.missing += 1,
            }
        }
        Ok(())
    }

    /// Faces seen beside the person's own are somebody else's.
    fn remember_others(&mut self, seen: Vec<Seen>, own: &Face) {
        for Seen { face, look, .. } in seen {
            if overlap(face.bbox, own.bbox) > 0.0 {
                continue;
            }
            let known =
                |other: &Person| same_place(&other.face, &face) || other.look.distance(&look) < FAMILIAR;
            match self.others.iter().position(known) {
                Some(index) => {
                    let other = &mut self.others[index];
                    other.look.learn(&look, 4.0 * LEARNING);
                    (other.face, other.missing) = (face, 0);
                }
                None if self.others.len() < MOST_OTHERS => {
                    self.others.push(Person { face, look, missing: 0 });
                }
                None => {}
            }
        }
    }
}

fn look_at(frame: &Tensor, faces: Vec<Face>) -> Result<Vec<Seen>> {
    let look = |face: Face| {
        let look = Appearance::of(frame, &face.anchors)?;
        Ok(Seen { face, look, followed: false })
    };
    faces.into_iter().map(look).collect()
}

fn same_place(a: &Face, b: &Face) -> bool {
    overlap(a.bbox, b.bbox) > 0.3
}

/// Distance of the middles, in sides of the larger face.
fn gap(a: &Face, b: &Face) -> f32 {
    let (from, to) = (a.center(), b.center());
    (to[0] - from[0]).hypot(to[1] - from[1]) / a.area().max(b.area()).sqrt()
}

/// Whether the person can have come here since last seen.
fn is_near(face: &Face, person: &Person) -> bool {
    let size = (face.area() / person.face.area()).sqrt();
    let reach = (0.5 + 0.1 * person.missing as f32).min(FARTHEST);
    gap(face, &person.face) <= reach && (0.6..1.6).contains(&size)
}

#[cfg(test)]
mod tests;
