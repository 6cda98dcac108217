//! The blocks of the UNet. Every layer of a block is a resnet, a spatial transformer and a motion module.

use candle_core::{Result, Tensor, bail};
use candle_nn::VarBuilder;
use kernels::join_channels;

use super::config::{BlockPlan, LayerPlan, UNet3DConfig};
use super::motion_module::MotionModule;
use super::pass::Pass;
use super::resnet::{Downsample3D, ResnetBlock3D, Upsample3D};
use super::transformer::{KeyValue, Transformer3D};
use crate::guidance::GuidedBatch;

/// Keys and values of the audio for one layer; empty if the layer has no transformer.
pub(super) type LayerContext = Vec<KeyValue>;

/// One [`LayerContext`] for each layer of a block.
pub(super) type BlockContext = Vec<LayerContext>;

/// A resnet, and the spatial transformer and motion module after it. The checkpoint has one list of each per
/// block.
#[derive(Debug)]
pub(super) struct Layer {
    resnet: ResnetBlock3D,
    attention: Option<Transformer3D>,
    motion_module: Option<MotionModule>,
}

impl Layer {
    /// `vb`: prefix of the block; `index`: position in the block's lists `resnets`, `attentions`,
    /// `motion_modules`.
    fn load(cfg: &UNet3DConfig, plan: LayerPlan, index: usize, vb: VarBuilder) -> Result<Self> {
        let LayerPlan { in_channels, out_channels: channels, heads, motion_module } = plan;
        let resnet = ResnetBlock3D::load(cfg, in_channels, channels, vb.pp("resnets").pp(index))?;
        let attention = match heads {
            Some(heads) => {
                let vb = vb.pp("attentions").pp(index);
                Some(Transformer3D::load(cfg, channels, heads, vb)?)
            }
            None => None,
        };
        let motion_module = if motion_module {
            let vb = vb.pp("motion_modules").pp(index);
            Some(MotionModule::load(cfg, channels, vb)?)
        } else {
            None
        };
        Ok(Self { resnet, attention, motion_module })
    }

    fn load_all(cfg: &UNet3DConfig, plan: &BlockPlan, vb: VarBuilder) -> Result<Vec<Self>> {
        let layers = plan.layers.iter().enumerate();
        layers.map(|(i, &plan)| Self::load(cfg, plan, i, vb.clone())).collect()
    }

    /// `audio`: (batch · frames, tokens, cross_attention_dim).
    fn context(&self, audio: &Tensor) -> Result<LayerContext> {
        match &self.attention {
            Some(attention) => attention.key_values(audio),
            None => Ok(Vec::new()),
        }
    }

    /// `x`: (batch · frames, h, w, in) → (batch · frames, h, w, out).
    fn forward(&self, x: &GuidedBatch, pass: &Pass, audio: &LayerContext) -> Result<GuidedBatch> {
        let mut x = x.map(|x| self.resnet.forward(x, pass))?;
        if let Some(attention) = &self.attention {
            x = attention.forward(&x, audio)?;
        }
        if let Some(motion_module) = &self.motion_module {
            x = x.map(|x| motion_module.forward(x, pass))?;
        }
        Ok(x)
    }
}

/// `DownBlock3D` and `CrossAttnDownBlock3D`: one resolution of the encoder.
#[derive(Debug)]
pub(super) struct DownBlock3D {
    layers: Vec<Layer>,
    downsampler: Option<Downsample3D>,
}

impl DownBlock3D {
    pub fn load(cfg: &UNet3DConfig, plan: &BlockPlan, vb: VarBuilder) -> Result<Self> {
        let downsampler = match plan.layers.last() {
            Some(layer) if plan.resample => {
                let vb = vb.pp("downsamplers").pp(0);
                Some(Downsample3D::load(layer.out_channels, vb)?)
            }
            _ => None,
        };
        Ok(Self { layers: Layer::load_all(cfg, plan, vb.clone())?, downsampler })
    }

    pub fn context(&self, audio: &Tensor) -> Result<BlockContext> {
        self.layers.iter().map(|layer| layer.context(audio)).collect()
    }

    /// `x`: (batch · frames, h, w, in) → (batch · frames, ⌈h / 2⌉, ⌈w / 2⌉, out), without the halving in the
    /// last block. Pushes the output of every layer and of the downsampler onto `skips`.
    pub fn forward(
        &self,
        x: &GuidedBatch,
        pass: &Pass,
        audio: &BlockContext,
        skips: &mut Vec<GuidedBatch>,
    ) -> Result<GuidedBatch> {
        let mut x = x.clone();
        for (layer, audio) in self.layers.iter().zip(audio) {
            x = layer.forward(&x, pass, audio)?;
            skips.push(x.clone());
        }
        if let Some(downsampler) = &self.downsampler {
            x = x.map(|x| downsampler.forward(x))?;
            skips.push(x.clone());
        }
        Ok(x)
    }
}

