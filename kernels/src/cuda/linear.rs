//! Which product computes a linear layer of f16 or bf16.

use std::sync::OnceLock;

use candle_core::{Result, Tensor};

use super::epilogue::{Epilogue, Then, epilogue};
use super::product::Weights;
use crate::linear::linear_reference;

/// The weights of a linear layer.
#[derive(Debug, Clone)]
pub struct LinearWeights {
    plain: Weights,
    /// Made when it is first asked for; `None` where the kernel cannot.
    for_geglu: OnceLock<Option<Weights>>,
}

impl LinearWeights {
    /// `weight`: (out, in); `bias`: (out). `None` where there is no kernel for it.
    pub fn pack(weight: &Tensor, bias: Option<&Tensor>) -> Result<Option<Self>> {
        let weights = Weights::pack(weight, bias)?;
        Ok(weights.map(|plain| Self { plain, for_geglu: OnceLock::new() }))
    }

    /// `x`: (..., in) → (..., out), for GEGLU (..., out / 2). `residual`: as the result; not with GEGLU.
    pub fn apply(&self, x: &Tensor, residual: Option<&Tensor>, then: Then) -> Result<Tensor> {
        if x.elem_count() == 0 {
            let mut dims = x.dims().to_vec();
            if let Some(last) = dims.last_mut() {
                *last = self.plain.columns()? / if then == Then::Geglu { 2 } else { 1 };
            }
            return Tensor::zeros(dims, x.dtype(), x.device());
        }
        // cuBLAS has the faster product, but leaves what follows to a pass over the result.
        if let (Then::Nothing, None, Some(matrix)) = (then, residual, self.plain.matrix()?) {
            return linear_reference(x, &matrix, None);
        }
        if then != Then::Geglu {
            return self.plain.apply_to_rows(x, residual, then);
        }
        if self.for_geglu.get().is_none() {
            // Another thread may have been faster, with the same.
            let _ = self.for_geglu.set(self.plain.for_geglu()?);
        }
        match self.for_geglu.get() {
            Some(Some(weights)) => weights.apply_to_rows(x, None, then),
            _ => epilogue(&self.plain.apply_to_rows(x, None, Then::Nothing)?, Epilogue::only(then)),
        }
    }
}
