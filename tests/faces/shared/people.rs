//! Several people in one frame, composed of two real clips: side by side, crossing, leaving. Also cuts, blank frames,
//! fades and flashes.

use std::time::Instant;

use candle_core::{Device, Tensor};
use latentsync::Options;
use latentsync::face::anchor_file::AnchorSource;
use latentsync::face::track::{CutDetector, FaceTrack, Found, TrackOptions, TrackedFrame};
use models::face::{Appearance, FaceChoice, FaceDetector, FaceTracker, SeetaDlib};

use super::{frames, media};
use crate::dlib_model;

/// Side of both clips in pixels. The head is in the columns 100 to 400.
const SIDE: usize = 480;
const STRIP: std::ops::Range<usize> = 100..400;
/// Width of a composed frame.
const STAGE: usize = 1280;

/// Approximate centre of the head in its strip.
const HEAD: f32 = 150.0;

struct Cast {
    woman: Vec<Vec<u8>>,
    man: Vec<Vec<u8>>,
    detector: SeetaDlib,
}

impl Cast {
    fn gather() -> Self {
        let (woman, man, model) = (media("woman_2s.mp4"), media("man_4s.mp4"), dlib_model());
        let bytes = |path: &std::path::Path| {
            frames(path).map(|frame| frame.flatten_all().unwrap().to_vec1().unwrap()).collect()
        };
        Self { woman: bytes(&woman), man: bytes(&man), detector: SeetaDlib::open(&model).unwrap() }
    }

    fn tracker(&self, choice: FaceChoice) -> FaceTracker {
        FaceTracker::choosing(Box::new(self.detector.clone()), choice)
    }

    /// A frame with the strips at these columns; the man is in front.
    fn stage(&self, frame: usize, woman: Option<usize>, man: Option<usize>) -> Tensor {
        let mut data = vec![90; STAGE * SIDE * 3];
        for (clip, left) in [(&self.woman, woman), (&self.man, man)] {
            let Some(left) = left else { continue };
            for y in 0..SIDE {
                let (from, to) = (3 * (y * SIDE + STRIP.start), 3 * (y * STAGE + left));
                let length = 3 * STRIP.len();
                data[to..to + length].copy_from_slice(&ping_pong(clip, frame)[from..from + length]);
            }
        }
        Tensor::from_vec(data, (SIDE, STAGE, 3), &Device::Cpu).unwrap()
    }

    fn woman_alone(&self, frame: usize) -> Tensor {
        picture(ping_pong(&self.woman, frame).clone())
    }

    fn man_alone(&self, frame: usize) -> Tensor {
        picture(ping_pong(&self.man, frame).clone())
    }
}

/// A frame of a clip that plays forward and backward.
fn ping_pong(clip: &[Vec<u8>], frame: usize) -> &Vec<u8> {
    let at = frame % (2 * clip.len() - 2);
    &clip[at.min(2 * clip.len() - 2 - at)]
}

