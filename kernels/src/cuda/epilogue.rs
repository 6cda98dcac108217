//! Launchers of `epilogue.cu`: bias, residual and activation after a matrix product, and activations alone.

use candle_core::{Result, Tensor, bail};

use super::launch::Launch;
use super::rows::{self, RowShape};

const THREADS: usize = 256;

/// Applied last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    Nothing,
    Silu,
    Gelu,
    /// The first half of the columns times GELU of the second.
    Geglu,
}

impl Then {
    /// What the kernels call it.
    pub(super) const fn number(self) -> usize {
        match self {
            Then::Nothing => 0,
            Then::Silu => 1,
            Then::Gelu => 2,
            Then::Geglu => 3,
        }
    }
}

/// What is done to sums.
#[derive(Debug, Clone, Copy)]
pub struct Epilogue<'a> {
    /// (columns).
    pub bias: Option<&'a Tensor>,
    /// As wide as the output; each of its rows goes to equally many consecutive rows of the output.
    pub residual: Option<&'a Tensor>,
    pub then: Then,
}

impl Epilogue<'_> {
    /// An activation alone.
    pub const fn only(then: Then) -> Self {
        Self { bias: None, residual: None, then }
    }
}

/// then(`x` + bias + residual); `x`: (..., columns), not empty. GEGLU takes no residual.
pub fn epilogue(x: &Tensor, of: Epilogue) -> Result<Tensor> {
    if of.bias.is_none() && of.residual.is_none() && of.then == Then::Nothing {
        return Ok(x.clone());
    }
    if of.then == Then::Geglu && of.residual.is_none() {
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
        && of.then != Then::Geglu;
    if !fits {
        bail!("epilogue: input {:?}, bias {:?}, residual {:?}", x.shape(), of.bias, of.residual);
    }
    let launch = Launch::with_dtype_of("epilogue", "epilogue", &x)
        .dims(rows::launch_dims(x.dtype(), shape, THREADS))
        .tensor(&x)
        .optional(bias.as_ref())
        .optional(residual.as_ref())
        .output()
        .ints(&[rows, columns, rows / residual_rows, of.then.number()]);
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
