//! The audio track of the output: a copy of the voice's packets if possible, else AAC, padded with silence if
//! required.
//!
//! Time 0 is the first sample that a decoder outputs, as in the audio features. The encoder delay of the
//! codec precedes it.

use std::ffi::{CStr, CString};
use std::path::Path;

use ffmpeg_next as ffmpeg;
use ffmpeg_next::codec::{self, Id};
use ffmpeg_next::filter;
use ffmpeg_next::format::sample::{Sample, Type as SampleType};
use ffmpeg_next::media::Type;
use ffmpeg_next::{Frame, Packet, Rational, ffi, frame};

use super::source::{DecodedStream, MediaStream};
use super::{check, wants_more};
use crate::media::{Error, Result};
use crate::options::Container;

/// Maximum deviation of a copied packet from its expected time, in seconds: one frame. A larger gap would put
/// the voice out of sync with the mouth.
const MAX_GAP: f64 = 0.04;
/// Bit rate of AAC in bit/s.
const BIT_RATE: usize = 192_000;
/// Sampling rates of AAC in Hz.
const AAC_RATES: [i32; 13] =
    [7350, 8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000];
/// Maximum duration in seconds of a packet that is shortened; some players play longer ones in full.
const MAX_CUT_PACKET: f64 = 0.04;

/// Codecs that players support in MP4. The muxer accepts more.
const IN_MP4: &[Id] = &[Id::AAC, Id::MP3, Id::AC3, Id::EAC3, Id::ALAC, Id::OPUS, Id::FLAC];
/// Codecs that players support in QuickTime, in addition to [`PCM`].
const IN_MOV: &[Id] = &[Id::AAC, Id::MP3, Id::AC3, Id::EAC3, Id::ALAC];
/// Codecs that players support in Matroska, in addition to [`PCM`].
const IN_MKV: &[Id] = &[
    Id::AAC,
    Id::MP3,
    Id::MP2,
    Id::AC3,
    Id::EAC3,
    Id::DTS,
    Id::TRUEHD,
    Id::ALAC,
    Id::OPUS,
    Id::VORBIS,
    Id::FLAC,
    Id::TTA,
    Id::WAVPACK,
];
/// Uncompressed formats.
const PCM: &[Id] = &[
    Id::PCM_U8,
    Id::PCM_S16LE,
    Id::PCM_S16BE,
    Id::PCM_S24LE,
    Id::PCM_S24BE,
    Id::PCM_S32LE,
    Id::PCM_S32BE,
    Id::PCM_F32LE,
    Id::PCM_F64LE,
];

/// End of the audio of an output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SoundEnd {
    /// With the voice or the last picture, whichever is earlier.
    #[default]
    Cut,
    /// With the last picture: a shorter voice is padded with silence.
    Pad,
}

/// Length of the audio of an output.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Span {
    pub frames: u64,
    /// Seconds per frame.
    pub frame_time: Rational,
    pub end: SoundEnd,
}

impl Span {
    fn seconds(&self) -> f64 {
        self.frames as f64 * f64::from(self.frame_time)
    }

    /// Number of samples at a sampling rate of `rate` Hz.
    fn samples(&self, rate: i32) -> u64 {
        let ticks = self.frames as u128 * self.frame_time.numerator().max(0) as u128 * rate.max(0) as u128;
        (ticks / self.frame_time.denominator().max(1) as u128).min(u64::MAX as u128) as u64
    }
}

/// Source of the audio packets of an output.
pub(crate) enum AudioTrack {
    Copied(Box<CopiedTrack>),
    Encoded(Box<EncodedTrack>),
}

