//! The detector on real clips: do its anchors agree with the reference's, are they steady, and does it report a face
//! that is gone?

mod people;

use std::path::{Path, PathBuf};
use std::time::Instant;

use candle_core::{Device, Tensor};
use latentsync::stages::decode_video::{VideoOptions, VideoReader};
use models::face::{Anchors, FaceTracker, SeetaDlib};

use crate::{dlib_model, shared_material};

/// Left brow, right brow, nose.
type Points = [[f64; 2]; 3];

fn media(name: &str) -> PathBuf {
    shared_material::directory().join("media").join(name)
}

fn frames(path: &Path) -> impl Iterator<Item = Tensor> {
    let mut reader = VideoReader::open(path, VideoOptions::default()).unwrap();
    std::iter::from_fn(move || reader.next().unwrap().map(|picture| picture.to_rgb().unwrap()))
}

fn points(anchors: Anchors) -> Points {
    [anchors.left_brow, anchors.right_brow, anchors.nose].map(|p| p.map(f64::from))
}

/// Tracks the face of a video, which must be found in every frame. Prints the times.
fn track(path: &Path, model: &Path) -> Vec<Points> {
    let mut tracker = FaceTracker::new(Box::new(SeetaDlib::open(model).unwrap()));
    let mut times = Vec::new();
    let anchors: Vec<Points> = frames(path)
        .enumerate()
        .map(|(index, frame)| {
            let start = Instant::now();
            let face = tracker.next(&frame).unwrap();
            times.push(start.elapsed().as_secs_f64() * 1e3);
            let face = face.unwrap_or_else(|| panic!("{}: no face in frame {index}", path.display()));
            points(face.anchors)
        })
        .collect();
    let first = times[0];
    times.sort_by(f64::total_cmp);
    eprintln!(
        "{}: {} frames, first {first:.0} ms, then {:.1} ms in the median, {:.1} at best",
        path.display(),
        times.len(),
        times[times.len() / 2],
        times[0]
    );
    anchors
}

fn given(path: &Path) -> Vec<Points> {
    serde_json::from_str(&std::fs::read_to_string(path.with_extension("landmarks3.json")).unwrap()).unwrap()
}

/// Differences of found and given anchors along and across the line of the brows, in distances of the brows.
fn differences(found: &[Points], given: &[Points]) -> Vec<Points> {
    assert_eq!(found.len(), given.len());
    let difference = |(found, given): (&Points, &Points)| {
        let (x, y) = (given[1][0] - given[0][0], given[1][1] - given[0][1]);
        let square = x * x + y * y;
        std::array::from_fn(|i| {
            let (dx, dy) = (found[i][0] - given[i][0], found[i][1] - given[i][1]);
            [(dx * x + dy * y) / square, (dy * x - dx * y) / square]
        })
    };
    found.iter().zip(given).map(difference).collect()
}

fn mean(differences: &[Points]) -> Points {
    let count = differences.len() as f64;
    std::array::from_fn(|i| std::array::from_fn(|j| differences.iter().map(|d| d[i][j]).sum::<f64>() / count))
}

/// Mean length of the differences minus `offsets`, in percent of the distance of the brows.
fn error(differences: &[Points], offsets: &Points) -> f64 {
    let distance = |d: &Points, i: usize| (d[i][0] - offsets[i][0]).hypot(d[i][1] - offsets[i][1]);
    let sum: f64 = differences.iter().flat_map(|d| (0..3).map(move |i| distance(d, i))).sum();
    100.0 * sum / (3 * differences.len()) as f64
}

/// Mean length of the second difference over time, in pixels.
fn jitter(anchors: &[Points]) -> f64 {
    let second = |w: &[Points], i: usize, j: usize| w[2][i][j] - 2.0 * w[1][i][j] + w[0][i][j];
    let sum: f64 =
        anchors.windows(3).flat_map(|w| (0..3).map(move |i| second(w, i, 0).hypot(second(w, i, 1)))).sum();
    sum / (3 * (anchors.len() - 2)) as f64
}

