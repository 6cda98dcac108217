//! The video encoder: chosen once, then one instance for each segment, with timestamps that go on.
//!
//! Every segment begins with a key frame and refers to nothing before it, so that segments of two runs can be
//! joined. Software encoders give the same bytes on every machine: what they make of their number of threads is
//! fixed.

use std::path::Path;

use ffmpeg_next as ffmpeg;
use ffmpeg_next::codec::{self, Id, encoder};
use ffmpeg_next::format::Pixel;
use ffmpeg_next::util::color::Range;
use ffmpeg_next::{Packet, Rational, ffi, packet, picture};

use super::colour::{Coding, ColourTags};
use super::picture::Picture;
use super::{hardware, wants_more};
use crate::media::encoder_input::{Fit, Target, padded_size};
use crate::media::{Error, Result};
use crate::options::{EncoderChoice, Encoding, VideoCodec};
use crate::system;

/// x264's result depends on the number of its threads, so this is not the number of cores.
const THREADS: usize = 8;
/// x265's depends on whether it has a pool of threads, and on more than three of them in it. It makes as many as it
/// is told to. Frames are encoded one after the other.
const X265: &str = "log-level=none:info=0:open-gop=0:pools=8:frame-threads=1:wpp=1:lookahead-slices=0";
/// Below this many pixels of width and height, FFmpeg finds no way by itself to cut a picture of FFV1 into slices.
const ONE_SLICE: usize = 32;
/// Both x264 and x265 show a picture up to two later than they decode it.
const REORDERED: i64 = 2;

/// How long the software encoders of H.264 and HEVC take over a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Effort {
    /// Their `medium`.
    #[default]
    Medium,
    /// Their `ultrafast`: larger files.
    Least,
}

impl Effort {
    fn preset(self) -> &'static str {
        match self {
            Self::Medium => "medium",
            Self::Least => "ultrafast",
        }
    }
}

/// What is to be encoded.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pictures {
    pub width: usize,
    pub height: usize,
    pub format: Pixel,
    pub colour: ColourTags,
    pub coding: Coding,
    /// Seconds from one to the next.
    pub frame_time: Rational,
}

/// An encoder's settings; [`Plan::open`] makes an instance.
struct Plan {
    name: &'static str,
    options: Vec<(&'static str, String)>,
    target: Target,
    pictures: Pictures,
    codec: VideoCodec,
    software: bool,
}

/// Pictures in, packets out. Timestamps count pictures.
pub(crate) struct VideoEncoder {
    plan: Plan,
    /// That of the segment that is being encoded.
    current: Option<encoder::video::Encoder>,
    parameters: codec::Parameters,
    headers: Vec<u8>,
    fit: Fit,
    /// How many pictures later than decoded a picture may be shown.
    delay: i64,
    pictures: i64,
    packets: i64,
}

// SAFETY: parameters are owned memory that no thread is tied to, and are only read.
unsafe impl Send for VideoEncoder {}

impl VideoEncoder {
    /// Chooses the encoder and opens it. What is said instead of failing, if anything, comes with it.
    ///
    /// # Errors
    /// [`Error::NoEncoder`], [`Error::NoHardwareEncoder`], [`Error::Encode`] where the encoder refuses the pictures.
    pub(crate) fn open(
        pictures: Pictures,
        encoding: &Encoding,
        effort: Effort,
        path: &Path,
    ) -> Result<(Self, Option<String>)> {
        let mut tried = Vec::new();
        for kind in hardware::candidates(encoding.encoder) {
            let Some(plan) = Plan::hardware(kind, pictures, encoding) else { continue };
            let name = plan.name;
            match Self::from_plan(plan) {
                Ok(encoder) => return Ok((encoder, None)),
                Err(error) => tried.push(format!("{name}: {error}")),
            }
        }
        let warning = match encoding.encoder {
            EncoderChoice::Software => None,
            // There is no hardware to miss for codecs that need none.
            EncoderChoice::Auto if tried.is_empty() => None,
            EncoderChoice::Auto => {
                Some(format!("no hardware encoder could be used ({}), software encodes", tried.join("; ")))
            }
            _ => return Err(Error::NoHardwareEncoder { codec: encoding.codec, tried: tried.join("; ") }),
        };
        let plan = Plan::software(pictures, encoding, effort);
        let name = plan.name;
        let encoder = Self::from_plan(plan).map_err(|e| match e {
            ffmpeg::Error::EncoderNotFound => Error::NoEncoder { name },
            e => encode_error(path, e),
        })?;
        Ok((encoder, warning))
    }

