//! The mouth mask: the part of a face crop that is generated (black) and the part that is kept (white). Drawn
//! from a table, so that no image file is needed at run time.

use candle_core::{DType, Device, Result, Tensor, bail};
use kernels::erode::erode;
use kernels::gaussian_blur::gaussian_blur;
use kernels::resize::resize_lanczos4;

/// Height and width of the mask as stored.
const SIZE: usize = 256;

/// Pixels per latent, per dimension.
const LATENT_SCALE: usize = 8;

/// (row, from, to): columns from..to are black from this row down to the next row in the table.
#[rustfmt::skip]
const SPANS: [(u8, u8, u8); 81] = [
    (95, 9, 78), (95, 178, 247), (128, 9, 248), (135, 9, 247), (136, 10, 247), (149, 10, 246),
    (150, 11, 246), (163, 11, 245), (164, 12, 245), (170, 12, 244), (171, 13, 244), (172, 13, 243),
    (173, 14, 243), (174, 14, 242), (175, 15, 242), (176, 15, 241), (177, 16, 241), (178, 16, 240),
    (179, 17, 239), (180, 18, 239), (181, 18, 238), (182, 19, 237), (184, 20, 236), (185, 21, 235),
    (187, 22, 234), (188, 22, 233), (189, 23, 233), (190, 24, 232), (191, 25, 231), (192, 26, 231),
    (193, 26, 230), (194, 27, 229), (195, 28, 229), (196, 29, 228), (197, 30, 227), (198, 31, 226),
    (199, 32, 225), (200, 33, 224), (201, 34, 224), (202, 34, 223), (203, 35, 222), (204, 36, 221),
    (205, 37, 220), (206, 38, 219), (207, 39, 218), (208, 40, 217), (209, 42, 216), (210, 43, 215),
    (211, 44, 214), (212, 45, 213), (213, 47, 212), (214, 48, 211), (215, 49, 209), (216, 51, 208),
    (217, 52, 207), (218, 54, 205), (219, 56, 204), (220, 57, 203), (221, 59, 201), (222, 60, 200),
    (223, 62, 198), (224, 64, 197), (225, 66, 195), (226, 68, 193), (227, 70, 192), (228, 72, 190),
    (229, 74, 188), (230, 76, 186), (231, 78, 184), (232, 80, 181), (233, 82, 179), (234, 85, 176),
    (235, 87, 174), (236, 90, 172), (237, 93, 169), (238, 95, 167), (239, 99, 165), (240, 104, 161),
    (241, 108, 157), (242, 131, 153), (243, 0, 0),
];

/// The mask of the published models: 0 where the face is generated, 255 where it is kept. → (256, 256), u8.
pub fn mouth_mask() -> Result<Tensor> {
    let mut pixels = vec![255u8; SIZE * SIZE];
    for spans in SPANS.chunk_by(|a, b| a.0 == b.0) {
        // Each group of spans fills all rows to the bottom, overwriting the previous group.
        for row in pixels.chunks_exact_mut(SIZE).skip(usize::from(spans[0].0)) {
            row.fill(255);
            for &(_, from, to) in spans {
                row[usize::from(from)..usize::from(to)].fill(0);
            }
        }
    }
    Tensor::from_vec(pixels, (SIZE, SIZE), &Device::Cpu)
}

/// The mask at a model's resolution: 1 where the face is kept, 0 where it is generated.
#[derive(Debug, Clone)]
pub struct MouthMask {
    pixels: Tensor,
    latents: Tensor,
}

impl MouthMask {
    /// `resolution`: height and width of the face crops; a multiple of 8.
    pub fn new(resolution: usize) -> Result<Self> {
        if resolution == 0 || !resolution.is_multiple_of(LATENT_SCALE) {
            bail!("mouth mask: resolution {resolution} is not a multiple of {LATENT_SCALE}");
        }
        let mask = resize_lanczos4(&mouth_mask()?.unsqueeze(2)?, resolution, resolution)?;
        let pixels = (mask.to_dtype(DType::F64)? / 255.0)?.to_dtype(DType::F32)?;
        let nearest: Vec<u32> = (0..resolution as u32).step_by(LATENT_SCALE).collect();
        let nearest = Tensor::new(nearest, &Device::Cpu)?;
        Ok(Self { latents: pixels.index_select(&nearest, 0)?.index_select(&nearest, 1)?, pixels })
    }

    /// Mask for images, Lanczos-resized and therefore with grey edges. (resolution, resolution, 1), f32 in
    /// 0..=1, on the CPU.
    pub fn pixels(&self) -> &Tensor {
        &self.pixels
    }