fn picture(data: Vec<u8>) -> Tensor {
    Tensor::from_vec(data, (SIDE, SIDE, 3), &Device::Cpu).unwrap()
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Person {
    Woman,
    Man,
}

/// The person that the tracker follows in each frame, by the position of the nose.
fn play(cast: &Cast, choice: FaceChoice, places: &[[Option<usize>; 2]]) -> Vec<Option<Person>> {
    let mut tracker = cast.tracker(choice);
    let place =
        |strip: Option<usize>, x: f32| strip.map_or(f32::INFINITY, |left| (left as f32 + HEAD - x).abs());
    places
        .iter()
        .enumerate()
        .map(|(i, &[woman, man])| {
            let face = tracker.next(&cast.stage(i, woman, man)).unwrap()?;
            let x = face.anchors.nose[0];
            let (to_woman, to_man) = (place(woman, x), place(man, x));
            assert!(to_woman.min(to_man) < 120.0, "frame {i}: no person at {x}");
            Some(if to_woman < to_man { Person::Woman } else { Person::Man })
        })
        .collect()
}

fn letters(who: &[Option<Person>]) -> String {
    who.iter().map(|who| who.map_or('.', |who| if who == Person::Woman { 'w' } else { 'm' })).collect()
}

#[test]
#[ignore = "needs the shared material and dlib's landmark model"]
fn every_choice_follows_its_person() {
    let cast = Cast::gather();
    let look = |frame: Tensor| {
        let face = cast.detector.clone().detect(&frame).unwrap().remove(0);
        FaceChoice::Like(Appearance::of(&frame, &face.anchors).unwrap())
    };
    let places = [[Some(150), Some(750)]; 6];
    for (choice, who) in [
        (FaceChoice::Left, 'w'),
        (FaceChoice::Right, 'm'),
        (FaceChoice::Largest, 'm'),
        (FaceChoice::Index(0), 'w'),
        (FaceChoice::Index(1), 'm'),
        (FaceChoice::Index(2), '.'),
        (FaceChoice::At([300.0, 250.0]), 'w'),
        (FaceChoice::At([1200.0, 100.0]), 'm'),
        // Appearance from the last frames of the clips.
        (look(cast.woman_alone(49)), 'w'),
        (look(cast.man_alone(99)), 'm'),
    ] {
        let seen = letters(&play(&cast, choice.clone(), &places));
        assert_eq!(seen, who.to_string().repeat(6), "{choice:?}");
    }
}

#[test]
#[ignore = "needs the shared material and dlib's landmark model"]
fn people_who_cross_are_not_confused() {
    let cast = Cast::gather();
    // The strips cross in 3.5 s; for one second the man covers the woman.
    let places: Vec<_> = (0..88).map(|i| [Some(20 + 10 * i), Some(890 - 10 * i)]).collect();
    for (choice, who) in [(FaceChoice::Left, 'w'), (FaceChoice::Right, 'm')] {
        let seen = letters(&play(&cast, choice, &places));
        eprintln!("crossing: {seen}");
        let other = if who == 'w' { 'm' } else { 'w' };
        // Around the middle the positions are too close to tell the people apart.
        assert!(!seen[..40].contains(other) && !seen[48..].contains(other), "{seen}");
        assert!(!seen[..25].contains('.') && !seen[64..].contains('.'), "{seen}");
    }
}

#[test]
#[ignore = "needs the shared material and dlib's landmark model"]
fn a_person_who_returns_is_followed_again() {
    let cast = Cast::gather();
    // Absent for 1.5 s, then back at another position; the other person stays.
    for (choice, who) in [(FaceChoice::Largest, 'm'), (FaceChoice::Left, 'w')] {
        let places: Vec<_> = (0..70)
            .map(|i| match (who, i) {
                (_, ..15) => [Some(100), Some(700)],
                ('m', ..52) => [Some(100), None],
                ('m', _) => [Some(100), Some(500)],
                (_, ..52) => [None, Some(700)],
                _ => [Some(250), Some(700)],
            })
            .collect();
        let seen = letters(&play(&cast, choice, &places));
        eprintln!("absence: {seen}");
        assert_eq!(seen[..15], who.to_string().repeat(15), "{seen}");
        assert_eq!(seen[15..52], ".".repeat(37), "{seen}");
        assert!(seen[52..].matches(who).count() >= 17, "{seen}");
    }
}

fn track(cast: &Cast, choice: FaceChoice, frames: &[Tensor]) -> Vec<TrackedFrame<()>> {
    let source = AnchorSource::Tracker(Box::new(cast.tracker(choice)));
    let mut track = FaceTrack::new(source, TrackOptions::new(&Options::default(), 25.0));
    let mut done = Vec::new();
    for frame in frames {
        track.push((), frame.clone()).unwrap();
        done.extend(std::iter::from_fn(|| track.pop()));
    }
    track.finish().unwrap();
    done.extend(std::iter::from_fn(|| track.pop()));
    assert_eq!(done.len(), frames.len());
    done
}

#[test]
#[ignore = "needs the shared material and dlib's landmark model"]
fn a_cut_to_another_person_and_back_starts_shots() {
    let cast = Cast::gather();
    let frames: Vec<Tensor> = (0..60)
        .map(|i| if (20..40).contains(&i) { cast.man_alone(i) } else { cast.woman_alone(i) })
        .collect();
    for (choice, between) in [
        (FaceChoice::Largest, true),
        (FaceChoice::Right, true),
        (FaceChoice::Index(0), false),
        (FaceChoice::At([250.0, 200.0]), false),
    ] {
        let tracked = track(&cast, choice.clone(), &frames);
        for (i, frame) in tracked.iter().enumerate() {
            assert_eq!(frame.starts_shot, [0, 20, 40].contains(&i), "{choice:?}: frame {i}");
            let there = between || !(20..40).contains(&i);
            assert_eq!(frame.face.is_some(), there, "{choice:?}: frame {i}");
        }
    }
}

#[test]
#[ignore = "needs the shared material and dlib's landmark model"]
fn blank_frames_are_bridged() {
    let cast = Cast::gather();
    let blank = |i: usize| [5, 12, 13, 20, 21, 22].contains(&i);
    let frames: Vec<Tensor> = (0..30)
        .map(|i| if blank(i) { picture(vec![60; SIDE * SIDE * 3]) } else { cast.woman_alone(i) })
        .collect();
    for (i, frame) in track(&cast, FaceChoice::Largest, &frames).iter().enumerate() {
        let expected = if blank(i) { Found::Bridged } else { Found::Seen };
        assert_eq!(frame.face.map(|face| face.found), Some(expected), "frame {i}");
        assert_eq!(frame.starts_shot, i == 0, "frame {i}");
        assert_eq!(frame.face.map(|face| face.strength), Some(1.0), "frame {i}");
    }
}

/// Frames that start a shot, except the first, and the time per frame in milliseconds.
fn cuts(frames: impl Iterator<Item = Tensor>) -> (Vec<usize>, f64) {
    let mut detector = CutDetector::default();
    let (mut answers, mut took) = (Vec::new(), 0.0);
    for frame in frames {
        let start = Instant::now();
        answers.push(detector.push(&frame).unwrap());
        took += start.elapsed().as_secs_f64() * 1e3;
    }
    answers.push(detector.finish());
    let count = answers.len() - 1;
    ((0..count).filter(|&i| answers[i + 1]).collect(), took / count as f64)
}

#[test]
#[ignore = "needs the shared material and dlib's landmark model"]
fn clips_fades_and_flashes_have_no_cut() {
    for name in ["woman_2s.mp4", "man_4s.mp4", "woman_1080x1920_hevc.mp4"] {
        let (found, took) = cuts(frames(&media(name)));
        eprintln!("{name}: cuts {found:?}, {took:.2} ms a frame");
        assert_eq!(found, [0; 0], "{name}");
    }
    let cast = Cast::gather();
    let lit = |i: usize, gain: f32, offset: f32| {
        let lit = |&v: &u8| (gain * f32::from(v) + offset) as u8;
        picture(ping_pong(&cast.man, i).iter().map(lit).collect())
    };
    let fade = (0..60).map(|i| lit(i, (1.0 - i as f32 / 25.0).abs().min(1.0), 0.0));
    let flash = (0..60).map(|i| match i % 20 {
        9 => lit(i, 2.5, 60.0),
        10 => lit(i, 1.6, 30.0),
        15 => lit(i, 1.0, 255.0),
        _ => lit(i, 1.0, 0.0),
    });
    assert_eq!(cuts(fade).0, [0; 0]);
    assert_eq!(cuts(flash).0, [0; 0]);
    // A dissolve into another person over one second; printed only.
    let dissolve = (0..60).map(|i| {
        let part = ((i as f32 - 15.0) / 25.0).clamp(0.0, 1.0);
        let both = ping_pong(&cast.woman, i).iter().zip(ping_pong(&cast.man, i));
        picture(both.map(|(&w, &m)| (f32::from(w) * (1.0 - part) + f32::from(m) * part) as u8).collect())
    });
    eprintln!("dissolve: {:?}", cuts(dissolve).0);
}

/// Prints the time of a search; fails only if a large frame takes three times as long as a small one.
#[test]
#[ignore = "needs the shared material and dlib's landmark model"]
fn large_frames_take_about_as_long_as_small_ones() {
    let (path, model) = (media("woman_1080x1920_hevc.mp4"), dlib_model());
    let mut detector = SeetaDlib::open(&model).unwrap();
    let small = frames(&path).next().unwrap();
    let large = small.repeat((1, 1, 1)).unwrap();
    let (height, width, _) = large.dims3().unwrap();
    // Every pixel twice in both directions: 2160 × 3840 (width × height).
    let large = large.reshape((height, 1, width, 1, 3)).unwrap().repeat((1, 2, 1, 2, 1)).unwrap();
    let large = large.reshape((2 * height, 2 * width, 3)).unwrap();
    let mut time = |frame: &Tensor, all: bool| {
        let start = Instant::now();
        let faces = if all { detector.detect_all(frame) } else { detector.detect(frame) }.unwrap();
        assert_eq!(faces.len(), 1);
        start.elapsed().as_secs_f64() * 1e3
    };
    time(&small, false);
    let times = [time(&small, false), time(&large, false), time(&small, true), time(&large, true)];
    eprintln!("1080 × 1920, 2160 × 3840; with small faces, both sizes: {times:.0?} ms");
    assert!(times[1] < 3.0 * times[0] && times[3] < 3.0 * times[2], "{times:?}");
}
