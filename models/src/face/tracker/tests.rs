use candle_core::Device;

use super::*;
use crate::face::types::Anchors;

/// A person in a synthetic scene: identity (a pattern and a colour), centre and side length of the face.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Actor {
    who: usize,
    x: f32,
    side: f32,
}

const WIDTH: usize = 320;
const HEIGHT: usize = 120;

fn actor(who: usize, x: f32) -> Actor {
    Actor { who, x, side: 48.0 }
}

/// Draws the actors, later ones in front.
fn scene(actors: &[Actor]) -> Tensor {
    let mut data = vec![90u8; WIDTH * HEIGHT * 3];
    for Actor { who, x, side } in actors {
        for row in 0..HEIGHT {
            for column in 0..WIDTH {
                let (u, v) = ((column as f32 - x) / side, (row as f32 - 60.0) / side);
                if u.abs() > 0.7 || v.abs() > 0.9 {
                    continue;
                }
                let wave = match who {
                    0 => (u * 20.0).sin(),
                    1 => (v * 20.0).sin(),
                    _ => ((u + v) * 14.0).sin(),
                };
                let base = [[170.0, 110.0, 80.0], [110.0, 110.0, 115.0], [80.0, 140.0, 90.0]][*who];
                for c in 0..3 {
                    data[3 * (row * WIDTH + column) + c] = (base[c] + 50.0 * wave) as u8;
                }
            }
        }
    }
    Tensor::from_vec(data, (HEIGHT, WIDTH, 3), &Device::Cpu).unwrap()
}

fn face(Actor { who, x, side }: Actor) -> Face {
    let half = side / 2.0;
    let anchors = Anchors { left_brow: [x - 12.0, 50.0], right_brow: [x + 12.0, 50.0], nose: [x, 65.0] };
    Face::new([x - half, 60.0 - half, x + half, 60.0 + half], who as f32, anchors, Vec::new())
}

/// Detector that knows the actors of each frame. Follows the nearest face, whoever it is, like a landmark
/// tracker.
struct Scripted {
    frames: Vec<Vec<Actor>>,
    at: usize,
    searches: std::sync::Arc<std::sync::atomic::AtomicUsize>,
}

impl Scripted {
    fn visible(&self) -> Vec<Face> {
        let actors = &self.frames[self.at];
        let hidden = |i: usize| actors[i + 1..].iter().any(|front| (front.x - actors[i].x).abs() < 45.0);
        (0..actors.len()).filter(|&i| !hidden(i)).map(|i| face(actors[i])).collect()
    }
}

/// Frame number, encoded in the first pixel.
fn frame_number(frame: &Tensor) -> usize {
    let pixel = frame.narrow(0, 0, 1).unwrap().narrow(1, 0, 1).unwrap().flatten_all().unwrap();
    let pixel = pixel.to_vec1::<u8>().unwrap();
    usize::from(pixel[0]) + 256 * usize::from(pixel[1])
}

impl FaceDetector for Scripted {
    fn detect(&mut self, frame: &Tensor) -> Result<Vec<Face>> {
        self.at = frame_number(frame);
        self.searches.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Ok(self.visible())
    }

    fn follow(&mut self, frame: &Tensor, previous: &Face) -> Result<Option<Face>> {
        self.at = frame_number(frame);
        let near = self.visible().into_iter().filter(|face| center_distance(face, previous) < 0.5);
        Ok(near.min_by(|a, b| center_distance(a, previous).total_cmp(&center_distance(b, previous))))
    }
}

struct TrackResult {
    /// Identity of the followed face in each frame.
    who: Vec<Option<usize>>,
    searches: usize,
}

/// Tracks through `frames`; `cuts` are the first frames of new shots.
fn track(choice: FaceChoice, frames: &[Vec<Actor>], cuts: &[usize]) -> TrackResult {
    let searches = std::sync::Arc::default();
    let detector = Scripted { frames: frames.to_vec(), at: 0, searches: std::sync::Arc::clone(&searches) };
    let mut tracker = FaceTracker::choosing(Box::new(detector), choice);
    let who = frames.iter().enumerate().map(|(i, actors)| {
        if cuts.contains(&i) {
            tracker.cut();
        }
        let mut data = scene(actors).flatten_all().unwrap().to_vec1::<u8>().unwrap();
        (data[0], data[1]) = ((i % 256) as u8, (i / 256) as u8);
        let frame = Tensor::from_vec(data, (HEIGHT, WIDTH, 3), &Device::Cpu).unwrap();
        tracker.next(&frame).unwrap().map(|face| face.score as usize)
    });
    let who = who.collect();
    TrackResult { who, searches: searches.load(std::sync::atomic::Ordering::Relaxed) }
}

