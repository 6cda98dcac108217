//! Compares the InsightFace detector with the `insightface` package, on two small untrained networks with the
//! inputs, outputs and layer types of the published ones. scripts/insightface_fixtures.py generates the files
//! in tests/data.

use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use models::face::{ChannelOrder, Face, FaceDetector, FaceTracker, InsightFace};
use serde::Deserialize;

#[derive(Deserialize)]
struct Fixture {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    width: usize,
    height: usize,
    seed: i64,
    /// x1, y1, x2, y2, score, in the package's order.
    boxes: Vec<[f32; 5]>,
    chosen: Option<Chosen>,
}

#[derive(Deserialize)]
struct Chosen {
    bbox: [i64; 4],
    points: Vec<[f32; 2]>,
    anchors: [[f32; 2]; 3],
}

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

fn fixture() -> Fixture {
    serde_json::from_str(&std::fs::read_to_string(data("insightface.json")).unwrap()).unwrap()
}

fn detector(order: ChannelOrder) -> InsightFace {
    InsightFace::open(&data("scrfd_like.onnx"), &data("landmarks106_like.onnx"), order).unwrap()
}

/// The picture of the script, in integer arithmetic so that both are identical.
fn picture(case: &Case) -> Tensor {
    let wave = |phase: i64| (phase % 510 - 255).abs();
    let mut data = Vec::with_capacity(case.width * case.height * 3);
    for y in 0..case.height as i64 {
        for x in 0..case.width as i64 {
            for c in 0..3 {
                let u = wave(x * (3 + c) + y * (5 - c) + case.seed * 37);
                let v = wave(x * (2 + c) + (10_000 - y) * (7 - 2 * c) + case.seed * 101);
                data.push((u * v / 255) as u8);
            }
        }
    }
    Tensor::from_vec(data, (case.height, case.width, 3), &Device::Cpu).unwrap()
}

/// LatentSync's filter by size and aspect ratio.
fn is_accepted(found: &[f32; 5]) -> bool {
    let [x1, y1, x2, y2] = [found[0], found[1], found[2], found[3]].map(|v| v as i64);
    let (width, height) = (x2 - x1, y2 - y1);
    width >= 50 && height >= 80 && (0.2..=1.5).contains(&(width as f64 / height as f64))
}

#[test]
fn boxes_equal_the_packages() {
    let mut detector = detector(ChannelOrder::Rgb);
    let mut seen = [0, 0];
    for case in fixture().cases {
        let faces = detector.detect(&picture(&case)).unwrap();
        let want: Vec<_> = case.boxes.iter().filter(|found| is_accepted(found)).collect();
        assert_eq!(faces.len(), want.len(), "{} × {}", case.width, case.height);
        seen = [seen[0] + want.len(), seen[1] + case.boxes.len()];
        for (face, want) in faces.iter().zip(want) {
            assert!((face.score - want[4]).abs() < 1e-3, "score {} for {}", face.score, want[4]);
            for (got, want) in face.bbox.iter().zip(want) {
                // Boxes are truncated to whole pixels, and small differences of the scores move them
                // slightly.
                assert!((got - want.trunc()).abs() <= 1.0, "{:?} for {want:?}", face.bbox);
            }
        }
    }
    assert!(seen[0] > 50 && seen[0] < seen[1], "the fixture does not test the filter: {seen:?}");
}

#[test]
fn the_selected_face_equals_the_packages() {
    for case in fixture().cases {
        let mut tracker = FaceTracker::new(Box::new(detector(ChannelOrder::Rgb)));
        let frame = picture(&case);
        let name = format!("{} × {}", case.width, case.height);
        let Some(want) = case.chosen else {
            assert!(tracker.next(&frame).unwrap().is_none(), "{name}");
            continue;
        };
        // The first frame is searched, in the second the face is followed; both select the largest face.
        for _ in 0..2 {
            let face = tracker.next(&frame).unwrap().expect("a face");
            assert_eq!(face.bbox.map(|v| v as i64), want.bbox, "{name}");
            let mut exact = 0;
            for (got, want) in face.landmarks.iter().zip(&want.points) {
                for (got, want) in got.iter().zip(want) {
                    // Rounding accounts for 0.5; the untrained network amplifies differences of one grey
                    // level.
                    assert!((got - want).abs() < 0.6, "{name}: {got} for {want}");
                    exact += usize::from(*got == want.round_ties_even());
                }
            }
            assert!(exact >= 200, "{name}: only {exact} of 212 coordinates round alike");
            let anchors = [face.anchors.left_brow, face.anchors.right_brow, face.anchors.nose];
            for (got, want) in anchors.as_flattened().iter().zip(want.anchors.as_flattened()) {
                assert!((got - want).abs() <= 0.26, "{name}: anchor {got} for {want}");
            }
        }
    }
}

#[test]
fn the_original_channel_order_equals_exchanging_red_and_blue() {
    let [mut trained, mut original] = [ChannelOrder::Rgb, ChannelOrder::AsOriginal].map(detector);
    let mut differ = false;
    for case in fixture().cases.iter().take(3) {
        let frame = picture(case);
        let exchanged = frame.index_select(&Tensor::new(&[2u32, 1, 0], &Device::Cpu).unwrap(), 2).unwrap();
        let results = |faces: Vec<Face>| faces.into_iter().map(|f| (f.bbox, f.landmarks)).collect::<Vec<_>>();
        let want = results(trained.detect(&frame).unwrap());
        assert!(results(original.detect(&exchanged).unwrap()) == want, "{} × {}", case.width, case.height);
        differ |= results(original.detect(&frame).unwrap()) != want;
    }
    assert!(differ, "the results do not depend on the channel order");
}

#[test]
fn files_that_are_no_networks_are_rejected() {
    let folder = tempfile::tempdir().unwrap();
    let (boxes, points) = (data("scrfd_like.onnx"), data("landmarks106_like.onnx"));
    let bytes = std::fs::read(&boxes).unwrap();
    let broken = folder.path().join("broken.onnx");
    let missing = folder.path().join("missing.onnx");
    let open = |boxes: &Path, points: &Path| InsightFace::open(boxes, points, ChannelOrder::Rgb).err();
    for length in [0, 1, 100, bytes.len() / 2, bytes.len() - 1] {
        std::fs::write(&broken, &bytes[..length]).unwrap();
        let message = open(&broken, &points).expect("a cut file").to_string();
        assert!(message.contains("broken.onnx"), "{length} bytes: {message}");
    }
    let swapped = open(&points, &boxes).expect("two files exchanged").to_string();
    assert!(swapped.contains("landmarks106_like.onnx") && swapped.contains("expected 1 and"), "{swapped}");
    let absent = open(&missing, &points).expect("no file").to_string();
    assert!(absent.contains("missing.onnx"), "{absent}");
    let directory = open(folder.path(), &points).expect("a directory").to_string();
    assert!(directory.contains("not a file"), "{directory}");
}
