//! Which product computes a linear layer of f16 or bf16.

use candle_core::{Result, Tensor};

use super::epilogue::{Epilogue, Then, epilogue};
use super::product::Weights;

/// The weights of a linear layer.
#[derive(Debug, Clone)]
pub struct LinearWeights(Weights);

impl LinearWeights {
    /// `weight`: (out, in); `bias`: (out). `None` where there is no kernel for it.
    pub fn pack(weight: &Tensor, bias: Option<&Tensor>) -> Result<Option<Self>> {
        Ok(Weights::pack(weight, bias)?.map(Self))
    }

    /// The same for a layer that is only applied with [`Then::Geglu`].
    pub fn pack_for_geglu(weight: &Tensor, bias: Option<&Tensor>) -> Result<Option<Self>> {
        let Some(plain) = Weights::pack(weight, bias)? else { return Ok(None) };
        Ok(Some(Self(plain.for_geglu()?.unwrap_or(plain))))
    }

    /// The weights as an (out, in) matrix, if the layer has no bias: cuBLAS multiplies with it faster than the kernels do,
    /// but an epilogue would need a second pass over its result.
    pub fn matrix(&self) -> Result<Option<Tensor>> {
        self.0.matrix()
    }

    /// `x`: (..., in) → (..., out), for GEGLU (..., out / 2). `residual`: as the result; not with GEGLU.
    pub fn apply(&self, x: &Tensor, residual: Option<&Tensor>, then: Then) -> Result<Tensor> {
        let Self(weights) = self;
        if x.elem_count() == 0 {
            let mut dims = x.dims().to_vec();
            if let Some(last) = dims.last_mut() {
                *last = weights.columns()? / if then == Then::Geglu { 2 } else { 1 };
            }
            return Tensor::zeros(dims, x.dtype(), x.device());
        }
        // Columns that lie in the order in which they came are not in the same tile as their gates.
        if then == Then::Geglu && !weights.is_for_geglu() {
            return epilogue(&weights.apply_to_rows(x, None, Then::Nothing)?, Epilogue::only(then));
        }
        weights.apply_to_rows(x, residual, then)
    }
}
