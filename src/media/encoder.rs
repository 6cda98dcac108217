//! The video encoder: selected once per job, with one FFmpeg instance per segment and continuous timestamps.
//!
//! Every segment begins with a key frame and is independent of the previous ones, so segments of different
//! runs can be concatenated. Software encoders produce the same bytes on every machine: the settings that
//! depend on the number of threads are fixed.

use std::path::Path;

use ffmpeg_next as ffmpeg;
use ffmpeg_next::codec::{self, Id, encoder};
use ffmpeg_next::format::Pixel;
use ffmpeg_next::util::color::Range;
use ffmpeg_next::{Packet, Rational, ffi, packet, picture};

use super::colour::{Coding, ColourTags};
use super::picture::Picture;
use super::{hardware, wants_more};
use crate::media::encoder_input::{EncoderFormat, EncoderInput, padded_size};
use crate::media::{Error, Result};
use crate::options::{EncoderChoice, Encoding, VideoCodec};
use crate::system;

/// Number of encoder threads. Constant, not the number of cores, because the output of x264 depends on it.
const THREADS: usize = 8;
/// The output of x265 depends on the existence of a thread pool and on whether it has more than three
/// threads. With `frame-threads=1` frames are encoded sequentially.
const X265: &str = "log-level=none:info=0:open-gop=0:pools=8:frame-threads=1:wpp=1:lookahead-slices=0";
/// If width and height are smaller, FFmpeg's FFV1 encoder finds no default division into slices.
const MIN_SLICED_SIDE: usize = 32;
/// Reordering depth of x264 and x265, in pictures.
const REORDER_DEPTH: i64 = 2;

/// Preset of the software encoders for H.264 and HEVC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Effort {
    /// `medium`.
    #[default]
    Medium,
    /// `ultrafast`: larger files.
    Fast,
}

impl Effort {
    fn preset(self) -> &'static str {
        match self {
            Self::Medium => "medium",
            Self::Fast => "ultrafast",
        }
    }
}

/// Format of the pictures of a job.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PictureFormat {
    pub width: usize,
    pub height: usize,
    pub format: Pixel,
    pub colour: ColourTags,
    pub coding: Coding,
    /// Seconds per picture.
    pub frame_time: Rational,
}

/// Settings of an encoder; [`EncoderConfig::open`] creates an instance.
struct EncoderConfig {
    name: &'static str,
    options: Vec<(&'static str, String)>,
    target: EncoderFormat,
    pictures: PictureFormat,
    codec: VideoCodec,
    software: bool,
}

/// Encodes pictures to packets. Timestamps are picture numbers.
pub(crate) struct VideoEncoder {
    config: EncoderConfig,
    /// Encoder of the current segment.
    current: Option<encoder::video::Encoder>,
    parameters: codec::Parameters,
    headers: Vec<u8>,
    input: EncoderInput,
    /// Difference between decoding order and presentation order, in pictures.
    delay: i64,
    pictures: i64,
    packets: i64,
}

// SAFETY: `parameters` is owned memory without thread affinity and is only read.
unsafe impl Send for VideoEncoder {}

impl VideoEncoder {
    /// Selects and opens the encoder. The second value is a warning, if any.
    ///
    /// # Errors
    /// [`Error::NoEncoder`], [`Error::NoHardwareEncoder`], [`Error::Encode`] where the encoder refuses the
    /// pictures.
    pub(crate) fn open(
        pictures: PictureFormat,
        encoding: &Encoding,
        effort: Effort,
        path: &Path,
    ) -> Result<(Self, Option<String>)> {
        let mut tried = Vec::new();
        for kind in hardware::candidates(encoding.encoder) {
            let Some(config) = EncoderConfig::hardware(kind, pictures, encoding) else { continue };
            let name = config.name;
            match Self::from_plan(config) {
                Ok(encoder) => return Ok((encoder, None)),
                Err(error) => tried.push(format!("{name}: {error}")),
            }
        }
        let warning = match encoding.encoder {
            EncoderChoice::Software => None,
            // The codec has no hardware encoder.
            EncoderChoice::Auto if tried.is_empty() => None,
            EncoderChoice::Auto => {
                Some(format!("no hardware encoder could be opened ({}), using software", tried.join("; ")))
            }
            _ => return Err(Error::NoHardwareEncoder { codec: encoding.codec, tried: tried.join("; ") }),
        };
        let config = EncoderConfig::software(pictures, encoding, effort);
        let name = config.name;
        let encoder = Self::from_plan(config).map_err(|e| match e {
            ffmpeg::Error::EncoderNotFound => Error::NoEncoder { name },
            e => encode_error(path, e),
        })?;
        Ok((encoder, warning))
    }

