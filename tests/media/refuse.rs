//! Refused inputs and outputs, cancelled writers, and that no file is left behind.

use std::path::Path;

use latentsync::stages::decode_video::{VideoOptions, VideoReader};
use latentsync::stages::mux_video::{OutputVideo, VideoWriter};
use latentsync::system;
use latentsync::{Error, ErrorKind, media};
use tempfile::tempdir;

use crate::common::{demo_video, files, make, open, output, read_all};
#[cfg(unix)]
use crate::programs;

fn refusal(path: &Path) -> Error {
    match VideoReader::open(path, VideoOptions::default()) {
        Ok(_) => panic!("`{}` was read", path.display()),
        Err(error) => error,
    }
}

#[test]
#[cfg(unix)]
fn a_pipe_is_refused() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("pipe.mp4");
    programs::run("mkfifo", &[path.to_str().unwrap()]);
    let error = refusal(&path);
    assert!(error.to_string().contains("not a regular file"), "{error}");
}

/// A playlist in an untrusted file must not give access to local files. FFmpeg would find these playlists behind the
/// tag and the comment.
#[test]
fn hidden_playlists_are_not_followed() {
    let dir = tempdir().unwrap();
    let secret = make(&dir, "secret.mp4", "-f lavfi -i testsrc2=d=1:s=64x48 -pix_fmt yuv420p");
    let secret = secret.display();
    // An ID3v2 tag of 600 bytes; its length is written in digits of seven bits.
    let tag = [b"ID3\x04\0\0\0\0\x04\x58".as_slice(), &[0; 600]].concat();
    let comment = "x".repeat(600);
    let period = format!(
        "<Period duration=\"PT1S\"><AdaptationSet mimeType=\"video/mp4\"><Representation id=\"0\" bandwidth=\"1\">\
         <BaseURL>{secret}</BaseURL></Representation></AdaptationSet></Period>"
    );
    for (name, start, text) in [
        (
            "a.mp4",
            &tag[..],
            format!("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{secret}\n#EXT-X-ENDLIST\n"),
        ),
        ("b.mp4", &tag[..], "ffconcat version 1.0\nfile secret.mp4\n".to_string()),
        (
            "c.mp4",
            &b""[..],
            format!(
                "<?xml version=\"1.0\"?><!-- {comment} --><MPD type=\"static\" mediaPresentationDuration=\"PT1S\">{period}</MPD>"
            ),
        ),
    ] {
        let path = dir.path().join(name);
        std::fs::write(&path, [start, text.as_bytes()].concat()).unwrap();
        let error = refusal(&path);
        assert!(
            matches!(
                error,
                Error::Media(media::Error::NotMedia { .. })
                    | Error::Media(media::Error::NoVideoStream { .. })
            ),
            "{name}: {error:?}"
        );
    }
}

#[test]
fn files_without_video_are_refused_by_name() {
    let dir = tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    assert!(matches!(refusal(Path::new("missing.mp4")), Error::System(system::Error::ReadFile { .. })));
    for (path, reason) in [
        (dir.path().to_path_buf(), "not a regular file"),
        (file("empty.mp4", b""), "empty"),
        (file("notes.txt", "no video here, only some words in a row\n".repeat(200).as_bytes()), "text"),
        (file("noise.mp4", &[0x17; 5000]), "Invalid data"),
    ] {
        let error = refusal(&path);
        assert!(matches!(error, Error::Media(media::Error::NotMedia { .. })), "{error:?}");
        assert!(error.to_string().contains(reason), "{error}");
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
        assert_eq!(error.kind(), ErrorKind::Input);
    }
    let sound = make(&dir, "sound.m4a", "-f lavfi -i sine=d=1");
    assert!(matches!(refusal(&sound), Error::Media(media::Error::NoVideoStream { .. })));
    let cover = "-f lavfi -i sine=d=1 -f lavfi -i color=red:s=64x64:d=0.04 -map 0 -map 1";
    let cover = make(&dir, "cover.mp3", &format!("{cover} -c:v png -disposition:v attached_pic"));
    assert!(matches!(refusal(&cover), Error::Media(media::Error::NoVideoStream { .. })));
    let hdr = "-f lavfi -i testsrc2=d=0.2 -pix_fmt yuv420p10le -color_trc smpte2084 -c:v ffv1";
    let error = refusal(&make(&dir, "hdr.mkv", hdr));
    assert!(
        matches!(error, Error::Media(media::Error::HighDynamicRange { transfer: "PQ", .. })),
        "{error:?}"
    );
}

