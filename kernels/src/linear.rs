//! Linear layers, with the additions that follow them in these networks.

use std::sync::Arc;

use candle_core::{D, Result, Tensor, bail};

use crate::cpu::{self, Activation, Isa};
use crate::cuda::{self, Epilogue};
use crate::packed_weights::{ConvLayout, GemmCall, Prologue, Weights};
use crate::profile::{self, Kind, Work};
use crate::{LayerNorm, reference_dtype};

/// The weights of a linear layer (or of a 1×1 convolution), packed once when they are loaded.
#[derive(Debug, Clone)]
pub struct Linear {
    weights: Backend,
    in_features: usize,
    out_features: usize,
    /// Only [`Self::forward_geglu`] is asked of it.
    for_geglu: bool,
}

#[derive(Debug, Clone)]
enum Backend {
    /// For the CPU versions.
    Packed(Arc<Weights>, Isa),
    /// For the CUDA version.
    Product(Arc<cuda::LinearWeights>),
    /// For the reference.
    Plain { weight: Tensor, bias: Option<Tensor> },
}

impl Linear {
    /// `weight`: (out, in); `bias`: (out).
    pub fn new(weight: Tensor, bias: Option<Tensor>) -> Result<Self> {
        Self::for_isa(weight, bias, Isa::current())
    }

    /// The same for a layer of which only [`Self::forward_geglu`] is asked: it is packed in the order in which the fused
    /// version has values and gates in one place, and refuses everything else.
    pub fn for_geglu(weight: Tensor, bias: Option<Tensor>) -> Result<Self> {
        let layer = Self::packed(weight, bias, Isa::current(), cuda::LinearWeights::pack_for_geglu)?;
        Ok(Self { for_geglu: true, ..layer })
    }

    pub(crate) fn for_isa(weight: Tensor, bias: Option<Tensor>, isa: Isa) -> Result<Self> {
        Self::packed(weight, bias, isa, cuda::LinearWeights::pack)
    }

    fn packed(
        weight: Tensor,
        bias: Option<Tensor>,
        isa: Isa,
        pack_for_cuda: impl Fn(&Tensor, Option<&Tensor>) -> Result<Option<cuda::LinearWeights>>,
    ) -> Result<Self> {
        let (out_features, in_features) = weight.dims2()?;
        if let Some(bias) = &bias
            && bias.dims() != [out_features]
        {
            bail!("linear: weight {:?} does not go with bias {:?}", weight.shape(), bias.shape());
        }
        // The emulator runs the CUDA kernels on CPU tensors.
        let packed = match cuda::supports(&weight) {
            true => None,
            false => Weights::pack(&weight, bias.as_ref())?,
        };
        let weights = match packed {
            Some(packed) => Backend::Packed(Arc::new(packed), isa),
            None => match pack_for_cuda(&weight, bias.as_ref())? {
                Some(packed) => Backend::Product(Arc::new(packed)),
                None => Backend::Plain { weight, bias },
            },
        };
        Ok(Self { weights, in_features, out_features, for_geglu: false })
    }

    pub fn in_features(&self) -> usize {
        self.in_features
    }

    pub fn out_features(&self) -> usize {
        self.out_features
    }