    fn from_plan(config: EncoderConfig) -> Result<Self, ffmpeg::Error> {
        let encoder = config.open()?;
        let parameters = config.parameters(&encoder);
        let input = EncoderInput::new(config.target, config.pictures.coding);
        let delay = config.delay(&encoder);
        let headers = headers(&encoder);
        Ok(Self {
            config,
            current: Some(encoder),
            parameters,
            headers,
            input,
            delay,
            pictures: 0,
            packets: 0,
        })
    }

    /// FFmpeg's name for the encoder.
    pub(crate) fn name(&self) -> &'static str {
        self.config.name
    }

    /// Codec parameters of the stream.
    pub(crate) fn parameters(&self) -> &codec::Parameters {
        &self.parameters
    }

    /// Text that is equal for encoders whose packets can be mixed in one stream.
    pub(crate) fn fingerprint(&self) -> String {
        let EncoderFormat { format, width, height, .. } = self.config.target;
        let time = self.config.pictures.frame_time;
        // SAFETY: a pure function.
        let version = unsafe { ffi::avcodec_version() };
        format!(
            "{} {:?} {width}x{height} {format:?} {}/{} {version} {:02x?}",
            self.config.name,
            self.config.options,
            time.numerator(),
            time.denominator(),
            self.headers
        )
    }

    /// Continues after `pictures` pictures of complete segments that were encoded before.
    pub(crate) fn resume_after(&mut self, pictures: u64) {
        self.pictures = pictures as i64;
        self.packets = pictures as i64;
    }

    pub(crate) fn push(&mut self, picture: &Picture) -> Result<(), ffmpeg::Error> {
        let mut frame = self.input.convert(picture)?;
        frame.set_pts(Some(self.pictures));
        // Discard the picture type of the decoder; the encoder chooses its own.
        frame.set_kind(picture::Type::None);
        let encoder = match &mut self.current {
            Some(encoder) => encoder,
            none => {
                let encoder = self.config.open()?;
                if headers(&encoder) != self.headers {
                    return Err(ffmpeg::Error::InputChanged);
                }
                none.insert(encoder)
            }
        };
        encoder.send_frame(&frame)?;
        self.pictures += 1;
        Ok(())
    }

    /// Ends the segment and flushes the encoder.
    pub(crate) fn end_segment(&mut self) -> Result<(), ffmpeg::Error> {
        self.current.as_mut().map_or(Ok(()), |encoder| encoder.send_eof())
    }

    /// The next packet; `None` if the encoder needs more pictures or the segment has ended.
    pub(crate) fn next_packet(&mut self) -> Result<Option<Packet>, ffmpeg::Error> {
        let Some(encoder) = &mut self.current else { return Ok(None) };
        let mut packet = Packet::empty();
        match encoder.receive_packet(&mut packet) {
            Ok(()) => {}
            Err(ffmpeg::Error::Eof) => {
                self.current = None;
                return Ok(None);
            }
            Err(e) if wants_more(e) => return Ok(None),
            Err(e) => return Err(e),
        }
        // Each segment has a new encoder with its own decoding timestamps, and very short segments have
        // another delay.
        let decoded = self.packets - self.delay;
        if packet.pts().is_none_or(|shown| shown < decoded) {
            return Err(ffmpeg::Error::InvalidData);
        }
        packet.set_dts(Some(decoded));
        packet.set_duration(1);
        self.packets += 1;
        // Removes encoder statistics, which containers do not store. Packets replayed from a journal do not
        // have them. SAFETY: the packet is valid.
        unsafe { ffi::av_packet_free_side_data(packet::Mut::as_mut_ptr(&mut packet)) };
        Ok(Some(packet))
    }
}

fn headers(encoder: &encoder::video::Encoder) -> Vec<u8> {
    // SAFETY: the context is valid, and `extradata` has `extradata_size` bytes.
    unsafe {
        let raw = &*encoder.as_ptr();
        match usize::try_from(raw.extradata_size) {
            Ok(size) if !raw.extradata.is_null() => std::slice::from_raw_parts(raw.extradata, size).to_vec(),
            _ => Vec::new(),
        }
    }
}