    fn from_plan(plan: Plan) -> Result<Self, ffmpeg::Error> {
        let encoder = plan.open()?;
        let parameters = plan.parameters(&encoder);
        let fit = Fit::new(plan.target, plan.pictures.coding);
        let delay = plan.delay(&encoder);
        let headers = headers(&encoder);
        Ok(Self { plan, current: Some(encoder), parameters, headers, fit, delay, pictures: 0, packets: 0 })
    }

    /// FFmpeg's name of the encoder.
    pub(crate) fn name(&self) -> &'static str {
        self.plan.name
    }

    /// Of the stream in a file.
    pub(crate) fn parameters(&self) -> &codec::Parameters {
        &self.parameters
    }

    /// Everything that packets must agree on to be of one stream.
    pub(crate) fn fingerprint(&self) -> String {
        let Target { format, width, height, .. } = self.plan.target;
        let time = self.plan.pictures.frame_time;
        // SAFETY: a pure function.
        let version = unsafe { ffi::avcodec_version() };
        format!(
            "{} {:?} {width}x{height} {format:?} {}/{} {version} {:02x?}",
            self.plan.name,
            self.plan.options,
            time.numerator(),
            time.denominator(),
            self.headers
        )
    }

    /// Goes on after `pictures` pictures that were encoded before: those of whole segments.
    pub(crate) fn go_on_after(&mut self, pictures: u64) {
        self.pictures = pictures as i64;
        self.packets = pictures as i64;
    }

