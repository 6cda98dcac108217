//! dlib's shape predictor (Kazemi and Sullivan, "One Millisecond Face Alignment with an Ensemble of
//! Regression Trees", 2014): a cascade of regression tree ensembles that compare pairs of pixels and update
//! the landmarks. Reads dlib's model files and reproduces its arithmetic, without the final rounding to whole
//! pixels.

use std::io::Read;
use std::path::Path;

use super::dlib_reader::DlibReader;
use super::error::FaceModelError;
use super::face_frame::{FaceFrame, Similarity};
use super::pixels::Rgb;

/// Inner node of a tree: compares the intensities of two of the cascade's pixels.
#[derive(Clone, Copy, Debug)]
struct Split {
    first: u32,
    second: u32,
    threshold: f32,
}

/// A pixel that the trees compare, as an offset from a landmark in the coordinates of the mean shape.
#[derive(Clone, Copy, Debug)]
struct Probe {
    landmark: u32,
    delta: [f32; 2],
}

/// One stage of the cascade. All its trees have the same number of splits.
#[derive(Debug)]
struct Cascade {
    probes: Vec<Probe>,
    splits_per_tree: usize,
    /// (trees × splits_per_tree), each tree in heap order: the children of i are 2i + 1 and 2i + 2.
    splits: Vec<Split>,
    /// (trees × (splits_per_tree + 1) × 2 · landmarks): update of the shape for each leaf.
    leaves: Vec<f32>,
}

/// A trained landmark model.
#[derive(Debug)]
pub struct ShapePredictor {
    /// Mean shape in the unit square: x, y, x, y, …
    initial_shape: Vec<f32>,
    cascades: Vec<Cascade>,
}

impl ShapePredictor {
    /// Loads a model file written by dlib.
    pub fn open(path: &Path) -> Result<Self, FaceModelError> {
        Self::read(DlibReader::open(path)?)
    }

    fn read<R: Read>(mut reader: DlibReader<R>) -> Result<Self, FaceModelError> {
        let version = reader.integer("the version")?;
        if version != 1 {
            return Err(reader.unexpected(format!("shape predictor version {version}, expected version 1")));
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

    /// Number of landmarks.
    pub fn landmarks(&self) -> usize {
        self.initial_shape.len() / 2
    }

    /// Mean shape in the unit square that a [`FaceFrame`] places: x, y, x, y, …
    pub fn mean_shape(&self) -> &[f32] {
        &self.initial_shape
    }

    /// Landmarks, in pixels, of the face in `frame`.
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

    /// Intensities of a cascade's pixels, relative to the current landmarks.
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
    /// Adds the update of each tree's leaf for `values` to `shape`.
    fn refine(&self, values: &[f32], shape: &mut [f32]) {
        let leaf_size = (self.splits_per_tree + 1) * shape.len();
        let trees = self.splits.chunks_exact(self.splits_per_tree);
        // All leaves are selected before the first is added. The leaves are far apart in memory; without
        // comparisons in between, the processor loads several at a time.
        let leaf_offsets: Vec<usize> = trees
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
        for offset in leaf_offsets {
            let leaf = &self.leaves[offset..offset + shape.len()];
            for (value, update) in shape.iter_mut().zip(leaf) {
                *value += update;
            }
        }
    }
}

fn read_column<R: Read>(reader: &mut DlibReader<R>, what: &str) -> Result<Vec<f32>, FaceModelError> {
    let rows = reader.column(what)?;
    (0..rows).map(|_| reader.float(what)).collect()
}

/// Trees of one cascade: (splits per tree, all splits, all leaves).
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
                "tree {tree} of cascade {step} has {count} splits, the first tree {splits_per_tree}"
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

/// Landmark and offset of every cascade's pixels, stored as two lists of lists.
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
        return Err(reader.damaged(format!("{what} is {count}, expected {want}")));
    }
    Ok(())
}
