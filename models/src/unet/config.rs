//! The configuration of the UNet, and the layout of its blocks.

use candle_core::{Result, bail};
use serde::{Deserialize, Deserializer};

use crate::layers::Convolution;

/// Resolutions of the network. The original places the motion modules of the decoder by a rule that assumes
/// four.
const MAX_LEVELS: usize = 4;
/// Layers per block: several times more than any published network has. The layout is built before any weight
/// is read, so its size must be bounded.
const MAX_LAYERS: usize = 64;
/// Channels per layer.
const MAX_CHANNELS: usize = 1 << 16;

/// The `model:` section of a `unet_config.yaml`. Missing options have the defaults of the original's
/// constructor. Options of training (`zero_initialize`, `sample_size`) and options without effect on the
/// original's output (`only_cross_attention`, `upcast_attention`) are ignored.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default)]
pub struct UNet3DConfig {
    pub in_channels: usize,
    pub out_channels: usize,
    pub center_input_sample: bool,
    pub flip_sin_to_cos: bool,
    #[serde(deserialize_with = "lenient_number")]
    pub freq_shift: f64,
    pub down_block_types: Vec<String>,
    pub mid_block_type: String,
    pub up_block_types: Vec<String>,
    pub block_out_channels: Vec<usize>,
    pub layers_per_block: usize,
    pub downsample_padding: usize,
    #[serde(deserialize_with = "lenient_number")]
    pub mid_block_scale_factor: f64,
    pub act_fn: String,
    pub norm_num_groups: usize,
    #[serde(deserialize_with = "lenient_number")]
    pub norm_eps: f64,
    pub cross_attention_dim: usize,
    pub attention_head_dim: Heads,
    pub dual_cross_attention: bool,
    pub use_linear_projection: bool,
    pub class_embed_type: Option<String>,
    pub num_class_embeds: Option<usize>,
    pub resnet_time_scale_shift: String,
    pub use_inflated_groupnorm: bool,
    pub use_motion_module: bool,
    pub motion_module_resolutions: Vec<usize>,
    pub motion_module_mid_block: bool,
    pub motion_module_decoder_only: bool,
    pub motion_module_type: Option<String>,
    pub motion_module_kwargs: MotionModuleConfig,
    pub add_audio_layer: bool,
}

/// `attention_head_dim`. Despite its name it is the number of heads, one for all levels or one per level.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum Heads {
    Same(usize),
    PerLevel(Vec<usize>),
}

/// `motion_module_kwargs`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default)]
pub struct MotionModuleConfig {
    pub num_attention_heads: usize,
    pub num_transformer_block: usize,
    pub attention_block_types: Vec<String>,
    pub temporal_position_encoding: bool,
    pub temporal_position_encoding_max_len: usize,
    pub temporal_attention_dim_div: usize,
}

impl Default for UNet3DConfig {
    fn default() -> Self {
        let names = |names: [&str; 4]| names.map(String::from).to_vec();
        Self {
            in_channels: 4,
            out_channels: 4,
            center_input_sample: false,
            flip_sin_to_cos: true,
            freq_shift: 0.0,
            down_block_types: names([
                "CrossAttnDownBlock3D",
                "CrossAttnDownBlock3D",
                "CrossAttnDownBlock3D",
                "DownBlock3D",
            ]),
            mid_block_type: "UNetMidBlock3DCrossAttn".into(),
            up_block_types: names([
                "UpBlock3D",
                "CrossAttnUpBlock3D",
                "CrossAttnUpBlock3D",
                "CrossAttnUpBlock3D",
            ]),
            block_out_channels: vec![320, 640, 1280, 1280],
            layers_per_block: 2,
            downsample_padding: 1,
            mid_block_scale_factor: 1.0,
            act_fn: "silu".into(),
            norm_num_groups: 32,
            norm_eps: 1e-5,
            cross_attention_dim: 1280,
            attention_head_dim: Heads::Same(8),
            dual_cross_attention: false,
            use_linear_projection: false,
            class_embed_type: None,
            num_class_embeds: None,
            resnet_time_scale_shift: "default".into(),
            use_inflated_groupnorm: false,
            use_motion_module: false,
            motion_module_resolutions: vec![1, 2, 4, 8],
            motion_module_mid_block: false,
            motion_module_decoder_only: false,
            motion_module_type: None,
            motion_module_kwargs: MotionModuleConfig::default(),
            add_audio_layer: false,
        }
    }
}

impl Default for MotionModuleConfig {
    fn default() -> Self {
        Self {
            num_attention_heads: 8,
            num_transformer_block: 2,
            attention_block_types: vec!["Temporal_Self".into(); 2],
            temporal_position_encoding: false,
            temporal_position_encoding_max_len: 24,
            temporal_attention_dim_div: 1,
        }
    }
}

/// A resnet, and the spatial transformer and motion module after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LayerPlan {
    pub in_channels: usize,
    pub out_channels: usize,
    /// Heads of the spatial transformer; `None`: no transformer.
    pub heads: Option<usize>,
    pub motion_module: bool,
}

