//! swscale, told what it would otherwise guess: the matrix and the range of both sides.

use ffmpeg_next as ffmpeg;
use ffmpeg_next::ffi;
use ffmpeg_next::format::Pixel;
use ffmpeg_next::frame;
use ffmpeg_next::software::scaling::{self, Flags};

use super::check;
use super::colour::Coding;

/// Format and size of a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    pub format: Pixel,
    pub width: u32,
    pub height: u32,
}

impl Layout {
    pub(super) fn of(frame: &frame::Video) -> Self {
        Self { format: frame.format(), width: frame.width(), height: frame.height() }
    }
}

/// One kind of conversion. `coding` holds on every side that is YUV: no conversion changes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Conversion {
    pub from: Layout,
    pub to: Layout,
    pub coding: Coding,
    pub flags: Flags,
}

impl Conversion {
    /// Bicubic with exact rounding, the same on every processor.
    pub(super) fn accurate(from: Layout, to: Layout, coding: Coding) -> Self {
        let flags = Flags::BICUBIC
            | Flags::ACCURATE_RND
            | Flags::FULL_CHR_H_INT
            | Flags::FULL_CHR_H_INP
            | Flags::BITEXACT;
        Self { from, to, coding, flags }
    }
}

/// A converter for one kind of conversion.
pub(super) struct Scaler {
    context: scaling::Context,
    conversion: Conversion,
}

// SAFETY: the context is owned, is not tied to the thread that made it, and is only used through `&mut`.
unsafe impl Send for Scaler {}

impl Scaler {
    pub(super) fn new(conversion: Conversion) -> Result<Self, ffmpeg::Error> {
        let Conversion { from, to, coding, flags } = conversion;
        let mut context = scaling::Context::get(
            from.format,
            from.width,
            from.height,
            to.format,
            to.width,
            to.height,
            flags,
        )?;
        let range = i32::from(coding.full_range);
        // SAFETY: the context is valid; the tables are swscale's own constants. The neutral brightness, contrast and
        // saturation are 0, 1 and 1 in 16.16. Its answer is negative for pairs without YUV, where nothing is to be set.
        unsafe {
            let table = ffi::sws_getCoefficients(coding.matrix.sws());
            ffi::sws_setColorspaceDetails(
                context.as_mut_ptr(),
                table,
                range,
                table,
                range,
                0,
                1 << 16,
                1 << 16,
            );
        }
        Ok(Self { context, conversion })
    }

    pub(super) fn conversion(&self) -> &Conversion {
        &self.conversion
    }

    /// Converts into a new picture that keeps the timestamps and tags of `frame`.
    pub(super) fn convert(&mut self, frame: &frame::Video) -> Result<frame::Video, ffmpeg::Error> {
        let to = self.conversion.to;
        let mut converted = allocate(to)?;
        self.context.run(frame, &mut converted)?;
        // SAFETY: both frames are valid; properties do not include format and size.
        check(unsafe { ffi::av_frame_copy_props(converted.as_mut_ptr(), frame.as_ptr()) })?;
        Ok(converted)
    }

    /// Converts into packed pixels with `stride` bytes from row to row.
    ///
    /// swscale may write up to a vector's width beyond a row, so `pixels` must have 64 bytes behind the last one.
    pub(super) fn convert_packed(
        &mut self,
        frame: &frame::Video,
        pixels: &mut [u8],
        stride: usize,
    ) -> Result<(), ffmpeg::Error> {
        let Conversion { from, to, .. } = self.conversion;
        if Layout::of(frame) != from || pixels.len() < stride * to.height as usize + OVERRUN {
            return Err(ffmpeg::Error::InputChanged);
        }
        let planes = [pixels.as_mut_ptr(), std::ptr::null_mut(), std::ptr::null_mut(), std::ptr::null_mut()];
        let strides = [stride as i32, 0, 0, 0];
        // SAFETY: the frame has the format and size that the context was made for, and the destination has the rows
        // that it will write, as just checked.
        let rows = unsafe {
            let source = frame.as_ptr();
            ffi::sws_scale(
                self.context.as_mut_ptr(),
                (*source).data.as_ptr() as *const *const u8,
                (*source).linesize.as_ptr(),
                0,
                from.height as i32,
                planes.as_ptr(),
                strides.as_ptr(),
            )
        };
        check(rows).map(|_| ())
    }
}

/// What [`Scaler::convert_packed`] may write behind the last row.
pub(super) const OVERRUN: usize = 64;

/// An empty picture with its own memory.
pub(super) fn allocate(layout: Layout) -> Result<frame::Video, ffmpeg::Error> {
    let mut frame = frame::Video::empty();
    frame.set_format(layout.format);
    frame.set_width(layout.width);
    frame.set_height(layout.height);
    // SAFETY: format and size are set, nothing is allocated yet; 0 lets FFmpeg choose the alignment.
    check(unsafe { ffi::av_frame_get_buffer(frame.as_mut_ptr(), 0) })?;
    Ok(frame)
}
