//! One stream of a media file, decoded: packets in, frames out, damage skipped and counted.

use std::cmp::Reverse;
use std::path::{Path, PathBuf};

use ffmpeg_next as ffmpeg;
use ffmpeg_next::codec::decoder::Opened;
use ffmpeg_next::codec::packet::side_data;
use ffmpeg_next::format::context::Input;
use ffmpeg_next::format::stream::Disposition;
use ffmpeg_next::media::Type;
use ffmpeg_next::{Codec, Frame, Packet, Stream, codec, ffi, frame};

use super::{open_input, wants_more};
use crate::error::{Error, Result};
use crate::media::nvdec;
use crate::options::{DecoderChoice, FrameRate, Steadiness};

/// More decoder threads than this only cost memory: each holds a frame.
const MOST_THREADS: usize = 8;
/// Bytes that the frames of all decoder threads may take together.
const THREAD_MEMORY: usize = 256 << 20;
/// This many failures in a row are the end of a broken file.
pub(crate) const MOST_FAILURES: usize = 100;

/// What a file's format is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FileKind {
    /// One picture; a telephone may have put more behind it, such as the one for brighter screens.
    Picture,
    /// One or several.
    Animation,
    Film,
}

/// A file and the one stream of it that is wanted.
pub(crate) struct Source {
    pub path: PathBuf,
    input: Input,
    index: usize,
}

impl Source {
    /// Opens the file and chooses a stream of a kind: of several videos the one that is marked as the default, then the
    /// largest, then the first; of several sounds the one that players take. A cover picture is no video.
    pub(crate) fn open(path: &Path, kind: Type) -> Result<Self> {
        let mut input = open_input(path)?;
        let index = match kind {
            Type::Video => {
                input.streams().filter(is_video).max_by_key(preference).map(|stream| stream.index())
            }
            _ => input.streams().best(kind).map(|stream| stream.index()),
        };
        let Some(index) = index else {
            let path = path.to_path_buf();
            return Err(match kind {
                Type::Audio => Error::NoAudioStream { path },
                _ => Error::NoVideoStream { path },
            });
        };
        for i in (0..input.streams().len()).filter(|&i| i != index) {
            if let Some(mut other) = input.stream_mut(i) {
                // SAFETY: the stream is valid; the field tells the demuxer what not to read.
                unsafe { (*other.as_mut_ptr()).discard = ffi::AVDiscard::AVDISCARD_ALL };
            }
        }
        Ok(Self { path: path.to_path_buf(), input, index })
    }

