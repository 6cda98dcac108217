//! Stage 8: pictures and the voice in, an MP4 file out.
//!
//! H.264, yuv420p, 25 frames a second, colours tagged as in the source, index at the front. The file appears under its
//! name when it is complete, and not before: until then it has a name of its own in the same directory, which goes
//! when the writer does. The same pictures give the same bytes, on every machine.

use std::io;
use std::path::{Path, PathBuf};

use ffmpeg_next as ffmpeg;
use ffmpeg_next::codec::{self, encoder};
use ffmpeg_next::format::Pixel;
use ffmpeg_next::format::context::Output;
use ffmpeg_next::{Packet, Rational, ffi, picture};
use tempfile::NamedTempFile;

use super::decode_video::VideoInfo;
use crate::error::{Error, Result};
use crate::media::audio_track::AudioTrack;
use crate::media::picture::Picture;
use crate::media::to_420::To420;
use crate::media::{FRAME_RATE, check, file_url, init};
use crate::unfinished::Unfinished;

const ENCODER: &str = "libx264";
/// x264's result depends on the number of its threads, so this is not the number of cores.
const THREADS: usize = 8;
const VIDEO: usize = 0;
const AUDIO: usize = 1;

/// How well and how fast H.264 is encoded.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Quality {
    /// x264's constant rate factor: 0 lossless, 51 worst. 18 is hard to tell from the source.
    pub crf: f32,
    /// x264's preset, from `ultrafast` to `placebo`: time against size, at about the same look.
    pub preset: &'static str,
}

impl Default for Quality {
    fn default() -> Self {
        Self { crf: 18.0, preset: "medium" }
    }
}

/// What is to be written.
#[derive(Debug, Clone, Copy)]
pub struct OutputVideo<'a> {
    /// Where. An existing file is replaced when the new one is complete.
    pub path: &'a Path,
    /// The source: size and colour of the pictures.
    pub video: &'a VideoInfo,
    /// A file with the voice.
    pub audio: &'a Path,
    /// How many pictures there will be. The sound ends with the last.
    pub frames: u64,
    pub quality: Quality,
}

/// An output that is being written. Dropping it leaves nothing behind; [`VideoWriter::finish`] keeps it.
pub struct VideoWriter {
    // Closed before the file is removed: fields are dropped in this order.
    output: Output,
    file: NamedTempFile,
    _unfinished: Unfinished,
    path: PathBuf,
    encoder: encoder::video::Encoder,
    to_420: To420,
    audio: AudioTrack,
    /// A packet of sound whose time has not come.
    waiting: Option<Packet>,
    frames: u64,
}

impl VideoWriter {
    /// Opens the voice and the encoder, and starts a file beside `output.path`.
    ///
    /// A picture of odd width or height gets one more column or row, a copy of its last: yuv420p has no odd sizes,
    /// and so nothing is cut off or scaled.
    ///
    /// # Errors
    /// [`Error::OutputIsInput`], [`Error::WriteFile`] where the directory is missing or not writable, [`Error::DiskFull`],
    /// [`Error::NoAudioStream`] and what else opening the voice can give, [`Error::NoEncoder`].
    pub fn create(output: &OutputVideo) -> Result<Self> {
        init();
        let path = output.path.to_path_buf();
        check_target(&path, &[&output.video.path, output.audio])?;
        let file = temporary_beside(&path).map_err(|e| write_error(&path, e))?;
        let unfinished = Unfinished::new(file.path())?;
        let failed = |e| encode_error(&path, e);
        let mut context = open_output(file.path()).map_err(failed)?;
        // SAFETY: the context is valid, and its format is one of FFmpeg's constants.
        let container = unsafe { (*context.as_ptr()).oformat };
        let audio = AudioTrack::open(output.audio, output.frames, container)?;
        let to_420 = To420::new(output.video.coding);
        let encoder = open_encoder(output).map_err(|e| match e {
            ffmpeg::Error::EncoderNotFound => Error::NoEncoder { name: ENCODER },
            e => failed(e),
        })?;
        let frame_time = Rational::new(1, FRAME_RATE);
        add_stream(&mut context, &codec::Parameters::from(&encoder), frame_time).map_err(failed)?;
        add_stream(&mut context, &audio.parameters(), audio.time_base()).map_err(failed)?;
        let options = [("movflags", "+faststart")].iter().collect();
        context.write_header_with(options).map_err(failed)?;
        Ok(Self {
            output: context,
            _unfinished: unfinished,
            file,
            path,
            encoder,
            to_420,
            audio,
            waiting: None,
            frames: 0,
        })
    }

