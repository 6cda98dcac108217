//! The voice on its way into the output: its own packets where the container takes them, AAC where not, with silence
//! behind it where the output goes on.
//!
//! Time 0 is the first sample that a decoder would give out, as in the features: a codec's run-in lies before it.

use std::ffi::{CStr, CString};
use std::path::Path;

use ffmpeg_next as ffmpeg;
use ffmpeg_next::codec::{self, Id};
use ffmpeg_next::filter;
use ffmpeg_next::format::sample::{Sample, Type as SampleType};
use ffmpeg_next::media::Type;
use ffmpeg_next::{Frame, Packet, Rational, ffi, frame};

use super::source::{DecodedSource, Source};
use super::{check, wants_more};
use crate::media::{Error, Result};
use crate::options::Container;

/// Seconds, a frame's, beyond which a voice that is copied would be heard away from the mouth.
const HOLE: f64 = 0.04;
/// Bits a second of AAC.
const BIT_RATE: usize = 192_000;
/// Rates that AAC has.
const AAC_RATES: [i32; 13] =
    [7350, 8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000];
/// A copied packet that is longer than this, in seconds, is not cut: some players play all of it.
const LONGEST_CUT: f64 = 0.04;

/// Codecs with a place in MP4 that players know. Others the muxer may write, but few can read.
const IN_MP4: &[Id] = &[Id::AAC, Id::MP3, Id::AC3, Id::EAC3, Id::ALAC, Id::OPUS, Id::FLAC];
/// The same of QuickTime, beside [`PLAIN`].
const IN_MOV: &[Id] = &[Id::AAC, Id::MP3, Id::AC3, Id::EAC3, Id::ALAC];
/// The same of Matroska, beside [`PLAIN`].
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
/// Samples as they are.
const PLAIN: &[Id] = &[
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

/// Where the sound of an output ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SoundEnd {
    /// With the voice, or with the last picture where the voice is longer.
    #[default]
    Cut,
    /// With the last picture: silence follows a voice that is shorter.
    Pad,
}

/// How much sound an output has.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Span {
    pub frames: u64,
    /// Seconds from one frame to the next.
    pub frame_time: Rational,
    pub end: SoundEnd,
}

impl Span {
    fn seconds(&self) -> f64 {
        self.frames as f64 * f64::from(self.frame_time)
    }

    /// Samples that fit in, at `rate` a second.
    fn samples(&self, rate: i32) -> u64 {
        let ticks = self.frames as u128 * self.frame_time.numerator().max(0) as u128 * rate.max(0) as u128;
        (ticks / self.frame_time.denominator().max(1) as u128).min(u64::MAX as u128) as u64
    }
}

/// Packets of sound, in order.
pub(crate) enum AudioTrack {
    Copied(Box<CopiedTrack>),
    Encoded(Box<EncodedTrack>),
}

impl AudioTrack {
    /// Opens the best audio stream of `path` for an output in `container`.
    ///
    /// It is copied where the container has the codec and the end can be kept exactly: the sound ends by itself, is made
    /// of single samples, or of packets so short that the container's note of where the last one ends is enough.
    /// Otherwise, and where silence must follow, it is encoded to AAC, 192 kbit/s at its own rate and channels, and ends on
    /// the sample.
    pub(crate) fn open(
        path: &Path,
        span: Span,
        container: Container,
        format: *const ffi::AVOutputFormat,
    ) -> Result<Self> {
        let source = Source::open(path, Type::Audio)?;
        let id = source.stream().parameters().id();
        let (coded, plain) = match container {
            Container::Mp4 => (IN_MP4, &[][..]),
            Container::Mov => (IN_MOV, PLAIN),
            Container::Mkv => (IN_MKV, PLAIN),
        };
        // SAFETY: the format is one of FFmpeg's constants.
        let taken = unsafe { ffi::avformat_query_codec(format, id.into(), ffi::FF_COMPLIANCE_NORMAL) == 1 };
        if taken && (coded.contains(&id) || plain.contains(&id)) {
            let copied = CopiedTrack::new(source);
            if copied.ends_well(&span) && is_even(path, &span)? {
                return Ok(Self::Copied(Box::new(copied)));
            }
        }
        EncodedTrack::open(path, span).map(|track| Self::Encoded(Box::new(track)))
    }

    /// Samples in a packet of the encoder's, whose timestamps count samples; only its last has fewer.
    pub(crate) fn frame_samples(&self) -> Option<i64> {
        match self {
            Self::Copied(_) => None,
            Self::Encoded(track) => Some(i64::from(track.encoder.frame_size())),
        }
    }

    /// Bytes of a sample of all channels, where the packets are nothing but samples.
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

