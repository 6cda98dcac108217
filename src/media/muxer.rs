//! Muxing of encoded pictures and the voice.
//!
//! MP4 and QuickTime files have their index at the front. Files contain no version numbers and no creation
//! times, so the same packets produce the same bytes.

use std::path::{Path, PathBuf};

use ffmpeg_next as ffmpeg;
use ffmpeg_next::codec::{self, Id};
use ffmpeg_next::format::context::Output;
use ffmpeg_next::{Packet, Rational, ffi, packet};

use super::audio_track::{AudioTrack, Span};
use super::encoder::encode_error;
use super::{check, file_url};
use crate::media::Result;
use crate::options::Container;
use crate::system;

const VIDEO: usize = 0;
const AUDIO: usize = 1;

/// Writer of a container with one video stream and one audio stream.
pub(crate) struct Muxer {
    output: Output,
    audio: AudioTrack,
    /// Audio packet that is later than the video written so far.
    waiting: Option<Packet>,
    frame_time: Rational,
    container: Container,
    /// Path of the output, for error messages.
    path: PathBuf,
}

/// The streams of an output.
pub(crate) struct Streams<'a> {
    pub container: Container,
    pub video: &'a codec::Parameters,
    /// File with the voice.
    pub audio: &'a Path,
    pub sound: Span,
}

impl Muxer {
    /// Opens the voice and writes the header to `file`, the temporary file of the output `path`.
    pub(crate) fn create(file: &Path, path: &Path, streams: &Streams) -> Result<Self> {
        let failed = |e| encode_error(path, e);
        let container = streams.container;
        let mut output = open_output(file, container).map_err(failed)?;
        // SAFETY: the context is valid, and its format is static.
        let format = unsafe { (*output.as_ptr()).oformat };
        let audio = AudioTrack::open(streams.audio, streams.sound, container, format)?;
        let frame_time = streams.sound.frame_time;
        add_stream(&mut output, streams.video, tag(streams.video, container), frame_time).map_err(failed)?;
        // Matroska stores the rate beside its rounded timestamps.
        if let Some(mut stream) = output.stream_mut(VIDEO) {
            stream.set_avg_frame_rate(frame_time.invert());
        }
        // The codec tag of the source container is not valid in this one.
        add_stream(&mut output, &audio.parameters(), 0, audio.time_base()).map_err(failed)?;
        let options: &[(&str, &str)] = match container {
            Container::Mp4 | Container::Mov => &[("movflags", "+faststart")],
            Container::Mkv => &[],
        };
        output.write_header_with(options.iter().collect()).map_err(failed)?;
        Ok(Self { output, audio, waiting: None, frame_time, container, path: path.to_path_buf() })
    }

    /// Writes a packet, whose timestamps are frame numbers, and the audio up to it.
    pub(crate) fn write_video(&mut self, packet: Packet) -> Result<()> {
        self.write_sound(packet.dts().unwrap_or(0).max(0), Until::Time)?;
        self.write(packet, VIDEO, self.frame_time)
    }

    /// Writes the remaining audio of an output of `frames` frames and the index.
    ///
    /// # Errors
    /// [`system::Error::Interrupted`] soon after `cancelled` says so.
    pub(crate) fn finish(mut self, frames: u64, cancelled: &dyn Fn() -> bool) -> Result<()> {
        self.write_sound(frames as i64, Until::End)?;
        if cancelled() {
            return Err(system::Error::Interrupted.into());
        }
        let Self { mut output, path, .. } = self;
        output.write_trailer().map_err(|e| encode_error(&path, e))?;
        // SAFETY: the context is valid until it is dropped. Some write errors are visible only here.
        check(unsafe { (*(*output.as_ptr()).pb).error }).map_err(|e| encode_error(&path, e))?;
        Ok(())
    }

    /// Writes audio up to the start of frame `end`.
    fn write_sound(&mut self, end: i64, until: Until) -> Result<()> {
        let time_base = self.audio.time_base();
        // SAFETY: a pure function; both time bases are positive.
        let end = unsafe { ffi::av_rescale_q(end, self.frame_time.into(), time_base.into()) };
        loop {
            let Some(mut packet) =
                self.waiting.take().map_or_else(|| self.audio.next_packet(), |p| Ok(Some(p)))?
            else {
                return Ok(());
            };
            let starts = packet.pts().unwrap_or(0);
            let over = starts.saturating_add(packet.duration()) - end;
            if over > 0 {
                if until == Until::Time || starts >= end {
                    self.waiting = Some(packet);
                    return Ok(());
                }
                self.cut(&mut packet, over)?;
            } else if let Some(frame) = self.audio.frame_samples()
                && packet.duration() < frame
            {
                let over = frame - packet.duration();
                packet.set_duration(frame);
                self.cut(&mut packet, over)?;
            }
            self.write(packet, AUDIO, time_base)?;
        }
    }

