//! Activations that stand alone; those that follow a norm or a linear layer live with them.

use candle_core::{Result, Tensor};

/// x · sigmoid(x).
pub fn silu(x: &Tensor) -> Result<Tensor> {
    x.silu()
}

/// GELU in its erf form, the one that the original uses everywhere (candle's `gelu` is the tanh form).
pub fn gelu(x: &Tensor) -> Result<Tensor> {
    x.gelu_erf()
}
