//! Linear layers, with the additions that follow them in these networks.

use candle_core::{Result, Tensor, bail};

/// The weights of a linear layer (or of a 1×1 convolution), packed once when they are loaded.
#[derive(Debug, Clone)]
pub struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Linear {
    /// `weight`: (out, in); `bias`: (out).
    pub fn new(weight: Tensor, bias: Option<Tensor>) -> Result<Self> {
        let (out, _) = weight.dims2()?;
        if let Some(bias) = &bias
            && bias.dims() != [out]
        {
            bail!(
                "linear: weight {:?} does not go with bias {:?}",
                weight.shape(),
                bias.shape()
            );
        }
        Ok(Self { weight, bias })
    }

    pub fn in_features(&self) -> usize {
        self.weight.dims()[1]
    }

    pub fn out_features(&self) -> usize {
        self.weight.dims()[0]
    }

    /// `x`: (..., in) → (..., out).
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.check(x)?;
        linear_reference(x, &self.weight, self.bias.as_ref())
    }

    /// `forward(x) + residual`; `residual`: (..., out).
    pub fn forward_add(&self, x: &Tensor, residual: &Tensor) -> Result<Tensor> {
        self.forward(x)? + residual
    }

    /// The first layer of a GEGLU feed-forward: the output's first half times GELU (erf form) of its second.
    /// `x`: (..., in) → (..., out / 2).
    pub fn forward_geglu(&self, x: &Tensor) -> Result<Tensor> {
        if self.out_features() % 2 != 0 {
            bail!(
                "linear: GEGLU needs an even number of outputs, got {}",
                self.out_features()
            );
        }
        let both = self.forward(x)?;
        let half = self.out_features() / 2;
        let last = both.rank() - 1;
        both.narrow(last, 0, half)? * both.narrow(last, half, half)?.gelu_erf()?
    }

    fn check(&self, x: &Tensor) -> Result<()> {
        if x.dims().last() != Some(&self.in_features()) {
            bail!("linear: input {:?}, weight {:?}", x.shape(), self.weight.shape());
        }
        Ok(())
    }
}

/// The definition, in plain candle operations.
pub fn linear_reference(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let (out, inner) = weight.dims2()?;
    let rows = x.elem_count() / inner;
    let y = x.reshape((rows, inner))?.matmul(&weight.t()?)?;
    let y = match bias {
        Some(bias) => y.broadcast_add(bias)?,
        None => y,
    };
    let mut dims = x.dims().to_vec();
    if let Some(last) = dims.last_mut() {
        *last = out;
    }
    y.reshape(dims)
}
