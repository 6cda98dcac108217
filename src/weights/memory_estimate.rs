//! How much memory a job takes where it is computed, asked before gigabytes are read for it, and before every job.
//!
//! Counted are the weights as they are kept, and the tensors that are there at once where they are the most: in the
//! UNet in the first layer of its decoder's last block, in the VAE at the images' full size. Left out are what a driver
//! keeps for itself, kernels that are loaded later, workspaces of cuBLAS and cuDNN, and gaps between tensors
//! (`SPARED` is for these); Whisper's activations, which are small; other jobs of this process; and what is never on
//! a GPU: the pictures on their way, the detector, the encoder.

use candle_core::{DType, Device};
use kernels::Conv2d;
use models::layers::Convolution;
use models::unet::UNet3DConfig;
use models::vae::AutoencoderKLConfig;

use crate::options::WHISPER_ROWS_PER_FRAME;
use crate::system;
use crate::system::compute;
use crate::system::device::device_memory;
use crate::weights::Checkpoint;
use crate::weights::Result;
use crate::weights::checkpoint::{published_unet_config, published_vae_config};
use crate::weights::tensor_file::TensorFile;

/// Of a GPU's memory what is not counted on, for what the estimate leaves out.
const SPARED: u64 = 512 << 20;
/// Candle's own CUDA operations count in 32 bits, and do not say when a tensor has more elements.
const MOST_ELEMENTS: u64 = i32::MAX as u64;

/// latentsync-1.5 and -1.6 with their VAE and Whisper `tiny`: they differ in the size of the faces only.
const PUBLISHED: Parameters = Parameters { networks: 1_351_000_000, whisper: 8_200_000 };

/// What a model takes on a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryNeeds {
    /// Bytes of all weights.
    pub weights: u64,
    pub activations: Activations,
}

/// What the networks hold at once while they compute, beside their weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Activations {
    /// Frames of a chunk.
    frames: u64,
    /// Bytes of one of them in the UNet.
    frame: u64,
    /// Of these, the elements of the largest tensor.
    largest: u64,
    /// Bytes of one image in the VAE, either way.
    vae: u64,
}

/// How much goes through the UNet at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchSize {
    pub chunks: usize,
    /// Every frame twice, with the voice and without.
    pub guided: bool,
}

impl BatchSize {
    /// The least that a job takes.
    pub const ONE: Self = Self { chunks: 1, guided: false };
}

/// What decides how large a job's tensors are.
#[derive(Debug, Clone, Copy)]
pub struct Sizes<'a> {
    pub unet: &'a UNet3DConfig,
    pub vae: &'a AutoencoderKLConfig,
    /// Tokens of sound that each frame hears.
    pub audio_tokens: usize,
    /// Of a chunk.
    pub frames: usize,
    /// Side of the faces, in pixels.
    pub resolution: usize,
}

/// How the networks are computed, as far as it decides what they hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// By the CPU's kernels.
    Cpu,
    /// By the CUDA kernels for 16 bits.
    TensorCores,
    /// By candle's own convolutions, which copy the patches of an image: f32 on CUDA, everything on Metal.
    Patches,
}

/// Numbers that a model's weights are.
#[derive(Debug, Clone, Copy)]
struct Parameters {
    /// Of UNet and VAE.
    networks: u64,
    /// Of Whisper's encoder.
    whisper: u64,
}

impl Checkpoint {
    /// Refuses what does not fit into the memory of `device`, where that is known, even without guidance and with one
    /// chunk at a time.
    pub fn check_memory(&self, dtype: DType, device: &Device) -> Result<()> {
        self.memory_needs(dtype, device)?.check(device)
    }

    /// What the networks take on `device`.
    pub fn memory_needs(&self, dtype: DType, device: &Device) -> Result<MemoryNeeds> {
        let (unet, vae) = (self.unet_config::<UNet3DConfig>()?, self.vae_config::<AutoencoderKLConfig>()?);
        let [left, right] = self.audio_feat_length();
        let sizes = Sizes {
            unet: &unet,
            vae: &vae,
            audio_tokens: WHISPER_ROWS_PER_FRAME * (left + 1 + right) * self.audio_layers(),
            frames: self.num_frames(),
            resolution: self.resolution(),
        };
        let way = Way::of(dtype, device);
        MemoryNeeds::of_way(&self.parameters(), &sizes, dtype, way)
    }

    fn parameters(&self) -> Parameters {
        let [unet, vae, whisper] = self.files();
        Parameters {
            networks: elements(unet, |_| true) + elements(vae, |_| true),
            whisper: elements(whisper, |key| key.starts_with("encoder.")),
        }
    }

