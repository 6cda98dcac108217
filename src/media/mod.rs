//! What the stages that read and write media files share: FFmpeg set up once, files opened whatever their
//! names are, and a decoded [`Picture`](picture::Picture) with its colours. Works with FFmpeg 5.1 to 8; nothing
//! here starts a process.

mod error;
pub mod colour;
pub mod picture;
mod to_rgb;
mod paste;
mod scale;
pub(crate) mod encoder_input;
mod rotation;
pub(crate) mod decoded_frame;
mod nvdec;
pub(crate) mod source;
pub(crate) mod deinterlace;
pub(crate) mod retime;
pub(crate) mod encoder;
mod hardware;
pub(crate) mod audio_track;
pub(crate) mod muxer;
pub mod journal;
pub mod frame_store;

pub use error::{Error, Result};

use std::ffi::{CStr, CString, c_int};
use std::path::Path;
use std::sync::{Once, OnceLock};

use ffmpeg_next as ffmpeg;
use ffmpeg_next::ffi;
use ffmpeg_next::format::context::Input;

use crate::system;

/// The engine's frame rate, as FFmpeg takes it.
pub const FRAME_RATE: i32 = crate::options::FPS as i32;

/// Sets FFmpeg up, once per process. Its libraries (x264 too) would otherwise write to stderr; what goes wrong
/// comes back as an [`Error`].
pub(crate) fn init() {
    static DONE: Once = Once::new();
    DONE.call_once(|| {
        // Fills the table of messages; it has nothing that can fail.
        let _ = ffmpeg::init();
        ffmpeg::log::set_level(ffmpeg::log::Level::Quiet);
    });
}

/// A path as FFmpeg's file protocol takes it: the prefix keeps a name such as `a:b.mp4` from being read as a
/// protocol.
pub(crate) fn file_url(path: &Path) -> Option<CString> {
    let mut url = b"file:".to_vec();
    #[cfg(unix)]
    url.extend_from_slice(std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str()));
    #[cfg(not(unix))]
    url.extend_from_slice(path.to_str()?.as_bytes());
    CString::new(url).ok()
}

/// Opens a media file for reading and finds its streams.
///
/// # Errors
/// [`system::Error::ReadFile`] where the file is missing, unreadable or not a regular file, [`Error::NotMedia`] where FFmpeg
/// finds nothing in it that it knows.
pub(crate) fn open_input(path: &Path) -> Result<Input> {
    init();
    let not_media = |reason: String| Error::NotMedia { path: path.to_path_buf(), reason };
    let unreadable = |source| system::Error::ReadFile { path: path.to_path_buf(), source };
    // Asked before the file is opened: opening a pipe would wait for its writer.
    let metadata = std::fs::metadata(path).map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(not_media("not a regular file".into()));
    }
    std::fs::File::open(path).map_err(unreadable)?;
    if metadata.len() == 0 {
        return Err(not_media("the file is empty".into()));
    }
    let url = file_url(path).ok_or_else(|| not_media("its name cannot be passed on".into()))?;
    // `%d` in an image's name is part of the name.
    let options = [("protocol_whitelist", "file"), ("pattern_type", "none"), ("format_whitelist", formats())];
    let options: ffmpeg::Dictionary = options.iter().collect();
    let mut context = std::ptr::null_mut();
    // SAFETY: the url lives through the call; on failure FFmpeg frees the context itself, on success `Input`
    // owns it from the next line on. The options that no demuxer took are freed with the dictionary.
    let input = unsafe {
        let mut options = options.disown();
        let code = ffi::avformat_open_input(&mut context, url.as_ptr(), std::ptr::null_mut(), &mut options);
        drop(ffmpeg::Dictionary::own(options));
        check(code).map_err(|e| not_media(e.to_string()))?;
        let mut input = Input::wrap(context);
        check(ffi::avformat_find_stream_info(input.as_mut_ptr(), std::ptr::null_mut()))
            .map_err(|e| not_media(e.to_string()))?;
        input
    };
    // FFmpeg takes every text file for a drawing in terminal characters.
    if input.format().name() == "tty" {
        return Err(not_media("a text file".into()));
    }
    Ok(input)
}

/// Formats that read other files than the one they are in, or run programs. FFmpeg finds them also behind tags and
/// comments of other formats: a stranger's file could hand out this machine's.
const REACHING: [&str; 12] = [
    "hls",
    "dash",
    "concat",
    "imf",
    "sdp",
    "rtsp",
    "webm_dash_manifest",
    "vobsub",
    "avisynth",
    "vapoursynth",
    "lavfi",
    "libgme",
];

/// The names of all formats but [`REACHING`] ones, as FFmpeg's option takes them.
fn formats() -> &'static str {
    static NAMES: OnceLock<String> = OnceLock::new();
    NAMES.get_or_init(|| {
        let mut names = Vec::new();
        let mut place = std::ptr::null_mut();
        // SAFETY: FFmpeg's list of constants; the place is its own.
        while let Some(format) = unsafe { ffi::av_demuxer_iterate(&mut place).as_ref() } {
            // SAFETY: a name is a constant string.
            if let Ok(name) = unsafe { CStr::from_ptr(format.name) }.to_str() {
                names.extend(name.split(',').filter(|name| !REACHING.contains(name)));
            }
        }
        names.join(",")
    })
}

/// FFmpeg's convention for results: negative is an error.
pub(crate) fn check(code: c_int) -> Result<c_int, ffmpeg::Error> {
    if code < 0 { Err(ffmpeg::Error::from(code)) } else { Ok(code) }
}

/// Is it the answer "call again with more input"?
pub(crate) fn wants_more(error: ffmpeg::Error) -> bool {
    matches!(error, ffmpeg::Error::Other { errno } if errno == ffmpeg::error::EAGAIN)
}