    pub(crate) fn push(&mut self, picture: &Picture) -> Result<(), ffmpeg::Error> {
        let mut frame = self.fit.convert(picture)?;
        frame.set_pts(Some(self.pictures));
        // The decoder's choice of picture types is not the encoder's.
        frame.set_kind(picture::Type::None);
        let encoder = match &mut self.current {
            Some(encoder) => encoder,
            none => {
                let encoder = self.plan.open()?;
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

    /// No more pictures in this segment: what is left of it comes out now.
    pub(crate) fn end_segment(&mut self) -> Result<(), ffmpeg::Error> {
        self.current.as_mut().map_or(Ok(()), |encoder| encoder.send_eof())
    }

    /// The next finished packet; `None` where more pictures, or another segment, are needed.
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
        // Encoders start to count anew in each segment, and a very short one has another delay.
        let decoded = self.packets - self.delay;
        if packet.pts().is_none_or(|shown| shown < decoded) {
            return Err(ffmpeg::Error::InvalidData);
        }
        packet.set_dts(Some(decoded));
        packet.set_duration(1);
        self.packets += 1;
        // Statistics, which no container keeps: a packet that was stored in between has none.
        // SAFETY: the packet is valid.
        unsafe { ffi::av_packet_free_side_data(packet::Mut::as_mut_ptr(&mut packet)) };
        Ok(Some(packet))
    }
}

fn headers(encoder: &encoder::video::Encoder) -> Vec<u8> {
    // SAFETY: the context is valid; its headers have the length that stands beside them.
    unsafe {
        let raw = &*encoder.as_ptr();
        match usize::try_from(raw.extradata_size) {
            Ok(size) if !raw.extradata.is_null() => std::slice::from_raw_parts(raw.extradata, size).to_vec(),
            _ => Vec::new(),
        }
    }
}

impl Plan {
    fn software(pictures: Pictures, encoding: &Encoding, effort: Effort) -> Self {
        let crf = encoding.crf().map(|crf| crf.to_string()).unwrap_or_default();
        let preset = effort.preset().to_string();
        let format = software_format(encoding.codec, pictures.format);
        let words = |pairs: &[(&'static str, &str)]| pairs.iter().map(|&(k, v)| (k, v.to_string())).collect();
        let (name, options) = match encoding.codec {
            VideoCodec::H264 => {
                ("libx264", vec![("preset", preset), ("crf", crf), ("x264-params", instructions().into())])
            }
            VideoCodec::Hevc => {
                ("libx265", vec![("preset", preset), ("crf", crf), ("x265-params", X265.into())])
            }
            VideoCodec::ProRes => {
                let profile = if format == Pixel::YUV444P10LE { "4444" } else { "hq" };
                // Some editors open only what names Apple as its maker.
                ("prores_ks", words(&[("profile", profile), ("vendor", "apl0")]))
            }
            VideoCodec::Ffv1 => {
                // Every picture for itself, with a checksum in each slice. How many there are follows from the size.
                let mut options = vec![("level", "3"), ("g", "1"), ("slicecrc", "1")];
                if pictures.width.max(pictures.height) < ONE_SLICE {
                    options.push(("slices", "1"));
                }
                ("ffv1", words(&options))
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

    fn hardware(kind: EncoderChoice, pictures: Pictures, encoding: &Encoding) -> Option<Self> {
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
        let Target { format, width, height, limited_range } = self.target;
        let Pictures { colour, frame_time, .. } = self.pictures;
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
        let told = i64::from(unsafe { (*encoder.as_ptr()).has_b_frames });
        match (self.software, self.codec) {
            (true, VideoCodec::H264) => told,
            // It does not tell.
            (true, VideoCodec::Hevc) => REORDERED.max(told),
            _ => 0,
        }
    }
}

fn target(codec: VideoCodec, format: Pixel, pictures: &Pictures) -> Target {
    // FFV1 has no trouble with half a sample of chroma, and its pictures are to stay as they are.
    let (width, height) = match codec {
        VideoCodec::Ffv1 => (pictures.width as u32, pictures.height as u32),
        _ => padded_size(format, pictures.width, pictures.height),
    };
    Target { format, width, height, limited_range: codec == VideoCodec::ProRes }
}

/// The format that pictures of format `source` are encoded in.
fn software_format(codec: VideoCodec, source: Pixel) -> Pixel {
    let descriptor = source.descriptor();
    // SAFETY: descriptors are FFmpeg's constants.
    let deep = descriptor.is_some_and(|d| unsafe { (*d.as_ptr()).comp[0].depth > 8 });
    let full_chroma = descriptor.is_some_and(|d| (d.log2_chroma_w(), d.log2_chroma_h()) == (0, 0));
    match codec {
        VideoCodec::H264 => Pixel::YUV420P,
        VideoCodec::Hevc if deep => Pixel::YUV420P10LE,
        VideoCodec::Hevc => Pixel::YUV420P,
        VideoCodec::ProRes if full_chroma => Pixel::YUV444P10LE,
        VideoCodec::ProRes => Pixel::YUV422P10LE,
        VideoCodec::Ffv1 => match source {
            // FFmpeg's choice would be 16 bits.
            Pixel::P010LE => Pixel::YUV420P10LE,
            Pixel::P210LE | Pixel::Y210LE => Pixel::YUV422P10LE,
            Pixel::P410LE => Pixel::YUV444P10LE,
            _ => nearest(Id::FFV1, source).unwrap_or(source),
        },
    }
}

/// The format of a codec's encoder that loses least of `source`: itself where the encoder has it.
fn nearest(id: Id, source: Pixel) -> Option<Pixel> {
    let codec = encoder::find(id)?;
    // SAFETY: the codec is FFmpeg's constant, and its list ends with the mark that the function looks for. `pix_fmts` is
    // what FFmpeg 5 has; later ones keep it, too.
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

/// Which instructions x264 may use: all it knows, but for AVX-512. Its AVX-512 motion search (of version 164) reads
/// memory that nothing has written, so the same pictures would not give the same file. Its other versions agree
/// with each other.
fn instructions() -> &'static str {
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
    fn each_codec_takes_the_source_as_far_as_it_can() {
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