    /// What the packets' timestamps count.
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

/// Whether the packets of `path` can stand in the output as they are: without a hole, a step back or damage, which the
/// decoded sound, the model's, closes; and, where silence would have to follow, to the end but for less than a packet.
/// Headers may promise what the file does not hold, so its packets are read.
fn is_even(path: &Path, span: &Span) -> Result<bool> {
    let mut source = Source::open(path, Type::Audio)?;
    let time_base = f64::from(source.stream().time_base());
    let tolerance = (HOLE / time_base).ceil() as i64;
    let (mut damaged, mut start, mut end, mut longest) = (0, None, None, 0);
    // How much later a packet is than the sound before it lasts. Rounded times and Vorbis's blocks of two lengths make
    // it swing; what stays is a hole.
    let mut late = 0i64;
    while let Some(packet) = source.next_packet(&mut damaged) {
        let Some(time) = packet.pts().or(packet.dts()) else { return Ok(false) };
        late = late.saturating_add(end.map_or(0, |end: i64| time.saturating_sub(end)));
        if late.abs() > tolerance {
            return Ok(false);
        }
        let first = *start.get_or_insert(time);
        // The first packet of Matroska's may have none: the second tells.
        end = (packet.duration() > 0).then(|| time.saturating_add(packet.duration()));
        longest = longest.max(packet.duration());
        if end.is_some_and(|end| (end - first) as f64 * time_base >= span.seconds()) {
            return Ok(damaged == 0);
        }
    }
    let seconds = start.zip(end).map_or(0.0, |(start, end)| (end - start + longest) as f64 * time_base);
    Ok(damaged == 0 && (span.end == SoundEnd::Cut || seconds >= span.seconds()))
}

/// Packets as they stand in the file.
pub(crate) struct CopiedTrack {
    source: Source,
    sample_bytes: Option<usize>,
    /// Read while opening.
    first: Option<Packet>,
    /// Timestamp of the first sample.
    origin: Option<i64>,
    /// Where the latest packet ends.
    end: i64,
    latest: Option<i64>,
}

impl CopiedTrack {
    fn new(mut source: Source) -> Self {
        let start = source.stream().start_time();
        let origin = (start != ffi::AV_NOPTS_VALUE).then_some(start);
        let parameters = source.stream().parameters();
        // SAFETY: reads a plain field of valid parameters.
        let block = unsafe { (*parameters.as_ptr()).block_align };
        let plain = PLAIN.contains(&parameters.id());
        let sample_bytes = usize::try_from(block).ok().filter(|&bytes| plain && bytes > 0);
        let first = source.next_packet(&mut 0);
        Self { source, sample_bytes, first, origin, end: 0, latest: None }
    }

    /// Whether the end is exact without encoding.
    fn ends_well(&self, span: &Span) -> bool {
        let stream = self.source.stream();
        let duration = stream.duration() as f64 * f64::from(stream.time_base());
        let ends_by_itself = stream.duration() > 0 && duration <= span.seconds() + LONGEST_CUT;
        let packet = self.first.as_ref().map_or(0, Packet::duration) as f64 * f64::from(stream.time_base());
        self.sample_bytes.is_some() || ends_by_itself || (packet > 0.0 && packet <= LONGEST_CUT)
    }

