//! A decoded frame in the planes of the decoder, and its conversion to and from RGB.

use std::cell::RefCell;

use candle_core::{Device, Tensor};
use ffmpeg_next as ffmpeg;
use ffmpeg_next::ffi;
use ffmpeg_next::format::Pixel;
use ffmpeg_next::frame;
use ffmpeg_next::software::scaling::Flags;

use super::colour::{Coding, ColourMode, Matrix};
use super::scale::{Conversion, Layout, OVERRUN, Scaler, allocate};
use super::{check, paste, to_rgb};
use crate::face::patch::Patch;
use crate::media::{Error, Result};
use crate::system;

const STAGE: &str = "conversion of a picture";

/// A decoded picture: YUV with 8 to 16 bits, planar or interleaved, with any chroma subsampling. Clones share
/// memory until one of them is written to.
pub struct Picture {
    frame: frame::Video,
    colours: ColourConversion,
}

/// Conversion between the samples of a picture and RGB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ColourConversion {
    pub coding: Coding,
    pub mode: ColourMode,
}

/// Description of a picture without its samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PictureLayout {
    layout: Layout,
    colours: ColourConversion,
}

impl Picture {
    pub(crate) fn new(frame: frame::Video, mut colours: ColourConversion) -> Self {
        if colours.mode == ColourMode::ReferenceBt601 {
            colours.coding.matrix = Matrix::Bt601;
        }
        Self { frame, colours }
    }

    pub fn width(&self) -> usize {
        self.frame.width() as usize
    }

    pub fn height(&self) -> usize {
        self.frame.height() as usize
    }

    /// Pixel format.
    pub fn format(&self) -> Pixel {
        self.frame.format()
    }

    pub(crate) fn frame(&self) -> &frame::Video {
        &self.frame
    }

    /// The planes, each as rows of bytes without padding. Two pictures are bit-identical if these are equal.
    pub fn planes(&self) -> impl Iterator<Item = Plane<'_>> {
        planes(&self.frame)
    }

    /// Converts to RGB, (height, width, 3) u8, with the matrix and range of the picture's [`ColourMode`].
    pub fn to_rgb(&self) -> Result<Tensor> {
        let (width, height) = (self.width(), self.height());
        let pixels = match self.colours.mode {
            ColourMode::Tagged => {
                let mut pixels = vec![0; 3 * width * height];
                let done = to_rgb::to_rgb(&self.frame, self.colours.coding, &mut pixels);
                done.ok_or_else(|| self.unreadable("unsupported pixel format"))?;
                pixels
            }
            ColourMode::ReferenceBt601 => self.to_rgb_as_opencv().map_err(|e| self.unreadable(e))?,
        };
        Tensor::from_vec(pixels, (height, width, 3), &Device::Cpu).map_err(compute)
    }

    /// Converts with swscale's default arithmetic, as OpenCV does.
    fn to_rgb_as_opencv(&self) -> Result<Vec<u8>, ffmpeg::Error> {
        thread_local! {
            // Creating a context takes longer than converting a small picture.
            static SCALER: RefCell<Option<Scaler>> = const { RefCell::new(None) };
        }
        let from = Layout::of(&self.frame);
        let to = Layout { format: Pixel::RGB24, ..from };
        let conversion = Conversion { from, to, coding: self.colours.coding, flags: Flags::BICUBIC };
        let (row, height) = (3 * self.width(), self.height());
        let stride = row.next_multiple_of(OVERRUN);
        let mut pixels = vec![0; stride * height + OVERRUN];
        SCALER.with_borrow_mut(|cached| {
            let scaler = match cached {
                Some(scaler) if *scaler.conversion() == conversion => scaler,
                _ => cached.insert(Scaler::new(conversion)?),
            };
            scaler.convert_packed(&self.frame, &mut pixels, stride)
        })?;
        if stride != row {
            for y in 1..height {
                pixels.copy_within(y * stride..y * stride + row, y * row);
            }
        }
        pixels.truncate(row * height);
        Ok(pixels)
    }

    fn unreadable(&self, why: impl std::fmt::Display) -> Error {
        compute(candle_core::Error::Msg(format!("{self:?} to RGB: {why}")))
    }

    /// Writes the pixels of `patch` with a weight above 0. All other samples stay bit-identical; a chroma
    /// sample changes if one of its pixels does.
    ///
    /// # Errors
    /// [`system::Error::Compute`] where the patch reaches out of the picture.
    pub fn paste(&mut self, patch: &Patch) -> Result<()> {
        // SAFETY: the frame is valid. Its memory is copied if a clone shares it.
        check(unsafe { ffi::av_frame_make_writable(self.frame.as_mut_ptr()) })
            .map_err(|e| compute(candle_core::Error::Msg(format!("copy of a picture: {e}"))))?;
        paste::paste(&mut self.frame, self.colours.coding, patch).map_err(compute)
    }

    pub(crate) fn layout(&self) -> PictureLayout {
        PictureLayout { layout: Layout::of(&self.frame), colours: self.colours }
    }

    /// Appends the samples of all planes to `bytes`.
    pub(crate) fn write_samples(&self, bytes: &mut Vec<u8>) {
        for plane in self.planes() {
            for y in 0..plane.height {
                bytes.extend_from_slice(plane.row(y));
            }
        }
    }

    /// Inverse of [`Picture::write_samples`]. `None` if the length of `bytes` does not match the layout.
    pub(crate) fn from_samples(layout: PictureLayout, mut bytes: &[u8]) -> Option<Self> {
        let mut frame = allocate(layout.layout).ok()?;
        for mut plane in planes_mut(&mut frame) {
            for y in 0..plane.height {
                let row = plane.row_mut(y);
                let (samples, rest) = bytes.split_at_checked(row.len())?;
                row.copy_from_slice(samples);
                bytes = rest;
            }
        }
        bytes.is_empty().then_some(Self { frame, colours: layout.colours })
    }
}

