//! Demuxing and decoding of one stream of a media file. Damage is skipped and counted.

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
use crate::media::nvdec;
use crate::media::{Error, Result};
use crate::options::{DecoderChoice, FrameRate, Steadiness};

/// Maximum number of decoder threads. Each holds a frame in memory; more do not increase the speed.
const MAX_THREADS: usize = 8;
/// Maximum size in bytes of the frames that all decoder threads hold.
const THREAD_MEMORY: usize = 256 << 20;
/// Number of consecutive failures after which a broken file is treated as ended.
pub(crate) const MAX_FAILURES: usize = 100;

/// Category of a file's format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FileKind {
    /// A still image. Phones may append further images, such as an HDR gain map.
    Picture,
    /// A format for one or several images.
    Animation,
    Film,
}

/// A demuxer for one stream of a file.
pub(crate) struct MediaStream {
    pub path: PathBuf,
    input: Input,
    index: usize,
}

impl MediaStream {
    /// Opens the file and selects a stream of type `kind`. Of several video streams: the default one, then
    /// the largest, then the first; cover pictures are ignored. Of several audio streams: the one that
    /// players select.
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
                // SAFETY: the stream is valid, and `discard` is a plain field.
                unsafe { (*other.as_mut_ptr()).discard = ffi::AVDiscard::AVDISCARD_ALL };
            }
        }
        Ok(Self { path: path.to_path_buf(), input, index })
    }

    pub(crate) fn stream(&self) -> Stream<'_> {
        // SAFETY: the index is that of a stream of this file, and streams are never removed.
        unsafe { Stream::wrap(&self.input, self.index) }
    }

    pub(crate) fn input(&self) -> &Input {
        &self.input
    }

    /// Frame rate according to the container: the average, else the base rate, else 0.
    pub(crate) fn frame_rate(&self) -> f64 {
        let [average, base] = self.rates();
        average.or(base).unwrap_or(0.0)
    }

    /// Nominal frame rate of the file.
    pub(crate) fn nominal_rate(&self) -> FrameRate {
        let [average, base] = self.rates();
        let steadiness = if average == base { Steadiness::Steady } else { Steadiness::Average };
        FrameRate::nominal(self.frame_rate(), steadiness)
    }

    /// The average rate and the base rate (the lowest rate that can represent all timestamps).
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

    /// Duration of the stream according to the file. Matroska stores it in a tag.
    pub(crate) fn declared_seconds(&self) -> Option<f64> {
        let stream = self.stream();
        if stream.duration() > 0 {
            return Some(stream.duration() as f64 * f64::from(stream.time_base()));
        }
        let metadata = stream.metadata();
        let mut parts = metadata.get("DURATION")?.split(':').map(str::parse::<f64>);
        let [hours, minutes, seconds] = [parts.next()?.ok()?, parts.next()?.ok()?, parts.next()?.ok()?];
        Some(hours * 3600.0 + minutes * 60.0 + seconds)
    }

    /// Sample aspect ratio (width by height). The value of the container has priority, as in players.
    pub(crate) fn pixel_aspect(&self, frame: &frame::Video) -> f64 {
        let stream = self.stream();
        // SAFETY: context, stream and frame are valid and only read.
        let ratio = unsafe {
            let (context, stream) = (self.input.as_ptr().cast_mut(), stream.as_ptr().cast_mut());
            ffi::av_guess_sample_aspect_ratio(context, stream, frame.as_ptr().cast_mut())
        };
        f64::from(ratio.num) / f64::from(ratio.den)
    }

    /// Whether the video is Dolby Vision without a backward-compatible base layer (profile 5).
    pub(crate) fn is_dolby_vision_only(&self) -> bool {
        /// Offset of `dv_bl_signal_compatibility_id` in FFmpeg's record; 0 means no compatibility.
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

    /// The next packet of the stream. Read errors are skipped; they and corrupt packets are counted in
    /// `damaged`.
    pub(crate) fn next_packet(&mut self, damaged: &mut u64) -> Option<Packet> {
        let mut failures = 0;
        loop {
            let mut packet = Packet::empty();
            match packet.read(&mut self.input) {
                Ok(()) if packet.stream() == self.index => {
                    // A gap in the continuity counters of a transport stream.
                    *damaged += u64::from(packet.is_corrupt());
                    return Some(packet);
                }
                Ok(()) => failures = 0,
                Err(ffmpeg::Error::Eof) => return None,
                Err(ffmpeg::Error::InvalidData) if failures < MAX_FAILURES => {
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

    /// The decoder on a GPU, or the reason why there is none.
    fn gpu_decoder(&self) -> Result<Opened, String> {
        let (mut context, codec) = self.decoder_context().map_err(|e| e.to_string())?;
        nvdec::attach(&mut context, codec)?;
        context.decoder().open_as(codec).map_err(|e| e.to_string())
    }

    /// Configured but unopened context, and its codec.
    fn decoder_context(&self) -> Result<(codec::Context, Codec), ffmpeg::Error> {
        let stream = self.stream();
        let parameters = stream.parameters();
        let codec = codec::decoder::find(parameters.id()).ok_or(ffmpeg::Error::DecoderNotFound)?;
        let mut context = codec::Context::from_parameters(parameters)?;
        let (width, height) = size(&stream);
        // Common formats have at most 3 bytes per pixel (4:2:0 with 10 bits).
        let affordable = THREAD_MEMORY / usize::try_from(3 * width * height).unwrap_or(usize::MAX).max(1);
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = threads.min(MAX_THREADS).min(affordable.max(1));
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

/// Whether the packet is decoded but not shown. Edit lists that begin between key frames have such packets.
pub(crate) fn is_hidden(packet: &Packet) -> bool {
    // SAFETY: reads a plain field of a valid packet.
    let flags = unsafe { (*ffmpeg::packet::Ref::as_ptr(packet)).flags };
    flags & ffi::AV_PKT_FLAG_DISCARD != 0
}

fn is_video(stream: &Stream) -> bool {
    stream.parameters().medium() == Type::Video && !stream.disposition().contains(Disposition::ATTACHED_PIC)
}

/// Sort key of video streams; the greatest is selected.
fn preference(stream: &Stream) -> (bool, i64, Reverse<usize>) {
    let (width, height) = size(stream);
    let is_default = stream.disposition().contains(Disposition::DEFAULT);
    (is_default, width * height, Reverse(stream.index()))
}

/// (width, height) according to the container; 0 if unknown.
fn size(stream: &Stream) -> (i64, i64) {
    // SAFETY: the parameters are valid as long as the stream is.
    let (width, height) = unsafe {
        let parameters = (*stream.as_ptr()).codecpar;
        ((*parameters).width, (*parameters).height)
    };
    (i64::from(width.max(0)), i64::from(height.max(0)))
}

/// A [`MediaStream`] with its decoder.
pub(crate) struct DecodedStream {
    pub source: MediaStream,
    decoder: Opened,
    /// Whether a GPU decodes.
    on_gpu: bool,
    /// Number of frames downloaded from the GPU.
    downloaded: u64,
    draining: bool,
    /// Presentation time of the first key frame, once it has been read; `None` inside if an edit list hides
    /// it.
    beginning: Option<Option<i64>>,
    /// Number of skipped packets and concealed frames.
    pub damaged: u64,
}

impl DecodedStream {
    pub(crate) fn open(path: &Path, kind: Type) -> Result<Self> {
        let source = MediaStream::open(path, kind)?;
        let decoder = source.decoder()?;
        Ok(Self::new(source, decoder))
    }

    fn new(source: MediaStream, decoder: Opened) -> Self {
        Self { source, decoder, on_gpu: false, downloaded: 0, draining: false, beginning: None, damaged: 0 }
    }

    /// Opens the video stream of a file. All decoders produce the same frames.
    pub(crate) fn open_video(path: &Path, decoder: DecoderChoice) -> Result<Self> {
        if decoder == DecoderChoice::Auto {
            let source = MediaStream::open(path, Type::Video)?;
            match source.gpu_decoder() {
                Ok(decoder) => return Ok(Self { on_gpu: true, ..Self::new(source, decoder) }),
                Err(reason) => tracing::info!("`{}` is decoded in software: {reason}", path.display()),
            }
        }
        Self::open(path, Type::Video)
    }

    /// Timestamp of the first picture that should be shown, decodable or not, if known.
    pub(crate) fn beginning(&self) -> Option<i64> {
        self.beginning.flatten()
    }

    /// The next frame in presentation order; `None` at the end.
    pub(crate) fn next_frame(&mut self) -> Option<Frame> {
        if self.on_gpu {
            match self.next_from_gpu() {
                Ok(frame) => {
                    self.downloaded += u64::from(frame.is_some());
                    return frame;
                }
                Err(reason) => self.fall_back_to_software(&reason)?,
            }
        }
        self.decode()
    }

    /// Returns an error if the software decoder may recover more of the file or report more damage: a GPU
    /// does not report what it has concealed.
    fn next_from_gpu(&mut self) -> Result<Option<Frame>, String> {
        let frame = self.decode();
        if self.damaged > 0 {
            return Err("it is damaged".into());
        }
        frame.map(|frame| nvdec::download(&frame)).transpose()
    }

    /// Switches to the software decoder, which decodes from the beginning of the file and skips the frames
    /// that the GPU has delivered. `None` if the file cannot be reopened.
    fn fall_back_to_software(&mut self, reason: &str) -> Option<()> {
        let Self { source: MediaStream { path, .. }, downloaded, .. } = self;
        tracing::info!("`{}` is decoded in software from frame {downloaded} on: {reason}", path.display());
        match Self::open(path, Type::Video) {
            Ok(mut software) => {
                for _ in 0..*downloaded {
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
        // SAFETY: allocates an empty frame, which owns only itself.
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
                    // A decoder that accepts no more packets would fail forever.
                    if failures > MAX_FAILURES {
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
    fn the_software_decoder_continues_after_the_hardware_decoder() {
        let path = &Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo/face.mp4");
        let open = || DecodedStream::open(path, Type::Video).unwrap();
        let rest = |source: &mut DecodedStream| -> Vec<_> {
            from_fn(|| source.next_frame()).map(|frame| frame.pts()).collect()
        };
        let all = rest(&mut open());
        assert!(all.len() > 10);

        let mut source = DecodedStream { downloaded: 7, ..open() };
        assert!(source.fall_back_to_software("a test").is_some());
        assert_eq!(rest(&mut source), all[7..]);
        // The frames are not in GPU memory.
        let mut source = DecodedStream { on_gpu: true, ..open() };
        assert_eq!(rest(&mut source), all);
        assert_eq!((source.on_gpu, source.damaged), (false, 0));
    }
}
