//! Classifier-free guidance (Ho and Salimans, 2022): the setting, and the activations that its two halves
//! share.

use candle_core::{Result, Tensor, bail};

/// Whether the noise prediction is guided towards the audio.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Guidance {
    /// One prediction per step, with the audio.
    Off,
    /// Two predictions per step, without and with the audio, extrapolated by `scale` > 1.
    ClassifierFree { scale: f64 },
}

impl Guidance {
    /// Whether every step computes an unconditional prediction as well, which doubles the UNet's batch.
    pub fn is_enabled(self) -> bool {
        matches!(self, Self::ClassifierFree { .. })
    }

    /// The audio of the UNet's batch: `audio` (cond), preceded by zeros (uncond) if guidance is enabled.
    /// `audio`: (batch, ...) → (batch or 2 · batch, ...).
    pub(crate) fn audio_batch(self, audio: Tensor) -> Result<Tensor> {
        match self {
            Self::Off => Ok(audio),
            Self::ClassifierFree { .. } => Tensor::cat(&[&audio.zeros_like()?, &audio], 0),
        }
    }

    /// The guided noise prediction ε = ε_uncond + scale · (ε_cond − ε_uncond).
    /// `predicted`: (2 · batch, ...), the unconditional half first, or (batch, ...) if guidance is off →
    /// (batch, ...).
    pub fn combine(self, predicted: Tensor) -> Result<Tensor> {
        let Self::ClassifierFree { scale } = self else {
            return Ok(predicted);
        };
        let images = predicted.dim(0)?;
        if images % 2 != 0 {
            bail!("guidance: a batch of {images} has no unconditional and conditional half");
        }
        let (uncond, cond) =
            (predicted.narrow(0, 0, images / 2)?, predicted.narrow(0, images / 2, images / 2)?);
        &uncond + ((cond - &uncond)? * scale)?
    }
}

/// Activations of one pass. With guidance, both halves start from the same latents and differ only in the
/// audio, so one copy serves both up to the first cross-attention. [`Self::expand`] stands where the halves
/// part.
#[derive(Debug, Clone)]
pub(crate) struct GuidedBatch {
    x: Tensor,
    /// Copies of `x` in the expanded batch: 2 while the halves of guidance share `x`, otherwise 1.
    copies: usize,
}

impl GuidedBatch {
    /// One copy for both halves if guidance is enabled. `x`: (batch, ...).
    pub fn shared(x: Tensor, guidance: Guidance) -> Self {
        Self { x, copies: if guidance.is_enabled() { 2 } else { 1 } }
    }

    /// The whole batch: [uncond, cond] with guidance.
    pub fn expanded(x: Tensor) -> Self {
        Self { x, copies: 1 }
    }

    /// The activations as they are stored, shared or expanded.
    pub fn tensor(&self) -> &Tensor {
        &self.x
    }

    /// Length of the first dimension after [`Self::expand`].
    pub fn expanded_len(&self) -> Result<usize> {
        Ok(self.x.dim(0)? * self.copies)
    }

    /// [uncond, cond], as separate copies; the batch itself if the halves are not shared.
    pub fn expand(&self) -> Result<Tensor> {
        match self.copies {
            1 => Ok(self.x.clone()),
            copies => Tensor::cat(&vec![&self.x; copies], 0),
        }
    }

    /// Applies `f`, which treats every image of the batch alike, to the stored activations.
    pub fn map(&self, f: impl FnOnce(&Tensor) -> Result<Tensor>) -> Result<Self> {
        Ok(Self { x: f(&self.x)?, copies: self.copies })
    }

    /// Applies `f` to the activations of both batches. If only one of them is expanded, the other is expanded
    /// first.
    pub fn zip(&self, other: &Self, f: impl FnOnce(&Tensor, &Tensor) -> Result<Tensor>) -> Result<Self> {
        if self.copies == other.copies {
            return Ok(Self { x: f(&self.x, &other.x)?, copies: self.copies });
        }
        Ok(Self::expanded(f(&self.expand()?, &other.expand()?)?))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    const GUIDED: Guidance = Guidance::ClassifierFree { scale: 1.5 };

    fn row(values: &[f32]) -> Tensor {
        Tensor::new(values, &Device::Cpu).unwrap()
    }

    fn values(x: &Tensor) -> Vec<f32> {
        x.to_vec1().unwrap()
    }

    #[test]
    fn guidance_extrapolates_from_the_unconditional_to_the_conditional_prediction() -> Result<()> {
        assert_eq!(values(&GUIDED.combine(row(&[1.0, 2.0, 3.0, 2.0]))?), [4.0, 2.0]);
        assert_eq!(values(&Guidance::Off.combine(row(&[1.0, 2.0, 3.0]))?), [1.0, 2.0, 3.0]);
        let error = GUIDED.combine(row(&[1.0, 2.0, 3.0])).unwrap_err().to_string();
        assert!(error.contains("a batch of 3"), "{error}");
        Ok(())
    }

    #[test]
    fn the_unconditional_half_has_zero_audio() -> Result<()> {
        assert_eq!(values(&GUIDED.audio_batch(row(&[5.0, 6.0]))?), [0.0, 0.0, 5.0, 6.0]);
        assert_eq!(values(&Guidance::Off.audio_batch(row(&[5.0, 6.0]))?), [5.0, 6.0]);
        Ok(())
    }

    #[test]
    fn a_shared_batch_expands_when_it_meets_an_expanded_one() -> Result<()> {
        let shared = GuidedBatch::shared(row(&[1.0, 2.0]), GUIDED);
        assert_eq!((shared.tensor().dim(0)?, shared.expanded_len()?), (2, 4));
        let sum = shared.zip(&shared, |a, b| a + b)?;
        assert_eq!((values(sum.tensor()), sum.expanded_len()?), (vec![2.0, 4.0], 4));
        let sum = shared.zip(&GuidedBatch::expanded(row(&[0.0, 0.0, 10.0, 10.0])), |a, b| a + b)?;
        assert_eq!((values(sum.tensor()), sum.expanded_len()?), (vec![1.0, 2.0, 11.0, 12.0], 4));
        assert_eq!(values(&GuidedBatch::shared(row(&[1.0]), Guidance::Off).expand()?), [1.0]);
        Ok(())
    }
}
