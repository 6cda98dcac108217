//! Colour tags of a file and the YUV–RGB conversion that follows from them.

use ffmpeg_next::ffi;
use ffmpeg_next::util::chroma;
use ffmpeg_next::util::color::{Primaries, Range, Space, TransferCharacteristic};

/// Choice of the YUV–RGB matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ColourMode {
    /// The matrix in the file's tags; [`ColourTags::coding`] defines the default for untagged files.
    #[default]
    Tagged,
    /// BT.601 regardless of the tags, with OpenCV's arithmetic, as in the original.
    ReferenceBt601,
}

/// Colour tags of a stream. The output has the same tags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ColourTags {
    pub matrix: Space,
    pub range: Range,
    pub primaries: Primaries,
    pub transfer: TransferCharacteristic,
    pub chroma: chroma::Location,
}

impl ColourTags {
    /// Matrix and range of a video of this size.
    ///
    /// As in mpv and most players, the default is BT.709 for at least 1280 columns or 577 rows and BT.601
    /// below; the default range is limited.
    pub fn coding(&self, width: usize, height: usize) -> Coding {
        let matrix = match self.matrix {
            Space::BT709 => Matrix::Bt709,
            Space::BT470BG | Space::SMPTE170M => Matrix::Bt601,
            Space::FCC => Matrix::Fcc,
            Space::SMPTE240M => Matrix::Smpte240m,
            Space::BT2020NCL | Space::BT2020CL => Matrix::Bt2020,
            _ if width >= 1280 || height > 576 => Matrix::Bt709,
            _ => Matrix::Bt601,
        };
        Coding { matrix, full_range: self.range == Range::JPEG }
    }

    /// Name of the transfer function if it is an HDR one.
    pub fn high_dynamic_range(&self) -> Option<&'static str> {
        match self.transfer {
            TransferCharacteristic::SMPTE2084 => Some("PQ"),
            TransferCharacteristic::ARIB_STD_B67 => Some("HLG"),
            _ => None,
        }
    }
}

/// Luma coefficients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Matrix {
    Bt601,
    Bt709,
    Fcc,
    Smpte240m,
    Bt2020,
}

impl Matrix {
    /// K_R and K_B (ITU-T H.273, table 4); K_G = 1 − K_R − K_B.
    pub(crate) fn red_blue(self) -> (f32, f32) {
        match self {
            Matrix::Bt601 => (0.299, 0.114),
            Matrix::Bt709 => (0.2126, 0.0722),
            Matrix::Fcc => (0.30, 0.11),
            Matrix::Smpte240m => (0.212, 0.087),
            Matrix::Bt2020 => (0.2627, 0.0593),
        }
    }

    /// Identifier in swscale.
    pub(crate) fn sws(self) -> std::ffi::c_int {
        match self {
            Matrix::Bt601 => ffi::SWS_CS_ITU601,
            Matrix::Bt709 => ffi::SWS_CS_ITU709,
            Matrix::Fcc => ffi::SWS_CS_FCC,
            Matrix::Smpte240m => ffi::SWS_CS_SMPTE240M,
            Matrix::Bt2020 => ffi::SWS_CS_BT2020,
        }
    }
}

/// Matrix and range of YUV samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Coding {
    pub matrix: Matrix,
    /// 0–255 instead of 16–235 (for 8 bits).
    pub full_range: bool,
}

/// Sample values at one bit depth: black, neutral chroma, and the ranges of luma and chroma.
pub(crate) struct SampleLevels {
    pub luma: f32,
    pub chroma: f32,
    pub black: f32,
    pub grey: f32,
}

impl Coding {
    /// Levels for samples of `depth` ≥ 8 bits (ITU-T H.273, equations 23 to 31).
    pub(crate) fn levels(self, depth: u32) -> SampleLevels {
        let step = (1u32 << (depth - 8)) as f32;
        let full = ((1u32 << depth) - 1) as f32;
        let (luma, chroma, black) =
            if self.full_range { (full, full, 0.0) } else { (219.0 * step, 224.0 * step, 16.0 * step) };
        SampleLevels { luma, chroma, black, grey: 128.0 * step }
    }
}
