//! Linear layers in f16 and bf16: the choice between cuBLAS and the fused implicit GEMM kernel.

use candle_core::{Result, Tensor};

use super::epilogue::{Epilogue, epilogue};
use super::implicit_gemm::GemmWeights;
use crate::cpu::Activation;

/// Packed weights of a linear layer.
#[derive(Debug, Clone)]
pub struct LinearWeights(GemmWeights);

impl LinearWeights {
    /// Packs `weight`, (out, in), and `bias`, (out). `None` if no kernel supports their device or dtype.
    pub fn pack(weight: &Tensor, bias: Option<&Tensor>) -> Result<Option<Self>> {
        Ok(GemmWeights::pack(weight, bias)?.map(Self))
    }

    /// Packs the weights of a layer that is only applied with [`Activation::Geglu`].
    pub fn pack_for_geglu(weight: &Tensor, bias: Option<&Tensor>) -> Result<Option<Self>> {
        let Some(plain) = GemmWeights::pack(weight, bias)? else { return Ok(None) };
        Ok(Some(Self(plain.for_geglu()?.unwrap_or(plain))))
    }

    /// The weights as an (out, in) matrix, if the layer has no bias: cuBLAS has the faster GEMM, but needs a second pass
    /// over the output for an epilogue.
    pub fn plain_matrix(&self) -> Result<Option<Tensor>> {
        self.0.plain_matrix()
    }

    /// Applies the layer. `x`: (..., in) → (..., out), for GEGLU (..., out / 2). `residual`: the shape of the
    /// output; not supported with GEGLU.
    pub fn apply(&self, x: &Tensor, residual: Option<&Tensor>, activation: Activation) -> Result<Tensor> {
        let Self(weights) = self;
        if x.elem_count() == 0 {
            let mut dims = x.dims().to_vec();
            if let Some(last) = dims.last_mut() {
                *last = weights.columns()? / if activation == Activation::Geglu { 2 } else { 1 };
            }
            return Tensor::zeros(dims, x.dtype(), x.device());
        }
        // In weights not packed for GEGLU, a column of values and its gate are in different tiles, so the
        // kernel's epilogue cannot combine them.
        if activation == Activation::Geglu && !weights.is_for_geglu() {
            return epilogue(&weights.apply_linear(x, None, Activation::None)?, Epilogue::only(activation));
        }
        weights.apply_linear(x, residual, activation)
    }
}
