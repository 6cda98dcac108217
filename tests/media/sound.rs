//! Start and end of the sound in an output, at every frame rate.

use std::path::Path;

use latentsync::media::picture::Picture;
use latentsync::stages::decode_video::VideoInfo;
use latentsync::stages::mux_video::{OutputVideo, SoundEnd};
use tempfile::tempdir;

use crate::common::{
    crossings, demo_video, ffmpeg, make, open, output, probe, read_all, sound, write_output,
};
use crate::programs;

/// 75 pictures, and the description of their video.
fn pictures() -> (VideoInfo, Vec<Picture>) {
    let video = demo_video();
    let pictures = read_all(&video);
    let more = pictures[..25].to_vec();
    (open(&video).info().clone(), [pictures, more].concat())
}

/// Start of the first picture in seconds. Matroska has no negative timestamps: if the audio codec has a priming
/// period, the pictures start after it.
fn lead(path: &Path) -> f64 {
    number(path, "v", "start_time")
}

fn number(path: &Path, stream: &str, entry: &str) -> f64 {
    probe(path, stream, entry).parse().unwrap()
}

#[test]
fn every_rate_is_exact_and_both_streams_end_together() {
    let ((info, pictures), dir) = (pictures(), tempdir().unwrap());
    let audio = make(&dir, "voice.wav", "-f lavfi -i sine=d=5:r=44100");
    for (rate, shown) in
        [((24, 1), "24/1"), ((25, 1), "25/1"), ((30000, 1001), "30000/1001"), ((60, 1), "60/1")]
    {
        for name in ["out.mp4", "out.mov", "out.mkv"] {
            let path = dir.path().join(name);
            let spec = OutputVideo { rate, frames: 75, ..output(&path, &info, &audio) };
            write_output(&spec, &pictures).unwrap();
            assert_eq!(probe(&path, "v", "avg_frame_rate"), shown, "{name}");
            let seconds = 75.0 * f64::from(rate.1) / f64::from(rate.0);
            let samples = sound(&path).len();
            let want = 75 * 44_100 * rate.1 as usize / rate.0 as usize;
            assert!(samples.abs_diff(want) <= 1024, "{name} at {shown}: {samples} samples, not {want}");
            if name != "out.mkv" {
                assert_eq!(number(&path, "v", "duration_ts") % 75.0, 0.0, "{name} at {shown}");
                for stream in ["v", "a"] {
                    let duration = number(&path, stream, "duration");
                    assert!((duration - seconds).abs() < 2e-3, "{name} at {shown}: {stream} {duration}");
                }
            }
            let mut back = read_times(&path);
            back.sort_by(f64::total_cmp);
            for (i, time) in back.iter().enumerate() {
                let want = i as f64 * f64::from(rate.1) / f64::from(rate.0);
                assert!((time - want).abs() < 1e-3, "{name} at {shown}: {i} at {time}");
            }
            assert_eq!(back.len(), 75);
        }
    }
}

fn read_times(path: &Path) -> Vec<f64> {
    let args = ["-v", "error", "-select_streams", "v", "-show_entries", "packet=pts_time", "-of", "csv=p=0"];
    let text = programs::run("ffprobe", &[&args[..], &[path.to_str().unwrap()]].concat());
    let text = String::from_utf8(text).unwrap();
    text.lines().map(|line| line.trim_end_matches(',').parse().unwrap()).collect()
}

