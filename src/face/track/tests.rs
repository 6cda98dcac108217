use candle_core::{Device, Result as Done};
use models::face::{Face, FaceDetector, FaceTracker};

use super::*;
use crate::face::anchor_file::AnchorFile;

/// A frontal face.
fn front(x: f32) -> Anchors {
    Anchors { left_brow: [x, 50.0], right_brow: [x + 60.0, 50.0], nose: [x + 30.0, 90.0] }
}

/// A face with this yaw.
fn turned(x: f32, yaw: f32) -> Anchors {
    Anchors { nose: [x + 30.0 + 28.0 * yaw.to_radians().tan(), 90.0], ..front(x) }
}

/// Detector that returns the scripted anchors of a frame, whose number is in its first pixel.
struct Scripted(Vec<Option<Anchors>>);

impl FaceDetector for Scripted {
    fn detect(&mut self, frame: &Tensor) -> Done<Vec<Face>> {
        let first = frame.narrow(0, 0, 1)?.narrow(1, 0, 1)?.flatten_all()?.to_vec1::<u8>()?;
        let anchors = self.0[usize::from(first[0])];
        let face = |a: Anchors| {
            let [x, y] = a.left_brow;
            Face::new([x - 20.0, y - 30.0, x + 80.0, y + 70.0], 1.0, a, Vec::new())
        };
        Ok(anchors.map(face).into_iter().collect())
    }

    fn follow(&mut self, frame: &Tensor, _: &Face) -> Done<Option<Face>> {
        Ok(self.detect(frame)?.pop())
    }
}

fn tracker(script: &[Option<Anchors>]) -> AnchorSource {
    AnchorSource::Tracker(Box::new(FaceTracker::new(Box::new(Scripted(script.to_vec())))))
}

/// A frame of one of two scenes, or of a uniform one (scene 0).
fn frame(number: usize, scene: usize) -> Tensor {
    let (height, width) = (120, 240);
    let mut data: Vec<u8> = (0..height * width)
        .flat_map(|i| {
            let (x, y) = ((i % width) as f32 / 30.0, (i / width) as f32 / 20.0);
            let value = match scene {
                0 => 100.0,
                1 => 120.0 + 90.0 * (x + y).sin(),
                _ => 120.0 + 90.0 * (2.0 * x - y).cos(),
            };
            [value as u8; 3]
        })
        .collect();
    data[0] = number as u8;
    Tensor::from_vec(data, (height, width, 3), &Device::Cpu).unwrap()
}

fn options(on_missing_face: OnMissingFace) -> TrackOptions {
    TrackOptions::new(&Options { on_missing_face, ..Options::default() }, 25.0)
}

/// Tracks a video with these scenes. Checks that all frames are returned in order and within the maximum
/// delay.
fn run(source: AnchorSource, options: TrackOptions, scenes: &[usize]) -> Result<Vec<TrackedFrame<usize>>> {
    let max_delay = options.bridged + 2;
    let mut track = FaceTrack::new(source, options);
    let mut frames = Vec::new();
    for (number, &scene) in scenes.iter().enumerate() {
        track.push(number, frame(number, scene))?;
        frames.extend(std::iter::from_fn(|| track.pop()));
        assert!(number + 1 - frames.len() <= max_delay, "{} frames wait", number + 1 - frames.len());
    }
    track.finish()?;
    frames.extend(std::iter::from_fn(|| track.pop()));
    assert!(frames.iter().enumerate().all(|(i, frame)| frame.index == i && frame.payload == i));
    assert_eq!(frames.len(), scenes.len());
    Ok(frames)
}

/// One letter per frame: S (seen), B (bridged), H (held), or a dot for no face.
fn found(frames: &[TrackedFrame<usize>]) -> String {
    let letter = |frame: &TrackedFrame<usize>| match frame.face.map(|face| face.found) {
        Some(Found::Seen) => 'S',
        Some(Found::Bridged) => 'B',
        Some(Found::Held) => 'H',
        None => '.',
    };
    frames.iter().map(letter).collect()
}

/// Faces at these x positions; NaN for no face.
fn script(places: &[f32]) -> Vec<Option<Anchors>> {
    places.iter().map(|&x| x.is_finite().then(|| front(x))).collect()
}

const NONE: f32 = f32::NAN;

#[test]
fn short_gaps_are_bridged_and_long_ones_are_not() {
    let one = script(&[NONE, 10.0, 12.0, NONE, NONE, 18.0, 20.0, NONE]);
    let frames = run(tracker(&one), options(OnMissingFace::Pass), &[0; 8]).unwrap();
    assert_eq!(found(&frames), ".SSBBSS.");
    let middle = |i: usize| frames[i].face.unwrap().anchors;
    assert!((middle(3).nose[0] - 44.0).abs() < 1e-4 && (middle(4).left_brow[0] - 16.0).abs() < 1e-4);

    let longest = [vec![10.0], vec![NONE; 5], vec![10.0]].concat();
    let frames = run(tracker(&script(&longest)), options(OnMissingFace::Pass), &[0; 7]).unwrap();
    assert_eq!(found(&frames), "SBBBBBS");
    let longer = [vec![10.0], vec![NONE; 6], vec![10.0, 10.0]].concat();
    let frames = run(tracker(&script(&longer)), options(OnMissingFace::Pass), &[0; 9]).unwrap();
    assert_eq!(found(&frames), "S......SS");
}

