//! One decoded frame in the decoder's own planes, and the ways in and out of it.

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

/// A picture of the video as the decoder left it: YUV of 8 to 16 bits, planar or interleaved, with or without
/// subsampled chroma. Cloning shares the memory until one of the clones is written to.
pub struct Picture {
    frame: frame::Video,
    look: Look,
}

/// How a picture's samples are read and written as RGB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Look {
    pub coding: Coding,
    pub mode: ColourMode,
}

/// What a picture's samples need beside themselves to become a picture again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PictureLayout {
    layout: Layout,
    look: Look,
}

impl Picture {
    pub(crate) fn new(frame: frame::Video, mut look: Look) -> Self {
        if look.mode == ColourMode::ReferenceBt601 {
            look.coding.matrix = Matrix::Bt601;
        }
        Self { frame, look }
    }

    pub fn width(&self) -> usize {
        self.frame.width() as usize
    }

    pub fn height(&self) -> usize {
        self.frame.height() as usize
    }

    /// The decoder's pixel format.
    pub fn format(&self) -> Pixel {
        self.frame.format()
    }

    pub(crate) fn frame(&self) -> &frame::Video {
        &self.frame
    }

    /// The planes, each as rows of bytes without padding: what "bit for bit" is about.
    pub fn planes(&self) -> impl Iterator<Item = Plane<'_>> {
        planes(&self.frame)
    }

    /// The picture in RGB: (height, width, 3) u8, with the matrix and range of its [`ColourMode`].
    pub fn to_rgb(&self) -> Result<Tensor> {
        let (width, height) = (self.width(), self.height());
        let pixels = match self.look.mode {
            ColourMode::Tagged => {
                let mut pixels = vec![0; 3 * width * height];
                let done = to_rgb::to_rgb(&self.frame, self.look.coding, &mut pixels);
                done.ok_or_else(|| self.unreadable("not a format of pictures"))?;
                pixels
            }
            ColourMode::ReferenceBt601 => self.to_rgb_as_opencv().map_err(|e| self.unreadable(e))?,
        };
        Tensor::from_vec(pixels, (height, width, 3), &Device::Cpu).map_err(compute)
    }

    /// swscale's default arithmetic, which OpenCV uses.
    fn to_rgb_as_opencv(&self) -> Result<Vec<u8>, ffmpeg::Error> {
        thread_local! {
            // A context takes longer to set up than a small picture to convert.
            static SCALER: RefCell<Option<Scaler>> = const { RefCell::new(None) };
        }
        let from = Layout::of(&self.frame);
        let to = Layout { format: Pixel::RGB24, ..from };
        let conversion = Conversion { from, to, coding: self.look.coding, flags: Flags::BICUBIC };
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

    /// Writes the pixels of `patch` whose weight is above 0 and leaves every other sample as it is; a chroma sample
    /// changes where one of the pixels that share it does.
    ///
    /// # Errors
    /// [`system::Error::Compute`] where the patch reaches out of the picture.
    pub fn paste(&mut self, patch: &Patch) -> Result<()> {
        // SAFETY: the frame is valid. It gets memory of its own where a clone shares it.
        check(unsafe { ffi::av_frame_make_writable(self.frame.as_mut_ptr()) })
            .map_err(|e| compute(candle_core::Error::Msg(format!("copy of a picture: {e}"))))?;
        paste::paste(&mut self.frame, self.look.coding, patch).map_err(compute)
    }

    pub(crate) fn layout(&self) -> PictureLayout {
        PictureLayout { layout: Layout::of(&self.frame), look: self.look }
    }

    /// Appends all samples, plane after plane, to `bytes`.
    pub(crate) fn write_samples(&self, bytes: &mut Vec<u8>) {
        for plane in self.planes() {
            for y in 0..plane.height {
                bytes.extend_from_slice(plane.row(y));
            }
        }
    }

    /// The opposite of [`Picture::write_samples`]; `None` where `bytes` are not that layout's.
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
        bytes.is_empty().then_some(Self { frame, look: layout.look })
    }
}

