//! The operations of UNet and VAE at their real shapes, as they follow from the networks' options: one of each kind on
//! each level, for benchmarks that measure them alone.

use models::unet::{Heads, UNet3DConfig};
use models::vae::AutoencoderKLConfig;

/// One operation. Images are square.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// 3×3 with a border of one; `side` is the input's.
    Conv {
        images: usize,
        side: usize,
        input: usize,
        output: usize,
        walk: Walk,
    },
    Linear {
        rows: usize,
        input: usize,
        output: usize,
    },
    /// The first layer of a feed-forward: `output` columns, halved by GEGLU.
    Geglu {
        rows: usize,
        input: usize,
        output: usize,
    },
    /// `channels` of all heads together.
    Attention {
        batch: usize,
        tokens: usize,
        others: usize,
        channels: usize,
        heads: usize,
    },
    TemporalAttention {
        frames: usize,
        positions: usize,
        channels: usize,
        heads: usize,
    },
    /// With SiLU.
    GroupNorm {
        batch: usize,
        positions: usize,
        channels: usize,
        groups: usize,
    },
    LayerNorm {
        rows: usize,
        channels: usize,
    },
}

/// How a convolution changes the size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Walk {
    Same,
    /// With a stride of two.
    Halving,
    /// On the image enlarged by nearest neighbour.
    Doubling,
}

/// A shape, and where it is from: `unet/level 0/self attention`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Case {
    pub name: String,
    pub shape: Shape,
}

impl Shape {
    /// A multiplication and an addition are two; norms count as nothing.
    pub fn flop(&self) -> u64 {
        let flop = match *self {
            Shape::Conv { images, side, input, output, walk } => {
                let side = match walk {
                    Walk::Same => side,
                    Walk::Halving => side.div_ceil(2),
                    Walk::Doubling => 2 * side,
                };
                2 * images * side * side * 9 * input * output
            }
            Shape::Linear { rows, input, output } | Shape::Geglu { rows, input, output } => {
                2 * rows * input * output
            }
            Shape::Attention { batch, tokens, others, channels, .. } => {
                4 * batch * tokens * others * channels
            }
            Shape::TemporalAttention { frames, positions, channels, .. } => {
                4 * frames * frames * positions * channels
            }
            Shape::GroupNorm { .. } | Shape::LayerNorm { .. } => 0,
        };
        flop as u64
    }
}

/// The UNet's, for `frames` frames of latents of `side` × `side`, each with `audio` rows of sound.
pub fn unet(cfg: &UNet3DConfig, frames: usize, side: usize, audio: usize) -> Vec<Case> {
    let mut cases = Vec::new();
    let levels = &cfg.block_out_channels;
    let first = levels.first().copied().unwrap_or_default();
    let mut add = |level: &str, name: &str, shape| {
        cases.push(Case { name: format!("unet/{level}/{name}"), shape });
    };
    let conv = |side, input, output, walk| Shape::Conv { images: frames, side, input, output, walk };
    add("edge", "conv in", conv(side, cfg.in_channels, first, Walk::Same));
    add("edge", "conv out", conv(side, first, cfg.out_channels, Walk::Same));
    for (level, &channels) in levels.iter().enumerate() {
        let side = side >> level;
        let (positions, rows) = (side * side, frames * side * side);
        let heads = match &cfg.attention_head_dim {
            Heads::Same(heads) => *heads,
            Heads::PerLevel(heads) => heads[level],
        };
        let name = format!("level {level}");
        let mut add = |what: &str, shape| add(&name, what, shape);
        add("conv", conv(side, channels, channels, Walk::Same));
        if let Some(&deeper) = levels.get(level + 1) {
            add("downsample", conv(side, channels, channels, Walk::Halving));
            add("upsample", conv(side / 2, deeper, deeper, Walk::Doubling));
        }
        add("shortcut", Shape::Linear { rows, input: 2 * channels, output: channels });
        add("projection", Shape::Linear { rows, input: channels, output: channels });
        add("geglu", Shape::Geglu { rows, input: channels, output: 8 * channels });
        add("feed-forward out", Shape::Linear { rows, input: 4 * channels, output: channels });
        if cfg.down_block_types.get(level).is_some_and(|kind| kind.starts_with("CrossAttn")) {
            let attention =
                |others| Shape::Attention { batch: frames, tokens: positions, others, channels, heads };
            add("self attention", attention(positions));
            add("cross attention", attention(audio));
        }
        if cfg.use_motion_module {
            let heads = cfg.motion_module_kwargs.num_attention_heads;
            add("temporal attention", Shape::TemporalAttention { frames, positions, channels, heads });
        }
        let groups = cfg.norm_num_groups;
        add("group norm", Shape::GroupNorm { batch: 1, positions: rows, channels, groups });
        add("layer norm", Shape::LayerNorm { rows, channels });
    }
    cases
}