impl Clone for Picture {
    fn clone(&self) -> Self {
        Self { frame: share(&self.frame), colours: self.colours }
    }
}

impl std::fmt::Debug for Picture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Picture({}×{} {:?})", self.width(), self.height(), self.format())
    }
}

fn compute(source: candle_core::Error) -> Error {
    system::Error::Compute { stage: STAGE, source: source.into() }.into()
}

/// A new reference to the samples of a frame. (`frame::Video::clone` copies them.)
pub(crate) fn share(frame: &frame::Video) -> frame::Video {
    // SAFETY: the frame is valid, and the result owns the new reference. The call fails only if the memory
    // for the struct cannot be allocated; the next use then refuses the empty frame.
    unsafe {
        let clone = ffi::av_frame_clone(frame.as_ptr());
        if clone.is_null() { frame::Video::empty() } else { frame::Video::wrap(clone) }
    }
}

/// Memory layout of the samples of one component (Y, U or V).
#[derive(Debug, Clone, Copy)]
pub(super) struct Component {
    pub plane: usize,
    pub depth: u32,
    pub log2_width: u32,
    pub log2_height: u32,
    step: usize,
    offset: usize,
    shift: u32,
}

impl Component {
    /// The sample at column `x` of a row.
    pub(super) fn read(&self, row: &[u8], x: usize) -> f32 {
        let i = x * self.step + self.offset;
        if self.depth == 8 {
            f32::from(row[i])
        } else {
            f32::from(u16::from_le_bytes([row[i], row[i + 1]]) >> self.shift)
        }
    }

    /// The samples of a row from its left edge.
    #[inline(always)]
    pub(super) fn read_row(&self, row: &[u8], out: &mut [f32]) {
        if self.depth == 8 && self.step == 1 {
            out.iter_mut().zip(row).for_each(|(out, &sample)| *out = f32::from(sample));
        } else {
            out.iter_mut().enumerate().for_each(|(x, out)| *out = self.read(row, x));
        }
    }

    /// Writes a sample, rounded and clamped.
    pub(super) fn write(&self, row: &mut [u8], x: usize, value: f32) {
        let i = x * self.step + self.offset;
        let code = value.round().clamp(0.0, ((1u32 << self.depth) - 1) as f32) as u16;
        if self.depth == 8 {
            row[i] = code as u8;
        } else {
            row[i..i + 2].copy_from_slice(&(code << self.shift).to_le_bytes());
        }
    }
}

/// Packed formats whose samples have a constant step. FFmpeg's descriptors do not distinguish them from
/// others (UYYVYY411, XV30).
const PACKED: [Pixel; 4] = [Pixel::YUYV422, Pixel::UYVY422, Pixel::YVYU422, Pixel::Y210LE];

/// Layout of Y, U and V in the supported formats: planar, interleaved chroma, and [`PACKED`]. `None` for all
/// others: RGB, XYZ, grey, palettes, big-endian, bit-packed, and formats in GPU memory.
pub(super) fn components(format: Pixel) -> Option<[Component; 3]> {
    let descriptor = format.descriptor()?;
    // SAFETY: descriptors are static.
    let raw = unsafe { &*descriptor.as_ptr() };
    let refused = ffi::AV_PIX_FMT_FLAG_BE
        | ffi::AV_PIX_FMT_FLAG_PAL
        | ffi::AV_PIX_FMT_FLAG_BITSTREAM
        | ffi::AV_PIX_FMT_FLAG_HWACCEL
        | ffi::AV_PIX_FMT_FLAG_RGB
        | ffi::AV_PIX_FMT_FLAG_BAYER
        | ffi::AV_PIX_FMT_FLAG_FLOAT;
    if raw.flags & refused as u64 != 0 || raw.nb_components < 3 {
        return None;
    }
    if raw.flags & ffi::AV_PIX_FMT_FLAG_PLANAR as u64 == 0 && !PACKED.contains(&format) {
        return None;
    }
    let component = |i: usize| {
        let c = raw.comp[i];
        let (log2_width, log2_height) = if i == 0 { (0, 0) } else { (raw.log2_chroma_w, raw.log2_chroma_h) };
        let component = Component {
            plane: usize::try_from(c.plane).ok()?,
            depth: u32::try_from(c.depth).ok()?,
            log2_width: u32::from(log2_width),
            log2_height: u32::from(log2_height),
            step: usize::try_from(c.step).ok()?,
            offset: usize::try_from(c.offset).ok()?,
            shift: u32::try_from(c.shift).ok()?,
        };
        (8..=16).contains(&component.depth).then_some(component)
    };
    Some([component(0)?, component(1)?, component(2)?])
}

