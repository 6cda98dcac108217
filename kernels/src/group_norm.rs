//! Group norm, alone and followed by SiLU.

use candle_core::{D, DType, Result, Tensor, bail};

/// The weights of a group norm.
#[derive(Debug, Clone)]
pub struct GroupNorm {
    weight: Tensor,
    bias: Tensor,
    groups: usize,
    eps: f64,
}

impl GroupNorm {
    /// `weight`, `bias`: (channels).
    pub fn new(weight: Tensor, bias: Tensor, groups: usize, eps: f64) -> Result<Self> {
        let channels = weight.dims1()?;
        if bias.dims() != [channels] || groups == 0 || channels % groups != 0 {
            bail!(
                "group norm: weight {:?}, bias {:?}, {groups} groups",
                weight.shape(),
                bias.shape()
            );
        }
        Ok(Self {
            weight,
            bias,
            groups,
            eps,
        })
    }

    /// `x`: (batch, ..., channels). The statistics of a group run over everything but the batch, so what
    /// is normalised together is decided by the shape: (batch, frames × height × width, channels) for a
    /// norm over frames, (batch × frames, height × width, channels) for one per frame. In f32.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.check(x)?;
        group_norm_reference(x, &self.weight, &self.bias, self.groups, self.eps)
    }

    /// [`Self::forward`], then SiLU.
    pub fn forward_silu(&self, x: &Tensor) -> Result<Tensor> {
        self.forward(x)?.silu()
    }

    fn check(&self, x: &Tensor) -> Result<()> {
        if x.rank() < 2 || x.dim(D::Minus1)? != self.weight.dims1()? {
            bail!(
                "group norm: input {:?}, weight {:?}",
                x.shape(),
                self.weight.shape()
            );
        }
        Ok(())
    }
}

/// The definition, in plain candle operations.
pub fn group_norm_reference(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    groups: usize,
    eps: f64,
) -> Result<Tensor> {
    let (batch, channels) = (x.dim(0)?, x.dim(D::Minus1)?);
    let positions = x.elem_count() / (batch * channels);
    let xs = x
        .to_dtype(DType::F32)?
        .reshape((batch, positions, groups, channels / groups))?;
    let xs = xs
        .transpose(1, 2)?
        .reshape((batch, groups, positions * (channels / groups)))?;
    let xs = xs.broadcast_sub(&xs.mean_keepdim(D::Minus1)?)?;
    let variance = xs.sqr()?.mean_keepdim(D::Minus1)?;
    let xs = xs.broadcast_div(&(variance + eps)?.sqrt()?)?;
    let xs = xs
        .reshape((batch, groups, positions, channels / groups))?
        .transpose(1, 2)?
        .reshape(x.dims())?;
    let xs = xs
        .broadcast_mul(&weight.to_dtype(DType::F32)?)?
        .broadcast_add(&bias.to_dtype(DType::F32)?)?;
    xs.to_dtype(x.dtype())
}