impl AudioTrack {
    /// Opens the best audio stream of `path` for an output in `container`.
    ///
    /// The packets are copied if the container supports the codec and the end is exact: the audio ends before
    /// the output, is PCM, or has packets that are short enough for the container's trimming of the last one.
    /// Otherwise, and if silence must follow, the audio is encoded to AAC with 192 kbit/s, its own sampling
    /// rate and channels, and a sample-exact end.
    pub(crate) fn open(
        path: &Path,
        span: Span,
        container: Container,
        format: *const ffi::AVOutputFormat,
    ) -> Result<Self> {
        let source = MediaStream::open(path, Type::Audio)?;
        let id = source.stream().parameters().id();
        let (coded, plain) = match container {
            Container::Mp4 => (IN_MP4, &[][..]),
            Container::Mov => (IN_MOV, PCM),
            Container::Mkv => (IN_MKV, PCM),
        };
        // SAFETY: the format is static.
        let taken = unsafe { ffi::avformat_query_codec(format, id.into(), ffi::FF_COMPLIANCE_NORMAL) == 1 };
        if taken && (coded.contains(&id) || plain.contains(&id)) {
            let copied = CopiedTrack::new(source);
            if copied.has_exact_end(&span) && is_continuous(path, &span)? {
                return Ok(Self::Copied(Box::new(copied)));
            }
        }
        EncodedTrack::open(path, span).map(|track| Self::Encoded(Box::new(track)))
    }

    /// Samples per packet of the encoder; the last packet may have fewer. `None` for copied packets.
    pub(crate) fn frame_samples(&self) -> Option<i64> {
        match self {
            Self::Copied(_) => None,
            Self::Encoded(track) => Some(i64::from(track.encoder.frame_size())),
        }
    }

    /// Bytes per sample of all channels for PCM; `None` for other codecs.
    pub(crate) fn sample_bytes(&self) -> Option<usize> {
        match self {
            Self::Copied(track) => track.sample_bytes,
            Self::Encoded(_) => None,
        }
    }

    pub(crate) fn parameters(&self) -> codec::Parameters {
        match self {
            Self::Copied(track) => track.source.stream().parameters(),
            Self::Encoded(track) => codec::Parameters::from(&track.encoder),
        }
    }

    /// Unit of the packets' timestamps.
    pub(crate) fn time_base(&self) -> Rational {
        match self {
            Self::Copied(track) => track.source.stream().time_base(),
            Self::Encoded(track) => Rational::new(1, track.rate),
        }
    }

    pub(crate) fn next_packet(&mut self) -> Result<Option<Packet>> {
        match self {
            Self::Copied(track) => Ok(track.next_packet()),
            Self::Encoded(track) => track.next_packet(),
        }
    }
}

/// Whether the packets of `path` can be copied: without gaps, backward steps and damage, which decoding would
/// remove from the audio that the model receives, and, for [`SoundEnd::Pad`], up to the end of the output
/// except for less than a packet. Reads the packets, since headers may be wrong.
fn is_continuous(path: &Path, span: &Span) -> Result<bool> {
    let mut source = MediaStream::open(path, Type::Audio)?;
    let time_base = f64::from(source.stream().time_base());
    let tolerance = (MAX_GAP / time_base).ceil() as i64;
    let (mut damaged, mut start, mut end, mut longest) = (0, None, None, 0);
    // Accumulated difference between a packet's time and the end of its predecessor. Rounded timestamps and
    // Vorbis's two block sizes make it oscillate; a lasting difference is a gap.
    let mut late = 0i64;
    while let Some(packet) = source.next_packet(&mut damaged) {
        let Some(time) = packet.pts().or(packet.dts()) else { return Ok(false) };
        late = late.saturating_add(end.map_or(0, |end: i64| time.saturating_sub(end)));
        if late.abs() > tolerance {
            return Ok(false);
        }
        let first = *start.get_or_insert(time);
        // The first packet of a Matroska file may have no duration; the second one has.
        end = (packet.duration() > 0).then(|| time.saturating_add(packet.duration()));
        longest = longest.max(packet.duration());
        if end.is_some_and(|end| (end - first) as f64 * time_base >= span.seconds()) {
            return Ok(damaged == 0);
        }
    }
    let seconds = start.zip(end).map_or(0.0, |(start, end)| (end - start + longest) as f64 * time_base);
    Ok(damaged == 0 && (span.end == SoundEnd::Cut || seconds >= span.seconds()))
}

/// Packets copied from the source file.
pub(crate) struct CopiedTrack {
    source: MediaStream,
    sample_bytes: Option<usize>,
    /// First packet, read during opening.
    first: Option<Packet>,
    /// Timestamp of the first sample.
    origin: Option<i64>,
    /// End of the last packet.
    end: i64,
    latest: Option<i64>,
}