impl Clone for Picture {
    fn clone(&self) -> Self {
        Self { frame: share(&self.frame), look: self.look }
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

/// A second reference to the same samples. (`frame::Video::clone` would copy them.)
pub(crate) fn share(frame: &frame::Video) -> frame::Video {
    // SAFETY: the frame is valid; the result owns the new reference. Memory for the small struct itself is the only
    // thing that can lack, and an empty frame is then what the next use refuses.
    unsafe {
        let clone = ffi::av_frame_clone(frame.as_ptr());
        if clone.is_null() { frame::Video::empty() } else { frame::Video::wrap(clone) }
    }
}

/// Where a component's samples lie: in which plane, how far apart, of how many bits.
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
    /// The sample in column `x` of a plane's row.
    pub(super) fn read(&self, row: &[u8], x: usize) -> f32 {
        let i = x * self.step + self.offset;
        if self.depth == 8 {
            f32::from(row[i])
        } else {
            f32::from(u16::from_le_bytes([row[i], row[i + 1]]) >> self.shift)
        }
    }

    /// A row's samples from its left edge on.
    #[inline(always)]
    pub(super) fn read_row(&self, row: &[u8], out: &mut [f32]) {
        if self.depth == 8 && self.step == 1 {
            out.iter_mut().zip(row).for_each(|(out, &sample)| *out = f32::from(sample));
        } else {
            out.iter_mut().enumerate().for_each(|(x, out)| *out = self.read(row, x));
        }
    }

    /// Rounds and clamps.
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

/// Packed formats whose samples each lie a fixed step after the one before. Others (UYYVYY411, XV30) look alike in
/// FFmpeg's description.
const PACKED: [Pixel; 4] = [Pixel::YUYV422, Pixel::UYVY422, Pixel::YVYU422, Pixel::Y210LE];

/// Y, U and V of a format that pictures are kept in: planar ones, those with interleaved chroma, and [`PACKED`]; `None`
/// for every other one: RGB, XYZ, grey, palettes, big-endian, packed bits, and what lies in a graphics card's memory.
pub(super) fn components(format: Pixel) -> Option<[Component; 3]> {
    let descriptor = format.descriptor()?;
    // SAFETY: descriptors are FFmpeg's constants.
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

/// Rows of one plane.
pub struct Plane<'a> {
    first_row: *const u8,
    stride: isize,
    /// Bytes of a row that are samples.
    row_bytes: usize,
    pub width: usize,
    pub height: usize,
    /// Bytes from one sample (or pair of interleaved samples) to the next.
    pub step: usize,
    owner: std::marker::PhantomData<&'a [u8]>,
}

// SAFETY: a shared borrow of samples that nobody writes to while it lives.
unsafe impl Sync for Plane<'_> {}

impl<'a> Plane<'a> {
    /// The samples of row `y` < `height`, without padding.
    pub fn row(&self, y: usize) -> &'a [u8] {
        assert!(y < self.height, "row {y} of {}", self.height);
        // SAFETY: FFmpeg allocates `height` rows of at least `row_bytes` each, `stride` apart (it may be negative);
        // the frame is borrowed for 'a.
        unsafe { std::slice::from_raw_parts(self.first_row.offset(self.stride * y as isize), self.row_bytes) }
    }
}

/// Rows of one plane, to be written.
pub(super) struct PlaneMut<'a>(Plane<'a>);

impl PlaneMut<'_> {
    pub(super) fn row_mut(&mut self, y: usize) -> &mut [u8] {
        assert!(y < self.0.height, "row {y} of {}", self.0.height);
        let Plane { first_row, stride, row_bytes, .. } = self.0;
        // SAFETY: as in `Plane::row`; made from an exclusively borrowed frame, and planes do not overlap.
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
        // SAFETY: the frame is valid and lives for '_; the line size is a function of format and width.
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

/// The frame must be writable, that is, not shared.
pub(super) fn planes_mut(frame: &mut frame::Video) -> impl Iterator<Item = PlaneMut<'_>> {
    planes(frame).map(PlaneMut)
}

/// The format that a picture is converted to where its own cannot be kept: 4:4:4 of 8 bits, or of 10 where it has more.
pub(super) fn plain_format(format: Pixel) -> Pixel {
    let deep = format.descriptor().is_some_and(|descriptor| {
        // SAFETY: descriptors are FFmpeg's constants.
        unsafe { (*descriptor.as_ptr()).comp[0].depth > 8 }
    });
    if deep { Pixel::YUV444P10LE } else { Pixel::YUV444P }
}

/// Is a frame's format one of the old names that mean "full range"? Returns the format by its proper name.
pub(super) fn without_j(format: Pixel) -> Option<Pixel> {
    match format {
        Pixel::YUVJ420P => Some(Pixel::YUV420P),
        Pixel::YUVJ422P => Some(Pixel::YUV422P),
        Pixel::YUVJ444P => Some(Pixel::YUV444P),
        Pixel::YUVJ440P => Some(Pixel::YUV440P),
        _ => None,
    }
}