fn still(actors: &[Actor], frames: usize) -> Vec<Vec<Actor>> {
    vec![actors.to_vec(); frames]
}

/// Actor 0 moves from left to right behind actor 1, who moves from right to left.
fn crossing() -> Vec<Vec<Actor>> {
    (0..60).map(|i| vec![actor(0, 60.0 + 3.4 * i as f32), actor(1, 260.0 - 3.4 * i as f32)]).collect()
}

#[test]
fn every_choice_selects_its_face_among_several() {
    let frames = still(&[actor(0, 60.0), Actor { side: 60.0, ..actor(1, 160.0) }, actor(2, 260.0)], 3);
    let appearance =
        |who| Appearance::of(&scene(&[actor(who, 100.0)]), &face(actor(who, 100.0)).anchors).unwrap();
    for (choice, who) in [
        (FaceChoice::Largest, Some(1)),
        (FaceChoice::Left, Some(0)),
        (FaceChoice::Right, Some(2)),
        (FaceChoice::Index(1), Some(1)),
        (FaceChoice::Index(3), None),
        (FaceChoice::At([250.0, 50.0]), Some(2)),
        (FaceChoice::At([100.0, 0.0]), Some(0)),
        (FaceChoice::Like(appearance(2)), Some(2)),
        (FaceChoice::Like(appearance(0)), Some(0)),
    ] {
        assert_eq!(track(choice.clone(), &frames, &[]).who, [who; 3], "{choice:?}");
    }
}

#[test]
fn an_index_selects_nobody_until_enough_faces_are_visible() {
    let mut frames = still(&[actor(0, 60.0)], 7);
    frames.extend(still(&[actor(0, 60.0), actor(1, 200.0)], 8));
    let who = track(FaceChoice::Index(1), &frames, &[]).who;
    assert!(who[..7].iter().all(Option::is_none), "{who:?}");
    assert_eq!(who[14], Some(1), "{who:?}");
}

#[test]
fn crossing_people_are_not_confused() {
    for (choice, person) in [(FaceChoice::Left, 0), (FaceChoice::Right, 1)] {
        let who = track(choice, &crossing(), &[]).who;
        assert!(who.iter().all(|who| who.is_none_or(|who| who == person)), "{person}: {who:?}");
        assert!(who[..20].iter().chain(&who[40..]).all(Option::is_some), "{person}: {who:?}");
    }
}

#[test]
fn a_person_missing_for_two_seconds_is_not_replaced() {
    let large = Actor { side: 56.0, ..actor(0, 80.0) };
    let mut frames = still(&[large, actor(1, 240.0)], 10);
    frames.extend(still(&[actor(1, 240.0)], 50));
    frames.extend(still(&[Actor { x: 120.0, ..large }, actor(1, 240.0)], 5));
    let who = track(FaceChoice::Largest, &frames, &[]).who;
    assert_eq!(who[..10], [Some(0); 10]);
    assert!(who[10..60].iter().all(Option::is_none), "{who:?}");
    assert_eq!(who[60..], [Some(0); 5]);
}

#[test]
fn after_three_seconds_the_largest_choice_takes_another_face_but_a_position_does_not() {
    let mut frames = still(&[actor(0, 80.0)], 5);
    frames.extend(still(&[actor(1, 240.0)], 90));
    let who = |choice| track(choice, &frames, &[]).who;
    let largest = who(FaceChoice::Largest);
    assert_eq!((largest[70], largest[94]), (None, Some(1)), "{largest:?}");
    assert!(who(FaceChoice::At([80.0, 60.0]))[5..].iter().all(Option::is_none));
}

#[test]
fn the_choice_is_repeated_at_a_cut() {
    let mut frames = still(&[actor(0, 80.0)], 4);
    frames.extend(still(&[actor(1, 90.0)], 4));
    frames.extend(still(&[actor(1, 80.0), Actor { side: 40.0, ..actor(0, 240.0) }], 4));
    let cuts = [4, 8];
    let expected = |middle| [[Some(0); 4], [middle; 4], [Some(0); 4]].concat();
    for (choice, middle) in [
        (FaceChoice::Largest, Some(1)),
        (FaceChoice::Left, Some(1)),
        (FaceChoice::Right, Some(1)),
        (FaceChoice::Index(0), None),
        (FaceChoice::At([80.0, 60.0]), None),
    ] {
        assert_eq!(track(choice.clone(), &frames, &cuts).who, expected(middle), "{choice:?}");
    }
}

#[test]
fn a_single_person_is_searched_for_once_in_two_seconds() {
    let frames = still(&[actor(0, 80.0)], 200);
    let result = track(FaceChoice::Largest, &frames, &[]);
    assert_eq!(result.who, [Some(0); 200]);
    assert!(result.searches <= 4, "{} searches", result.searches);
}