impl CopiedTrack {
    fn new(mut source: MediaStream) -> Self {
        let start = source.stream().start_time();
        let origin = (start != ffi::AV_NOPTS_VALUE).then_some(start);
        let parameters = source.stream().parameters();
        // SAFETY: reads a plain field of valid parameters.
        let block = unsafe { (*parameters.as_ptr()).block_align };
        let plain = PCM.contains(&parameters.id());
        let sample_bytes = usize::try_from(block).ok().filter(|&bytes| plain && bytes > 0);
        let first = source.next_packet(&mut 0);
        Self { source, sample_bytes, first, origin, end: 0, latest: None }
    }

    /// Whether the end of the output is exact without encoding.
    fn has_exact_end(&self, span: &Span) -> bool {
        let stream = self.source.stream();
        let duration = stream.duration() as f64 * f64::from(stream.time_base());
        let ends_by_itself = stream.duration() > 0 && duration <= span.seconds() + MAX_CUT_PACKET;
        let packet = self.first.as_ref().map_or(0, Packet::duration) as f64 * f64::from(stream.time_base());
        self.sample_bytes.is_some() || ends_by_itself || (packet > 0.0 && packet <= MAX_CUT_PACKET)
    }

    fn next_packet(&mut self) -> Option<Packet> {
        let mut damaged = 0;
        loop {
            let mut packet = self.first.take().or_else(|| self.source.next_packet(&mut damaged))?;
            let stamp = packet.pts().or(packet.dts());
            let origin = *self.origin.get_or_insert(stamp.unwrap_or(0));
            // Audio is not reordered: presentation and decoding times are equal.
            let time = stamp.map_or(self.end, |stamp| stamp.saturating_sub(origin));
            if self.latest.is_some_and(|latest| time <= latest) {
                continue; // Containers refuse non-monotonic timestamps.
            }
            packet.set_pts(Some(time));
            packet.set_dts(Some(time));
            packet.set_position(-1);
            self.latest = Some(time);
            self.end = time.saturating_add(packet.duration());
            return Some(packet);
        }
    }
}

/// Audio that is decoded and encoded to AAC.
pub(crate) struct EncodedTrack {
    source: DecodedStream,
    /// Current format of the decoder's output.
    format: SoundFormat,
    /// Converts to the sampling rate, sample format and channels of the encoder.
    adapter: filter::Graph,
    /// Pads or trims to the length of the output and divides into frames of the encoder.
    cutter: filter::Graph,
    encoder: codec::encoder::audio::Encoder,
    rate: i32,
    /// Decoded but unfiltered frame: the first one, or the first one after a change of format.
    next: Option<Frame>,
    /// Number of samples passed to the adapter.
    decoded_samples: i64,
    /// Number of samples passed to the cutter.
    adapted_samples: i64,
}

impl EncodedTrack {
    fn open(path: &Path, span: Span) -> Result<Self> {
        let mut source = DecodedStream::open(path, Type::Audio)?;
        let Some(first) = source.next_frame() else {
            let reason = format!("its audio cannot be decoded ({} damaged packets)", source.damaged);
            return Err(Error::NotMedia { path: path.to_path_buf(), reason });
        };
        let failed =
            |e: ffmpeg::Error| Error::EncodeSound { path: path.to_path_buf(), reason: format!(": {e}") };
        let format = SoundFormat::of(&first).map_err(failed)?;
        let encoder = open_encoder(&format).ok_or(Error::NoEncoder { name: "aac" })?;
        let rate = encoder.rate() as i32;
        let adapter = adapter(&format, &encoder).map_err(failed)?;
        let cutter = cutter(&encoder, span.samples(rate), span.end).map_err(failed)?;
        let next = Some(first);
        Ok(Self {
            source,
            format,
            adapter,
            cutter,
            encoder,
            rate,
            next,
            decoded_samples: 0,
            adapted_samples: 0,
        })
    }

    fn next_packet(&mut self) -> Result<Option<Packet>> {
        self.advance().map_err(|e| Error::EncodeSound {
            path: self.source.source.path.clone(),
            reason: format!(", after {} samples: {e}", self.adapted_samples),
        })
    }