    /// Shortens the last packet by `over` ticks: removes samples of PCM; otherwise sets the duration and, in
    /// Matroska, the discard padding.
    fn cut(&self, packet: &mut Packet, over: i64) -> Result<()> {
        let kept = packet.duration() - over;
        let in_samples = |ticks: i64, rate: i32| {
            // SAFETY: a pure function; both time bases are positive.
            unsafe { ffi::av_rescale_q(ticks, self.audio.time_base().into(), Rational::new(1, rate).into()) }
        };
        // SAFETY: reads a plain field of valid parameters.
        let rate = unsafe { (*self.audio.parameters().as_ptr()).sample_rate }.max(1);
        packet.set_duration(kept);
        if let Some(bytes) = self.audio.sample_bytes() {
            let samples = usize::try_from(in_samples(kept, rate)).unwrap_or(0).max(1);
            packet.shrink((samples * bytes).min(packet.size()));
        } else if self.container == Container::Mkv {
            let skipped = u32::try_from(in_samples(over, rate)).unwrap_or(0);
            add_discard_padding(packet, skipped).map_err(|e| encode_error(&self.path, e))?;
        }
        Ok(())
    }

    fn write(&mut self, mut packet: Packet, stream: usize, time_base: Rational) -> Result<()> {
        // The muxer may have changed the time base when it wrote the header.
        let muxed = self.output.stream(stream).map_or(time_base, |stream| stream.time_base());
        packet.set_stream(stream);
        packet.rescale_ts(time_base, muxed);
        packet.write_interleaved(&mut self.output).map_err(|e| encode_error(&self.path, e))
    }
}

/// End condition of writing audio.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Until {
    /// Writes whole packets up to the time; more will follow.
    Time,
    /// Nothing follows: the last packet is shortened if it extends beyond the time.
    End,
}

/// Marks the last `samples` samples of a packet to be discarded after decoding (Matroska; other containers
/// use the packet duration).
fn add_discard_padding(packet: &mut Packet, samples: u32) -> Result<(), ffmpeg::Error> {
    const KIND: ffi::AVPacketSideDataType = ffi::AVPacketSideDataType::AV_PKT_DATA_SKIP_SAMPLES;
    /// Samples to skip at the start and at the end (u32 each), and a reason code for each (u8).
    const SIZE: usize = 10;
    // SAFETY: the packet is valid. The data of both calls has at least `SIZE` bytes: the first is checked,
    // the second is allocated with that size.
    unsafe {
        let raw = packet::Mut::as_mut_ptr(packet);
        let mut size = 0;
        let mut data = ffi::av_packet_get_side_data(raw, KIND, &mut size);
        if data.is_null() || size < SIZE {
            data = ffi::av_packet_new_side_data(raw, KIND, SIZE);
            if data.is_null() {
                return Err(ffmpeg::Error::Other { errno: ffmpeg::error::ENOMEM });
            }
            data.write_bytes(0, SIZE);
        }
        let place = std::slice::from_raw_parts_mut(data.add(4), 4);
        place.copy_from_slice(&samples.to_le_bytes());
    }
    Ok(())
}

/// Codec tag of the video stream; 0 lets the muxer choose.
fn tag(video: &codec::Parameters, container: Container) -> u32 {
    match (video.id(), container) {
        // Apple's players support HEVC only with out-of-band headers.
        (Id::HEVC, Container::Mp4 | Container::Mov) => u32::from_le_bytes(*b"hvc1"),
        (Id::PRORES, _) => {
            // The tag of ProRes identifies the profile.
            // SAFETY: reads a plain field of valid parameters.
            unsafe { (*video.as_ptr()).codec_tag }
        }
        _ => 0,
    }
}

fn open_output(path: &Path, container: Container) -> Result<Output, ffmpeg::Error> {
    let url = file_url(path).ok_or(ffmpeg::Error::InvalidData)?;
    let name = match container {
        Container::Mp4 => c"mp4",
        Container::Mov => c"mov",
        Container::Mkv => c"matroska",
    };
    let mut context = std::ptr::null_mut();
    // SAFETY: the strings outlive the calls; `Output` takes ownership of the context after its allocation.
    // The muxer opens the file again by this URL when it moves the index to the front.
    unsafe {
        check(ffi::avformat_alloc_output_context2(
            &mut context,
            std::ptr::null_mut(),
            name.as_ptr(),
            url.as_ptr(),
        ))?;
        let output = Output::wrap(context);
        check(ffi::avio_open(&mut (*context).pb, url.as_ptr(), ffi::AVIO_FLAG_WRITE))?;
        (*context).flags |= ffi::AVFMT_FLAG_BITEXACT;
        // Old versions of FFmpeg treat FLAC in MP4 as experimental, although its specification is final.
        (*context).strict_std_compliance = ffi::FF_COMPLIANCE_EXPERIMENTAL;
        Ok(output)
    }
}

fn add_stream(
    output: &mut Output,
    parameters: &codec::Parameters,
    tag: u32,
    time_base: Rational,
) -> Result<(), ffmpeg::Error> {
    // SAFETY: the context is valid and owns the new stream; the parameters are copied.
    unsafe {
        let stream = ffi::avformat_new_stream(output.as_mut_ptr(), std::ptr::null());
        let stream = stream.as_mut().ok_or(ffmpeg::Error::Other { errno: ffmpeg::error::ENOMEM })?;
        check(ffi::avcodec_parameters_copy(stream.codecpar, parameters.as_ptr()))?;
        (*stream.codecpar).codec_tag = tag;
        stream.time_base = time_base.into();
    }
    Ok(())
}
