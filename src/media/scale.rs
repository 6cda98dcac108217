//! swscale with explicit matrix and range on both sides.

use ffmpeg_next as ffmpeg;
use ffmpeg_next::ffi;
use ffmpeg_next::format::Pixel;
use ffmpeg_next::frame;
use ffmpeg_next::software::scaling::{self, Flags};

use super::check;
use super::colour::Coding;

/// Pixel format and size of a picture.
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

/// Parameters of a conversion. `coding` applies to every side that is YUV; conversions do not change it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Conversion {
    pub from: Layout,
    pub to: Layout,
    pub coding: Coding,
    pub flags: Flags,
}

impl Conversion {
    /// Bicubic with exact rounding and identical results on every CPU.
    pub(super) fn accurate(from: Layout, to: Layout, coding: Coding) -> Self {
        let flags = Flags::BICUBIC
            | Flags::ACCURATE_RND
            | Flags::FULL_CHR_H_INT
            | Flags::FULL_CHR_H_INP
            | Flags::BITEXACT;
        Self { from, to, coding, flags }
    }
}

/// A swscale context for one [`Conversion`].
pub(super) struct Scaler {
    context: scaling::Context,
    conversion: Conversion,
}

// SAFETY: the context is owned, has no thread affinity and is only used through `&mut`.
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
        // SAFETY: the context is valid, and the tables are static. Neutral brightness, contrast and
        // saturation are 0, 1 and 1 in 16.16 fixed point. The result is negative for pairs without YUV, which
        // need no setting, and is ignored.
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

    /// Converts into a new picture with the timestamps and tags of `frame`.
    pub(super) fn convert(&mut self, frame: &frame::Video) -> Result<frame::Video, ffmpeg::Error> {
        let to = self.conversion.to;
        let mut converted = allocate(to)?;
        self.context.run(frame, &mut converted)?;
        // SAFETY: both frames are valid. The properties do not include format and size.
        check(unsafe { ffi::av_frame_copy_props(converted.as_mut_ptr(), frame.as_ptr()) })?;
        Ok(converted)
    }

    /// Converts into packed pixels with `stride` bytes per row.
    ///
    /// swscale may write up to the width of a SIMD register beyond a row, so `pixels` must have [`OVERRUN`]
    /// extra bytes.
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
        // SAFETY: the frame has the format and size of the context, and the destination has room for all
        // rows, as checked above.
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

/// Bytes that [`Scaler::convert_packed`] may write beyond the last row.
pub(super) const OVERRUN: usize = 64;

/// A new frame with uninitialised samples.
pub(super) fn allocate(layout: Layout) -> Result<frame::Video, ffmpeg::Error> {
    let mut frame = frame::Video::empty();
    frame.set_format(layout.format);
    frame.set_width(layout.width);
    frame.set_height(layout.height);
    // SAFETY: format and size are set, and the frame has no buffer yet. 0 lets FFmpeg choose the alignment.
    check(unsafe { ffi::av_frame_get_buffer(frame.as_mut_ptr(), 0) })?;
    Ok(frame)
}