/// One plane of a picture.
pub struct Plane<'a> {
    first_row: *const u8,
    stride: isize,
    /// Bytes per row without padding.
    row_bytes: usize,
    pub width: usize,
    pub height: usize,
    /// Bytes per sample, or per pair of interleaved samples.
    pub step: usize,
    owner: std::marker::PhantomData<&'a [u8]>,
}

// SAFETY: the plane borrows the samples, so they are not written to during its lifetime.
unsafe impl Sync for Plane<'_> {}

impl<'a> Plane<'a> {
    /// The samples of row `y` < `height` without padding.
    pub fn row(&self, y: usize) -> &'a [u8] {
        assert!(y < self.height, "row {y} of {}", self.height);
        // SAFETY: FFmpeg allocates `height` rows of at least `row_bytes` bytes at a distance of `stride`
        // (which may be negative); the frame is borrowed for 'a.
        unsafe { std::slice::from_raw_parts(self.first_row.offset(self.stride * y as isize), self.row_bytes) }
    }
}

/// One plane of a picture with mutable rows.
pub(super) struct PlaneMut<'a>(Plane<'a>);

impl PlaneMut<'_> {
    pub(super) fn row_mut(&mut self, y: usize) -> &mut [u8] {
        assert!(y < self.0.height, "row {y} of {}", self.0.height);
        let Plane { first_row, stride, row_bytes, .. } = self.0;
        // SAFETY: as in `Plane::row`. The frame is borrowed exclusively, and planes do not overlap.
        unsafe { std::slice::from_raw_parts_mut(first_row.cast_mut().offset(stride * y as isize), row_bytes) }
    }
}

impl<'a> std::ops::Deref for PlaneMut<'a> {
    type Target = Plane<'a>;

    fn deref(&self) -> &Plane<'a> {
        &self.0
    }
}

pub(super) fn planes(frame: &frame::Video) -> impl Iterator<Item = Plane<'_>> {
    let format: ffi::AVPixelFormat = frame.format().into();
    let subsampling = frame.format().descriptor().map_or((0, 0), |d| (d.log2_chroma_w(), d.log2_chroma_h()));
    let (width, height) = (frame.width() as usize, frame.height() as usize);
    // SAFETY: a pure function of the format.
    let count = unsafe { ffi::av_pix_fmt_count_planes(format) }.max(0) as usize;
    (0..count).map_while(move |i| {
        let (log2_w, log2_h) = if i == 1 || i == 2 { subsampling } else { (0, 0) };
        let (width, height) = (width.div_ceil(1 << log2_w), height.div_ceil(1 << log2_h));
        // SAFETY: the frame is valid and borrowed for '_; the line size is a pure function of format and
        // width.
        let (first_row, stride, row_bytes) = unsafe {
            let raw = frame.as_ptr();
            let row_bytes = ffi::av_image_get_linesize(format, (*raw).width, i as i32);
            ((*raw).data[i].cast_const(), (*raw).linesize[i] as isize, usize::try_from(row_bytes).ok()?)
        };
        (!first_row.is_null()).then_some(Plane {
            first_row,
            stride,
            row_bytes,
            width,
            height,
            step: row_bytes / width.max(1),
            owner: std::marker::PhantomData,
        })
    })
}

/// Planes with mutable rows. The frame must be writable, that is, not shared.
pub(super) fn planes_mut(frame: &mut frame::Video) -> impl Iterator<Item = PlaneMut<'_>> {
    planes(frame).map(PlaneMut)
}

/// Replacement for an unsupported pixel format: 4:4:4 with 8 bits, or with 10 if the format has more than 8.
pub(super) fn plain_format(format: Pixel) -> Pixel {
    let deep = format.descriptor().is_some_and(|descriptor| {
        // SAFETY: descriptors are static.
        unsafe { (*descriptor.as_ptr()).comp[0].depth > 8 }
    });
    if deep { Pixel::YUV444P10LE } else { Pixel::YUV444P }
}

/// The replacement of a deprecated full-range format (`YUVJ…`); `None` for other formats.
pub(super) fn without_j(format: Pixel) -> Option<Pixel> {
    match format {
        Pixel::YUVJ420P => Some(Pixel::YUV420P),
        Pixel::YUVJ422P => Some(Pixel::YUV422P),
        Pixel::YUVJ444P => Some(Pixel::YUV444P),
        Pixel::YUVJ440P => Some(Pixel::YUV440P),
        _ => None,
    }
}