#[test]
fn a_gap_is_not_bridged_if_the_face_reappears_elsewhere() {
    let close = |after: Anchors| close_enough(&front(10.0), &after, 3.0);
    assert!(close(front(90.0)));
    assert!(!close(front(110.0)));
    let larger = Anchors { right_brow: [100.0, 50.0], ..front(10.0) };
    assert!(!close(larger));
}

#[test]
fn frames_without_a_face_pass_hold_or_fail() {
    let absence = [vec![NONE; 2], vec![10.0; 2], vec![NONE; 7], vec![10.0]].concat();
    let run = |policy| run(tracker(&script(&absence)), options(policy), &[0; 12]);
    assert_eq!(found(&run(OnMissingFace::Pass).unwrap()), "..SS.......S");
    let held = run(OnMissingFace::Hold).unwrap();
    assert_eq!(found(&held), "..SSHHHHHHHS");
    assert_eq!(held[8].face.unwrap().anchors, front(10.0));
    let error = run(OnMissingFace::Error).unwrap_err();
    assert!(error.to_string().contains("frame 0"), "{error}");
    assert!(matches!(error, Error::Missing { .. }), "{error:?}");
}

#[test]
fn a_missing_face_fails_only_if_it_cannot_be_bridged() {
    let flicker = script(&[10.0, NONE, 10.0]);
    let frames = run(tracker(&flicker), options(OnMissingFace::Error), &[0; 3]).unwrap();
    assert_eq!(found(&frames), "SBS");
    let end = script(&[10.0, 10.0, 10.0, NONE]);
    let error = run(tracker(&end), options(OnMissingFace::Error), &[0; 4]).unwrap_err();
    assert!(error.to_string().contains("frame 3") && error.to_string().contains("0.12 s"), "{error}");
}

#[test]
fn nothing_is_bridged_or_held_across_a_cut() {
    let gap = script(&[10.0, 10.0, 10.0, NONE, NONE, 10.0]);
    let scenes = [1, 1, 1, 1, 2, 2];
    let frames = run(tracker(&gap), options(OnMissingFace::Hold), &scenes).unwrap();
    assert_eq!(found(&frames), "SSSH.S");
    let starts: Vec<_> = frames.iter().filter(|frame| frame.starts_shot).map(|frame| frame.index).collect();
    assert_eq!(starts, [0, 4]);
}

#[test]
fn a_files_null_is_not_bridged_but_held() {
    let read = || {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "[[[1, 2], [3, 2], [2, 4]], null, [[1, 2], [3, 2], [2, 4]]]").unwrap();
        AnchorSource::File(AnchorFile::read(file.path(), 0).unwrap())
    };
    assert_eq!(found(&run(read(), options(OnMissingFace::Pass), &[0; 3]).unwrap()), "S.S");
    assert_eq!(found(&run(read(), options(OnMissingFace::Hold), &[0; 3]).unwrap()), "SHS");
    assert!(run(read(), options(OnMissingFace::Error), &[0; 3]).is_err());
}

#[test]
fn a_face_that_turns_away_fades_out_and_in() {
    let yaws: Vec<f32> = (0..30).map(|i| 7.0 * (15.0 - (i as f32 - 15.0).abs()).min(10.0)).collect();
    let script: Vec<_> = yaws.iter().map(|&yaw| Some(turned(20.0, yaw))).collect();
    let frames = run(tracker(&script), options(OnMissingFace::Pass), &[0; 30]).unwrap();
    let strengths: Vec<f32> = frames.iter().map(|frame| frame.face.unwrap().strength).collect();
    assert!(strengths[..6].iter().all(|&strength| strength == 1.0), "{strengths:?}");
    assert!(strengths.windows(2).all(|w| (w[1] - w[0]).abs() <= MAX_STRENGTH_STEP + 1e-6), "{strengths:?}");
    assert!(frames[14].face.unwrap().turned_away(), "{strengths:?}");
    assert_eq!(strengths[29], 1.0);
    // The original ignores the yaw and does not bridge gaps.
    let options = TrackOptions::new(&Options { reference_compat: true, ..Options::default() }, 25.0);
    let frames = run(tracker(&script), options.clone(), &[0; 30]).unwrap();
    assert!(frames.iter().all(|frame| frame.face.unwrap().strength == 1.0));
    let flicker = Box::new(Scripted(self::script(&[10.0, NONE, 10.0])));
    let source = AnchorSource::Tracker(Box::new(FaceTracker::without_memory(flicker)));
    let gap = run(source, options, &[1, 1, 2]).unwrap();
    assert_eq!(found(&gap), "S.S");
    assert!(gap.iter().all(|frame| frame.starts_shot == (frame.index == 0)));
}
