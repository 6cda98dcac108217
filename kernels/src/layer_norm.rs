//! Layer norm over the channels.

use candle_core::{D, DType, Result, Tensor, bail};

/// The weights of a layer norm.
#[derive(Debug, Clone)]
pub struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    eps: f64,
}

impl LayerNorm {
    /// `weight`, `bias`: (channels).
    pub fn new(weight: Tensor, bias: Tensor, eps: f64) -> Result<Self> {
        if weight.dims1()? != bias.dims1()? {
            bail!("layer norm: weight {:?}, bias {:?}", weight.shape(), bias.shape());
        }
        Ok(Self { weight, bias, eps })
    }

    /// `x`: (..., channels) → the same shape. Statistics in f32.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        if x.dim(D::Minus1)? != self.weight.dims1()? {
            bail!(
                "layer norm: input {:?}, weight {:?}",
                x.shape(),
                self.weight.shape()
            );
        }
        layer_norm_reference(x, &self.weight, &self.bias, self.eps)
    }
}

/// The definition, in plain candle operations.
pub fn layer_norm_reference(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    let xs = x.to_dtype(DType::F32)?;
    let xs = xs.broadcast_sub(&xs.mean_keepdim(D::Minus1)?)?;
    let variance = xs.sqr()?.mean_keepdim(D::Minus1)?;
    let xs = xs.broadcast_div(&(variance + eps)?.sqrt()?)?;
    let xs = xs
        .broadcast_mul(&weight.to_dtype(DType::F32)?)?
        .broadcast_add(&bias.to_dtype(DType::F32)?)?;
    xs.to_dtype(x.dtype())
}