    /// Encodes the next picture and writes what is ready, sound included.
    pub fn push(&mut self, picture: &Picture) -> Result<()> {
        let mut frame = self.to_420.convert(picture).map_err(|e| encode_error(&self.path, e))?;
        frame.set_pts(i64::try_from(self.frames).ok());
        // The decoder's choice of picture types is not the encoder's.
        frame.set_kind(picture::Type::None);
        self.encoder.send_frame(&frame).map_err(|e| encode_error(&self.path, e))?;
        self.frames += 1;
        self.write_ready(&|| false)
    }

    /// Number of pictures so far.
    pub fn frames(&self) -> u64 {
        self.frames
    }

    /// Writes the rest and gives the file its name.
    ///
    /// # Errors
    /// [`Error::Interrupted`] soon after `cancelled` says so, [`Error::DiskFull`], [`Error::WriteFile`], [`Error::Encode`].
    pub fn finish(mut self, cancelled: &dyn Fn() -> bool) -> Result<PathBuf> {
        self.encoder.send_eof().map_err(|e| encode_error(&self.path, e))?;
        self.write_ready(cancelled)?;
        self.write_sound(self.seconds(self.frames), true)?;
        if cancelled() {
            return Err(Error::Interrupted);
        }
        let Self { mut output, file, path, .. } = self;
        output.write_trailer().map_err(|e| encode_error(&path, e))?;
        // SAFETY: the context is valid until it is dropped. A failed write may show only here.
        check(unsafe { (*(*output.as_ptr()).pb).error }).map_err(|e| encode_error(&path, e))?;
        drop(output);
        file.persist(&path).map_err(|e| write_error(&path, e.error))?;
        Ok(path)
    }

    fn seconds(&self, frames: u64) -> f64 {
        frames as f64 / f64::from(FRAME_RATE)
    }

    /// Everything that the video encoder has finished, and the sound up to there.
    fn write_ready(&mut self, cancelled: &dyn Fn() -> bool) -> Result<()> {
        loop {
            let mut packet = Packet::empty();
            match self.encoder.receive_packet(&mut packet) {
                Ok(()) => {}
                Err(ffmpeg::Error::Eof) => return Ok(()),
                Err(e) if crate::media::wants_more(e) => return Ok(()),
                Err(e) => return Err(encode_error(&self.path, e)),
            }
            if cancelled() {
                return Err(Error::Interrupted);
            }
            let decoded_at = u64::try_from(packet.dts().unwrap_or(0)).unwrap_or(0);
            self.write_sound(self.seconds(decoded_at), false)?;
            packet.set_duration(1);
            self.write(packet, VIDEO, Rational::new(1, FRAME_RATE))?;
        }
    }

    /// Sound until `end` seconds. The last packet of all may reach beyond and is then said to be shorter.
    fn write_sound(&mut self, end: f64, last: bool) -> Result<()> {
        let time_base = self.audio.time_base();
        let end = (end / f64::from(time_base)).round() as i64;
        loop {
            let Some(mut packet) =
                self.waiting.take().map_or_else(|| self.audio.next_packet(), |p| Ok(Some(p)))?
            else {
                return Ok(());
            };
            let starts = packet.pts().unwrap_or(0);
            let over = starts.saturating_add(packet.duration()) - end;
            if over > 0 {
                if !last || starts >= end {
                    self.waiting = Some(packet);
                    return Ok(());
                }
                packet.set_duration(packet.duration() - over);
            }
            self.write(packet, AUDIO, time_base)?;
        }
    }

    fn write(&mut self, mut packet: Packet, stream: usize, time_base: Rational) -> Result<()> {
        // The muxer may have chosen another one when it wrote the header.
        let muxed = self.output.stream(stream).map_or(time_base, |stream| stream.time_base());
        packet.set_stream(stream);
        packet.rescale_ts(time_base, muxed);
        packet.write_interleaved(&mut self.output).map_err(|e| encode_error(&self.path, e))
    }
}

/// The target must be a file or nothing yet, and none of the inputs.
fn check_target(path: &Path, inputs: &[&Path]) -> Result<()> {
    let Ok(target) = std::fs::metadata(path) else {
        return Ok(());
    };
    if !target.is_file() {
        let source = io::Error::new(io::ErrorKind::InvalidInput, "it exists and is not a regular file");
        return Err(Error::WriteFile { path: path.to_path_buf(), source });
    }
    if inputs.iter().any(|input| is_same_file(path, input)) {
        return Err(Error::OutputIsInput { path: path.to_path_buf() });
    }
    Ok(())
}

