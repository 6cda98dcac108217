//! Operations on rows for which an instruction set can have its own versions.

use std::mem::MaybeUninit;

use super::Activation;

/// Versions of the row operations for an element type and an instruction set, chosen by
/// [`super::Element::row_kernels`]. The functions of the same names in `flash.rs`, `epilogue.rs`,
/// `group_norm.rs` and `layer_norm.rs` define the results and contain the portable versions.
pub trait RowKernels<T>: Sync {
    /// One step of the online softmax of a row. `scores`: of the step's `kv_len` keys, unscaled; `state`:
    /// (row_max, row_sum) of the keys so far. Writes the unnormalised probabilities to `probs`, followed by
    /// zeros, and returns the factor by which earlier sums must be rescaled.
    fn soften(
        &self,
        scores: &mut [f32],
        kv_len: usize,
        scale: f32,
        state: &mut (f32, f32),
        probs: &mut [T],
    ) -> f32;

    /// `out` = `sums` · `factor`.
    fn store(&self, sums: &[f32], factor: f32, out: &mut [MaybeUninit<T>]);

    /// `out` = activation(`sums` + `bias` + `residual`); an empty `residual` is none.
    fn finish(
        &self,
        sums: &[f32],
        bias: &[f32],
        residual: &[T],
        activation: Activation,
        out: &mut [MaybeUninit<T>],
    );

    /// `out` = values · gelu(gates); both are given as [sums, bias].
    fn finish_geglu(&self, values: [&[f32]; 2], gates: [&[f32]; 2], out: &mut [MaybeUninit<T>]);

    /// Adds `x` − origin of every row of `x`, and its square, to the `sums` and `squares` of every channel.
    fn add_up(&self, x: &[T], origins: &[f32], sums: &mut [f32], squares: &mut [f32]);

    /// `out` = (`x` − origin) · scale + shift, then SiLU if `then_silu`. `coefficients`: origin, scale and
    /// shift of every channel.
    fn apply(&self, x: &[T], coefficients: [&[f32]; 3], then_silu: bool, out: &mut [MaybeUninit<T>]);

    /// Layer norm of the row `x`, plus `added` if it is not empty. `affine`: weight and bias of every
    /// channel.
    fn layer_norm(&self, x: &[T], affine: [&[f32]; 2], added: &[T], eps: f32, out: &mut [MaybeUninit<T>]);
}
