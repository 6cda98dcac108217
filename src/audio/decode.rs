//! Decodes the best audio stream of a file with FFmpeg to [`Speech`], without encoder delay and padding.

use std::path::Path;

use ffmpeg_next as ffmpeg;

use ffmpeg::format::{Sample, context::Input};
use ffmpeg::{Packet, Rational, codec, decoder, frame, media};

use crate::audio::speech::{Speech, SpeechBuilder, downmix_weights};
use crate::audio::{Error, Result};
use crate::media::open_input;
use crate::media::source::MAX_FAILURES;
use crate::system::CancelToken;

/// Decodes the audio of a file.
pub(super) fn decode(path: &Path, cancel: &CancelToken) -> Result<Speech> {
    let mut input = open_input(path)?;
    let index = input
        .streams()
        .best(media::Type::Audio)
        .map(|stream| stream.index())
        .ok_or_else(|| crate::media::Error::NoAudioStream { path: path.to_path_buf() })?;
    let mut decoding = Decoding::new(path, &input, index).map_err(|e| broken(path, e))?;
    let mut packet = Packet::empty();
    let mut failures = 0;
    loop {
        cancel.check()?;
        match packet.read(&mut input) {
            Ok(()) => {
                failures = 0;
                if packet.stream() == index {
                    decoding.send(&packet)?;
                }
            }
            Err(ffmpeg::Error::Eof) => break,
            // A damaged packet: the demuxer continues with the next one, unless it is stuck.
            Err(ffmpeg::Error::InvalidData) if failures < MAX_FAILURES => {
                failures += 1;
                decoding.damaged += 1;
            }
            Err(e) => return Err(broken(path, e)),
        }
    }
    decoding.finish()
}

fn broken(path: &Path, e: ffmpeg::Error) -> Error {
    Error::Unreadable { path: path.to_path_buf(), reason: e.to_string() }
}

/// Length of the stream according to the container's index.
struct Declared {
    seconds: f64,
    packets: i64,
    /// Start plus duration of the stream, in its time base.
    end: i64,
}

struct Decoding<'a> {
    path: &'a Path,
    decoder: decoder::Audio,
    builder: SpeechBuilder,
    time_base: Rational,
    /// Only for MP4 and MOV. In other containers the decoders trim the padding, or the duration is an
    /// estimate.
    declared: Option<Declared>,
    frame: frame::Audio,
    interleaved: Vec<f32>,
    packets: i64,
    damaged: usize,
    /// End of the last packet, in the time base.
    packet_end: Option<i64>,
    last_frame: Option<LastFrame>,
}

struct LastFrame {
    start: i64,
    samples: usize,
    rate: u32,
}

impl<'a> Decoding<'a> {
    fn new(path: &'a Path, input: &Input, index: usize) -> std::result::Result<Self, ffmpeg::Error> {
        let stream = input.stream(index).ok_or(ffmpeg::Error::StreamNotFound)?;
        let time_base = stream.time_base();
        let mut context = codec::context::Context::from_parameters(stream.parameters())?.decoder();
        // The decoder trims encoder delay and padding, which are given in this unit.
        context.set_packet_time_base(time_base);
        let has_index = input.format().name().contains("mp4");
        let declared = (has_index && stream.duration() > 0).then(|| Declared {
            seconds: stream.duration() as f64 * f64::from(time_base),
            packets: stream.frames(),
            end: stream.start_time().max(0).saturating_add(stream.duration()),
        });
        Ok(Self {
            path,
            decoder: context.audio()?,
            builder: SpeechBuilder::new(path),
            time_base,
            declared,
            frame: frame::Audio::empty(),
            interleaved: Vec::new(),
            packets: 0,
            damaged: 0,
            packet_end: None,
            last_frame: None,
        })
    }

    fn send(&mut self, packet: &Packet) -> Result<()> {
        self.packets += 1;
        if let Some(pts) = packet.pts() {
            self.packet_end = Some(pts.saturating_add(packet.duration()));
        }
        match self.decoder.send_packet(packet) {
            Ok(()) => self.receive(),
            // Packets that cannot be decoded are skipped, as in players.
            Err(_) => {
                self.damaged += 1;
                Ok(())
            }
        }
    }

    fn receive(&mut self) -> Result<()> {
        while self.decoder.receive_frame(&mut self.frame).is_ok() {
            let (frame, channels) = (&self.frame, usize::from(self.frame.channels()));
            if channels == 0 || frame.samples() == 0 {
                continue;
            }
            interleave(frame, &mut self.interleaved);
            let weights = downmix_weights(frame.channel_layout().bits(), channels);
            self.builder.push(&self.interleaved, &weights, frame.rate())?;
            self.last_frame =
                frame.pts().map(|start| LastFrame { start, samples: frame.samples(), rate: frame.rate() });
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Speech> {
        // A decoder that refuses to be drained has no frames left.
        if self.decoder.send_eof().is_ok() {
            self.receive()?;
        }
        self.builder.drop_last(self.padding());
        let speech = Speech { damaged: self.damaged, ..self.builder.finish()? };
        match self.declared {
            Some(Declared { seconds, packets, .. })
                if self.packets < packets && speech.duration_seconds + 0.25 < seconds =>
            {
                Err(Error::Truncated {
                    path: self.path.to_path_buf(),
                    got: speech.duration_seconds,
                    expected: seconds,
                })
            }
            _ => Ok(speech),
        }
    }

    /// Number of samples of the last frame after the end of the stream. An AAC frame has 1024 samples; if the
    /// audio ends inside it, an MP4 file declares that by the duration of the packet or of the stream, but
    /// FFmpeg 5 decodes the whole frame.
    fn padding(&self) -> u64 {
        let (Some(frame), Some(declared)) = (&self.last_frame, &self.declared) else {
            return 0;
        };
        let end = self.packet_end.map_or(declared.end, |end| end.min(declared.end));
        let kept = end.saturating_sub(frame.start) as f64 * f64::from(self.time_base) * f64::from(frame.rate);
        match kept.round() {
            kept if kept > 0.0 && kept < frame.samples as f64 => frame.samples as u64 - kept as u64,
            _ => 0,
        }
    }
}

/// Interleaves the channels of a frame as f32 with full scale 1.
fn interleave(frame: &frame::Audio, out: &mut Vec<f32>) {
    out.clear();
    match frame.format() {
        Sample::U8(_) => collect(frame, out, |x: u8| (f32::from(x) - 128.0) / 128.0),
        Sample::I16(_) => collect(frame, out, |x: i16| f32::from(x) / 32768.0),
        Sample::I32(_) => collect(frame, out, |x: i32| x as f32 / 2f32.powi(31)),
        Sample::F32(_) => collect(frame, out, |x: f32| x),
        Sample::F64(_) => collect(frame, out, |x: f64| x as f32),
        // No FFmpeg decoder outputs 64-bit integers.
        Sample::I64(_) | Sample::None => {}
    }
}

fn collect<S: frame::audio::Sample + Copy>(
    frame: &frame::Audio,
    out: &mut Vec<f32>,
    to_f32: impl Fn(S) -> f32,
) {
    if frame.is_packed() {
        out.extend(frame.plane::<S>(0).iter().map(|&x| to_f32(x)));
    } else {
        let planes: Vec<&[S]> = (0..frame.planes()).map(|i| frame.plane(i)).collect();
        out.extend((0..frame.samples()).flat_map(|i| planes.iter().map(move |plane| plane[i])).map(to_f32));
    }
}