    /// Layers of Whisper that are heard: its blocks, and what goes into the first.
    fn audio_layers(&self) -> usize {
        let [.., whisper] = self.files();
        let blocks = whisper.dims().get("n_audio_layer").copied().unwrap_or_default();
        // Sense is asked for when it is loaded.
        blocks.clamp(0, 1 << 10) as usize + 1
    }
}

impl MemoryNeeds {
    /// The published models', without their files. `resolution`: side of the faces, which is all they differ in.
    pub fn published(resolution: usize, dtype: DType, device: &Device) -> Result<Self> {
        Self::published_of_way(resolution, dtype, Way::of(dtype, device))
    }

    fn published_of_way(resolution: usize, dtype: DType, way: Way) -> Result<Self> {
        let unet = published_unet_config()?;
        let vae = published_vae_config();
        // Five frames' sound, of the five layers of Whisper `tiny`.
        let audio_tokens = WHISPER_ROWS_PER_FRAME * 5 * 5;
        let sizes = Sizes { unet: &unet, vae: &vae, audio_tokens, frames: 16, resolution };
        Self::of_way(&PUBLISHED, &sizes, dtype, way)
    }

    fn of_way(parameters: &Parameters, sizes: &Sizes, dtype: DType, way: Way) -> Result<Self> {
        let derived = match way {
            Way::Cpu => derived_bytes(sizes, dtype).map_err(compute("loading the model"))?,
            Way::TensorCores | Way::Patches => 0,
        };
        Ok(Self {
            weights: parameters.bytes(dtype, way).saturating_add(derived),
            activations: Activations::of_way(sizes, dtype, way)?,
        })
    }

    /// Weights, and what is computed at once.
    pub fn bytes(&self, batch: BatchSize) -> u64 {
        self.weights.saturating_add(self.activations.bytes(batch))
    }

    /// Refuses what does not fit into the memory of `device`, where that is known.
    pub fn check(&self, device: &Device) -> Result<()> {
        let needed = self.bytes(BatchSize::ONE).saturating_add(spared(device));
        match device_memory(device) {
            Some(memory) if needed > memory.free => {
                Err(system::Error::Memory { needed, available: memory.free }.into())
            }
            _ => Ok(()),
        }
    }

    /// How many chunks, at most those of `most`, fit into `free` bytes of `device` together with the weights; `None`
    /// where one does not.
    pub fn chunks_within(&self, most: BatchSize, free: u64, device: &Device) -> Option<usize> {
        let left = free.checked_sub(self.weights.saturating_add(spared(device)))?;
        self.activations.chunks_within(most, left)
    }
}

impl Activations {
    /// Refuses a UNet that could not be loaded.
    pub fn new(sizes: &Sizes, dtype: DType, device: &Device) -> Result<Self> {
        Self::of_way(sizes, dtype, Way::of(dtype, device))
    }

    fn of_way(sizes: &Sizes, dtype: DType, way: Way) -> Result<Self> {
        let Sizes { unet, vae, audio_tokens, frames, resolution } = *sizes;
        let audio_channels = unet.audio_channels().map_err(compute("loading the model"))?;
        let bytes = element_bytes(dtype, way);
        let side = resolution / vae.downscale();
        let latents = product(&[side, side]);
        let (of_position, largest) = unet_numbers(levels(&unet.block_out_channels), way);
        // Keys and values of the sound, in every layer.
        let audio = product(&[2, audio_tokens, audio_channels]);
        let of_pixel = vae_numbers(levels(&vae.block_out_channels), way);
        Ok(Self {
            frames: frames as u64,
            frame: latents.saturating_mul(of_position).saturating_add(audio).saturating_mul(bytes),
            largest: latents.saturating_mul(largest),
            vae: product(&[resolution, resolution]).saturating_mul(of_pixel).saturating_mul(bytes),
        })
    }

    /// Images of the UNet's batch.
    fn images(&self, batch: BatchSize) -> u64 {
        let times = if batch.guided { 2 } else { 1 };
        self.frames.saturating_mul(batch.chunks as u64).saturating_mul(times)
    }

    /// UNet and VAE compute in turns.
    pub fn bytes(&self, batch: BatchSize) -> u64 {
        self.frame.saturating_mul(self.images(batch)).max(self.vae)
    }

    /// How many chunks, at most those of `most`, fit into `free` bytes; `None` where one does not.
    fn chunks_within(&self, most: BatchSize, free: u64) -> Option<usize> {
        (1..=most.chunks).rev().find(|&chunks| {
            let batch = BatchSize { chunks, ..most };
            let is_countable = self.images(batch).saturating_mul(self.largest) <= MOST_ELEMENTS;
            (chunks == 1 || is_countable) && self.bytes(batch) <= free
        })
    }