    pub(crate) fn stream(&self) -> Stream<'_> {
        // SAFETY: the index was taken from this file, whose streams stay.
        unsafe { Stream::wrap(&self.input, self.index) }
    }

    pub(crate) fn input(&self) -> &Input {
        &self.input
    }

    /// Frames a second as the container has it: the average, else the base rate, else 0.
    pub(crate) fn frame_rate(&self) -> f64 {
        let [average, base] = self.rates();
        average.or(base).unwrap_or(0.0)
    }

    /// The rate that the file is meant to have.
    pub(crate) fn nominal_rate(&self) -> FrameRate {
        let [average, base] = self.rates();
        let steadiness = if average == base { Steadiness::Steady } else { Steadiness::Average };
        FrameRate::nominal(self.frame_rate(), steadiness)
    }

    /// The average rate, and the lowest one in which all timestamps can be written.
    fn rates(&self) -> [Option<f64>; 2] {
        let stream = self.stream();
        [stream.avg_frame_rate(), stream.rate()]
            .map(|rate| (rate.numerator() > 0 && rate.denominator() > 0).then(|| f64::from(rate)))
    }

    pub(crate) fn kind(&self) -> FileKind {
        let metadata = self.input.metadata();
        let brand = metadata.get("major_brand").unwrap_or_default();
        let format = self.input.format();
        let names = format.name();
        let is = |kind: fn(&str) -> bool| names.split(',').any(kind);
        if is(|name| name.starts_with("image2") || name.ends_with("_pipe")) {
            FileKind::Picture
        } else if is(|name| matches!(name, "gif" | "apng" | "webp_anim"))
            || matches!(brand, "avif" | "avis" | "heic" | "heix" | "mif1")
        {
            FileKind::Animation
        } else {
            FileKind::Film
        }
    }

    /// The stream's duration as written down in the file; Matroska has it in a tag.
    pub(crate) fn announced_seconds(&self) -> Option<f64> {
        let stream = self.stream();
        if stream.duration() > 0 {
            return Some(stream.duration() as f64 * f64::from(stream.time_base()));
        }
        let metadata = stream.metadata();
        let mut parts = metadata.get("DURATION")?.split(':').map(str::parse::<f64>);
        let [hours, minutes, seconds] = [parts.next()?.ok()?, parts.next()?.ok()?, parts.next()?.ok()?];
        Some(hours * 3600.0 + minutes * 60.0 + seconds)
    }

    /// The shape of a frame's pixels, width by height: the container's word where it has one, as players do.
    pub(crate) fn pixel_aspect(&self, frame: &frame::Video) -> f64 {
        let stream = self.stream();
        // SAFETY: context, stream and frame are valid, and are only read.
        let ratio = unsafe {
            let (context, stream) = (self.input.as_ptr().cast_mut(), stream.as_ptr().cast_mut());
            ffi::av_guess_sample_aspect_ratio(context, stream, frame.as_ptr().cast_mut())
        };
        f64::from(ratio.num) / f64::from(ratio.den)
    }

    /// The colours of Dolby Vision's profile 5 mean nothing to a decoder that does not know it.
    pub(crate) fn is_dolby_vision_only(&self) -> bool {
        /// Place of `dv_bl_signal_compatibility_id` in FFmpeg's record: 0 where nothing else can show it.
        const COMPATIBILITY: usize = 7;
        self.stream().side_data().any(|data| {
            data.kind() == side_data::Type::DOVI_CONF && data.data().get(COMPATIBILITY) == Some(&0)
        })
    }

    /// The stream's display matrix, for [`Orientation`](crate::media::rotation::Orientation).
    pub(crate) fn display_matrix(&self) -> Option<Vec<u8>> {
        self.stream()
            .side_data()
            .find(|data| data.kind() == side_data::Type::DisplayMatrix)
            .map(|data| data.data().to_vec())
    }

    /// The wanted stream's next packet. Damaged places are skipped and, like damaged packets, counted in `damaged`.
    pub(crate) fn next_packet(&mut self, damaged: &mut u64) -> Option<Packet> {
        let mut failures = 0;
        loop {
            let mut packet = Packet::empty();
            match packet.read(&mut self.input) {
                Ok(()) if packet.stream() == self.index => {
                    // Transport streams number their pieces: one was lost.
                    *damaged += u64::from(packet.is_corrupt());
                    return Some(packet);
                }
                Ok(()) => failures = 0,
                Err(ffmpeg::Error::Eof) => return None,
                Err(ffmpeg::Error::InvalidData) if failures < MOST_FAILURES => {
                    failures += 1;
                    *damaged += 1;
                }
                Err(_) => {
                    *damaged += 1;
                    return None;
                }
            }
        }
    }

    fn decoder(&self) -> Result<Opened> {
        let open = || {
            let (context, codec) = self.decoder_context()?;
            context.decoder().open_as(codec)
        };
        open().map_err(|e| Error::NotMedia {
            path: self.path.clone(),
            reason: format!("its {:?} stream cannot be decoded: {e}", self.stream().parameters().id()),
        })
    }

    /// The decoder on a graphics card, or why there is none.
    fn decoder_on_card(&self) -> Result<Opened, String> {
        let (mut context, codec) = self.decoder_context().map_err(|e| e.to_string())?;
        nvdec::attach(&mut context, codec)?;
        context.decoder().open_as(codec).map_err(|e| e.to_string())
    }

    /// Settings, not open yet, and what they are for.
    fn decoder_context(&self) -> Result<(codec::Context, Codec), ffmpeg::Error> {
        let stream = self.stream();
        let parameters = stream.parameters();
        let codec = codec::decoder::find(parameters.id()).ok_or(ffmpeg::Error::DecoderNotFound)?;
        let mut context = codec::Context::from_parameters(parameters)?;
        let (width, height) = size(&stream);
        // At most three bytes a pixel in what is usual: 4:2:0 of 10 bits.
        let affordable = THREAD_MEMORY / usize::try_from(3 * width * height).unwrap_or(usize::MAX).max(1);
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = threads.min(MOST_THREADS).min(affordable.max(1));
        // SAFETY: the context is valid and not open yet.
        unsafe {
            let raw = context.as_mut_ptr();
            (*raw).pkt_timebase = stream.time_base().into();
            (*raw).thread_count = threads as i32;
            (*raw).thread_type = ffi::FF_THREAD_FRAME | ffi::FF_THREAD_SLICE;
        }
        Ok((context, codec))
    }
}

