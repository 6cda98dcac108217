//! One stream of a media file, decoded: packets in, frames out, damage skipped and counted.

use std::path::{Path, PathBuf};

use ffmpeg_next as ffmpeg;
use ffmpeg_next::codec::decoder::Opened;
use ffmpeg_next::codec::packet::side_data;
use ffmpeg_next::format::context::Input;
use ffmpeg_next::format::stream::Disposition;
use ffmpeg_next::media::Type;
use ffmpeg_next::{Frame, Packet, Stream, codec, ffi};

use super::{open_input, wants_more};
use crate::error::{Error, Result};

/// More decoder threads than this only cost memory: each holds a frame.
const MOST_THREADS: usize = 8;
/// This many failures in a row are the end of a broken file.
pub(crate) const MOST_FAILURES: usize = 100;

/// A file and the one stream of it that is wanted.
pub(crate) struct Source {
    pub path: PathBuf,
    input: Input,
    index: usize,
}

impl Source {
    /// Opens the file and chooses the best stream of a kind. A cover picture is no video.
    pub(crate) fn open(path: &Path, kind: Type) -> Result<Self> {
        let mut input = open_input(path)?;
        let is_cover = |stream: &Stream| stream.disposition().contains(Disposition::ATTACHED_PIC);
        let best = input.streams().best(kind).filter(|stream| !is_cover(stream)).or_else(|| {
            input.streams().find(|stream| stream.parameters().medium() == kind && !is_cover(stream))
        });
        let Some(index) = best.map(|stream| stream.index()) else {
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
        let stream = self.stream();
        [stream.avg_frame_rate(), stream.rate()]
            .into_iter()
            .filter(|rate| rate.numerator() > 0 && rate.denominator() > 0)
            .map(f64::from)
            .next()
            .unwrap_or(0.0)
    }

    /// The stream's display matrix, for [`Orientation`](super::orient::Orientation).
    pub(crate) fn display_matrix(&self) -> Option<Vec<u8>> {
        self.stream()
            .side_data()
            .find(|data| data.kind() == side_data::Type::DisplayMatrix)
            .map(|data| data.data().to_vec())
    }

    /// The wanted stream's next packet. Damaged places are skipped and counted in `damaged`.
    pub(crate) fn next_packet(&mut self, damaged: &mut u64) -> Option<Packet> {
        let mut failures = 0;
        loop {
            let mut packet = Packet::empty();
            match packet.read(&mut self.input) {
                Ok(()) if packet.stream() == self.index => return Some(packet),
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
        let stream = self.stream();
        let parameters = stream.parameters();
        let id = parameters.id();
        let failed = |e: ffmpeg::Error| Error::NotMedia {
            path: self.path.clone(),
            reason: format!("its {id:?} stream cannot be decoded: {e}"),
        };
        let mut context = codec::Context::from_parameters(parameters).map_err(failed)?;
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(MOST_THREADS);
        // SAFETY: the context is valid and not open yet.
        unsafe {
            let raw = context.as_mut_ptr();
            (*raw).pkt_timebase = stream.time_base().into();
            (*raw).thread_count = threads as i32;
            (*raw).thread_type = ffi::FF_THREAD_FRAME | ffi::FF_THREAD_SLICE;
        }
        let codec = codec::decoder::find(id).ok_or_else(|| failed(ffmpeg::Error::DecoderNotFound))?;
        context.decoder().open_as(codec).map_err(failed)
    }
}

/// A [`Source`] with its decoder.
pub(crate) struct DecodedSource {
    pub source: Source,
    decoder: Opened,
    draining: bool,
    /// Packets that were skipped and frames that were concealed.
    pub damaged: u64,
}

impl DecodedSource {
    pub(crate) fn open(path: &Path, kind: Type) -> Result<Self> {
        let source = Source::open(path, kind)?;
        let decoder = source.decoder()?;
        Ok(Self { source, decoder, draining: false, damaged: 0 })
    }

    /// The next frame in order of presentation; `None` at the end.
    pub(crate) fn next_frame(&mut self) -> Option<Frame> {
        let mut failures = 0;
        // SAFETY: an empty frame owns nothing but itself.
        let mut frame = unsafe { Frame::empty() };
        loop {
            match self.decoder.receive_frame(&mut frame) {
                Ok(()) => {
                    self.damaged += u64::from(frame.is_corrupt() || frame.has_decode_errors());
                    return Some(frame);
                }
                Err(e) if wants_more(e) => self.feed(),
                Err(ffmpeg::Error::Eof) => return None,
                Err(_) => {
                    self.damaged += 1;
                    failures += 1;
                    if self.draining && failures > MOST_FAILURES {
                        return None;
                    }
                }
            }
        }
    }

    fn feed(&mut self) {
        let sent = match self.source.next_packet(&mut self.damaged) {
            Some(packet) => self.decoder.send_packet(&packet),
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
