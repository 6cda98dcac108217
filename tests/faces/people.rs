//! Several people, made from the real clips: strips of two talking people on one stage, side by side, crossing,
//! leaving; and cuts, flickers, fades and flashes.

use std::time::Instant;

use candle_core::{Device, Tensor};
use latentsync::Options;
use latentsync::face::anchor_file::AnchorSource;
use latentsync::face::track::{CutDetector, FaceTrack, Found, TrackOptions, TrackedFrame};
use models::face::{Appearance, FaceChoice, FaceDetector, FaceTracker, SeetaDlib};

use super::{dlib_model, frames, media};

/// Both clips are squares of this side; the strip from 100 to 400 holds the head.
const SIDE: usize = 480;
const STRIP: std::ops::Range<usize> = 100..400;
const STAGE: usize = 1280;

/// Where the middle of a head is in its strip, about.
const HEAD: f32 = 150.0;

struct Cast {
    woman: Vec<Vec<u8>>,
    man: Vec<Vec<u8>>,
    detector: SeetaDlib,
}

impl Cast {
    /// `None`, with a word, where the material is missing.
    fn gather() -> Option<Self> {
        let (woman, man, model) = (media("woman_2s.mp4")?, media("man_4s.mp4")?, dlib_model()?);
        let bytes = |path: &std::path::Path| {
            frames(path).map(|frame| frame.flatten_all().unwrap().to_vec1().unwrap()).collect()
        };
        Some(Self { woman: bytes(&woman), man: bytes(&man), detector: SeetaDlib::open(&model).unwrap() })
    }

    fn tracker(&self, choice: FaceChoice) -> FaceTracker {
        FaceTracker::choosing(Box::new(self.detector.clone()), choice)
    }

    /// A stage with the strips' left edges at these places; the man in front.
    fn stage(&self, frame: usize, woman: Option<usize>, man: Option<usize>) -> Tensor {
        let mut data = vec![90; STAGE * SIDE * 3];
        for (clip, left) in [(&self.woman, woman), (&self.man, man)] {
            let Some(left) = left else { continue };
            for y in 0..SIDE {
                let (from, to) = (3 * (y * SIDE + STRIP.start), 3 * (y * STAGE + left));
                let length = 3 * STRIP.len();
                data[to..to + length].copy_from_slice(&there_and_back(clip, frame)[from..from + length]);
            }
        }
        Tensor::from_vec(data, (SIDE, STAGE, 3), &Device::Cpu).unwrap()
    }

    fn woman_alone(&self, frame: usize) -> Tensor {
        picture(there_and_back(&self.woman, frame).clone())
    }

    fn man_alone(&self, frame: usize) -> Tensor {
        picture(there_and_back(&self.man, frame).clone())
    }
}

/// A clip of any length without a jump.
fn there_and_back(clip: &[Vec<u8>], frame: usize) -> &Vec<u8> {
    let at = frame % (2 * clip.len() - 2);
    &clip[at.min(2 * clip.len() - 2 - at)]
}

fn picture(data: Vec<u8>) -> Tensor {
    Tensor::from_vec(data, (SIDE, SIDE, 3), &Device::Cpu).unwrap()
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Who {
    Woman,
    Man,
}

/// Who is followed in each frame, by place; both places are far enough apart wherever it matters.
fn play(cast: &Cast, choice: FaceChoice, places: &[[Option<usize>; 2]]) -> Vec<Option<Who>> {
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
            assert!(to_woman.min(to_man) < 120.0, "frame {i}: nobody is at {x}");
            Some(if to_woman < to_man { Who::Woman } else { Who::Man })
        })
        .collect()
}

fn letters(who: &[Option<Who>]) -> String {
    who.iter().map(|who| who.map_or('.', |who| if who == Who::Woman { 'w' } else { 'm' })).collect()
}

#[test]
fn everybody_can_be_chosen() {
    let Some(cast) = Cast::gather() else { return };
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
        // From the other end of the clips.
        (look(cast.woman_alone(49)), 'w'),
        (look(cast.man_alone(99)), 'm'),
    ] {
        let seen = letters(&play(&cast, choice.clone(), &places));
        assert_eq!(seen, who.to_string().repeat(6), "{choice:?}");
    }
}

#[test]
fn two_people_who_cross_are_not_mixed_up() {
    let Some(cast) = Cast::gather() else { return };
    // Three and a half seconds from end to end; for a second one strip covers the other's.
    let places: Vec<_> = (0..88).map(|i| [Some(20 + 10 * i), Some(890 - 10 * i)]).collect();
    for (choice, who) in [(FaceChoice::Left, 'w'), (FaceChoice::Right, 'm')] {
        let seen = letters(&play(&cast, choice, &places));
        eprintln!("crossing: {seen}");
        let other = if who == 'w' { 'm' } else { 'w' };
        // Around the middle the places are too close to say who it is.
        assert!(!seen[..40].contains(other) && !seen[48..].contains(other), "{seen}");
        assert!(!seen[..25].contains('.') && !seen[64..].contains('.'), "{seen}");
    }
}

#[test]
fn who_comes_back_is_taken_up_again() {
    let Some(cast) = Cast::gather() else { return };
    // Away for a second and a half, then back in another place; the other person stays.
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
fn a_cut_to_somebody_else_and_back() {
    let Some(cast) = Cast::gather() else { return };
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
fn blank_frames_are_bridged() {
    let Some(cast) = Cast::gather() else { return };
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

/// The frames that start a shot, and the milliseconds that a frame takes.
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
fn no_clip_has_a_cut_nor_has_one_that_fades_or_flashes() {
    for name in ["woman_2s.mp4", "man_4s.mp4", "woman_1080x1920_hevc.mp4"] {
        let Some(path) = media(name) else { continue };
        let (found, took) = cuts(frames(&path));
        eprintln!("{name}: cuts {found:?}, {took:.2} ms a frame");
        assert_eq!(found, [0; 0], "{name}");
    }
    let Some(cast) = Cast::gather() else { return };
    let lit = |i: usize, gain: f32, offset: f32| {
        let lit = |&v: &u8| (gain * f32::from(v) + offset) as u8;
        picture(there_and_back(&cast.man, i).iter().map(lit).collect())
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
    // Dissolving into somebody else over a second is no cut either.
    let dissolve = (0..60).map(|i| {
        let part = ((i as f32 - 15.0) / 25.0).clamp(0.0, 1.0);
        let both = there_and_back(&cast.woman, i).iter().zip(there_and_back(&cast.man, i));
        picture(both.map(|(&w, &m)| (f32::from(w) * (1.0 - part) + f32::from(m) * part) as u8).collect())
    });
    eprintln!("dissolve: {:?}", cuts(dissolve).0);
}

/// What one frame costs; prints figures, and fails only where a large frame is out of all proportion.
#[test]
fn large_frames_are_searched_as_fast_as_small_ones() {
    let (Some(path), Some(model)) = (media("woman_1080x1920_hevc.mp4"), dlib_model()) else { return };
    let mut detector = SeetaDlib::open(&model).unwrap();
    let small = frames(&path).next().unwrap();
    let large = small.repeat((1, 1, 1)).unwrap();
    let (height, width, _) = large.dims3().unwrap();
    // Every pixel twice in both directions: 2160 × 3840.
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
    eprintln!("searching 1080 × 1920, 2160 × 3840; small faces too, both sizes: {times:.0?} ms");
    assert!(times[1] < 3.0 * times[0] && times[3] < 3.0 * times[2], "{times:?}");
}