/// The layers of one block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BlockPlan {
    pub layers: Vec<LayerPlan>,
    /// Whether the block ends with a downsampler or an upsampler.
    pub resample: bool,
}

impl UNet3DConfig {
    /// Sum of the channels of all audio cross-attentions: the number of elements of the keys of one audio
    /// token, and of its values.
    pub fn audio_channels(&self) -> Result<usize> {
        self.validate()?;
        if !self.add_audio_layer {
            return Ok(0);
        }
        let (down_blocks, up_blocks) = (self.down_blocks()?, self.up_blocks()?);
        let blocks = down_blocks.iter().chain(&up_blocks);
        let layers = blocks.flat_map(|block| &block.layers).copied().chain([self.mid_block()]);
        Ok(layers.filter(|layer| layer.heads.is_some()).map(|layer| layer.out_channels).sum())
    }

    /// The 3×3 convolutions with stride 1, including those after upsampling, without `conv_in` and
    /// `conv_out`.
    pub fn convolutions(&self) -> Result<Vec<Convolution>> {
        self.validate()?;
        let last = self.block_out_channels.len() - 1;
        let resnet = |level: usize, layer: &LayerPlan| {
            let LayerPlan { in_channels, out_channels, .. } = *layer;
            Convolution::of_resnet(in_channels, out_channels, level)
        };
        let mut all: Vec<Convolution> = Vec::new();
        for (level, block) in self.down_blocks()?.iter().enumerate() {
            all.extend(block.layers.iter().flat_map(|layer| resnet(level, layer)));
        }
        all.extend([self.mid_block(); 2].iter().flat_map(|layer| resnet(last, layer)));
        for (i, block) in self.up_blocks()?.iter().enumerate() {
            let level = last - i;
            all.extend(block.layers.iter().flat_map(|layer| resnet(level, layer)));
            if block.resample {
                all.push(Convolution::doubling(self.block_out_channels[level], level - 1));
            }
        }
        Ok(all)
    }

    /// Channels of the time embedding.
    pub(super) fn time_embed_dim(&self) -> usize {
        4 * self.block_out_channels[0]
    }

    /// Rejects unsupported values; the error names the option.
    pub(super) fn validate(&self) -> Result<()> {
        let levels = self.block_out_channels.len();
        if levels == 0 || levels > MAX_LEVELS {
            bail!("unet config: block_out_channels has {levels} levels, expected 1 to {MAX_LEVELS}");
        }
        for (name, len) in
            [("down_block_types", self.down_block_types.len()), ("up_block_types", self.up_block_types.len())]
        {
            if len != levels {
                bail!("unet config: {name} has {len} entries, block_out_channels {levels}");
            }
        }
        if let Heads::PerLevel(heads) = &self.attention_head_dim
            && heads.len() != levels
        {
            bail!("unet config: attention_head_dim has {} entries, block_out_channels {levels}", heads.len());
        }
        self.validate_sizes()?;
        self.validate_unsupported()?;
        if self.use_motion_module {
            self.motion_module_kwargs.validate(self.motion_module_type.as_deref())?;
        }
        Ok(())
    }

    fn validate_sizes(&self) -> Result<()> {
        for (name, value, max) in [
            ("in_channels", self.in_channels, MAX_CHANNELS),
            ("out_channels", self.out_channels, MAX_CHANNELS),
            ("layers_per_block", self.layers_per_block, MAX_LAYERS),
            ("norm_num_groups", self.norm_num_groups, MAX_CHANNELS),
            ("cross_attention_dim", self.cross_attention_dim, MAX_CHANNELS),
        ] {
            if !(1..=max).contains(&value) {
                bail!("unet config: {name} is {value}, expected 1 to {max}");
            }
        }
        for (level, &channels) in self.block_out_channels.iter().enumerate() {
            let heads = self.heads(level);
            if channels > MAX_CHANNELS {
                bail!("unet config: block_out_channels {channels} at level {level}, at most {MAX_CHANNELS}");
            }
            if channels == 0 || channels % 2 != 0 || heads == 0 || channels % heads != 0 {
                bail!(
                    "unet config: block_out_channels {channels} at level {level} is not divisible by {heads} heads"
                );
            }
        }
        Ok(())
    }

    fn validate_unsupported(&self) -> Result<()> {
        let unsupported = [
            ("center_input_sample", self.center_input_sample),
            ("dual_cross_attention", self.dual_cross_attention),
            ("class_embed_type", self.class_embed_type.is_some()),
            ("num_class_embeds", self.num_class_embeds.is_some()),
            ("resnet_time_scale_shift", self.resnet_time_scale_shift != "default"),
            ("act_fn", !matches!(self.act_fn.as_str(), "silu" | "swish")),
            ("downsample_padding", self.downsample_padding != 1),
            ("mid_block_scale_factor", self.mid_block_scale_factor != 1.0),
            ("mid_block_type", self.mid_block_type != "UNetMidBlock3DCrossAttn"),
        ];
        for (name, is_unsupported) in unsupported {
            if is_unsupported {
                bail!("unet config: this value of {name} is not supported");
            }
        }
        Ok(())
    }

