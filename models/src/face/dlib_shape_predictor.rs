//! dlib's shape predictor (Kazemi and Sullivan, "One Millisecond Face Alignment with an Ensemble of
//! Regression Trees", 2014): a cascade of tree ensembles that compare pairs of pixels around the face and
//! move the landmarks step by step. Reads dlib's own model files and follows its arithmetic, so that the
//! points are the same; only the final rounding to whole pixels is left out.

use std::io::Read;
use std::path::Path;

use super::dlib_reader::DlibReader;
use super::face_frame::{FaceFrame, Similarity};
use super::{FaceModelError, Rgb};

/// One inner node of a tree: compares two of the cascade's pixels.
#[derive(Clone, Copy, Debug)]
struct Split {
    first: u32,
    second: u32,
    threshold: f32,
}

/// A pixel to look at: an offset, in the mean shape's frame, from a landmark.
#[derive(Clone, Copy, Debug)]
struct Probe {
    landmark: u32,
    delta: [f32; 2],
}

/// One step of the cascade. All its trees have the same number of splits.
#[derive(Debug)]
struct Cascade {
    probes: Vec<Probe>,
    splits_per_tree: usize,
    /// (trees × splits_per_tree), each tree as a heap: the children of i are 2i + 1 and 2i + 2.
    splits: Vec<Split>,
    /// (trees × (splits_per_tree + 1) × 2 · landmarks): how each leaf moves the points.
    leaves: Vec<f32>,
}

/// A trained landmark model.
#[derive(Debug)]
pub struct ShapePredictor {
    /// x, y, x, y … of the mean shape in the unit square.
    initial_shape: Vec<f32>,
    cascades: Vec<Cascade>,
}

impl ShapePredictor {
    /// Loads a model file as dlib writes it.
    pub fn open(path: &Path) -> Result<Self, FaceModelError> {
        Self::read(DlibReader::open(path)?)
    }

    fn read<R: Read>(mut reader: DlibReader<R>) -> Result<Self, FaceModelError> {
        let version = reader.integer("the version")?;
        if version != 1 {
            return Err(
                reader.unexpected(format!("a dlib shape predictor has version 1, this file {version}"))
            );
        }
        let initial_shape = read_column(&mut reader, "the mean shape")?;
        if initial_shape.is_empty() || initial_shape.len() % 2 != 0 {
            return Err(reader.damaged(format!("the mean shape has {} coordinates", initial_shape.len())));
        }
        let steps = reader.count("the number of cascades", 1)?;
        if steps == 0 {
            return Err(reader.damaged("the model has no cascade"));
        }
        let mut cascades = Vec::new();
        for step in 0..steps {
            let (splits_per_tree, splits, leaves) = read_forest(&mut reader, step, initial_shape.len())?;
            cascades.push(Cascade { probes: Vec::new(), splits_per_tree, splits, leaves });
        }
        read_probes(&mut reader, &mut cascades, initial_shape.len() / 2)?;
        for (step, cascade) in cascades.iter().enumerate() {
            let probes = cascade.probes.len() as u32;
            if cascade.splits.iter().any(|s| s.first >= probes || s.second >= probes) {
                return Err(reader.damaged(format!("cascade {step} compares pixels beyond its {probes}")));
            }
        }
        reader.finish()?;
        Ok(Self { initial_shape, cascades })
    }

    /// How many points the model finds.
    pub fn landmarks(&self) -> usize {
        self.initial_shape.len() / 2
    }

    /// x, y, x, y … of the mean shape in the unit square that a `FaceFrame` places.
    pub fn mean_shape(&self) -> &[f32] {
        &self.initial_shape
    }

    /// The landmarks, in pixels, of the face that `frame` encloses.
    pub fn predict(&self, image: &Rgb, frame: &FaceFrame) -> Vec<[f32; 2]> {
        let mut shape = self.initial_shape.clone();
        let mut values = Vec::new();
        for cascade in &self.cascades {
            self.probe(cascade, image, frame, &shape, &mut values);
            cascade.refine(&values, &mut shape);
        }
        shape
            .chunks_exact(2)
            .map(|p| frame.apply([f64::from(p[0]), f64::from(p[1])]).map(|v| v as f32))
            .collect()
    }

    /// The intensities that a cascade looks at, around the landmarks found so far.
    fn probe(&self, cascade: &Cascade, image: &Rgb, frame: &FaceFrame, shape: &[f32], values: &mut Vec<f32>) {
        let [cos, sin] = Similarity::between(&self.initial_shape, shape).linear.map(|v| v as f32);
        values.clear();
        values.extend(cascade.probes.iter().map(|probe| {
            let [dx, dy] = probe.delta;
            let at = 2 * probe.landmark as usize;
            let x = (cos * dx - sin * dy) + shape[at];
            let y = (sin * dx + cos * dy) + shape[at + 1];
            let [x, y] = frame.apply([f64::from(x), f64::from(y)]).map(|v| (v + 0.5).floor() as i64);
            f32::from(image.intensity(x, y))
        }));
    }
}