impl EncoderConfig {
    fn software(pictures: PictureFormat, encoding: &Encoding, effort: Effort) -> Self {
        let crf = encoding.crf().map(|crf| crf.to_string()).unwrap_or_default();
        let preset = effort.preset().to_string();
        let format = software_format(encoding.codec, pictures.format);
        let to_options =
            |pairs: &[(&'static str, &str)]| pairs.iter().map(|&(k, v)| (k, v.to_string())).collect();
        let (name, options) = match encoding.codec {
            VideoCodec::H264 => {
                ("libx264", vec![("preset", preset), ("crf", crf), ("x264-params", x264_params().into())])
            }
            VideoCodec::Hevc => {
                ("libx265", vec![("preset", preset), ("crf", crf), ("x265-params", X265.into())])
            }
            VideoCodec::ProRes => {
                let profile = if format == Pixel::YUV444P10LE { "4444" } else { "hq" };
                // Some editors require Apple's vendor tag.
                ("prores_ks", to_options(&[("profile", profile), ("vendor", "apl0")]))
            }
            VideoCodec::Ffv1 => {
                // Intra-only, with a checksum per slice. The number of slices depends only on the size.
                let mut options = vec![("level", "3"), ("g", "1"), ("slicecrc", "1")];
                if pictures.width.max(pictures.height) < MIN_SLICED_SIDE {
                    options.push(("slices", "1"));
                }
                ("ffv1", to_options(&options))
            }
        };
        Self {
            name,
            options,
            target: target(encoding.codec, format, &pictures),
            pictures,
            codec: encoding.codec,
            software: true,
        }
    }

    fn hardware(kind: EncoderChoice, pictures: PictureFormat, encoding: &Encoding) -> Option<Self> {
        let codec = encoding.codec;
        let format = hardware::format(software_format(codec, pictures.format));
        Some(Self {
            name: hardware::name(kind, codec)?,
            options: hardware::options(kind, encoding.crf()?),
            target: target(codec, format, &pictures),
            pictures,
            codec,
            software: false,
        })
    }

    fn open(&self) -> Result<encoder::video::Encoder, ffmpeg::Error> {
        let codec = encoder::find_by_name(self.name).ok_or(ffmpeg::Error::EncoderNotFound)?;
        let mut encoder = codec::Context::new_with_codec(codec).encoder().video()?;
        let EncoderFormat { format, width, height, limited_range } = self.target;
        let PictureFormat { colour, frame_time, .. } = self.pictures;
        encoder.set_width(width);
        encoder.set_height(height);
        encoder.set_format(format);
        encoder.set_aspect_ratio((1, 1));
        encoder.set_time_base(frame_time);
        encoder.set_frame_rate(Some(frame_time.invert()));
        encoder.set_colorspace(colour.matrix);
        encoder.set_color_range(if limited_range { Range::MPEG } else { colour.range });
        encoder.set_color_primaries(colour.primaries);
        encoder.set_color_transfer_characteristic(colour.transfer);
        encoder.set_flags(codec::Flags::GLOBAL_HEADER | codec::Flags::BITEXACT);
        if !self.software {
            encoder.set_max_b_frames(0);
        }
        // SAFETY: the context is valid and not open yet.
        unsafe {
            let raw = encoder.as_mut_ptr();
            (*raw).chroma_sample_location = colour.chroma.into();
            (*raw).thread_count = THREADS as i32;
            if self.codec == VideoCodec::Ffv1 {
                (*raw).thread_type = ffi::FF_THREAD_SLICE;
            }
        }
        encoder.open_with(self.options.iter().map(|(key, value)| (*key, value.as_str())).collect())
    }

    fn parameters(&self, encoder: &encoder::video::Encoder) -> codec::Parameters {
        codec::Parameters::from(encoder)
    }

    fn delay(&self, encoder: &encoder::video::Encoder) -> i64 {
        // SAFETY: the context is valid.
        let reported = i64::from(unsafe { (*encoder.as_ptr()).has_b_frames });
        match (self.software, self.codec) {
            (true, VideoCodec::H264) => reported,
            // x265 does not report it.
            (true, VideoCodec::Hevc) => REORDER_DEPTH.max(reported),
            _ => 0,
        }
    }
}

fn target(codec: VideoCodec, format: Pixel, pictures: &PictureFormat) -> EncoderFormat {
    // FFV1 supports odd sizes with subsampled chroma and must keep the pictures unchanged.
    let (width, height) = match codec {
        VideoCodec::Ffv1 => (pictures.width as u32, pictures.height as u32),
        _ => padded_size(format, pictures.width, pictures.height),
    };
    EncoderFormat { format, width, height, limited_range: codec == VideoCodec::ProRes }
}

/// Pixel format in which pictures of format `source` are encoded by software.
fn software_format(codec: VideoCodec, source: Pixel) -> Pixel {
    let descriptor = source.descriptor();
    // SAFETY: descriptors are static.
    let deep = descriptor.is_some_and(|d| unsafe { (*d.as_ptr()).comp[0].depth > 8 });
    let full_chroma = descriptor.is_some_and(|d| (d.log2_chroma_w(), d.log2_chroma_h()) == (0, 0));
    match codec {
        VideoCodec::H264 => Pixel::YUV420P,
        VideoCodec::Hevc if deep => Pixel::YUV420P10LE,
        VideoCodec::Hevc => Pixel::YUV420P,
        VideoCodec::ProRes if full_chroma => Pixel::YUV444P10LE,
        VideoCodec::ProRes => Pixel::YUV422P10LE,
        VideoCodec::Ffv1 => match source {
            // FFmpeg would choose 16 bits.
            Pixel::P010LE => Pixel::YUV420P10LE,
            Pixel::P210LE | Pixel::Y210LE => Pixel::YUV422P10LE,
            Pixel::P410LE => Pixel::YUV444P10LE,
            _ => nearest(Id::FFV1, source).unwrap_or(source),
        },
    }
}

/// The supported pixel format of a codec's encoder with the least loss for `source`.
fn nearest(id: Id, source: Pixel) -> Option<Pixel> {
    let codec = encoder::find(id)?;
    // SAFETY: the codec is static, and its list of formats has the terminator that the function expects.
    // `pix_fmts` exists in FFmpeg 5 and, deprecated, in later versions.
    #[allow(deprecated, reason = "its successor came with FFmpeg 7.1")]
    let best = unsafe {
        let formats = (*codec.as_ptr()).pix_fmts;
        if formats.is_null() {
            return None;
        }
        ffi::avcodec_find_best_pix_fmt_of_list(formats, source.into(), 1, std::ptr::null_mut())
    };
    Some(best.into()).filter(|&format| format != Pixel::None)
}

/// Instruction sets for x264: all except AVX-512. The AVX-512 motion search of version 164 reads
/// uninitialised memory, so its output is not reproducible. The other implementations produce identical
/// output.
fn x264_params() -> &'static str {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx512f") {
        return "asm=avx2,fma3,bmi2,lzcnt";
    }
    ""
}

