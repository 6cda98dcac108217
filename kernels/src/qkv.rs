//! Projections of a self-attention: queries, keys and values of the same input.

use candle_core::{D, Result, Tensor, bail};

use crate::cpu::Isa;
use crate::{LayerNorm, Linear};

/// The three linear layers without bias; one product where that is faster.
#[derive(Debug, Clone)]
pub struct QkvLinear {
    layers: Layers,
}

#[derive(Debug, Clone)]
enum Layers {
    /// (3 × out, in): the input is read once.
    Joint(Linear),
    Separate(Box<[Linear; 3]>),
}

/// Queries, keys and values, (..., channels) each.
#[derive(Debug, Clone)]
pub enum Qkv {
    /// Side by side: (..., 3 × channels).
    Joint(Tensor),
    Separate([Tensor; 3]),
}

impl QkvLinear {
    /// `weights`: of queries, keys and values, (out, in) each.
    pub fn new(weights: [Tensor; 3]) -> Result<Self> {
        Self::for_isa(weights, Isa::current())
    }

    pub(crate) fn for_isa(weights: [Tensor; 3], isa: Isa) -> Result<Self> {
        let [q, k, v] = &weights;
        if q.dims2()? != k.dims2()? || q.dims2()? != v.dims2()? {
            bail!("qkv: weights {:?}, {:?} and {:?}", q.shape(), k.shape(), v.shape());
        }
        let first = Linear::for_isa(q.clone(), None, isa)?;
        let layers = match first.uses_tiles() {
            true => Layers::Joint(Linear::for_isa(Tensor::cat(&weights, 0)?, None, isa)?),
            false => {
                let [k, v] = [k, v].map(|weight| Linear::for_isa(weight.clone(), None, isa));
                Layers::Separate(Box::new([first, k?, v?]))
            }
        };
        Ok(Self { layers })
    }

    /// The projections of `norm` of `x`, plus `added` as in [`LayerNorm::forward_plus`]. `x`: (..., in).
    pub fn forward_layer_norm(&self, x: &Tensor, norm: &LayerNorm, added: Option<&Tensor>) -> Result<Qkv> {
        match &self.layers {
            Layers::Joint(layer) => Ok(Qkv::Joint(layer.forward_layer_norm(x, norm, added)?)),
            Layers::Separate(layers) => {
                let h = match added {
                    Some(added) => norm.forward_plus(x, added)?,
                    None => norm.forward(x)?,
                };
                let [q, k, v] = &**layers;
                Ok(Qkv::Separate([q.forward(&h)?, k.forward(&h)?, v.forward(&h)?]))
            }
        }
    }
}

impl Qkv {
    /// Three tensors; copies where they are side by side.
    pub fn split(&self) -> Result<[Tensor; 3]> {
        match self {
            Qkv::Separate(parts) => Ok(parts.clone()),
            Qkv::Joint(joint) => {
                let channels = joint.dim(D::Minus1)? / 3;
                let part = |i: usize| joint.narrow(D::Minus1, i * channels, channels)?.contiguous();
                Ok([part(0)?, part(1)?, part(2)?])
            }
        }
    }
}

/// The definition, in plain candle operations.
pub fn qkv_reference(
    x: &Tensor,
    weights: &[Tensor; 3],
    norm: &LayerNorm,
    added: Option<&Tensor>,
) -> Result<[Tensor; 3]> {
    let h = match added {
        Some(added) => norm.forward_plus(x, added)?,
        None => norm.forward(x)?,
    };
    let [q, k, v] = weights;
    let product = |weight| crate::linear::linear_reference(&h, weight, None);
    Ok([product(q)?, product(k)?, product(v)?])
}
