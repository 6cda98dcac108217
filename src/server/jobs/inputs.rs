//! From what a request names to a file: an upload or a result of this server, or something to download.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::Jobs;
use crate::input::{AddressPolicy, FetchLimits, Input, LocalInput, Spool};
use crate::server::Result;
use crate::system;
use crate::system::cancel::CancelToken;

/// How much of a file's beginning tells what it is.
const HEAD: u64 = 4096;

/// Opens inputs for the worker.
#[derive(Debug, Clone, Copy)]
pub struct Inputs {
    pub limits: FetchLimits,
    pub addresses: AddressPolicy,
}

impl Inputs {
    /// The file behind `url`: where it lies, or in `directory` if it has to be downloaded.
    ///
    /// # Errors
    /// Those of [`LocalInput::open`], and [`crate::media::Error::NotMedia`] for what does not begin as a media file.
    pub fn open(&self, url: &str, directory: &Path, jobs: &Jobs, cancel: &CancelToken) -> Result<LocalInput> {
        let input = match own_file(url, jobs)? {
            Some(path) => Input::File(path),
            // Whatever it looks like, a client does not name files of this machine.
            None => Input::Url(url.to_string()),
        };
        let spool =
            Spool { directory: directory.to_path_buf(), limits: self.limits, addresses: self.addresses };
        let local = LocalInput::open(&input, &spool, cancel)?;
        let refuse = |source| system::Error::ReadFile { path: local.path().to_path_buf(), source };
        let mut head = Vec::new();
        File::open(local.path()).map_err(refuse)?.take(HEAD).read_to_end(&mut head).map_err(refuse)?;
        if !is_media(&head) {
            let path = Input::Url(url.to_string()).to_string().into();
            let reason = if head.is_empty() { "the file is empty" } else { "neither video nor audio" };
            return Err(crate::media::Error::NotMedia { path, reason: reason.to_string() }.into());
        }
        Ok(local)
    }
}

/// The path of a file that this server has given the URL for, whatever host it is addressed by.
fn own_file(url: &str, jobs: &Jobs) -> Result<Option<PathBuf>> {
    let Some(id) = own_id(url) else { return Ok(None) };
    if let Some(upload) = jobs.store.upload(&id)? {
        return match upload.bytes {
            Some(_) => Ok(Some(jobs.files.upload(&id))),
            None => {
                let source = io::Error::new(io::ErrorKind::NotFound, "it was not uploaded completely");
                Err(system::Error::ReadFile { path: upload.name.into(), source }.into())
            }
        };
    }
    Ok(match jobs.store.get(&id)? {
        Some(job) if job.output.is_some() => Some(jobs.files.result(&id)),
        _ => None,
    })
}

/// The identifier in `…/media/ID/NAME`.
pub fn own_id(url: &str) -> Option<String> {
    let url = url::Url::parse(url).ok()?;
    let mut segments = url.path_segments()?;
    if segments.next()? != "media" {
        return None;
    }
    let id = uuid::Uuid::try_parse(segments.next()?).ok()?;
    Some(id.to_string())
}

/// Whether a file begins as a video, an audio or an image file does. Playlists are none of these: FFmpeg
/// would follow them to other files.
fn is_media(head: &[u8]) -> bool {
    const MAGIC: &[(usize, &[u8])] = &[
        (4, b"ftyp"),
        (4, b"moov"),
        (4, b"mdat"),
        (4, b"wide"),
        (4, b"free"),
        (4, b"skip"),             // MP4, MOV
        (0, b"\x1a\x45\xdf\xa3"), // Matroska, WebM
        (0, b"RIFF"),
        (0, b"RF64"), // AVI, WAV, WebP
        (0, b"OggS"),
        (0, b"fLaC"),
        (0, b"ID3"),
        (0, b"FORM"),
        (0, b"caff"),
        (0, b"#!AMR"),
        (0, b".snd"),
        (0, b"FLV\x01"),
        (0, b"\x30\x26\xb2\x75"), // FLV; ASF, WMA
        (0, b"\x00\x00\x01\xba"),
        (0, b"\x00\x00\x01\xb3"),
        (0, b"\x00\x00\x01\x00"), // MPEG
        (0, b"\x06\x0e\x2b\x34"), // MXF
        (0, b"\x89PNG"),
        (0, b"\xff\xd8\xff"),
        (0, b"GIF8"),
    ];
    let begins = MAGIC.iter().any(|(at, magic)| head.get(*at..).is_some_and(|rest| rest.starts_with(magic)));
    // MPEG audio frames and ADTS begin with eleven set bits, transport streams repeat their sync byte.
    let audio_frame = matches!(head, [0xff, second, ..] if second & 0xe0 == 0xe0);
    let transport = head.first() == Some(&0x47) && head.get(188) == Some(&0x47);
    let playlist = [&b"#EXTM3U"[..], b"<MPD", b"ffconcat"]
        .iter()
        .any(|mark| head.windows(mark.len()).any(|window| window.eq_ignore_ascii_case(mark)));
    (begins || audio_frame || transport) && !playlist
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn media_is_told_by_its_first_bytes() {
        assert!(is_media(b"\x00\x00\x00\x18ftypmp42"));
        assert!(is_media(b"RIFF\x24\x00\x00\x00WAVEfmt "));
        assert!(is_media(b"\xff\xfb\x90\x64"));
        for text in ["", "<!doctype html>", "#EXTM3U\nfile:///etc/passwd", "ffconcat version 1.0", "ID3<mpd>"]
        {
            assert!(!is_media(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn only_our_own_urls_are_ours() {
        let id = "5f0cf4e5-9d3c-4a6c-8a2e-6f2a3f1f7e11";
        assert_eq!(own_id(&format!("http://a:1/media/{id}/v.mp4?x=1")).as_deref(), Some(id));
        assert_eq!(own_id("http://a/media/../../etc/passwd"), None);
        assert_eq!(own_id(&format!("http://a/files/{id}/v.mp4")), None);
    }
}