    fn advance(&mut self) -> Result<Option<Packet>, ffmpeg::Error> {
        loop {
            let mut packet = Packet::empty();
            match self.encoder.receive_packet(&mut packet) {
                Ok(()) => return Ok(Some(packet)),
                Err(ffmpeg::Error::Eof) => return Ok(None),
                Err(e) if wants_more(e) => {}
                Err(e) => return Err(e),
            }
            let mut cut = frame::Audio::empty();
            match end_of(&mut self.cutter, "out")?.sink().frame(&mut cut) {
                Ok(()) => self.encoder.send_frame(&cut)?,
                Err(ffmpeg::Error::Eof) => self.encoder.send_eof()?,
                Err(e) if wants_more(e) => self.feed_cutter()?,
                Err(e) => return Err(e),
            }
        }
    }

    /// Passes the next adapted frame, or the end of the audio, to the cutter.
    fn feed_cutter(&mut self) -> Result<(), ffmpeg::Error> {
        loop {
            let mut adapted = frame::Audio::empty();
            match end_of(&mut self.adapter, "out")?.sink().frame(&mut adapted) {
                Ok(()) => {
                    adapted.set_pts(Some(self.adapted_samples));
                    self.adapted_samples += adapted.samples() as i64;
                    return match end_of(&mut self.cutter, "in")?.source().add(&adapted) {
                        // The cutter has received all samples of the output.
                        Err(ffmpeg::Error::Eof) => Ok(()),
                        other => other,
                    };
                }
                Err(ffmpeg::Error::Eof) => match &self.next {
                    // Concatenated files and broadcast recordings change their sampling rate or channels.
                    Some(next) => {
                        self.format = SoundFormat::of(next)?;
                        self.adapter = adapter(&self.format, &self.encoder)?;
                        self.decoded_samples = 0;
                    }
                    None => return end_of(&mut self.cutter, "in")?.source().flush(),
                },
                Err(e) if wants_more(e) => self.feed_adapter()?,
                Err(e) => return Err(e),
            }
        }
    }

    /// Passes the next decoded frame to the adapter, or flushes it if the audio ends or changes its format.
    fn feed_adapter(&mut self) -> Result<(), ffmpeg::Error> {
        let mut source = end_of(&mut self.adapter, "in")?;
        let Some(mut decoded) = self.next.take().or_else(|| self.source.next_frame()) else {
            return source.source().flush();
        };
        if SoundFormat::of(&decoded)? != self.format {
            self.next = Some(decoded);
            return source.source().flush();
        }
        decoded.set_pts(Some(self.decoded_samples));
        // SAFETY: the frame is a valid audio frame.
        unsafe {
            let raw = decoded.as_mut_ptr();
            name_channels(&mut (*raw).ch_layout);
            self.decoded_samples += i64::from((*raw).nb_samples);
        }
        source.source().add(&decoded)
    }
}

/// The source (`in`) or sink (`out`) of a graph.
fn end_of(graph: &mut filter::Graph, name: &str) -> Result<filter::Context, ffmpeg::Error> {
    graph.get(name).ok_or(ffmpeg::Error::FilterNotFound)
}

/// Sampling rate, sample format and channel layout, as in FFmpeg's filter arguments.
#[derive(PartialEq, Eq)]
struct SoundFormat {
    rate: i32,
    sample: &'static str,
    layout: String,
}

impl SoundFormat {
    fn of(frame: &Frame) -> Result<Self, ffmpeg::Error> {
        // SAFETY: the frame is a valid audio frame, and `format` is one of FFmpeg's sample formats. The
        // layout is a copy that is freed below.
        unsafe {
            let raw = &*frame.as_ptr();
            let format: ffi::AVSampleFormat = std::mem::transmute(raw.format);
            let mut layout = std::mem::zeroed();
            check(ffi::av_channel_layout_copy(&mut layout, &raw.ch_layout))?;
            name_channels(&mut layout);
            let described = describe(&layout);
            ffi::av_channel_layout_uninit(&mut layout);
            Ok(Self { rate: raw.sample_rate, sample: Sample::from(format).name(), layout: described? })
        }
    }

    fn of_encoder(encoder: &codec::encoder::audio::Encoder) -> Result<Self, ffmpeg::Error> {
        // SAFETY: the encoder is valid, and so is its layout.
        let layout = describe(unsafe { &(*encoder.as_ptr()).ch_layout })?;
        Ok(Self { rate: encoder.rate() as i32, sample: encoder.format().name(), layout })
    }
}