    /// How many chunks, at most those of `most`, fit into what is free on `device` now that the weights are there.
    ///
    /// # Errors
    /// [`system::Error::Memory`] where not even one fits on a GPU. A CPU always takes one: what this process has freed and kept
    /// does not count as free there, and that the model fits was asked before it was loaded.
    pub fn fitting(&self, most: BatchSize, device: &Device) -> Result<usize> {
        let free = device_memory(device).map_or(u64::MAX, |memory| memory.free);
        match self.chunks_within(most, free.saturating_sub(spared(device))) {
            Some(chunks) => Ok(chunks),
            None if device.is_cpu() => Ok(1),
            None => {
                let one = BatchSize { chunks: 1, ..most };
                let needed = self.bytes(one).saturating_add(spared(device));
                Err(system::Error::Memory { needed, available: free }.into())
            }
        }
    }
}

impl Way {
    fn of(dtype: DType, device: &Device) -> Self {
        match device {
            Device::Cpu => Self::Cpu,
            Device::Cuda(_) if dtype != DType::F32 => Self::TensorCores,
            _ => Self::Patches,
        }
    }
}

impl Parameters {
    fn bytes(&self, dtype: DType, way: Way) -> u64 {
        self.networks * element_bytes(dtype, way) + self.whisper * DType::F32.size_in_bytes() as u64
    }
}

/// Bytes that the CPU's convolutions make of their weights, and keep beside them.
fn derived_bytes(sizes: &Sizes, dtype: DType) -> candle_core::Result<u64> {
    let of_network = |convolutions: Vec<Convolution>, side: usize| {
        let bytes = |of: &Convolution| {
            let side = side >> of.level;
            Conv2d::derived_bytes(of.in_channels, of.out_channels, (side, side), of.doubling, dtype) as u64
        };
        convolutions.iter().map(bytes).sum::<u64>()
    };
    let unet = of_network(sizes.unet.convolutions()?, sizes.resolution / sizes.vae.downscale());
    let vae = of_network(sizes.vae.convolutions()?, sizes.resolution);
    Ok(unet + vae)
}

/// Numbers for each position of one frame's latents: of all tensors that are there at once in the UNet, and of the
/// largest of them. `first`, `second`: channels of its two largest levels.
///
/// In the first layer of the decoder's last block there are the layer's input (`second`), the same joined with an output
/// of the encoder (`second + first`), and two more of those outputs. Its transformer then has the layer's residual, its
/// own, the norms before attention and feed-forward, the attention's result, the feed-forward's inner layer, which is
/// four times as wide, and its result: ten times `first`. What DeepCache keeps, and the conditioning's part of the first
/// convolution, are there all the time.
///
/// Where patches are copied, the layer's first convolution has more: what it reads, normed, padded in two steps, and
/// nine times as patches; then its product and two copies of that in another order.
fn unet_numbers([first, second]: [u64; 2], way: Way) -> (u64, u64) {
    let joined = first.saturating_add(second);
    let always = first.saturating_mul(4).saturating_add(second).saturating_add(joined);
    match way {
        Way::Cpu | Way::TensorCores => {
            (always.saturating_add(first.saturating_mul(10)), joined.max(first.saturating_mul(4)))
        }
        Way::Patches => {
            let patches = joined.saturating_mul(9);
            let others = joined.saturating_mul(3).saturating_add(first.saturating_mul(3));
            (always.saturating_add(patches).saturating_add(others), patches)
        }
    }
}

/// Numbers for each pixel of a face that are there at once in the VAE. `first`, `second`: channels of its two largest
/// levels.
///
/// The encoder has two images, the masked one and the whole, and in the first level's blocks an input, the first
/// convolution's result, its norm and the second one's result. The decoder has one, and in the last level's first block
/// an input of the level before, and four such tensors. Where patches are copied, a convolution of the first level, or
/// the one that doubles the image for the last, has these nine times and more.
fn vae_numbers([first, second]: [u64; 2], way: Way) -> u64 {
    let (encoder, decoder) = match way {
        Way::Cpu | Way::TensorCores => {
            (first.saturating_mul(2 * 4), first.saturating_mul(4).saturating_add(second))
        }
        Way::Patches => (first.saturating_mul(2 * 16), second.saturating_mul(16)),
    };
    encoder.max(decoder)
}

/// The channels of the two largest levels.
fn levels(channels: &[usize]) -> [u64; 2] {
    let first = channels.first().copied().unwrap_or_default();
    [first as u64, channels.get(1).copied().unwrap_or(first) as u64]
}

/// The CPU has no arithmetic for f16: it keeps such weights, and computes, as f32.
fn element_bytes(dtype: DType, way: Way) -> u64 {
    match (dtype, way) {
        (DType::F16, Way::Cpu) => DType::F32.size_in_bytes() as u64,
        (dtype, _) => dtype.size_in_bytes() as u64,
    }
}

/// What is left alone of the memory of `device`.
fn spared(device: &Device) -> u64 {
    if device.is_cpu() { 0 } else { SPARED }
}