#[test]
fn silence_follows_a_shorter_voice() {
    let ((info, pictures), dir) = (pictures(), tempdir().unwrap());
    for (name, options) in [
        ("voice.wav", "-ar 16000"),
        ("voice.mp3", "-c:a libmp3lame -ar 44100"),
        ("voice.m4a", "-c:a aac -ar 48000"),
        ("voice.flac", "-ar 22050 -ac 2"),
    ] {
        let audio = make(&dir, name, &format!("-f lavfi -i sine=f=500:d=1.3 {options}"));
        for container in ["out.mp4", "out.mov", "out.mkv"] {
            let path = dir.path().join(container);
            let spec = OutputVideo { frames: 75, sound: SoundEnd::Pad, ..output(&path, &info, &audio) };
            write_output(&spec, &pictures).unwrap();
            assert_eq!(probe(&path, "a", "codec_name"), "aac", "{name} in {container}");
            let rate = number(&path, "a", "sample_rate");
            let channels = number(&path, "a", "channels") as usize;
            let mono: Vec<i16> = sound(&path).into_iter().step_by(channels).collect();
            assert!(container == "out.mkv" || lead(&path) == 0.0);
            let mono = &mono[(lead(&path) * rate) as usize..];
            let seconds = mono.len() as f64 / rate;
            assert!((seconds - 3.0).abs() < 1024.0 / rate + 1e-6, "{name} in {container}: {seconds}");
            let at = |second: f64| (second * rate) as usize;
            // The whole voice, to its last period, and silence after it.
            let voiced = crossings(&mono[at(0.1)..at(1.3)]);
            assert!(voiced.abs_diff(1200) <= 6, "{name} in {container}: {voiced}");
            let loudest = mono[at(1.4)..].iter().map(|sample| sample.unsigned_abs()).max().unwrap();
            assert!(loudest < 40, "{name} in {container}: {loudest}");
        }
    }
}

#[test]
fn a_longer_voice_is_copied_without_padding() {
    let ((info, pictures), dir) = (pictures(), tempdir().unwrap());
    for (name, options, codec) in [("voice.m4a", "-c:a aac", "aac"), ("voice.mp3", "-c:a libmp3lame", "mp3")]
    {
        let audio = make(&dir, name, &format!("-f lavfi -i sine=d=5:r=44100 {options}"));
        let path = dir.path().join("out.mp4");
        let spec = OutputVideo { frames: 75, sound: SoundEnd::Pad, ..output(&path, &info, &audio) };
        write_output(&spec, &pictures).unwrap();
        assert_eq!(probe(&path, "a", "codec_name"), codec);
        let (want, got) = (sound(&audio), sound(&path));
        assert!(got[..2 * 44_100] == want[..2 * 44_100], "{name}");
    }
}

#[test]
fn each_container_keeps_the_sound_formats_that_it_supports() {
    let ((info, pictures), dir) = (pictures(), tempdir().unwrap());
    for (voice, options, container, codec, exact) in [
        ("voice.wav", "-c:a pcm_s24le -ac 2", "mov", "pcm_s24le", true),
        ("voice.wav", "-c:a pcm_f32le -ac 1", "mkv", "pcm_f32le", true),
        ("voice.wav", "-c:a pcm_s16le -ac 6", "mov", "pcm_s16le", true),
        ("voice.wav", "-c:a pcm_s16le -ac 1", "mp4", "aac", false),
        ("voice.ogg", "-c:a libvorbis", "mkv", "vorbis", false),
        ("voice.ogg", "-c:a libvorbis", "mov", "aac", false),
        ("voice.opus", "-c:a libopus -ar 48000", "mkv", "opus", true),
        ("voice.mp3", "-c:a libmp3lame", "mkv", "mp3", true),
        ("voice.m4a", "-c:a aac", "mkv", "aac", true),
        ("voice.aac", "-c:a aac", "mkv", "aac", false),
        ("voice.aac", "-c:a aac", "mp4", "aac", false),
        ("voice.flac", "", "mov", "aac", false),
        ("voice.ac3", "-c:a ac3", "mov", "ac3", false),
    ] {
        let what = format!("{voice} ({codec}) in {container}");
        let audio = make(&dir, voice, &format!("-f lavfi -i sine=d=5:r=48000 {options}"));
        let path = dir.path().join(format!("out.{container}"));
        let spec = OutputVideo { frames: 75, ..output(&path, &info, &audio) };
        write_output(&spec, &pictures).unwrap();
        ffmpeg(&["-xerror", "-i", path.to_str().unwrap(), "-f", "null", "-"]);
        assert_eq!(probe(&path, "a", "codec_name"), codec, "{what}");
        for entry in ["sample_rate", "channels"] {
            assert_eq!(probe(&path, "a", entry), probe(&audio, "a", entry), "{what}: {entry}");
        }
        let channels = number(&path, "a", "channels") as usize;
        let (want, got) = (sound(&audio), sound(&path));
        let lead = (lead(&path) * 48_000.0) as usize;
        let samples = got.len() / channels - lead;
        let off = samples.abs_diff(3 * 48_000);
        let is_plain = codec.starts_with("pcm");
        assert!(off <= if is_plain { 0 } else { 1536 }, "{what}: {samples} samples");
        if exact {
            // Matroska's time unit is one millisecond. The Opus decoder drops the priming samples itself.
            let n = 2 * 48_000 * channels;
            let start = if codec == "opus" { 0 } else { lead };
            let places = start.saturating_sub(48)..=start + 48;
            assert!(places.into_iter().any(|place| got[place * channels..][..n] == want[..n]), "{what}");
        }
    }
}