/// Does the packet only prepare the decoder? Edit lists that begin between key frames have such.
pub(crate) fn is_hidden(packet: &Packet) -> bool {
    // SAFETY: reads a plain field.
    let flags = unsafe { (*ffmpeg::packet::Ref::as_ptr(packet)).flags };
    flags & ffi::AV_PKT_FLAG_DISCARD != 0
}

fn is_video(stream: &Stream) -> bool {
    stream.parameters().medium() == Type::Video && !stream.disposition().contains(Disposition::ATTACHED_PIC)
}

/// The video that is wanted most has the greatest.
fn preference(stream: &Stream) -> (bool, i64, Reverse<usize>) {
    let (width, height) = size(stream);
    let is_default = stream.disposition().contains(Disposition::DEFAULT);
    (is_default, width * height, Reverse(stream.index()))
}

/// (width, height) as the container has them, 0 where it does not say.
fn size(stream: &Stream) -> (i64, i64) {
    // SAFETY: the stream's parameters are valid as long as it is.
    let (width, height) = unsafe {
        let parameters = (*stream.as_ptr()).codecpar;
        ((*parameters).width, (*parameters).height)
    };
    (i64::from(width.max(0)), i64::from(height.max(0)))
}

/// A [`Source`] with its decoder.
pub(crate) struct DecodedSource {
    pub source: Source,
    decoder: Opened,
    /// Whether frames come from a graphics card.
    on_card: bool,
    /// Frames that came from there.
    fetched: u64,
    draining: bool,
    /// Whether the first key frame has been read, and when it is to be shown, unless an edit list hides it.
    beginning: Option<Option<i64>>,
    /// Packets that were skipped and frames that were concealed.
    pub damaged: u64,
}

impl DecodedSource {
    pub(crate) fn open(path: &Path, kind: Type) -> Result<Self> {
        let source = Source::open(path, kind)?;
        let decoder = source.decoder()?;
        Ok(Self::new(source, decoder))
    }

    fn new(source: Source, decoder: Opened) -> Self {
        Self { source, decoder, on_card: false, fetched: 0, draining: false, beginning: None, damaged: 0 }
    }

    /// The video of a file. `by`: who decodes it; whoever it is, the frames are the same.
    pub(crate) fn open_video(path: &Path, by: DecoderChoice) -> Result<Self> {
        if by == DecoderChoice::Auto {
            let source = Source::open(path, Type::Video)?;
            match source.decoder_on_card() {
                Ok(decoder) => return Ok(Self { on_card: true, ..Self::new(source, decoder) }),
                Err(reason) => tracing::info!("`{}` is decoded in software: {reason}", path.display()),
            }
        }
        Self::open(path, Type::Video)
    }

    /// The time stamp of the first picture that could be shown, decodable or not, as far as it is known.
    pub(crate) fn beginning(&self) -> Option<i64> {
        self.beginning.flatten()
    }