#[test]
#[ignore = "needs the shared material and dlib's landmark model"]
fn anchors_agree_with_the_given_ones() {
    let (woman, man, model) = (media("woman_2s.mp4"), media("man_4s.mp4"), dlib_model());
    let measure = |path: &PathBuf| {
        let (found, given) = (track(path, &model), given(path));
        let relative_jitter = jitter(&found) / jitter(&given);
        (differences(&found, &given), relative_jitter)
    };
    let ((woman, woman_jitter), (man, man_jitter)) = (measure(&woman), measure(&man));
    // Constant offsets that are measured on one clip and applied to the other.
    let crossed = [error(&man, &mean(&woman)), error(&woman, &mean(&man))];
    let own = [error(&woman, &mean(&woman)), error(&man, &mean(&man))];
    // Anchors of the detector, which has constant offsets built in.
    let built_in = [error(&woman, &[[0.0; 2]; 3]), error(&man, &[[0.0; 2]; 3])];
    eprintln!(
        "% of the distance of the brows: crossed {crossed:.2?}, own constants {own:.2?}, built-in {built_in:.2?}"
    );
    eprintln!("jitter relative to the given anchors: woman {woman_jitter:.2}, man {man_jitter:.2}");
    for error in crossed.into_iter().chain(own).chain(built_in) {
        assert!(error <= 2.0, "{error:.2} % of the distance of the brows");
    }
    for jitter in [woman_jitter, man_jitter] {
        assert!(jitter <= 1.3, "{jitter:.2} times the jitter of the given anchors");
    }
}

#[test]
#[ignore = "needs the shared material and dlib's landmark model"]
fn the_face_is_found_in_every_frame_of_a_tall_video() {
    let (path, model) = (media("woman_1080x1920_hevc.mp4"), dlib_model());
    let anchors = track(&path, &model);
    assert_eq!(anchors.len(), 250);
    for (frame, points) in anchors.iter().enumerate() {
        let width = points[1][0] - points[0][0];
        let mean = [0, 1].map(|j| points.iter().map(|p| p[j]).sum::<f64>() / 3.0);
        let there = (450.0..750.0).contains(&mean[0]) && (550.0..900.0).contains(&mean[1]);
        assert!(there && (60.0..180.0).contains(&width), "frame {frame}: {points:?}");
    }
}

#[test]
#[ignore = "needs the shared material and dlib's landmark model"]
fn the_landmarks_do_not_depend_on_the_number_of_threads() {
    let (path, model) = (media("woman_2s.mp4"), dlib_model());
    let frames: Vec<Tensor> = frames(&path).take(8).collect();
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let mut tracker = FaceTracker::new(Box::new(SeetaDlib::open(&model).unwrap()));
        pool.install(|| {
            frames.iter().map(|f| tracker.next(f).unwrap().unwrap().landmarks).collect::<Vec<_>>()
        })
    };
    assert_eq!(run(1), run(3));
}

#[test]
#[ignore = "needs the shared material and dlib's landmark model"]
fn a_face_that_leaves_is_not_reported() {
    let (path, model) = (media("woman_2s.mp4"), dlib_model());
    let frames: Vec<Tensor> = frames(&path).take(45).collect();
    let (height, width, _) = frames[0].dims3().unwrap();
    // The picture moves out to the left, and grey moves in from the right.
    let gray =
        (Tensor::ones((height, width, 3), candle_core::DType::U8, &Device::Cpu).unwrap() * 90.0).unwrap();
    let mut tracker = FaceTracker::new(Box::new(SeetaDlib::open(&model).unwrap()));
    let seen: Vec<bool> = frames
        .iter()
        .enumerate()
        .map(|(i, frame)| {
            let wide = Tensor::cat(&[frame, &gray], 1).unwrap();
            tracker.next(&wide.narrow(1, 10 * i, width).unwrap()).unwrap().is_some()
        })
        .collect();
    // The brows are around column 260: up to frame 16 the face is complete, from frame 32 its centre is outside.
    assert!(seen[..16].iter().all(|&seen| seen), "{seen:?}");
    assert!(seen[32..].iter().all(|&seen| !seen), "{seen:?}");

    // A cut to another scene and back.
    tracker.reset();
    assert!(tracker.next(&frames[0]).unwrap().is_some());
    assert!(tracker.next(&gray).unwrap().is_none());
    assert!(tracker.next(&frames[1]).unwrap().is_some());
}