/// The last millisecond of a voice is kept if the video is long enough for it.
#[test]
fn a_voice_never_loses_its_end() {
    let ((info, pictures), dir) = (pictures(), tempdir().unwrap());
    for (name, options) in [("voice.wav", ""), ("voice.mp3", "-c:a libmp3lame"), ("voice.flac", "")] {
        let audio = make(&dir, name, &format!("-f lavfi -i sine=f=500:d=2.97:r=44100 {options}"));
        for container in ["mp4", "mov", "mkv"] {
            for end in [SoundEnd::Cut, SoundEnd::Pad] {
                let path = dir.path().join(format!("out.{container}"));
                let spec = OutputVideo { frames: 75, sound: end, ..output(&path, &info, &audio) };
                write_output(&spec, &pictures).unwrap();
                let got = sound(&path).split_off((lead(&path) * 44_100.0) as usize);
                let what = format!("{name} in {container}, {end:?}: {} samples", got.len());
                assert!(got.len() >= 2 * 44_100 + 42_700 && got.len() <= 3 * 44_100 + 2304, "{what}");
                let last = crossings(&got[2 * 44_100..2 * 44_100 + 42_700]);
                assert!(last.abs_diff(968) <= 5, "{what}: {last}");
            }
        }
    }
}

/// A recorder that pauses leaves gaps in the timestamps, but not in the decoded samples. The mouth follows the decoded
/// samples, so the output must play them without gaps.
#[test]
fn a_voice_with_gaps_is_played_as_it_is_decoded() {
    let ((info, pictures), dir) = (pictures(), tempdir().unwrap());
    // One second of 500 Hz, 1.4 s that are cut out, one second of 1000 Hz.
    let gapped = "-f lavfi -i aevalsrc=0.5*sin(2*PI*t*if(lt(t\\,1.2)\\,500\\,1000)):d=3.4:s=48000 \
                  -af aselect=lt(t\\,1)+gte(t\\,2.4)";
    for (name, codec) in [("voice.webm", "libopus"), ("voice.mka", "flac")] {
        let audio = make(&dir, name, &format!("{gapped} -c:a {codec}"));
        let voice = sound(&audio);
        assert!(voice.len().abs_diff(2 * 48_000) <= 9_600, "{name}: this `ffmpeg` fills the gap");
        let path = dir.path().join("out.mp4");
        write_output(&OutputVideo { frames: 50, ..output(&path, &info, &audio) }, &pictures[..50]).unwrap();
        let got = sound(&path);
        // The second tone starts after one second and is complete.
        let second = crossings(&got[52_800..91_200]);
        assert!(second.abs_diff(1600) < 40, "{name}: {second} crossings in 0.8 s of the second tone");
    }
}