    fn next_packet(&mut self) -> Option<Packet> {
        let mut damaged = 0;
        loop {
            let mut packet = self.first.take().or_else(|| self.source.next_packet(&mut damaged))?;
            let stamp = packet.pts().or(packet.dts());
            let origin = *self.origin.get_or_insert(stamp.unwrap_or(0));
            // Sound has no reordering: one time serves for both.
            let time = stamp.map_or(self.end, |stamp| stamp.saturating_sub(origin));
            if self.latest.is_some_and(|latest| time <= latest) {
                continue; // a broken time line, which no container takes
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

/// Sound that is decoded and encoded again.
pub(crate) struct EncodedTrack {
    source: DecodedSource,
    /// What the decoder gives now.
    format: SoundFormat,
    /// From there to the encoder's rate and channels.
    adapter: filter::Graph,
    /// From there to the encoder's frames, as many samples as the output lasts.
    cutter: filter::Graph,
    encoder: codec::encoder::audio::Encoder,
    rate: i32,
    /// Decoded and not filtered yet: the first frame, or one of another format than those before.
    next: Option<Frame>,
    /// Samples that went into the adapter.
    given: i64,
    /// Samples that went into the cutter.
    adapted: i64,
}

impl EncodedTrack {
    fn open(path: &Path, span: Span) -> Result<Self> {
        let mut source = DecodedSource::open(path, Type::Audio)?;
        let Some(first) = source.next_frame() else {
            let reason = format!("no sound in it could be decoded ({} damaged packets)", source.damaged);
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
        Ok(Self { source, format, adapter, cutter, encoder, rate, next, given: 0, adapted: 0 })
    }

    fn next_packet(&mut self) -> Result<Option<Packet>> {
        self.advance().map_err(|e| Error::EncodeSound {
            path: self.source.source.path.clone(),
            reason: format!(", after {} samples: {e}", self.adapted),
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

    /// One more adapted frame, or the end, into the cutter.
    fn feed_cutter(&mut self) -> Result<(), ffmpeg::Error> {
        loop {
            let mut adapted = frame::Audio::empty();
            match end_of(&mut self.adapter, "out")?.sink().frame(&mut adapted) {
                Ok(()) => {
                    adapted.set_pts(Some(self.adapted));
                    self.adapted += adapted.samples() as i64;
                    return match end_of(&mut self.cutter, "in")?.source().add(&adapted) {
                        // It has had all that the output needs.
                        Err(ffmpeg::Error::Eof) => Ok(()),
                        other => other,
                    };
                }
                Err(ffmpeg::Error::Eof) => match &self.next {
                    // Joined files and recordings of broadcasts change their rate or their channels.
                    Some(next) => {
                        self.format = SoundFormat::of(next)?;
                        self.adapter = adapter(&self.format, &self.encoder)?;
                        self.given = 0;
                    }
                    None => return end_of(&mut self.cutter, "in")?.source().flush(),
                },
                Err(e) if wants_more(e) => self.feed_adapter()?,
                Err(e) => return Err(e),
            }
        }
    }

    /// One more decoded frame into the adapter, or its end where the sound ends or changes.
    fn feed_adapter(&mut self) -> Result<(), ffmpeg::Error> {
        let mut source = end_of(&mut self.adapter, "in")?;
        let Some(mut decoded) = self.next.take().or_else(|| self.source.next_frame()) else {
            return source.source().flush();
        };
        if SoundFormat::of(&decoded)? != self.format {
            self.next = Some(decoded);
            return source.source().flush();
        }
        decoded.set_pts(Some(self.given));
        // SAFETY: the frame is valid and holds sound.
        unsafe {
            let raw = decoded.as_mut_ptr();
            name_channels(&mut (*raw).ch_layout);
            self.given += i64::from((*raw).nb_samples);
        }
        source.source().add(&decoded)
    }
}

/// The filter `in` or `out` of a graph.
fn end_of(graph: &mut filter::Graph, name: &str) -> Result<filter::Context, ffmpeg::Error> {
    graph.get(name).ok_or(ffmpeg::Error::FilterNotFound)
}

/// Rate, sample format and channels, as FFmpeg's filters take them.
#[derive(PartialEq, Eq)]
struct SoundFormat {
    rate: i32,
    sample: &'static str,
    layout: String,
}

impl SoundFormat {
    fn of(frame: &Frame) -> Result<Self, ffmpeg::Error> {
        // SAFETY: the frame is valid and holds sound. The layout is a copy that is freed below.
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

/// A channel layout by the name that filters and encoders know it by.
fn describe(layout: &ffi::AVChannelLayout) -> Result<String, ffmpeg::Error> {
    let mut text = [0u8; 256];
    // SAFETY: the layout is valid, and the text has the length that is given.
    check(unsafe { ffi::av_channel_layout_describe(layout, text.as_mut_ptr().cast(), text.len()) })?;
    let text = CStr::from_bytes_until_nul(&text).map_err(|_| ffmpeg::Error::Bug)?;
    Ok(text.to_string_lossy().into_owned())
}

/// Gives channels that the file does not name the usual names for their number.
fn name_channels(layout: &mut ffi::AVChannelLayout) {
    if layout.order == ffi::AVChannelOrder::AV_CHANNEL_ORDER_UNSPEC {
        // SAFETY: a valid layout without memory of its own is overwritten.
        unsafe { ffi::av_channel_layout_default(layout, layout.nb_channels) };
    }
}

/// AAC with the sound's own channels; with two where AAC has no such arrangement.
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
        // SAFETY: the context is valid and not open yet; it owns the layout.
        let named = unsafe {
            ffi::av_channel_layout_from_string(&mut (*encoder.as_mut_ptr()).ch_layout, layout.as_ptr())
        };
        check(named).ok()?;
        encoder.open().ok()
    })
}

/// Decoded sound in, sound of the encoder's rate and channels out.
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

/// Adapted sound in, the encoder's frames out, `samples` of them in all: at most, or exactly where silence fills up.
/// There is one for all of the sound: only its last frame may be short.
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

/// The filters `chain`, between one named `in` and one named `out`.
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