    /// [`Self::pixels`] with a soft edge inside the generated part: the value is 0.5 at a distance of `edge`
    /// pixels from the edge, and 1 wherever [`Self::pixels`] is 1. An `edge` of 0 returns [`Self::pixels`].
    pub fn softened(&self, edge: usize) -> Result<Tensor> {
        if edge == 0 {
            return Ok(self.pixels.clone());
        }
        let generated = self.pixels.squeeze(2)?.affine(-1.0, 1.0)?;
        // OpenCV's default sigma for this kernel size.
        let sigma = 0.3 * (edge as f64 - 1.0) + 0.8;
        // The erosion has the size of the blur kernel, so that the blur ends at the edge of the mask.
        let soft = gaussian_blur(&erode(&generated, 2 * edge + 1)?, 2 * edge + 1, sigma)?;
        soft.minimum(&generated)?.affine(-1.0, 1.0)?.unsqueeze(2)
    }

    /// Mask for latents: [`Self::pixels`], nearest-resized. (resolution / 8, resolution / 8, 1), f32, on the
    /// CPU.
    pub fn latents(&self) -> &Tensor {
        &self.latents
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fnv1a(bytes: &[u8]) -> u64 {
        bytes
            .iter()
            .fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
    }

    fn bytes(x: &Tensor) -> Result<Vec<u8>> {
        x.flatten_all()?.to_vec1::<u8>()
    }

    #[test]
    fn the_mask_has_the_hash_of_the_published_one() -> Result<()> {
        assert_eq!(fnv1a(&bytes(&mouth_mask()?)?), 0xc884_7ec1_3ac1_5176);
        Ok(())
    }

    /// `cv2.resize(mask, (n, n), interpolation=cv2.INTER_LANCZOS4)` has these bytes.
    #[test]
    fn the_resized_mask_equals_opencvs() -> Result<()> {
        for (resolution, hash) in
            [(128, 0x3541_7384_67b0_b1cc), (256, 0xc884_7ec1_3ac1_5176), (512, 0x7a94_fef9_dc3d_2d27)]
        {
            let mask = MouthMask::new(resolution)?;
            assert_eq!(mask.pixels().dims(), [resolution, resolution, 1]);
            let levels = ((mask.pixels() * 255.0)?.round()?).to_dtype(DType::U8)?;
            assert_eq!(fnv1a(&bytes(&levels)?), hash, "at {resolution}");
        }
        Ok(())
    }

    #[test]
    fn the_latent_mask_is_every_eighth_pixel() -> Result<()> {
        let mask = MouthMask::new(128)?;
        let pixels = mask.pixels().squeeze(2)?.to_vec2::<f32>()?;
        let latents = mask.latents().squeeze(2)?.to_vec2::<f32>()?;
        assert_eq!((latents.len(), latents[0].len()), (16, 16));
        for (y, row) in latents.iter().enumerate() {
            for (x, &value) in row.iter().enumerate() {
                assert_eq!(value, pixels[8 * y][8 * x]);
            }
        }
        // Kept at the top, generated at the mouth.
        assert_eq!((latents[0][8], latents[12][8]), (1.0, 0.0));
        assert!(MouthMask::new(100).is_err());
        Ok(())
    }

    #[test]
    fn a_soft_edge_is_inside_the_generated_part() -> Result<()> {
        let mask = MouthMask::new(256)?;
        let hard = mask.pixels().squeeze(2)?.to_vec2::<f32>()?;
        let unchanged = mask.softened(0)?.squeeze(2)?.to_vec2::<f32>()?;
        assert!(unchanged == hard);
        let soft = mask.softened(8)?.squeeze(2)?.to_vec2::<f32>()?;
        let pairs = || hard.as_slice().iter().flatten().zip(soft.iter().flatten());
        assert!(pairs().all(|(hard, soft)| (*hard..=1.0).contains(soft)));
        // Central column: kept at the edge, half kept 8 pixels below it, generated 16 pixels below it.
        assert_eq!((hard[127][128], hard[128][128]), (1.0, 0.0));
        assert!(soft[128][128] > 0.95 && (0.4..0.6).contains(&soft[135][128]));
        assert!(soft[145][128] < 1e-6, "{}", soft[145][128]);
        Ok(())
    }

    mod shared {
        use super::*;

        #[test]
        #[ignore = "needs the shared material"]
        fn the_mask_equals_the_published_picture() -> Result<()> {
            let golden = std::env::var_os("LATENTSYNC_GOLDEN").map_or_else(
                || {
                    let shared = std::env::var_os("LATENTSYNC_SHARED").unwrap_or("../../shared".into());
                    std::path::Path::new(&shared).join("golden")
                },
                std::path::PathBuf::from,
            );
            let picture = image::open(golden.join("mask.png")).map_err(candle_core::Error::wrap)?.to_luma8();
            assert_eq!(picture.dimensions(), (SIZE as u32, SIZE as u32));
            assert!(picture.as_raw() == &bytes(&mouth_mask()?)?, "pixels differ");
            Ok(())
        }
    }
}