/// `UNetMidBlock3DCrossAttn`: resnet, transformer, resnet.
#[derive(Debug)]
pub(super) struct MidBlock3D {
    layer: Layer,
    last_resnet: ResnetBlock3D,
}

impl MidBlock3D {
    pub fn load(cfg: &UNet3DConfig, plan: LayerPlan, vb: VarBuilder) -> Result<Self> {
        let channels = plan.out_channels;
        Ok(Self {
            layer: Layer::load(cfg, plan, 0, vb.clone())?,
            last_resnet: ResnetBlock3D::load(cfg, channels, channels, vb.pp("resnets").pp(1))?,
        })
    }

    pub fn context(&self, audio: &Tensor) -> Result<LayerContext> {
        self.layer.context(audio)
    }

    /// `x`: (batch · frames, h, w, channels) → the same shape.
    pub fn forward(&self, x: &GuidedBatch, pass: &Pass, audio: &LayerContext) -> Result<GuidedBatch> {
        let x = self.layer.forward(x, pass, audio)?;
        x.map(|x| self.last_resnet.forward(x, pass))
    }
}

/// `UpBlock3D` and `CrossAttnUpBlock3D`: one resolution of the decoder.
///
/// The last layer is separate because DeepCache recomputes only that one.
#[derive(Debug)]
pub(super) struct UpBlock3D {
    layers: Vec<Layer>,
    last_layer: Layer,
    upsampler: Option<Upsample3D>,
}

impl UpBlock3D {
    pub fn load(cfg: &UNet3DConfig, plan: &BlockPlan, vb: VarBuilder) -> Result<Self> {
        let mut layers = Layer::load_all(cfg, plan, vb.clone())?;
        let (Some(last_layer), Some(last_plan)) = (layers.pop(), plan.layers.last()) else {
            bail!("unet config: an up block has no layers");
        };
        let upsampler = if plan.resample {
            let vb = vb.pp("upsamplers").pp(0);
            Some(Upsample3D::load(last_plan.out_channels, vb)?)
        } else {
            None
        };
        Ok(Self { layers, last_layer, upsampler })
    }

    pub fn context(&self, audio: &Tensor) -> Result<BlockContext> {
        let layers = self.layers.iter().chain([&self.last_layer]);
        layers.map(|layer| layer.context(audio)).collect()
    }

    /// All layers but the last. The input of each is concatenated with the skip connection popped from
    /// `skips`.
    /// `x`: (batch · frames, h, w, in) → (batch · frames, h, w, out).
    pub fn forward_before_last(
        &self,
        x: &GuidedBatch,
        pass: &Pass,
        audio: &BlockContext,
        skips: &mut Vec<GuidedBatch>,
    ) -> Result<GuidedBatch> {
        let mut x = x.clone();
        for (layer, audio) in self.layers.iter().zip(audio) {
            x = layer.forward(&join_skip(&x, skips)?, pass, audio)?;
        }
        Ok(x)
    }

    /// The last layer, concatenated with the next skip connection, and the upsampler.
    /// `x`: (batch · frames, h, w, out) → (batch · frames, h', w', out), the size of the skip connection
    /// after that.
    pub fn forward_last(
        &self,
        x: &GuidedBatch,
        pass: &Pass,
        audio: &BlockContext,
        skips: &mut Vec<GuidedBatch>,
    ) -> Result<GuidedBatch> {
        let Some(audio) = audio.last() else {
            bail!("unet: the audio context belongs to another network");
        };
        let x = self.last_layer.forward(&join_skip(x, skips)?, pass, audio)?;
        match (&self.upsampler, skips.last()) {
            (Some(upsampler), Some(next)) => {
                let size = (next.tensor().dim(1)?, next.tensor().dim(2)?);
                x.map(|x| upsampler.forward(x, size))
            }
            _ => Ok(x),
        }
    }
}

/// Concatenates the channels of `x` and of the skip connection popped from `skips`.
fn join_skip(x: &GuidedBatch, skips: &mut Vec<GuidedBatch>) -> Result<GuidedBatch> {
    match skips.pop() {
        Some(skip) => x.zip(&skip, join_channels),
        None => bail!("unet: the decoder has more layers than the encoder has outputs"),
    }
}