    /// The next frame in order of presentation; `None` at the end.
    pub(crate) fn next_frame(&mut self) -> Option<Frame> {
        if self.on_card {
            match self.next_from_card() {
                Ok(frame) => {
                    self.fetched += u64::from(frame.is_some());
                    return frame;
                }
                Err(reason) => self.leave_card(&reason)?,
            }
        }
        self.decode()
    }

    /// An error where FFmpeg's own decoder may make more of the file, or say more of it: a card does not tell what it has
    /// patched up.
    fn next_from_card(&mut self) -> Result<Option<Frame>, String> {
        let frame = self.decode();
        if self.damaged > 0 {
            return Err("it is damaged".into());
        }
        frame.map(|frame| nvdec::fetch(&frame)).transpose()
    }

    /// Goes on with FFmpeg's own decoder: from the beginning of the file, past the frames that came from the card. `None`
    /// where the file cannot be opened again.
    fn leave_card(&mut self, reason: &str) -> Option<()> {
        let Self { source: Source { path, .. }, fetched, .. } = self;
        tracing::info!("`{}` is decoded in software from frame {fetched} on: {reason}", path.display());
        match Self::open(path, Type::Video) {
            Ok(mut software) => {
                for _ in 0..*fetched {
                    software.decode();
                }
                *self = software;
                Some(())
            }
            Err(error) => {
                tracing::warn!("{error}");
                self.damaged += 1;
                None
            }
        }
    }

    fn decode(&mut self) -> Option<Frame> {
        let mut failures = 0;
        // SAFETY: an empty frame owns nothing but itself.
        let mut frame = unsafe { Frame::empty() };
        loop {
            match self.decoder.receive_frame(&mut frame) {
                Ok(()) => {
                    self.damaged += u64::from(frame.is_corrupt() || frame.has_decode_errors());
                    return Some(frame);
                }
                Err(e) if wants_more(e) => {
                    failures = 0;
                    self.feed();
                }
                Err(ffmpeg::Error::Eof) => return None,
                Err(_) => {
                    self.damaged += 1;
                    failures += 1;
                    // One that takes no more packets would fail for ever.
                    if failures > MOST_FAILURES {
                        return None;
                    }
                }
            }
        }
    }

    fn feed(&mut self) {
        let sent = match self.source.next_packet(&mut self.damaged) {
            Some(packet) => {
                if self.beginning.is_none() && packet.is_key() {
                    self.beginning = Some(packet.pts().filter(|_| !is_hidden(&packet)));
                }
                self.decoder.send_packet(&packet)
            }
            None => {
                self.draining = true;
                self.decoder.send_eof()
            }
        };
        match sent {
            Ok(()) | Err(ffmpeg::Error::Eof) => {}
            Err(_) => self.damaged += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::iter::from_fn;

    use super::*;

    #[test]
    fn software_goes_on_where_a_card_ends() {
        let shared = std::env::var_os("LATENTSYNC_SHARED").unwrap_or_else(|| "../shared".into());
        let path = &Path::new(&shared).join("media/woman_2s.mp4");
        if !path.exists() {
            return eprintln!("skipped: no `{}`", path.display());
        }
        let open = || DecodedSource::open(path, Type::Video).unwrap();
        let rest = |source: &mut DecodedSource| -> Vec<_> {
            from_fn(|| source.next_frame()).map(|frame| frame.pts()).collect()
        };
        let all = rest(&mut open());
        assert!(all.len() > 10);

        let mut source = DecodedSource { fetched: 7, ..open() };
        assert!(source.leave_card("a test").is_some());
        assert_eq!(rest(&mut source), all[7..]);
        // No card has made its frames.
        let mut source = DecodedSource { on_card: true, ..open() };
        assert_eq!(rest(&mut source), all);
        assert_eq!((source.on_card, source.damaged), (false, 0));
    }
}