/// FFmpeg's name of a channel layout.
fn describe(layout: &ffi::AVChannelLayout) -> Result<String, ffmpeg::Error> {
    let mut text = [0u8; 256];
    // SAFETY: the layout is valid, and the buffer has the given length.
    check(unsafe { ffi::av_channel_layout_describe(layout, text.as_mut_ptr().cast(), text.len()) })?;
    let text = CStr::from_bytes_until_nul(&text).map_err(|_| ffmpeg::Error::Bug)?;
    Ok(text.to_string_lossy().into_owned())
}

/// Sets the default layout for the number of channels if the file does not specify one.
fn name_channels(layout: &mut ffi::AVChannelLayout) {
    if layout.order == ffi::AVChannelOrder::AV_CHANNEL_ORDER_UNSPEC {
        // SAFETY: the layout is valid, and an unspecified one owns no memory.
        unsafe { ffi::av_channel_layout_default(layout, layout.nb_channels) };
    }
}

/// AAC encoder with the channels of the audio, or stereo if AAC does not support their layout.
fn open_encoder(format: &SoundFormat) -> Option<codec::encoder::audio::Encoder> {
    let codec = codec::encoder::find(Id::AAC)?;
    let rate = AAC_RATES.into_iter().find(|&rate| rate >= format.rate).unwrap_or(96_000);
    [format.layout.as_str(), "stereo"].into_iter().find_map(|layout| {
        let layout = CString::new(layout).ok()?;
        let mut encoder = codec::Context::new_with_codec(codec).encoder().audio().ok()?;
        encoder.set_rate(rate);
        encoder.set_format(Sample::F32(SampleType::Planar));
        encoder.set_bit_rate(BIT_RATE);
        encoder.set_time_base((1, rate));
        encoder.set_flags(codec::Flags::GLOBAL_HEADER | codec::Flags::BITEXACT);
        // SAFETY: the context is valid, not open yet, and owns the layout.
        let named = unsafe {
            ffi::av_channel_layout_from_string(&mut (*encoder.as_mut_ptr()).ch_layout, layout.as_ptr())
        };
        check(named).ok()?;
        encoder.open().ok()
    })
}

/// Filter graph from the decoder's format to that of the encoder.
fn adapter(
    from: &SoundFormat,
    encoder: &codec::encoder::audio::Encoder,
) -> Result<filter::Graph, ffmpeg::Error> {
    let to = SoundFormat::of_encoder(encoder)?;
    graph(
        from,
        &format!("aformat=sample_fmts={}:sample_rates={}:channel_layouts={}", to.sample, to.rate, to.layout),
    )
}

/// Filter graph that outputs frames of the encoder's size with `samples` samples in total: at most, or
/// exactly with [`SoundEnd::Pad`]. One graph serves the whole audio, so only its last frame may be short.
fn cutter(
    encoder: &codec::encoder::audio::Encoder,
    samples: u64,
    end: SoundEnd,
) -> Result<filter::Graph, ffmpeg::Error> {
    let silence = match end {
        SoundEnd::Cut => "",
        SoundEnd::Pad => "apad,",
    };
    let chain = format!("{silence}atrim=end_sample={samples}");
    let mut graph = graph(&SoundFormat::of_encoder(encoder)?, &chain)?;
    end_of(&mut graph, "out")?.sink().set_frame_size(encoder.frame_size());
    Ok(graph)
}

/// Filter graph of `chain` between a source named `in` and a sink named `out`.
fn graph(from: &SoundFormat, chain: &str) -> Result<filter::Graph, ffmpeg::Error> {
    let find = |name| filter::find(name).ok_or(ffmpeg::Error::FilterNotFound);
    let SoundFormat { rate, sample, layout } = from;
    let mut graph = filter::Graph::new();
    let source = format!("time_base=1/{rate}:sample_rate={rate}:sample_fmt={sample}:channel_layout={layout}");
    graph.add(&find("abuffer")?, "in", &source)?;
    graph.add(&find("abuffersink")?, "out", "")?;
    graph.output("in", 0)?.input("out", 0)?.parse(chain)?;
    graph.validate()?;
    Ok(graph)
}