impl Cascade {
    /// Adds to `shape` what every tree's leaf says about `values`.
    fn refine(&self, values: &[f32], shape: &mut [f32]) {
        let leaf_size = (self.splits_per_tree + 1) * shape.len();
        let trees = self.splits.chunks_exact(self.splits_per_tree);
        // First every tree's answer, then the sums: the leaves lie far apart in memory, and adding without
        // waiting for comparisons lets the processor fetch several at a time.
        let answers: Vec<usize> = trees
            .enumerate()
            .map(|(tree, splits)| {
                let mut node = 0;
                while node < splits.len() {
                    let split = &splits[node];
                    let difference = values[split.first as usize] - values[split.second as usize];
                    node = 2 * node + if difference > split.threshold { 1 } else { 2 };
                }
                tree * leaf_size + (node - splits.len()) * shape.len()
            })
            .collect();
        for answer in answers {
            let leaf = &self.leaves[answer..answer + shape.len()];
            for (value, step) in shape.iter_mut().zip(leaf) {
                *value += step;
            }
        }
    }
}

fn read_column<R: Read>(reader: &mut DlibReader<R>, what: &str) -> Result<Vec<f32>, FaceModelError> {
    let rows = reader.column(what)?;
    (0..rows).map(|_| reader.float(what)).collect()
}

/// One cascade's trees: splits per tree, all splits, all leaves.
fn read_forest<R: Read>(
    reader: &mut DlibReader<R>,
    step: usize,
    coordinates: usize,
) -> Result<(usize, Vec<Split>, Vec<f32>), FaceModelError> {
    let trees = reader.count("the number of trees", 2)?;
    if trees == 0 {
        return Err(reader.damaged(format!("cascade {step} has no trees")));
    }
    let (mut splits_per_tree, mut splits, mut leaves) = (0, Vec::new(), Vec::new());
    for tree in 0..trees {
        let count = reader.count("the number of splits", 8)?;
        if tree == 0 {
            splits_per_tree = count;
        }
        if count != splits_per_tree || count == 0 {
            return Err(reader.damaged(format!(
                "tree {tree} of cascade {step} has {count} splits, its neighbours {splits_per_tree}"
            )));
        }
        for _ in 0..count {
            let first = read_index(reader, "a split's first pixel")?;
            let second = read_index(reader, "a split's second pixel")?;
            let threshold = reader.float("a split's threshold")?;
            splits.push(Split { first, second, threshold });
        }
        let leaf_count = reader.count("the number of leaves", 4)?;
        if leaf_count != count + 1 {
            return Err(reader.damaged(format!(
                "tree {tree} of cascade {step} has {count} splits but {leaf_count} leaves"
            )));
        }
        for _ in 0..leaf_count {
            let rows = reader.column("a leaf")?;
            if rows != coordinates {
                return Err(
                    reader.damaged(format!("a leaf has {rows} coordinates, the mean shape {coordinates}"))
                );
            }
            for _ in 0..rows {
                leaves.push(reader.float("a leaf's value")?);
            }
        }
    }
    Ok((splits_per_tree, splits, leaves))
}

/// The landmark and the offset of every pixel that each cascade looks at: two lists of lists.
fn read_probes<R: Read>(
    reader: &mut DlibReader<R>,
    cascades: &mut [Cascade],
    landmarks: usize,
) -> Result<(), FaceModelError> {
    expect_count(reader, "the number of anchor lists", cascades.len())?;
    for cascade in cascades.iter_mut() {
        for _ in 0..reader.count("the number of anchors", 2)? {
            let landmark = read_index(reader, "an anchor")?;
            if landmark as usize >= landmarks {
                return Err(reader.damaged(format!("an anchor is point {landmark} of {landmarks}")));
            }
            cascade.probes.push(Probe { landmark, delta: [0.0; 2] });
        }
    }
    expect_count(reader, "the number of offset lists", cascades.len())?;
    for cascade in cascades {
        expect_count(reader, "the number of offsets", cascade.probes.len())?;
        for probe in &mut cascade.probes {
            probe.delta = [reader.float("an offset")?, reader.float("an offset")?];
        }
    }
    Ok(())
}

fn read_index<R: Read>(reader: &mut DlibReader<R>, what: &str) -> Result<u32, FaceModelError> {
    let value = reader.integer(what)?;
    u32::try_from(value).map_err(|_| reader.damaged(format!("{what} is {value}")))
}

fn expect_count<R: Read>(reader: &mut DlibReader<R>, what: &str, want: usize) -> Result<(), FaceModelError> {
    let count = reader.count(what, 1)?;
    if count != want {
        return Err(reader.damaged(format!("{what} is {count} instead of {want}")));
    }
    Ok(())
}