/// Sizes come from files, which can say anything.
fn product(factors: &[usize]) -> u64 {
    factors.iter().fold(1, |product: u64, &factor| product.saturating_mul(factor as u64))
}

fn elements(file: &TensorFile, used: impl Fn(&str) -> bool) -> u64 {
    file.tensors().iter().filter(|(key, _)| used(key)).map(|(_, tensor)| tensor.len() as u64).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GB: u64 = 1_000_000_000;

    fn published(resolution: usize, dtype: DType, way: Way) -> MemoryNeeds {
        MemoryNeeds::published_of_way(resolution, dtype, way).unwrap()
    }

    /// A gigabyte of 6 and of 12 is the driver's, a screen's, and what is spared.
    #[test]
    fn faces_of_256_pixels_fit_into_6_gb_and_of_512_into_12() {
        for (resolution, gigabytes) in [(256, 6), (512, 12)] {
            for dtype in [DType::BF16, DType::F16] {
                let needs = published(resolution, dtype, Way::TensorCores);
                let guided = needs.bytes(BatchSize { chunks: 1, guided: true });
                assert!(guided < (gigabytes - 1) * GB, "{resolution}, {dtype:?}: {guided} bytes");
            }
        }
        let largest = published(512, DType::F32, Way::Patches).bytes(BatchSize { chunks: 1, guided: true });
        assert!((10 * GB..20 * GB).contains(&largest), "{largest} bytes");
    }

    #[test]
    fn a_larger_batch_takes_more_and_the_largest_that_fits_is_taken() {
        let activations = published(512, DType::BF16, Way::TensorCores).activations;
        let most = BatchSize { chunks: 8, guided: true };
        let bytes = |chunks| activations.bytes(BatchSize { chunks, ..most });
        assert!((1..8).all(|chunks| bytes(chunks) < bytes(chunks + 1)));
        assert!(activations.bytes(BatchSize::ONE) < bytes(1));
        for chunks in 1..=8 {
            assert_eq!(activations.chunks_within(most, bytes(chunks)), Some(chunks));
            assert_eq!(activations.chunks_within(most, bytes(chunks + 1) - 1), Some(chunks));
        }
        assert_eq!(activations.chunks_within(most, u64::MAX), Some(8));
        assert_eq!(activations.chunks_within(most, bytes(1) - 1), None);
    }

    #[test]
    fn no_tensor_has_more_elements_than_can_be_counted() {
        let chunks = |way, dtype| {
            let activations = published(512, dtype, way).activations;
            activations.chunks_within(BatchSize { chunks: 15, guided: true }, u64::MAX)
        };
        assert_eq!(chunks(Way::Patches, DType::F32), Some(1));
        // 384 frames of 64 × 64 × 1280 are 2.01 billion.
        assert_eq!(chunks(Way::TensorCores, DType::BF16), Some(12));
    }

    /// The numbers of `benches/README.md`, less the first and the last convolution of each network.
    #[test]
    fn the_convolutions_are_those_that_were_counted() {
        let flop = |all: &[Convolution], images: usize, side: usize| {
            let flop = |of: &Convolution| {
                let side = side >> of.level;
                2 * 9 * of.in_channels * of.out_channels * images * side * side
            };
            all.iter().map(flop).sum::<usize>() as f64 * 1e-9
        };
        let unet = published_unet_config().unwrap().convolutions().unwrap();
        assert_eq!((unet.len(), unet.iter().filter(|of| of.doubling).count()), (46 - 2 + 3, 3));
        let counted = flop(&unet, 16, 32);
        assert!((1306.9 + 271.8 - counted).abs() < 2., "{counted}");

        let vae = published_vae_config().convolutions().unwrap();
        assert_eq!((vae.len(), vae.iter().filter(|of| of.doubling).count()), (22 - 2 + 30 - 2 + 3, 3));
        let counted = flop(&vae, 1, 256);
        assert!((251.8 + 435.4 + 173.9 - counted).abs() < 2., "{counted}");
    }

    #[test]
    fn a_cpu_always_takes_a_chunk() {
        let activations = Activations { frames: 16, frame: u64::MAX, largest: u64::MAX, vae: 1 };
        assert_eq!(activations.fitting(BatchSize { chunks: 3, guided: false }, &Device::Cpu).unwrap(), 1);
    }

    /// In bf16 on a CPU, from the committed run in `benches/results`: the step's peak lies 125 MB above the VAE's, which
    /// holds less.
    #[test]
    fn the_estimate_is_of_the_size_that_was_measured() {
        let activations = published(256, DType::BF16, Way::Cpu).activations;
        let bytes = activations.bytes(BatchSize::ONE);
        assert!((125_000_000..400_000_000).contains(&bytes), "{bytes}");
    }
}