/// The VAE's, for one image of `side` × `side` pixels; its decoder has the larger ones.
pub fn vae(cfg: &AutoencoderKLConfig, side: usize) -> Vec<Case> {
    let mut cases = Vec::new();
    let levels = &cfg.block_out_channels;
    let first = levels.first().copied().unwrap_or_default();
    let mut add = |level: &str, name: &str, shape| {
        cases.push(Case { name: format!("vae/{level}/{name}"), shape });
    };
    let conv = |side, input, output, walk| Shape::Conv { images: 1, side, input, output, walk };
    add("edge", "conv in", conv(side, cfg.in_channels, first, Walk::Same));
    add("edge", "conv out", conv(side, first, cfg.out_channels, Walk::Same));
    for (level, &channels) in levels.iter().enumerate() {
        let side = side >> level;
        let name = format!("level {level}");
        let mut add = |what: &str, shape| add(&name, what, shape);
        add("conv", conv(side, channels, channels, Walk::Same));
        if let Some(&deeper) = levels.get(level + 1) {
            add("downsample", conv(side, channels, channels, Walk::Halving));
            add("upsample", conv(side / 2, deeper, deeper, Walk::Doubling));
        }
        let groups = cfg.norm_num_groups;
        add("group norm", Shape::GroupNorm { batch: 1, positions: side * side, channels, groups });
    }
    if let (Some(&channels), true) = (levels.last(), cfg.mid_block_add_attention) {
        let tokens = (side >> (levels.len() - 1)).pow(2);
        add("middle", "attention", Shape::Attention { batch: 1, tokens, others: tokens, channels, heads: 1 });
        add("middle", "projection", Shape::Linear { rows: tokens, input: channels, output: channels });
    }
    cases
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use candle_core::{DType, Device};
    use models::synthetic::Synthetic;
    use models::unet::UNet3D;
    use models::vae::AutoencoderKL;

    use super::*;
    use crate::bench::Size;
    use crate::bench::subject::Plan;

    /// Every shape is one that the network has: its convolutions' and linear layers' weights are asked for by these
    /// names and shapes when it is loaded.
    #[test]
    fn the_networks_have_these_shapes() {
        let Plan { unet: cfg, vae: vae_cfg, .. } = Plan::synthetic(Size::Small).unwrap();
        let asked = AskedShapes::default();
        let vb = || candle_nn::VarBuilder::from_backend(Box::new(asked.clone()), DType::F32, Device::Cpu);
        UNet3D::load(&cfg, vb()).unwrap();
        AutoencoderKL::load(&vae_cfg, vb()).unwrap();
        let asked = asked.0.lock().unwrap();
        let cases = unet(&cfg, 16, 16, 50).into_iter().chain(vae(&vae_cfg, 128));
        for Case { name, shape } in cases {
            let (weight, pointwise) = match shape {
                Shape::Conv { input, output, .. } => (vec![output, input, 3, 3], Vec::new()),
                Shape::Linear { input, output, .. } | Shape::Geglu { input, output, .. } => {
                    (vec![output, input], vec![output, input, 1, 1])
                }
                _ => continue,
            };
            assert!(asked.contains(&weight) || asked.contains(&pointwise), "{name}: {weight:?}");
        }
    }

    /// The first convolution of a 256-pixel UNet's widest level: 2 · 16 · 32² · 9 · 320².
    #[test]
    fn work_is_counted_by_hand() {
        let Plan { unet: cfg, vae: vae_cfg, .. } = Plan::synthetic(Size::Pixels256).unwrap();
        let cases = unet(&cfg, 16, 32, 50);
        let flop = |name: &str| {
            cases.iter().find(|case| case.name == name).unwrap_or_else(|| panic!("{name}")).shape.flop()
        };
        assert_eq!(flop("unet/level 0/conv"), 30_198_988_800);
        assert_eq!(flop("unet/level 0/self attention"), 4 * 16 * 1024 * 1024 * 320);
        assert_eq!(flop("unet/level 1/upsample"), 2 * 16 * 256 * 9 * 1280 * 1280);
        let names: BTreeSet<_> = cases.iter().map(|case| &case.name).collect();
        assert_eq!(names.len(), cases.len());
        assert!(!names.contains(&"unet/level 3/self attention".to_string()));
        let decoder = vae(&vae_cfg, 256);
        assert!(decoder.iter().any(|case| case.shape
            == Shape::Attention { batch: 1, tokens: 1024, others: 1024, channels: 512, heads: 1 }));
    }

    /// Made-up weights, and the shapes that were asked for.
    #[derive(Clone, Default)]
    struct AskedShapes(std::sync::Arc<std::sync::Mutex<BTreeSet<Vec<usize>>>>);

    impl candle_nn::var_builder::SimpleBackend for AskedShapes {
        fn get(
            &self,
            shape: candle_core::Shape,
            name: &str,
            init: candle_nn::Init,
            dtype: DType,
            device: &Device,
        ) -> candle_core::Result<candle_core::Tensor> {
            self.0.lock().unwrap().insert(shape.dims().to_vec());
            Synthetic::new("", 1.0).get(shape, name, init, dtype, device)
        }

        fn get_unchecked(
            &self,
            name: &str,
            _: DType,
            _: &Device,
        ) -> candle_core::Result<candle_core::Tensor> {
            candle_core::bail!("`{name}`: asked for without a shape")
        }

        fn contains_tensor(&self, _: &str) -> bool {
            true
        }
    }
}
