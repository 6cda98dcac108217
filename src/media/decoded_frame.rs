//! From a decoder's frame to a [`Picture`]: square pixels, upright, in a format that can be read and written.

use ffmpeg_next as ffmpeg;
use ffmpeg_next::ffi;
use ffmpeg_next::format::Pixel;
use ffmpeg_next::frame;
use ffmpeg_next::frame::side_data;
use ffmpeg_next::util::chroma;
use ffmpeg_next::util::color::{Primaries, Range, Space, TransferCharacteristic};

use crate::media::colour::{Coding, ColourMode, ColourTags};
use crate::media::picture::{Look, Picture, components, plain_format, share, without_j};
use crate::media::rotation::Orientation;
use crate::media::scale::{Conversion, Layout, Scaler};

/// Aspect ratios beyond this are broken metadata, not anamorphic video.
const LARGEST_ASPECT: f64 = 8.0;

/// What is done to every frame of one video. Most need nothing and keep the decoder's memory.
pub(crate) struct Preparer {
    /// What a frame is converted to before it is turned.
    upright: Layout,
    orientation: Orientation,
    tags: ColourTags,
    look: Look,
    scaler: Option<Scaler>,
}

impl Preparer {
    /// Decides by the first frame; `stream_matrix` is the stream's display matrix, which a frame's own overrides;
    /// `aspect` the shape of a pixel, width by height.
    pub(crate) fn new(
        first: &frame::Video,
        stream_matrix: Option<&[u8]>,
        aspect: f64,
        mode: ColourMode,
    ) -> Self {
        let first = &renamed(first);
        let of_frame = first.side_data(side_data::Type::DisplayMatrix);
        let orientation = of_frame
            .as_ref()
            .map(|data| data.data())
            .or(stream_matrix)
            .and_then(Orientation::from_display_matrix)
            .unwrap_or_default();
        let stored = Layout::of(first);
        let keeps_format = components(stored.format).is_some()
            && (orientation.is_identity() || can_be_turned(stored.format, orientation));
        let (width, height) = square(stored.width, stored.height, aspect);
        let format = if keeps_format { stored.format } else { plain_format(stored.format) };
        let tags = tags(first);
        let coding = tags.coding(stored.width as usize, stored.height as usize);
        Self {
            upright: Layout { format, width, height },
            orientation,
            tags,
            look: Look { coding, mode },
            scaler: None,
        }
    }

    /// (width, height) of the pictures.
    pub(crate) fn size(&self) -> (usize, usize) {
        let (width, height) = (self.upright.width as usize, self.upright.height as usize);
        if self.orientation.transpose { (height, width) } else { (width, height) }
    }

    /// Of the pictures.
    pub(crate) fn format(&self) -> Pixel {
        self.upright.format
    }

    pub(crate) fn tags(&self) -> ColourTags {
        self.tags
    }

    pub(crate) fn coding(&self) -> Coding {
        self.look.coding
    }

    pub(crate) fn prepare(&mut self, frame: &frame::Video) -> Result<Picture, ffmpeg::Error> {
        let mut frame = renamed(frame);
        let stored = Layout::of(&frame);
        if stored != self.upright {
            let conversion = Conversion::accurate(stored, self.upright, self.look.coding);
            let scaler = match &mut self.scaler {
                Some(scaler) if *scaler.conversion() == conversion => scaler,
                cached => cached.insert(Scaler::new(conversion)?),
            };
            frame = scaler.convert(&frame)?;
        }
        if !self.orientation.is_identity() {
            frame = self.orientation.apply(&frame)?;
        }
        strip(&mut frame);
        Ok(Picture::new(frame, self.look))
    }
}

/// Another reference to the frame, in a format whose name does not speak of the range.
fn renamed(frame: &frame::Video) -> frame::Video {
    let mut frame = share(frame);
    if let Some(format) = without_j(frame.format()) {
        frame.set_format(format);
        frame.set_color_range(Range::JPEG);
    }
    frame
}

/// Width and height with square pixels: the shorter side grows, so that no detail is lost.
fn square(width: u32, height: u32, aspect: f64) -> (u32, u32) {
    let usable = aspect.is_finite() && (1.0 / LARGEST_ASPECT..=LARGEST_ASPECT).contains(&aspect);
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

fn can_be_turned(format: ffmpeg::format::Pixel, orientation: Orientation) -> bool {
    format.descriptor().is_some_and(|descriptor| {
        // SAFETY: descriptors are FFmpeg's constants.
        let raw = unsafe { &*descriptor.as_ptr() };
        let planar = raw.flags & ffi::AV_PIX_FMT_FLAG_PLANAR as u64 != 0;
        planar && (!orientation.transpose || raw.log2_chroma_w == raw.log2_chroma_h)
    })
}

/// The colour description of a frame; RGB becomes BT.709 YUV and says so.
fn tags(frame: &frame::Video) -> ColourTags {
    let is_rgb = frame.format().descriptor().is_some_and(|descriptor| {
        let rgb_or_palette = ffi::AV_PIX_FMT_FLAG_RGB | ffi::AV_PIX_FMT_FLAG_PAL;
        // SAFETY: descriptors are FFmpeg's constants.
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

/// Removes what belongs to the stored frame, not to the picture: rotation, captions, aspect ratio.
fn strip(frame: &mut frame::Video) {
    // SAFETY: the frame is valid, and the list shrinks with every call.
    unsafe {
        let raw = frame.as_mut_ptr();
        (*raw).sample_aspect_ratio = ffi::AVRational { num: 1, den: 1 };
        // One call removes all entries of a kind, so this many are enough.
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
    fn pixels_become_square_without_losing_any() {
        assert_eq!(square(720, 576, 64.0 / 45.0), (1024, 576));
        assert_eq!(square(1440, 1080, 4.0 / 3.0), (1920, 1080));
        assert_eq!(square(720, 480, 8.0 / 9.0), (720, 540));
        for odd in [1.0, 0.0, f64::NAN, 1e9] {
            assert_eq!(square(720, 481, odd), (720, 481), "{odd}");
        }
    }
}