    /// `x`: (..., in) → (..., out).
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.ungated(x, Activation::None)
    }

    /// SiLU of [`Self::forward`].
    pub fn forward_silu(&self, x: &Tensor) -> Result<Tensor> {
        self.ungated(x, Activation::Silu)
    }

    /// GELU (erf form) of [`Self::forward`].
    pub fn forward_gelu(&self, x: &Tensor) -> Result<Tensor> {
        self.ungated(x, Activation::Gelu)
    }

    /// `forward(x) + residual`; `residual`: (..., out).
    pub fn forward_add(&self, x: &Tensor, residual: &Tensor) -> Result<Tensor> {
        self.check(x)?;
        self.check_ungated()?;
        let (last, leading) = (residual.dims().last(), residual.rank().saturating_sub(1));
        if last != Some(&self.out_features) || residual.dims()[..leading] != x.dims()[..x.rank() - 1] {
            bail!("linear: input {:?}, residual {:?}", x.shape(), residual.shape());
        }
        let _timer = profile::timer(x, || self.work(x, 2 * self.out_features));
        match &self.weights {
            Backend::Packed(weights, isa) => self.run(x, (weights, *isa), Activation::None, Some(residual)),
            Backend::Product(weights) => weights.apply(x, Some(residual), Activation::None),
            Backend::Plain { weight, bias } if cuda::supports(x) && residual.elem_count() > 0 => {
                let of =
                    Epilogue { bias: bias.as_ref(), residual: Some(residual), activation: Activation::None };
                cuda::epilogue(&linear_reference(x, weight, None)?, of)
            }
            Backend::Plain { weight, bias } => linear_reference(x, weight, bias.as_ref())? + residual,
        }
    }

    /// The first layer of a GEGLU feed-forward: the output's first half times GELU (erf form) of its second.
    /// `x`: (..., in) → (..., out / 2).
    pub fn forward_geglu(&self, x: &Tensor) -> Result<Tensor> {
        if !self.out_features.is_multiple_of(2) {
            bail!("linear: GEGLU needs an even number of outputs, got {}", self.out_features);
        }
        // The two halves must not share a group of packed columns.
        if matches!(self.weights, Backend::Packed(..)) && !self.out_features.is_multiple_of(2 * cpu::NR) {
            return geglu(&self.activated(x, Activation::None)?);
        }
        self.activated(x, Activation::Geglu)
    }

    /// [`Self::forward`] of `norm` of `x`, plus `added` as in [`LayerNorm::forward_plus`].
    pub fn forward_layer_norm(&self, x: &Tensor, norm: &LayerNorm, added: Option<&Tensor>) -> Result<Tensor> {
        self.check_ungated()?;
        if let Some(y) = self.fused_layer_norm(x, norm, added, Activation::None)? {
            return Ok(y);
        }
        match added {
            Some(added) => self.forward(&norm.forward_plus(x, added)?),
            None => self.forward(&norm.forward(x)?),
        }
    }

    /// [`Self::forward_geglu`] of `norm` of `x`.
    pub fn forward_layer_norm_geglu(&self, x: &Tensor, norm: &LayerNorm) -> Result<Tensor> {
        if self.out_features.is_multiple_of(2 * cpu::NR)
            && let Some(y) = self.fused_layer_norm(x, norm, None, Activation::Geglu)?
        {
            return Ok(y);
        }
        self.forward_geglu(&norm.forward(x)?)
    }

    /// The norm as a part of the product, where there is such a version.
    fn fused_layer_norm(
        &self,
        x: &Tensor,
        norm: &LayerNorm,
        added: Option<&Tensor>,
        activation: Activation,
    ) -> Result<Option<Tensor>> {
        let Backend::Packed(weights, isa) = &self.weights else { return Ok(None) };
        self.check(x)?;
        if x.elem_count() == 0 || !weights.is_for(x) || !weights.maps_rows(*isa) {
            return Ok(None);
        }
        let added = added.map(Tensor::contiguous).transpose()?;
        let prologue = Prologue::LayerNorm(norm.prologue(x, added.as_ref())?);
        let columns = self.out_features / if activation == Activation::Geglu { 2 } else { 1 };
        let _timer = profile::timer(x, || self.work(x, columns));
        self.apply(x, (weights, *isa), activation, (prologue, None)).map(Some)
    }

    /// The CUDA version.
    fn cuda_gemm(&self, weights: &cuda::LinearWeights, x: &Tensor, activation: Activation) -> Result<Tensor> {
        if activation == Activation::None
            && x.elem_count() > 0
            && let Some(matrix) = weights.plain_matrix()?
        {
            return linear_reference(x, &matrix, None);
        }
        weights.apply(x, None, activation)
    }

    fn ungated(&self, x: &Tensor, activation: Activation) -> Result<Tensor> {
        self.check_ungated()?;
        self.activated(x, activation)
    }

    fn activated(&self, x: &Tensor, activation: Activation) -> Result<Tensor> {
        self.check(x)?;
        let columns = self.out_features / if activation == Activation::Geglu { 2 } else { 1 };
        let _timer = profile::timer(x, || self.work(x, columns));
        let (weight, bias) = match &self.weights {
            Backend::Packed(weights, isa) => return self.run(x, (weights, *isa), activation, None),
            Backend::Product(weights) => return self.cuda_gemm(weights, x, activation),
            Backend::Plain { weight, bias } => (weight, bias.as_ref()),
        };
        if cuda::supports(x) && x.elem_count() > 0 {
            let y = linear_reference(x, weight, None)?;
            return cuda::epilogue(&y, Epilogue { bias, residual: None, activation });
        }
        let y = linear_reference(x, weight, bias)?;
        match activation {
            Activation::None => Ok(y),
            Activation::Silu => crate::silu(&y),
            Activation::Gelu => crate::gelu(&y),
            Activation::Geglu => geglu(&y),
        }
    }

    /// `columns`: as many as are written, and read of a residual.
    fn work(&self, x: &Tensor, columns: usize) -> Work {
        let Self { in_features, out_features, .. } = self;
        let rows = x.elem_count() / in_features.max(&1);
        let elements = x.elem_count() + in_features * out_features + rows * columns;
        Work {
            kind: Kind::Linear,
            shape: format!("{rows}×{in_features}→{out_features}"),
            flop: (2 * rows * in_features * out_features) as f64,
            bytes: (elements * x.dtype().size_in_bytes()) as f64,
        }
    }

    fn check(&self, x: &Tensor) -> Result<()> {
        if x.dims().last() != Some(&self.in_features) {
            bail!("linear: input {:?}, weight ({}, {})", x.shape(), self.out_features, self.in_features);
        }
        Ok(())
    }

    /// Whether the products are of tiles, for which a joint product is faster than several.
    pub(crate) fn uses_tiles(&self) -> bool {
        matches!(&self.weights, Backend::Packed(weights, isa) if weights.maps_rows(*isa))
    }

    fn check_ungated(&self) -> Result<()> {
        if self.for_geglu {
            bail!("linear: weight ({}, {}) is for GEGLU alone", self.out_features, self.in_features);
        }
        Ok(())
    }

    /// The CPU version.
    fn run(
        &self,
        x: &Tensor,
        (weights, isa): (&Weights, Isa),
        activation: Activation,
        residual: Option<&Tensor>,
    ) -> Result<Tensor> {
        self.apply(x, (weights, isa), activation, (Prologue::None, residual))
    }

    fn apply(
        &self,
        x: &Tensor,
        (weights, isa): (&Weights, Isa),
        activation: Activation,
        (prologue, residual): (Prologue, Option<&Tensor>),
    ) -> Result<Tensor> {
        let mut dims = x.dims().to_vec();
        if let Some(last) = dims.last_mut() {
            *last = self.out_features / if activation == Activation::Geglu { 2 } else { 1 };
        }
        let call =
            GemmCall { name: "linear", isa, layout: ConvLayout::Pointwise, activation, prologue, residual };
        weights.apply(x, &dims, &call)
    }
}

/// (..., 2 × n) → (..., n).
fn geglu(both: &Tensor) -> Result<Tensor> {
    if cuda::supports(both) && both.elem_count() > 0 {
        return cuda::epilogue(both, Epilogue::only(Activation::Geglu));
    }
    let half = both.dim(D::Minus1)? / 2;
    both.narrow(D::Minus1, 0, half)? * crate::gelu(&both.narrow(D::Minus1, half, half)?)?
}

/// The definition, in plain candle operations.
pub fn linear_reference(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let (out, inner) = weight.dims2()?;
    let rows: usize = x.dims()[..x.rank().saturating_sub(1)].iter().product();
    let dtype = reference_dtype(x);
    let y = x.reshape((rows, inner))?.to_dtype(dtype)?.matmul(&weight.to_dtype(dtype)?.t()?)?;
    let y = match bias {
        Some(bias) => y.broadcast_add(&bias.to_dtype(dtype)?)?,
        None => y,
    };
    let mut dims = x.dims().to_vec();
    if let Some(last) = dims.last_mut() {
        *last = out;
    }
    y.reshape(dims)?.to_dtype(x.dtype())
}
