//! Launchers of `epilogue.cu`: bias, residual and activation after a matrix product, and activations alone.

use candle_core::{Result, Tensor, bail};

use super::launch::Launch;
use super::rows::{self, RowShape};
use crate::cpu::Activation;

const THREADS: usize = 256;

/// Number of an activation in the kernels' parameters (`ACTIVATION_*` in `common.cuh`).
pub(super) const fn activation_number(activation: Activation) -> usize {
    match activation {
        Activation::None => 0,
        Activation::Silu => 1,
        Activation::Gelu => 2,
        Activation::Geglu => 3,
    }
}

/// Epilogue of a matrix product.
#[derive(Debug, Clone, Copy)]
pub struct Epilogue<'a> {
    /// (columns).
    pub bias: Option<&'a Tensor>,
    /// As many columns as the output; each of its rows is added to the same number of consecutive output rows.
    pub residual: Option<&'a Tensor>,
    pub activation: Activation,
}

impl Epilogue<'_> {
    /// Epilogue without bias and residual.
    pub const fn only(activation: Activation) -> Self {
        Self { bias: None, residual: None, activation }
    }
}

/// activation(`x` + bias + residual). `x`: (..., columns), not empty. GEGLU does not support a residual.
pub fn epilogue(x: &Tensor, of: Epilogue) -> Result<Tensor> {
    if of.bias.is_none() && of.residual.is_none() && of.activation == Activation::None {
        return Ok(x.clone());
    }
    if of.activation == Activation::Geglu && of.residual.is_none() {
        return geglu(x, of.bias);
    }
    let x = x.contiguous()?;
    let shape = RowShape::of(&x);
    let RowShape { rows, columns } = shape;
    let bias = of.bias.map(|bias| bias.to_dtype(x.dtype())?.contiguous()).transpose()?;
    let residual = of.residual.map(|residual| residual.to_dtype(x.dtype())?.contiguous()).transpose()?;
    let residual_rows = residual.as_ref().map_or(rows, |residual| residual.elem_count() / columns);
    let fits = bias.as_ref().is_none_or(|bias| bias.elem_count() == columns)
        && residual.as_ref().is_none_or(|residual| residual.elem_count() == residual_rows * columns)
        && residual_rows > 0
        && rows.is_multiple_of(residual_rows)
        && of.activation != Activation::Geglu;
    if !fits {
        bail!("epilogue: input {:?}, bias {:?}, residual {:?}", x.shape(), of.bias, of.residual);
    }
    let launch = Launch::with_dtype_of("epilogue", "epilogue", &x)
        .dims(rows::launch_dims(x.dtype(), shape, THREADS))
        .tensor(&x)
        .optional(bias.as_ref())
        .optional(residual.as_ref())
        .output()
        .ints(&[rows, columns, rows / residual_rows, activation_number(of.activation)]);
    // SAFETY: the threads cover all rows and columns, and the sizes of the operands were checked above.
    unsafe { launch.run(x.shape(), x.dtype(), x.device()) }
}

/// GEGLU: the first half of the columns of `x` + bias, times GELU of the second half.
/// `x`: (..., 2 × columns), not empty → (..., columns).
fn geglu(x: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let x = x.contiguous()?;
    let bias = bias.map(|bias| bias.to_dtype(x.dtype())?.contiguous()).transpose()?;
    let RowShape { rows, columns: in_columns } = RowShape::of(&x);
    if !in_columns.is_multiple_of(2) || bias.as_ref().is_some_and(|bias| bias.elem_count() != in_columns) {
        bail!("geglu: input {:?}, bias {bias:?}", x.shape());
    }
    let columns = in_columns / 2;
    let mut dims = x.dims().to_vec();
    if let Some(last) = dims.last_mut() {
        *last = columns;
    }
    let launch = Launch::with_dtype_of("epilogue", "geglu", &x)
        .dims(rows::launch_dims(x.dtype(), RowShape { rows, columns }, THREADS))
        .tensor(&x)
        .optional(bias.as_ref())
        .output()
        .ints(&[rows, columns]);
    // SAFETY: the threads cover all rows and columns of the output.
    unsafe { launch.run(dims, x.dtype(), x.device()) }
}