pub(crate) fn encode_error(path: &Path, error: ffmpeg::Error) -> Error {
    match error {
        ffmpeg::Error::Other { errno } if errno == ffmpeg::error::ENOSPC => {
            system::Error::DiskFull { path: path.to_path_buf() }.into()
        }
        error => Error::Encode { path: path.to_path_buf(), reason: error.to_string() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_codec_keeps_as_much_of_the_source_format_as_it_supports() {
        use VideoCodec::{Ffv1, H264, Hevc, ProRes};
        for (codec, source, format) in [
            (H264, Pixel::YUV420P10LE, Pixel::YUV420P),
            (Hevc, Pixel::YUV420P, Pixel::YUV420P),
            (Hevc, Pixel::YUV422P10LE, Pixel::YUV420P10LE),
            (Hevc, Pixel::P010LE, Pixel::YUV420P10LE),
            (ProRes, Pixel::YUV420P, Pixel::YUV422P10LE),
            (ProRes, Pixel::YUV444P, Pixel::YUV444P10LE),
            (Ffv1, Pixel::YUV420P, Pixel::YUV420P),
            (Ffv1, Pixel::YUV422P10LE, Pixel::YUV422P10LE),
            (Ffv1, Pixel::YUVA420P, Pixel::YUVA420P),
            (Ffv1, Pixel::NV12, Pixel::YUV420P),
            (Ffv1, Pixel::P010LE, Pixel::YUV420P10LE),
            (Ffv1, Pixel::YUYV422, Pixel::YUV422P),
        ] {
            assert_eq!(software_format(codec, source), format, "{codec} of {source:?}");
        }
        assert_eq!(padded_size(Pixel::YUV420P, 67, 49), (68, 50));
        assert_eq!(padded_size(Pixel::YUV422P10LE, 67, 49), (68, 49));
        assert_eq!(padded_size(Pixel::YUV444P, 67, 49), (67, 49));
    }
}
