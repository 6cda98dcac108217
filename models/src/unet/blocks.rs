//! The blocks of the UNet: layers of resnet, spatial transformer and motion module.

use candle_core::{Result, Tensor, bail};
use candle_nn::VarBuilder;
use kernels::join_channels;

use super::config::{BlockPlan, LayerPlan};
use super::motion_module::MotionModule;
use super::resnet::{Downsample3D, ResnetBlock3D, Upsample3D};
use super::transformer::{KeyValue, Transformer3D};
use super::{Pass, UNet3DConfig, repeated};

/// Keys and values of the audio for one layer; empty where it has no transformer.
pub(super) type LayerContext = Vec<KeyValue>;

/// One [`LayerContext`] for each layer of a block.
pub(super) type BlockContext = Vec<LayerContext>;

/// One resnet and what follows it. The checkpoint keeps the parts of a block's layers in three lists.
#[derive(Debug)]
pub(super) struct Layer {
    resnet: ResnetBlock3D,
    attention: Option<Transformer3D>,
    motion_module: Option<MotionModule>,
}

impl Layer {
    /// `vb` is the block's, `index` the layer's place in its lists.
    fn load(cfg: &UNet3DConfig, plan: LayerPlan, index: usize, vb: &VarBuilder) -> Result<Self> {
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

    fn load_all(cfg: &UNet3DConfig, plan: &BlockPlan, vb: &VarBuilder) -> Result<Vec<Self>> {
        let layers = plan.layers.iter().enumerate();
        layers.map(|(i, &plan)| Self::load(cfg, plan, i, vb)).collect()
    }

    /// `audio`: (batch · frames, tokens, cross_attention_dim).
    fn context(&self, audio: &Tensor) -> Result<LayerContext> {
        match &self.attention {
            Some(attention) => attention.key_values(audio),
            None => Ok(Vec::new()),
        }
    }

    /// `x`: (batch · frames, h, w, in) → (batch · frames, h, w, out).
    fn forward(&self, x: &Tensor, pass: &Pass, audio: &LayerContext) -> Result<Tensor> {
        let mut x = self.resnet.forward(x, pass)?;
        if let Some(attention) = &self.attention {
            x = attention.forward(&x, audio)?;
        }
        if let Some(motion_module) = &self.motion_module {
            x = motion_module.forward(&x, pass)?;
        }
        Ok(x)
    }
}

/// `DownBlock3D` and `CrossAttnDownBlock3D`: a level of the encoder.
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
        Ok(Self { layers: Layer::load_all(cfg, plan, &vb)?, downsampler })
    }

    pub fn context(&self, audio: &Tensor) -> Result<BlockContext> {
        self.layers.iter().map(|layer| layer.context(audio)).collect()
    }

    /// `x`: (batch · frames, h, w, in) → half the size, and every layer's output pushed onto `skips`.
    pub fn forward(
        &self,
        x: &Tensor,
        pass: &Pass,
        audio: &BlockContext,
        skips: &mut Vec<Tensor>,
    ) -> Result<Tensor> {
        let mut x = x.clone();
        for (layer, audio) in self.layers.iter().zip(audio) {
            x = layer.forward(&x, pass, audio)?;
            skips.push(x.clone());
        }
        if let Some(downsampler) = &self.downsampler {
            x = downsampler.forward(&x)?;
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
            layer: Layer::load(cfg, plan, 0, &vb)?,
            last_resnet: ResnetBlock3D::load(cfg, channels, channels, vb.pp("resnets").pp(1))?,
        })
    }

    pub fn context(&self, audio: &Tensor) -> Result<LayerContext> {
        self.layer.context(audio)
    }

    /// `x`: (batch · frames, h, w, channels) → the same shape.
    pub fn forward(&self, x: &Tensor, pass: &Pass, audio: &LayerContext) -> Result<Tensor> {
        let x = self.layer.forward(x, pass, audio)?;
        self.last_resnet.forward(&x, pass)
    }
}

/// `UpBlock3D` and `CrossAttnUpBlock3D`: a level of the decoder.
///
/// Its last layer is a step of its own, because DeepCache repeats only that one.
#[derive(Debug)]
pub(super) struct UpBlock3D {
    layers: Vec<Layer>,
    last_layer: Layer,
    upsampler: Option<Upsample3D>,
}

impl UpBlock3D {
    pub fn load(cfg: &UNet3DConfig, plan: &BlockPlan, vb: VarBuilder) -> Result<Self> {
        let mut layers = Layer::load_all(cfg, plan, &vb)?;
        let (Some(last_layer), Some(last_plan)) = (layers.pop(), plan.layers.last()) else {
            bail!("unet config: a block of the decoder without layers");
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

    /// All layers but the last, each joined with the newest of `skips`.
    /// `x`: (batch · frames, h, w, in) → (batch · frames, h, w, out).
    pub fn forward_before_last(
        &self,
        x: &Tensor,
        pass: &Pass,
        audio: &BlockContext,
        skips: &mut Vec<Tensor>,
    ) -> Result<Tensor> {
        let mut x = x.clone();
        for (layer, audio) in self.layers.iter().zip(audio) {
            x = layer.forward(&join(&x, skips)?, pass, audio)?;
        }
        Ok(x)
    }

    /// The last layer, joined with the newest of `skips`, then the size of the one after that.
    /// `x`: (batch · frames, h, w, out) → (batch · frames, h', w', out).
    pub fn forward_last(
        &self,
        x: &Tensor,
        pass: &Pass,
        audio: &BlockContext,
        skips: &mut Vec<Tensor>,
    ) -> Result<Tensor> {
        let Some(audio) = audio.last() else {
            bail!("unet: the audio context belongs to another network");
        };
        let x = self.last_layer.forward(&join(x, skips)?, pass, audio)?;
        match (&self.upsampler, skips.last()) {
            (Some(upsampler), Some(next)) => upsampler.forward(&x, (next.dim(1)?, next.dim(2)?)),
            _ => Ok(x),
        }
    }
}

/// The channels of `x` and of the encoder's newest output that is not yet used, side by side.
fn join(x: &Tensor, skips: &mut Vec<Tensor>) -> Result<Tensor> {
    match skips.pop() {
        Some(skip) => {
            let images = x.dim(0)?.max(skip.dim(0)?);
            join_channels(&repeated(x, images)?, &repeated(&skip, images)?)
        }
        None => bail!("unet: the decoder has more layers than the encoder has outputs"),
    }
}
