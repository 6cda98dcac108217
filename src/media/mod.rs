//! FFmpeg: demuxing, decoding, colour conversion, encoding and muxing, shared by the stages that read and
//! write media files. Works with FFmpeg 5.1 to 8 through its libraries; no process is started.

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

/// The model's frame rate in FFmpeg's type.
pub const FRAME_RATE: i32 = crate::options::FPS as i32;

/// Initialises FFmpeg once per process and silences its libraries (x264 as well), which would otherwise write
/// to stderr. Errors are returned as an [`Error`].
pub(crate) fn init() {
    static DONE: Once = Once::new();
    DONE.call_once(|| {
        // Registers the error messages and cannot fail.
        let _ = ffmpeg::init();
        ffmpeg::log::set_level(ffmpeg::log::Level::Quiet);
    });
}

/// URL of a path for FFmpeg's file protocol. Without the prefix, a name such as `a:b.mp4` would select the
/// protocol `a`.
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
/// [`system::Error::ReadFile`] where the file is missing, unreadable or not a regular file,
/// [`Error::NotMedia`] if FFmpeg does not recognise the format.
pub(crate) fn open_input(path: &Path) -> Result<Input> {
    init();
    let not_media = |reason: String| Error::NotMedia { path: path.to_path_buf(), reason };
    let unreadable = |source| system::Error::ReadFile { path: path.to_path_buf(), source };
    // Checked before the file is opened, because opening a pipe blocks until it has a writer.
    let metadata = std::fs::metadata(path).map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(not_media("not a regular file".into()));
    }
    std::fs::File::open(path).map_err(unreadable)?;
    if metadata.len() == 0 {
        return Err(not_media("the file is empty".into()));
    }
    let url = file_url(path).ok_or_else(|| not_media("its name cannot be passed on".into()))?;
    // `pattern_type`: `%d` in the name of an image is not a pattern.
    let options = [("protocol_whitelist", "file"), ("pattern_type", "none"), ("format_whitelist", formats())];
    let options: ffmpeg::Dictionary = options.iter().collect();
    let mut context = std::ptr::null_mut();
    // SAFETY: `url` outlives the call. On failure FFmpeg frees the context; on success `Input` takes
    // ownership of it. Options that no demuxer consumed are freed with the dictionary.
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
    // FFmpeg detects any text file as terminal art.
    if input.format().name() == "tty" {
        return Err(not_media("a text file".into()));
    }
    Ok(input)
}

/// Formats that open other files or URLs, or run programs. FFmpeg also detects them inside tags and comments
/// of other formats, so an uploaded file could read files of this machine.
const FORBIDDEN_FORMATS: [&str; 12] = [
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

/// The names of all formats except [`FORBIDDEN_FORMATS`], separated by commas.
fn formats() -> &'static str {
    static NAMES: OnceLock<String> = OnceLock::new();
    NAMES.get_or_init(|| {
        let mut names = Vec::new();
        let mut place = std::ptr::null_mut();
        // SAFETY: iterates over FFmpeg's static list; `place` is the iterator's state.
        while let Some(format) = unsafe { ffi::av_demuxer_iterate(&mut place).as_ref() } {
            // SAFETY: the name is a static NUL-terminated string.
            if let Ok(name) = unsafe { CStr::from_ptr(format.name) }.to_str() {
                names.extend(name.split(',').filter(|name| !FORBIDDEN_FORMATS.contains(name)));
            }
        }
        names.join(",")
    })
}

/// Converts an FFmpeg result code: negative values are errors.
pub(crate) fn check(code: c_int) -> Result<c_int, ffmpeg::Error> {
    if code < 0 { Err(ffmpeg::Error::from(code)) } else { Ok(code) }
}

/// Whether the error is EAGAIN: more input is needed.
pub(crate) fn wants_more(error: ffmpeg::Error) -> bool {
    matches!(error, ffmpeg::Error::Other { errno } if errno == ffmpeg::error::EAGAIN)
}
