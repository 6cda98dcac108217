//! What the numbers in a picture mean: the tags a file carries, and the conversion that follows from them.

use ffmpeg_next::ffi;
use ffmpeg_next::util::chroma;
use ffmpeg_next::util::color::{Primaries, Range, Space, TransferCharacteristic};

/// Which matrix turns YUV into RGB and back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ColourMode {
    /// The one the file names; [`ColourTags::coding`] says what holds for a file that names none.
    #[default]
    Tagged,
    /// BT.601 whatever the file says, with OpenCV's arithmetic: what the original's frames went through.
    ReferenceBt601,
}

/// The colour description of a stream, as it stands in the file and as the output repeats it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ColourTags {
    pub matrix: Space,
    pub range: Range,
    pub primaries: Primaries,
    pub transfer: TransferCharacteristic,
    pub chroma: chroma::Location,
}

impl ColourTags {
    /// How samples of a video of this size are coded.
    ///
    /// Untagged video is BT.709 from 1280 pixels of width or 577 lines on and BT.601 below, as mpv and most players
    /// show it; an untagged range is limited.
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

    /// The name of the transfer curve where it is one of high dynamic range.
    pub fn high_dynamic_range(&self) -> Option<&'static str> {
        match self.transfer {
            TransferCharacteristic::SMPTE2084 => Some("PQ"),
            TransferCharacteristic::ARIB_STD_B67 => Some("HLG"),
            _ => None,
        }
    }
}

/// The weights of red, green and blue in luma.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Matrix {
    Bt601,
    Bt709,
    Fcc,
    Smpte240m,
    Bt2020,
}

impl Matrix {
    /// Weights of red and of blue; green has the rest (ITU-T H.273, table 4).
    pub(crate) fn red_blue(self) -> (f32, f32) {
        match self {
            Matrix::Bt601 => (0.299, 0.114),
            Matrix::Bt709 => (0.2126, 0.0722),
            Matrix::Fcc => (0.30, 0.11),
            Matrix::Smpte240m => (0.212, 0.087),
            Matrix::Bt2020 => (0.2627, 0.0593),
        }
    }

    /// The number by which swscale knows it.
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

/// How YUV samples stand for colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Coding {
    pub matrix: Matrix,
    /// 0–255 instead of 16–235 (at 8 bits).
    pub full_range: bool,
}

/// The codes of black, of grey in chroma, and how far luma and chroma reach, at one depth.
pub(crate) struct Spans {
    pub luma: f32,
    pub chroma: f32,
    pub black: f32,
    pub grey: f32,
}

impl Coding {
    /// For samples of `depth` ≥ 8 bits (ITU-T H.273, equations 23 to 31).
    pub(crate) fn spans(self, depth: u32) -> Spans {
        let step = (1u32 << (depth - 8)) as f32;
        let full = ((1u32 << depth) - 1) as f32;
        let (luma, chroma, black) =
            if self.full_range { (full, full, 0.0) } else { (219.0 * step, 224.0 * step, 16.0 * step) };
        Spans { luma, chroma, black, grey: 128.0 * step }
    }
}