/// The same file, also under another name or link.
fn is_same_file(a: &Path, b: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let identity = |path| std::fs::metadata(path).map(|m| (m.dev(), m.ino())).ok();
        identity(a).is_some_and(|a| identity(b) == Some(a))
    }
    #[cfg(not(unix))]
    {
        a.canonicalize().is_ok_and(|a| b.canonicalize().is_ok_and(|b| a == b))
    }
}

/// A new file that no other job has, with the permissions of an ordinary one.
fn temporary_beside(path: &Path) -> io::Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".latentsync-").suffix(".mp4");
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder.tempfile_in(directory_of(path))
}

/// Where a file lies; the current directory for a bare name.
pub(crate) fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn open_output(path: &Path) -> Result<Output, ffmpeg::Error> {
    let url = file_url(path).ok_or(ffmpeg::Error::InvalidData)?;
    let mut context = std::ptr::null_mut();
    // SAFETY: the strings live through the calls; `Output` owns the context as soon as there is one. The muxer opens
    // the file by this name once more when it moves the index to the front.
    unsafe {
        check(ffi::avformat_alloc_output_context2(
            &mut context,
            std::ptr::null_mut(),
            c"mp4".as_ptr(),
            url.as_ptr(),
        ))?;
        let output = Output::wrap(context);
        check(ffi::avio_open(&mut (*context).pb, url.as_ptr(), ffi::AVIO_FLAG_WRITE))?;
        // No versions and no times in the file.
        (*context).flags |= ffi::AVFMT_FLAG_BITEXACT;
        // Old FFmpegs call FLAC in MP4 an experiment; its specification has long been final.
        (*context).strict_std_compliance = ffi::FF_COMPLIANCE_EXPERIMENTAL;
        Ok(output)
    }
}

fn open_encoder(output: &OutputVideo) -> Result<encoder::video::Encoder, ffmpeg::Error> {
    let codec = encoder::find_by_name(ENCODER).ok_or(ffmpeg::Error::EncoderNotFound)?;
    let mut encoder = codec::Context::new_with_codec(codec).encoder().video()?;
    let (width, height) = To420::size(output.video.width, output.video.height);
    encoder.set_width(width);
    encoder.set_height(height);
    encoder.set_format(Pixel::YUV420P);
    encoder.set_aspect_ratio((1, 1));
    encoder.set_time_base((1, FRAME_RATE));
    encoder.set_frame_rate(Some((FRAME_RATE, 1)));
    let colour = output.video.colour;
    encoder.set_colorspace(colour.matrix);
    encoder.set_color_range(colour.range);
    encoder.set_color_primaries(colour.primaries);
    encoder.set_color_transfer_characteristic(colour.transfer);
    encoder.set_flags(codec::Flags::GLOBAL_HEADER | codec::Flags::BITEXACT);
    // SAFETY: the context is valid and not open yet.
    unsafe {
        (*encoder.as_mut_ptr()).chroma_sample_location = colour.chroma.into();
        (*encoder.as_mut_ptr()).thread_count = THREADS as i32;
    }
    let crf = output.quality.crf.to_string();
    let options = [("preset", output.quality.preset), ("crf", &crf), ("x264-params", instructions())];
    encoder.open_with(options.into_iter().collect())
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

fn add_stream(
    output: &mut Output,
    parameters: &codec::Parameters,
    time_base: Rational,
) -> Result<(), ffmpeg::Error> {
    // SAFETY: the context is valid and owns the new stream; parameters are copied. The tag of the container that
    // the packets came from says nothing in this one.
    unsafe {
        let stream = ffi::avformat_new_stream(output.as_mut_ptr(), std::ptr::null());
        let stream = stream.as_mut().ok_or(ffmpeg::Error::Other { errno: ffmpeg::error::ENOMEM })?;
        check(ffi::avcodec_parameters_copy(stream.codecpar, parameters.as_ptr()))?;
        (*stream.codecpar).codec_tag = 0;
        stream.time_base = time_base.into();
    }
    Ok(())
}

fn encode_error(path: &Path, error: ffmpeg::Error) -> Error {
    match error {
        ffmpeg::Error::Other { errno } if errno == ffmpeg::error::ENOSPC => {
            Error::DiskFull { path: path.to_path_buf() }
        }
        error => Error::Encode { path: path.to_path_buf(), reason: error.to_string() },
    }
}

fn write_error(path: &Path, source: io::Error) -> Error {
    let path = path.to_path_buf();
    match source.kind() {
        io::ErrorKind::StorageFull => Error::DiskFull { path },
        _ => Error::WriteFile { path, source },
    }
}
