//! An ONNX network with one image input, run by the crate `rten`.

use std::path::{Path, PathBuf};

use candle_core::{Result, bail};
use rten::{Model, Value, ValueView};

use super::error::FaceModelError;
use super::onnx_wire;

pub(super) struct OnnxNetwork {
    model: Model,
    path: PathBuf,
}

impl OnnxNetwork {
    /// Loads a file; the network must have one input and `outputs` outputs.
    pub fn open(path: &Path, outputs: usize) -> std::result::Result<Self, FaceModelError> {
        let unexpected = |what: String| FaceModelError::Unexpected { path: path.to_path_buf(), what };
        let read = |source| FaceModelError::Read { path: path.to_path_buf(), source };
        // Reading a pipe could block forever.
        if !std::fs::metadata(path).map_err(read)?.is_file() {
            return Err(unexpected("it is not a file".into()));
        }
        let bytes = std::fs::read(path).map_err(read)?;
        let unusable = |e: &dyn std::fmt::Display| unexpected(format!("not a usable ONNX file: {e}"));
        onnx_wire::check(&bytes).map_err(|e| unusable(&e))?;
        let model = Model::load(bytes).map_err(|e| unusable(&e))?;
        let (ins, outs) = (model.input_ids().len(), model.output_ids().len());
        if ins != 1 || outs != outputs {
            return Err(unexpected(format!(
                "it has {ins} inputs and {outs} outputs, expected 1 and {outputs}"
            )));
        }
        Ok(Self { model, path: path.to_path_buf() })
    }

    /// Runs the network on one picture. `planes`: (3, side, side). Returns the outputs in the order of the
    /// file; `lengths` are their expected numbers of elements.
    pub fn run(&self, planes: &[f32], side: usize, lengths: &[usize]) -> Result<Vec<Vec<f32>>> {
        let failed = |e: &dyn std::fmt::Display| {
            candle_core::Error::Msg(format!("cannot run face model `{}`: {e}", self.path.display()))
        };
        let input = ValueView::from_shape([1, 3, side, side], planes).map_err(|e| failed(&e))?;
        let inputs = vec![(self.model.input_ids()[0], input.into())];
        let outputs = self.model.run(inputs, self.model.output_ids(), None).map_err(|e| failed(&e))?;
        outputs
            .into_iter()
            .zip(lengths)
            .enumerate()
            .map(|(index, (output, &length))| {
                let Value::FloatTensor(tensor) = output else {
                    bail!("output {index} of face model `{}` is not a float tensor", self.path.display());
                };
                let values = tensor.into_data();
                if values.len() != length {
                    bail!(
                        "output {index} of face model `{}` has {} elements, expected {length}",
                        self.path.display(),
                        values.len()
                    );
                }
                Ok(values)
            })
            .collect()
    }
}