    fn heads(&self, level: usize) -> usize {
        match &self.attention_head_dim {
            Heads::Same(heads) => *heads,
            Heads::PerLevel(heads) => heads[level],
        }
    }

    /// Whether the layers at this downsampling factor (1, 2, 4 or 8) have motion modules.
    fn has_motion_module(&self, downsampling: usize) -> bool {
        self.use_motion_module && self.motion_module_resolutions.contains(&downsampling)
    }

    /// Blocks of the encoder, from the highest resolution to the lowest.
    pub(super) fn down_blocks(&self) -> Result<Vec<BlockPlan>> {
        let channels = &self.block_out_channels;
        let mut plans = Vec::with_capacity(channels.len());
        for (level, kind) in self.down_block_types.iter().enumerate() {
            let heads = match kind.as_str() {
                "CrossAttnDownBlock3D" => Some(self.heads(level)),
                "DownBlock3D" => None,
                other => bail!("unet config: down_block_types: `{other}` is not supported"),
            };
            let layers = (0..self.layers_per_block).map(|i| LayerPlan {
                in_channels: if i == 0 { channels[level.saturating_sub(1)] } else { channels[level] },
                out_channels: channels[level],
                heads,
                motion_module: self.has_motion_module(1 << level) && !self.motion_module_decoder_only,
            });
            plans.push(BlockPlan { layers: layers.collect(), resample: level + 1 < channels.len() });
        }
        Ok(plans)
    }

    /// The first resnet of the mid block and the transformer after it; a second resnet follows.
    pub(super) fn mid_block(&self) -> LayerPlan {
        let level = self.block_out_channels.len() - 1;
        LayerPlan {
            in_channels: self.block_out_channels[level],
            out_channels: self.block_out_channels[level],
            heads: Some(self.heads(level)),
            motion_module: self.use_motion_module && self.motion_module_mid_block,
        }
    }

    /// Blocks of the decoder, from the lowest resolution to the highest. The input of a layer is the output
    /// of the previous one, concatenated with a skip connection from the encoder.
    pub(super) fn up_blocks(&self) -> Result<Vec<BlockPlan>> {
        let channels = &self.block_out_channels;
        let last = channels.len() - 1;
        let mut plans = Vec::with_capacity(channels.len());
        for (i, kind) in self.up_block_types.iter().enumerate() {
            let level = last - i;
            let heads = match kind.as_str() {
                "CrossAttnUpBlock3D" => Some(self.heads(level)),
                "UpBlock3D" => None,
                other => bail!("unet config: up_block_types: `{other}` is not supported"),
            };
            let layers = (0..=self.layers_per_block).map(|layer| {
                let previous = if layer == 0 { channels[(level + 1).min(last)] } else { channels[level] };
                let skip = if layer == self.layers_per_block {
                    channels[level.saturating_sub(1)]
                } else {
                    channels[level]
                };
                LayerPlan {
                    in_channels: previous + skip,
                    out_channels: channels[level],
                    heads,
                    // The original counts down from 8 for any number of levels.
                    motion_module: self.has_motion_module(1 << (MAX_LEVELS - 1 - i)),
                }
            });
            plans.push(BlockPlan { layers: layers.collect(), resample: level > 0 });
        }
        Ok(plans)
    }
}

impl MotionModuleConfig {
    fn validate(&self, kind: Option<&str>) -> Result<()> {
        if kind != Some("Vanilla") {
            bail!("unet config: motion_module_type `{}` is not supported", kind.unwrap_or("null"));
        }
        if let Some(other) = self.attention_block_types.iter().find(|kind| *kind != "Temporal_Self") {
            bail!("unet config: attention_block_types: `{other}` is not supported");
        }
        if self.num_transformer_block > MAX_LAYERS {
            bail!(
                "unet config: num_transformer_block is {}, at most {MAX_LAYERS}",
                self.num_transformer_block
            );
        }
        if self.num_attention_heads == 0 || self.temporal_attention_dim_div == 0 {
            bail!("unet config: num_attention_heads or temporal_attention_dim_div is 0");
        }
        Ok(())
    }
}

/// Accepts a number or its text: some YAML parsers read `1e-5` as a string.
fn lenient_number<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<f64, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum NumberOrText {
        Number(f64),
        Text(String),
    }
    match NumberOrText::deserialize(deserializer)? {
        NumberOrText::Number(number) => Ok(number),
        NumberOrText::Text(text) => text.parse().map_err(serde::de::Error::custom),
    }
}

#[cfg(test)]
mod tests {
    use serde::de::IntoDeserializer;
    use serde::de::value::Error;

    use super::lenient_number;

    #[test]
    fn numbers_may_be_written_as_text() {
        let number = |text: &str| lenient_number(IntoDeserializer::<Error>::into_deserializer(text));
        assert_eq!(number("1e-5"), Ok(1e-5));
        assert!(number("small").is_err());
    }
}