fn target<'a>(path: &'a Path, video: &'a latentsync::stages::decode_video::VideoInfo) -> OutputVideo<'a> {
    OutputVideo { frames: 50, ..output(path, video, &video.path) }
}

#[test]
fn a_writer_that_is_dropped_or_cancelled_leaves_nothing() {
    let video = demo_video();
    let dir = tempdir().unwrap();
    let out = dir.path().join("out.mp4");
    std::fs::write(&out, "the file that was there").unwrap();
    let info = open(&video).info().clone();
    let pictures = read_all(&video);
    for cancel in [false, true] {
        let mut writer = VideoWriter::create(&target(&out, &info)).unwrap();
        pictures.iter().for_each(|picture| writer.push(picture).unwrap());
        assert_eq!(files(dir.path()).len(), 2);
        if cancel {
            assert!(writer.finish(&|| true).is_err_and(|error| error.is_interrupted()));
        } else {
            drop(writer);
        }
        assert_eq!(files(dir.path()), ["out.mp4"]);
        assert_eq!(std::fs::read(&out).unwrap(), b"the file that was there");
    }
}

#[test]
fn two_writers_may_have_the_same_target() {
    let video = demo_video();
    let dir = tempdir().unwrap();
    let out = dir.path().join("out.mp4");
    let info = open(&video).info().clone();
    let pictures = read_all(&video);
    let mut writers: Vec<VideoWriter> =
        (0..2).map(|_| VideoWriter::create(&target(&out, &info)).unwrap()).collect();
    for picture in &pictures {
        writers.iter_mut().for_each(|writer| writer.push(picture).unwrap());
    }
    for writer in writers {
        writer.finish(&|| false).unwrap();
        assert_eq!(read_all(&out).len(), 50);
    }
    assert_eq!(files(dir.path()), ["out.mp4"]);
}

#[test]
fn a_bad_target_is_refused_before_encoding() {
    let video = demo_video();
    let dir = tempdir().unwrap();
    let info = open(&video).info().clone();
    let refused = |path: &Path, info| VideoWriter::create(&target(path, info)).err().unwrap();

    let missing = dir.path().join("no such directory/out.mp4");
    let error = refused(&missing, &info);
    assert!(
        matches!(&error, Error::System(system::Error::WriteFile { path, .. }) if *path == missing),
        "{error:?}"
    );
    assert!(matches!(refused(dir.path(), &info), Error::System(system::Error::WriteFile { .. })));
    assert!(matches!(refused(Path::new("/dev/null"), &info), Error::System(system::Error::WriteFile { .. })));

    let copy = dir.path().join("copy.mp4");
    std::fs::copy(&video, &copy).unwrap();
    let link = dir.path().join("link.mp4");
    std::fs::hard_link(&copy, &link).unwrap();
    let info = open(&copy).info().clone();
    for path in [&copy, &link] {
        assert!(matches!(refused(path, &info), Error::Media(media::Error::OutputIsInput { .. })));
    }

    let silent = make(&dir, "silent.mp4", "-f lavfi -i testsrc2=d=0.2 -pix_fmt yuv420p");
    let info = open(&silent).info().clone();
    assert!(matches!(
        refused(&dir.path().join("out.mp4"), &info).without_role(),
        Error::Media(media::Error::NoAudioStream { .. })
    ));
    assert!(!files(dir.path()).iter().any(|name| name.starts_with(".latentsync")));
}
