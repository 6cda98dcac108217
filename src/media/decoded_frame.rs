//! Conversion of decoded frames to [`Picture`]s: square pixels, upright, in a format that
//! [`paste`](super::paste) supports.

use ffmpeg_next as ffmpeg;
use ffmpeg_next::ffi;
use ffmpeg_next::format::Pixel;
use ffmpeg_next::frame;
use ffmpeg_next::frame::side_data;
use ffmpeg_next::util::chroma;
use ffmpeg_next::util::color::{Primaries, Range, Space, TransferCharacteristic};

use crate::media::colour::{Coding, ColourMode, ColourTags};
use crate::media::picture::{ColourConversion, Picture, components, plain_format, share, without_j};
use crate::media::rotation::Orientation;
use crate::media::scale::{Conversion, Layout, Scaler};

/// Larger sample aspect ratios are treated as broken metadata, not as anamorphic video.
const MAX_ASPECT: f64 = 8.0;

/// Converter for the frames of one video. Frames that need no conversion keep the decoder's memory.
pub(crate) struct FrameNormalizer {
    /// Format and size before rotation.
    unrotated: Layout,
    orientation: Orientation,
    tags: ColourTags,
    colours: ColourConversion,
    scaler: Option<Scaler>,
}

impl FrameNormalizer {
    /// Derives the conversion from the first frame. `stream_matrix`: display matrix of the stream, used if
    /// the frame has none; `aspect`: sample aspect ratio, width by height.
    pub(crate) fn new(
        first: &frame::Video,
        stream_matrix: Option<&[u8]>,
        aspect: f64,
        mode: ColourMode,
    ) -> Self {
        let first = &without_yuvj(first);
        let of_frame = first.side_data(side_data::Type::DisplayMatrix);
        let orientation = of_frame
            .as_ref()
            .map(|data| data.data())
            .or(stream_matrix)
            .and_then(Orientation::from_display_matrix)
            .unwrap_or_default();
        let stored = Layout::of(first);
        let keeps_format = components(stored.format).is_some()
            && (orientation.is_identity() || can_be_rotated(stored.format, orientation));
        let (width, height) = square(stored.width, stored.height, aspect);
        let format = if keeps_format { stored.format } else { plain_format(stored.format) };
        let tags = tags(first);
        let coding = tags.coding(stored.width as usize, stored.height as usize);
        Self {
            unrotated: Layout { format, width, height },
            orientation,
            tags,
            colours: ColourConversion { coding, mode },
            scaler: None,
        }
    }

    /// (width, height) of the pictures.
    pub(crate) fn size(&self) -> (usize, usize) {
        let (width, height) = (self.unrotated.width as usize, self.unrotated.height as usize);
        if self.orientation.transpose { (height, width) } else { (width, height) }
    }

    /// Pixel format of the pictures.
    pub(crate) fn format(&self) -> Pixel {
        self.unrotated.format
    }

    pub(crate) fn tags(&self) -> ColourTags {
        self.tags
    }

    pub(crate) fn coding(&self) -> Coding {
        self.colours.coding
    }

    pub(crate) fn convert(&mut self, frame: &frame::Video) -> Result<Picture, ffmpeg::Error> {
        let mut frame = without_yuvj(frame);
        let stored = Layout::of(&frame);
        if stored != self.unrotated {
            let conversion = Conversion::accurate(stored, self.unrotated, self.colours.coding);
            let scaler = match &mut self.scaler {
                Some(scaler) if *scaler.conversion() == conversion => scaler,
                cached => cached.insert(Scaler::new(conversion)?),
            };
            frame = scaler.convert(&frame)?;
        }
        if !self.orientation.is_identity() {
            frame = self.orientation.apply(&frame)?;
        }
        strip_metadata(&mut frame);
        Ok(Picture::new(frame, self.colours))
    }
}

/// A new reference to the frame, with deprecated full-range formats (`YUVJ…`) replaced by a format and a
/// range tag.
fn without_yuvj(frame: &frame::Video) -> frame::Video {
    let mut frame = share(frame);
    if let Some(format) = without_j(frame.format()) {
        frame.set_format(format);
        frame.set_color_range(Range::JPEG);
    }
    frame
}

/// Width and height with square pixels. The smaller side is enlarged, so no detail is lost.
fn square(width: u32, height: u32, aspect: f64) -> (u32, u32) {
    let usable = aspect.is_finite() && (1.0 / MAX_ASPECT..=MAX_ASPECT).contains(&aspect);
    if !usable || (aspect - 1.0).abs() < 1e-3 {
        return (width, height);
    }
    let even = |length: f64| (length / 2.0).round() as u32 * 2;
    if aspect > 1.0 {
        (even(f64::from(width) * aspect), height)
    } else {
        (width, even(f64::from(height) / aspect))
    }
}

fn can_be_rotated(format: ffmpeg::format::Pixel, orientation: Orientation) -> bool {
    format.descriptor().is_some_and(|descriptor| {
        // SAFETY: descriptors are static.
        let raw = unsafe { &*descriptor.as_ptr() };
        let planar = raw.flags & ffi::AV_PIX_FMT_FLAG_PLANAR as u64 != 0;
        planar && (!orientation.transpose || raw.log2_chroma_w == raw.log2_chroma_h)
    })
}

/// Colour tags of a frame. RGB is converted to BT.709 YUV and tagged accordingly.
fn tags(frame: &frame::Video) -> ColourTags {
    let is_rgb = frame.format().descriptor().is_some_and(|descriptor| {
        let rgb_or_palette = ffi::AV_PIX_FMT_FLAG_RGB | ffi::AV_PIX_FMT_FLAG_PAL;
        // SAFETY: descriptors are static.
        unsafe { (*descriptor.as_ptr()).flags & rgb_or_palette as u64 != 0 }
    });
    if is_rgb {
        return ColourTags {
            matrix: Space::BT709,
            range: Range::MPEG,
            primaries: Primaries::BT709,
            transfer: TransferCharacteristic::IEC61966_2_1,
            chroma: chroma::Location::Unspecified,
        };
    }
    ColourTags {
        matrix: frame.color_space(),
        range: frame.color_range(),
        primaries: frame.color_primaries(),
        transfer: frame.color_transfer_characteristic(),
        chroma: frame.chroma_location(),
    }
}

/// Removes the side data (rotation, captions) and the aspect ratio of the stored frame.
fn strip_metadata(frame: &mut frame::Video) {
    // SAFETY: the frame is valid. Entry 0 exists whenever it is removed.
    unsafe {
        let raw = frame.as_mut_ptr();
        (*raw).sample_aspect_ratio = ffi::AVRational { num: 1, den: 1 };
        // A call removes all entries of one type, so at most this many calls are needed.
        for _ in 0..(*raw).nb_side_data {
            if (*raw).nb_side_data > 0 {
                ffi::av_frame_remove_side_data(raw, (**(*raw).side_data).type_);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pixels_become_square_without_losing_detail() {
        assert_eq!(square(720, 576, 64.0 / 45.0), (1024, 576));
        assert_eq!(square(1440, 1080, 4.0 / 3.0), (1920, 1080));
        assert_eq!(square(720, 480, 8.0 / 9.0), (720, 540));
        for odd in [1.0, 0.0, f64::NAN, 1e9] {
            assert_eq!(square(720, 481, odd), (720, 481), "{odd}");
        }
    }
}
