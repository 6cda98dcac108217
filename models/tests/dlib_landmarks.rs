//! Compares the shape predictor with dlib: landmarks by scripts/dlib_fixtures.py, on the small model in
//! tests/data and on the published model if it is installed.

use std::path::{Path, PathBuf};

use models::face::{FaceFrame, Rgb, ShapePredictor};
use serde::Deserialize;

#[derive(Deserialize)]
struct Fixture {
    tiny: Vec<Case>,
    published: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    width: usize,
    height: usize,
    seed: i64,
    /// left, top, right, bottom.
    #[serde(rename = "box")]
    bounds: [f64; 4],
    /// Rounded to whole pixels by dlib.
    points: Vec<[f32; 2]>,
}

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

fn fixture() -> Fixture {
    serde_json::from_str(&std::fs::read_to_string(data("dlib.json")).unwrap()).unwrap()
}

/// The picture of the script, in integer arithmetic so that both are identical.
fn picture(case: &Case) -> Vec<u8> {
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
    data
}

/// dlib rounds its points; the distance must be within the rounding error.
fn assert_equal(predictor: &ShapePredictor, cases: &[Case]) {
    assert!(!cases.is_empty());
    for (index, case) in cases.iter().enumerate() {
        let data = picture(case);
        let image = Rgb { data: &data, width: case.width, height: case.height };
        let [left, top, right, bottom] = case.bounds;
        let found = predictor.predict(&image, &FaceFrame::from_rectangle(left, top, right, bottom));
        assert_eq!(found.len(), case.points.len());
        for (got, want) in found.iter().zip(&case.points) {
            let distance = (got[0] - want[0]).abs().max((got[1] - want[1]).abs());
            assert!(distance <= 0.501, "case {index}: {got:?} for {want:?}");
        }
    }
}

#[test]
fn landmarks_equal_dlibs() {
    let predictor = ShapePredictor::open(&data("shape_predictor_tiny.dat")).unwrap();
    assert_eq!(predictor.landmarks(), 5);
    let fixture = fixture();
    assert_equal(&predictor, &fixture.tiny);
    // The result must differ from the mean shape, otherwise the trees were not evaluated.
    let data = picture(&fixture.tiny[0]);
    let image = Rgb { data: &data, width: fixture.tiny[0].width, height: fixture.tiny[0].height };
    let found = predictor.predict(&image, &FaceFrame::from_rectangle(0.0, 0.0, 1.0, 1.0));
    assert!(found.as_flattened() != predictor.mean_shape());
}

mod system {
    use super::*;

    /// The published model: `LATENTSYNC_DLIB_MODEL`, or the path of Debian's package libdlib-data.
    #[test]
    #[ignore = "needs dlib's landmark model"]
    fn finds_the_points_that_dlib_finds_with_the_published_model() {
        let path = std::env::var_os("LATENTSYNC_DLIB_MODEL")
            .map_or_else(|| "/usr/share/dlib/shape_predictor_68_face_landmarks.dat".into(), PathBuf::from);
        let start = std::time::Instant::now();
        let predictor = ShapePredictor::open(&path).unwrap();
        eprintln!("loaded in {:.0?}", start.elapsed());
        assert_equal(&predictor, &fixture().published);
    }
}

#[test]
fn damaged_files_are_rejected() {
    let bytes = std::fs::read(data("shape_predictor_tiny.dat")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("damaged.dat");
    let message = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        ShapePredictor::open(&path).map_err(|e| e.to_string())
    };
    for length in (0..200).chain((200..bytes.len()).step_by(61)).chain([bytes.len() - 1]) {
        let error = message(&bytes[..length]).expect_err("a cut file");
        assert!(error.contains("damaged.dat") && error.contains("byte"), "{length}: {error}");
    }
    let error = message(&[&bytes[..], &[0]].concat()).expect_err("a byte too many");
    assert!(error.contains("after the end of the model"), "{error}");
    // The first integer is the version, followed by the sizes of the mean shape.
    let error = message(&[&[1, 2], &bytes[2..]].concat()).expect_err("another version");
    assert!(error.contains("version 1"), "{error}");
    let huge = [&bytes[..2], &[0x87, 255, 255, 255, 255, 255, 255, 255], &bytes[4..]].concat();
    let error = message(&huge).expect_err("a mean shape of 2^56 values");
    assert!(error.contains("byte 12") && error.contains("rows"), "{error}");
    // With any changed byte, the file is either rejected or loads as a model that predicts landmarks; nothing
    // panics.
    let case = &fixture().tiny[0];
    let picture = picture(case);
    let image = Rgb { data: &picture, width: case.width, height: case.height };
    let frame = FaceFrame::from_rectangle(10.0, 10.0, 50.0, 50.0);
    let (mut rejected, mut tried) = (0, 0);
    for at in (0..bytes.len()).step_by(53) {
        for change in [0x01, 0x10, 0x80, 0xff] {
            let mut changed = bytes.clone();
            changed[at] ^= change;
            match message(&changed) {
                Ok(predictor) => assert_eq!(predictor.predict(&image, &frame).len(), predictor.landmarks()),
                Err(_) => rejected += 1,
            }
            tried += 1;
        }
    }
    assert!(rejected > tried / 4 && rejected < tried, "{rejected} of {tried} changes were rejected");
}

/// A model file from integers; a float is a mantissa and an exponent.
fn model(numbers: &[i64]) -> Vec<u8> {
    let number = |&n: &i64| {
        let size = (8 - n.unsigned_abs().leading_zeros() as usize / 8).max(1);
        let control = size as u8 | if n < 0 { 0x80 } else { 0 };
        [&[control], &n.unsigned_abs().to_le_bytes()[..size]].concat()
    };
    numbers.iter().flat_map(number).collect()
}

#[test]
fn models_without_cascades_trees_or_finite_numbers_are_rejected() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("odd.dat");
    let open = |parts: &[&[i64]]| {
        std::fs::write(&path, model(&parts.concat())).unwrap();
        ShapePredictor::open(&path).map_err(|e| e.to_string())
    };
    // Version, mean shape with one point at (1, 1); one tree with one split that compares pixel 0 with itself
    // and two leaves of zeros; one pixel at the point.
    let start = [1, -2, -1, 1, 0, 1, 0];
    let leaf = [-2, -1, 0, 0, 0, 0];
    let tree = [&[1, 0, 0, 0, 0, 2], &leaf[..], &leaf].concat();
    let probe = [1, 1, 0, 1, 1, 0, 0, 0, 0];
    open(&[&start, &[1, 1], &tree, &probe]).unwrap();

    for (what, parts) in [
        ("no cascade", vec![&start[..], &[0, 0, 0]]),
        ("no trees", vec![&start, &[1, 0], &probe]),
        ("no trees", vec![&start, &[2, 1], &tree, &[0], &[2, 0, 0, 2, 0, 0]]),
        ("0 splits", vec![&start, &[1, 1, 0, 1], &leaf, &probe]),
        ("too large", vec![&[1, -2, -1, 1, 0, 1, 128], &[1, 1], &tree, &probe]),
    ] {
        let error = open(&parts).expect_err(what);
        assert!(error.contains(what) && error.contains("odd.dat") && error.contains("byte"), "{error}");
    }
}
