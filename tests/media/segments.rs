//! Segments, and the journal from which a killed job resumes.

use std::path::{Path, PathBuf};

use latentsync::media::journal::{Journal, JournalHead, JournalOptions, Resume};
use latentsync::media::picture::Picture;
use latentsync::options::{Encoding, VideoCodec};
use latentsync::stages::decode_video::VideoInfo;
use latentsync::stages::mux_video::{OutputVideo, VideoWriter};
use latentsync::system;
use latentsync::{Error, ErrorKind, Result, media};
use sha2::{Digest, Sha256};
use tempfile::tempdir;

use crate::common::{PLAIN, demo_video, ffmpeg, files, open, output, probe, read_all, samples, write};
use crate::{demo_clip, programs};

const SEGMENT: usize = 16;

/// A job of 50 pictures.
struct Job {
    info: VideoInfo,
    audio: PathBuf,
    pictures: Vec<Picture>,
    encoding: Encoding,
}

impl Job {
    fn new(encoding: Encoding) -> Self {
        let (video, audio) = (demo_video(), demo_clip::voice());
        Self { info: open(&video).info().clone(), audio, pictures: read_all(&video), encoding }
    }

    fn output<'a>(&'a self, path: &'a Path, journal: Option<JournalOptions<'a>>) -> OutputVideo<'a> {
        OutputVideo { encoding: self.encoding, journal, frames: 50, ..output(path, &self.info, &self.audio) }
    }

    /// Pushes the pictures up to `end` that the writer does not have yet.
    fn push(&self, writer: &mut VideoWriter, end: usize) -> Result<()> {
        for index in writer.frames() as usize..end {
            writer.push(&self.pictures[index])?;
            if (index + 1).is_multiple_of(SEGMENT) {
                writer.end_segment()?;
            }
        }
        Ok(())
    }

    fn run(&self, path: &Path, journal: Option<JournalOptions>) -> Result<u64> {
        let mut writer = VideoWriter::create(&self.output(path, journal))?;
        let resumed = writer.resumed_frames();
        self.push(&mut writer, 50)?;
        writer.finish(&|| false)?;
        Ok(resumed)
    }

    /// Leaves the files of a job that was killed after `frames` pictures: its temporary file and its journal.
    fn killed(&self, path: &Path, head: &JournalHead, frames: usize) {
        let journal = Journal::path_of(path);
        let mut writer = VideoWriter::create(&self.output(path, Some(fresh(head)))).unwrap();
        self.push(&mut writer, frames).unwrap();
        let dir = path.parent().unwrap();
        let left: Vec<_> = files(dir)
            .iter()
            .filter(|name| name.starts_with(".latentsync-"))
            .map(|name| (dir.join(name), std::fs::read(dir.join(name)).unwrap()))
            .collect();
        assert!(left.iter().any(|(path, _)| *path == journal), "{:?}", files(dir));
        drop(writer);
        left.iter().for_each(|(path, bytes)| std::fs::write(path, bytes).unwrap());
    }
}

fn head() -> JournalHead {
    JournalHead { key: "this video, this voice".into(), seed: 7, source_frames: Some(49) }
}

fn fresh(head: &JournalHead) -> JournalOptions<'_> {
    JournalOptions { head, resume: Resume::No }
}

fn resume(head: &JournalHead) -> JournalOptions<'_> {
    JournalOptions { head, resume: Resume::Yes }
}

#[test]
fn segments_make_one_valid_stream() {
    for codec in [VideoCodec::H264, VideoCodec::Hevc] {
        let mut job = Job::new(Encoding { codec, ..PLAIN });
        job.encoding.crf = (codec == VideoCodec::H264).then_some(0.0);
        for (name, rate) in [("out.mp4", "25/1"), ("out.mkv", "25/1"), ("out.mov", "25/1")] {
            let dir = tempdir().unwrap();
            let path = dir.path().join(name);
            // With reordered pictures (B-frames).
            let output = OutputVideo { effort: Default::default(), ..job.output(&path, None) };
            let mut writer = VideoWriter::create(&output).unwrap();
            job.push(&mut writer, 50).unwrap();
            writer.finish(&|| false).unwrap();
            ffmpeg(&["-xerror", "-i", path.to_str().unwrap(), "-f", "null", "-"]);
            assert_eq!(probe(&path, "v", "avg_frame_rate"), rate, "{codec} {name}");
            let back = read_all(&path);
            assert_eq!(back.len(), 50);
            if codec == VideoCodec::H264 {
                assert!(job.pictures.iter().zip(&back).all(|(a, b)| samples(a) == samples(b)), "{name}");
            }
            let packets = packets(&path);
            let keys: Vec<usize> = (0..50)
                .filter(|&i| packets.iter().any(|p| p.key && (p.pts * 25.0).round() as usize == i))
                .collect();
            for start in [0, 16, 32, 48] {
                assert!(keys.contains(&start), "{codec} {name}: {keys:?}");
            }
            let mut shown: Vec<f64> = packets.iter().map(|p| p.pts).collect();
            shown.sort_by(f64::total_cmp);
            for (i, time) in shown.iter().enumerate() {
                assert!((time - i as f64 / 25.0).abs() < 1e-3, "{codec} {name}: {i} at {time}");
            }
            if name != "out.mkv" {
                // Matroska has no decoding timestamps.
                let steps = packets.windows(2).map(|p| p[1].dts - p[0].dts);
                assert!(steps.into_iter().all(|step| (step - 0.04).abs() < 1e-3), "{codec} {name}");
            }
        }
    }
}

struct PacketTimes {
    pts: f64,
    dts: f64,
    key: bool,
}

fn packets(path: &Path) -> Vec<PacketTimes> {
    let entries = "packet=pts_time,dts_time,flags";
    let args = ["-v", "error", "-select_streams", "v", "-show_entries", entries, "-of", "csv=p=0"];
    let text = programs::run("ffprobe", &[&args[..], &[path.to_str().unwrap()]].concat());
    let text = String::from_utf8(text).unwrap();
    let packet = |line: &str| {
        let mut fields = line.split(',');
        let pts = fields.next().unwrap().parse().unwrap();
        let dts = fields.next().unwrap().parse().unwrap_or(f64::NAN);
        PacketTimes { pts, dts, key: fields.next().unwrap().starts_with('K') }
    };
    text.lines().map(packet).collect()
}

#[test]
fn a_killed_job_resumes_and_gives_the_same_bytes() {
    let head = head();
    for (codec, name) in
        [(VideoCodec::H264, "out.mp4"), (VideoCodec::Hevc, "out.mov"), (VideoCodec::Ffv1, "out.mkv")]
    {
        let job = Job::new(Encoding { codec, ..PLAIN });
        let dir = tempdir().unwrap();
        let path = dir.path().join(name);
        job.run(&path, None).unwrap();
        let want = std::fs::read(&path).unwrap();
        assert_eq!(job.run(&path, Some(fresh(&head))).unwrap(), 0);
        assert!(std::fs::read(&path).unwrap() == want, "{name}: a journal changes the file");
        assert_eq!(files(dir.path()), [name]);
        for (killed_after, segments) in [(0, 0), (9, 0), (16, 1), (31, 1), (33, 2), (50, 3)] {
            std::fs::remove_file(&path).unwrap();
            job.killed(&path, &head, killed_after);
            assert_eq!(files(dir.path()).len(), 2);
            assert_eq!(Journal::peek(&path), Some(head.clone()));
            let resumed = job.run(&path, Some(resume(&head))).unwrap();
            assert_eq!(resumed, segments * SEGMENT as u64, "{name} after {killed_after}");
            assert!(std::fs::read(&path).unwrap() == want, "{name} after {killed_after}");
            // The temporary file of the killed job is removed as well.
            assert_eq!(files(dir.path()), [name]);
        }
    }
}

#[test]
fn a_job_that_is_killed_repeatedly_still_ends() {
    let job = Job::new(PLAIN);
    let (dir, head) = (tempdir().unwrap(), head());
    let path = dir.path().join("out.mp4");
    job.run(&path, None).unwrap();
    let want = std::fs::read(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    for (turn, end) in [10, 20, 30, 40].into_iter().enumerate() {
        let mut writer = VideoWriter::create(&job.output(&path, Some(resume(&head)))).unwrap();
        assert_eq!(writer.resumed_frames() as usize, (10 * turn) / SEGMENT * SEGMENT);
        job.push(&mut writer, end).unwrap();
        // A cancelled or dropped resumable job leaves its journal, if that has a segment, and no other file.
        match turn {
            3 => assert!(writer.finish(&|| true).is_err_and(|error| error.is_interrupted())),
            _ => drop(writer),
        }
        let left = files(dir.path());
        assert_eq!(left, if end < SEGMENT { vec![] } else { vec![".latentsync-out.mp4.resume"] });
    }
    let mut writer = VideoWriter::create(&job.output(&path, Some(resume(&head)))).unwrap();
    assert_eq!(writer.resumed_frames(), 32);
    job.push(&mut writer, 50).unwrap();
    writer.finish(&|| false).unwrap();
    assert!(std::fs::read(&path).unwrap() == want);
    assert_eq!(files(dir.path()), ["out.mp4"]);
}

#[test]
fn a_truncated_or_damaged_journal_is_used_up_to_the_damage() {
    let job = Job::new(PLAIN);
    let (dir, head) = (tempdir().unwrap(), head());
    let path = dir.path().join("out.mp4");
    job.run(&path, None).unwrap();
    let want = std::fs::read(&path).unwrap();
    job.killed(&path, &head, 50);
    let journal = Journal::path_of(&path);
    let whole = std::fs::read(&journal).unwrap();
    let mut seen = [false; 4];
    // A linear congruential generator: the same positions in every run.
    let mut state = 1u64;
    for turn in 0..24 {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let place = (state >> 33) as usize % whole.len();
        let mut bytes = whole.clone();
        match turn % 2 {
            0 => bytes.truncate(place),
            _ => bytes[place] ^= 0x55,
        }
        std::fs::write(&journal, bytes).unwrap();
        let resumed = job.run(&path, Some(resume(&head))).unwrap() as usize;
        assert!(resumed <= 48 && resumed.is_multiple_of(SEGMENT), "{resumed} after {place}");
        seen[resumed / SEGMENT] = true;
        assert!(std::fs::read(&path).unwrap() == want, "damaged at {place} of {}", whole.len());
        assert_eq!(files(dir.path()), ["out.mp4"]);
    }
    assert!(seen[..3].iter().all(|&seen| seen), "{seen:?}");
    for nonsense in [&b""[..], b"L", b"an unrelated file of some length.......", &whole[..9]] {
        std::fs::write(&journal, nonsense).unwrap();
        assert_eq!(Journal::peek(&path), None);
        assert_eq!(job.run(&path, Some(resume(&head))).unwrap(), 0);
    }
}

/// A journal with this head record and a temporary file, as its first version wrote it.
fn journal_of_version_1(head: &serde_json::Value) -> Vec<u8> {
    let mut bytes = b"LSRESUM1".to_vec();
    for (kind, payload) in [(1, head.to_string()), (2, ".latentsync-old.mp4".to_string())] {
        let start = bytes.len();
        bytes.push(kind);
        bytes.extend((payload.len() as u32).to_le_bytes());
        bytes.extend(payload.as_bytes());
        let checksum = Sha256::digest(&bytes[start..]);
        bytes.extend(&checksum[..8]);
    }
    bytes
}

#[test]
fn a_journal_of_another_version_is_refused_unless_the_job_starts_again() {
    let job = Job::new(PLAIN);
    let (dir, head) = (tempdir().unwrap(), head());
    let path = dir.path().join("out.mp4");
    let fields = serde_json::json!({ "key": head.key, "seed": 7, "extra": {}, "stream": "x" });
    let mut newer = fields.clone();
    newer["version"] = 99.into();
    for (fields, version) in [(fields, "version 1,"), (newer, "version 99,")] {
        let journal = journal_of_version_1(&fields);
        std::fs::write(Journal::path_of(&path), &journal).unwrap();
        std::fs::write(dir.path().join(".latentsync-old.mp4"), "half").unwrap();
        assert_eq!(Journal::peek(&path), None);
        let error = job.run(&path, Some(resume(&head))).unwrap_err();
        assert!(matches!(error, Error::Media(media::Error::JournalVersion { .. })), "{error:?}");
        assert_eq!(error.kind(), ErrorKind::Usage);
        let message = error.to_string();
        assert!(
            ["out.mp4", version, "reads version 2"].iter().all(|part| message.contains(part)),
            "{message}"
        );
        assert!(std::fs::read(Journal::path_of(&path)).unwrap() == journal, "the journal was changed");
        assert_eq!(job.run(&path, Some(fresh(&head))).unwrap(), 0);
        assert_eq!(files(dir.path()), ["out.mp4"]);
    }
}

#[test]
fn other_settings_are_refused_and_the_journal_is_kept() {
    let mut job = Job::new(PLAIN);
    let (dir, head) = (tempdir().unwrap(), head());
    let path = dir.path().join("out.mp4");
    job.killed(&path, &head, 20);
    let before = files(dir.path());
    let other_key = JournalHead { key: "another voice".into(), ..head.clone() };
    let other_seed = JournalHead { seed: 8, ..head.clone() };
    for other in [&other_key, &other_seed] {
        let error = job.run(&path, Some(resume(other))).unwrap_err();
        assert!(matches!(error, Error::Media(media::Error::NotResumable { .. })), "{error:?}");
        assert!(error.kind() == ErrorKind::Usage, "{error}");
        assert!(error.to_string().contains("out.mp4"), "{error}");
    }
    job.encoding.crf = Some(30.0);
    let error = job.run(&path, Some(resume(&head))).unwrap_err();
    assert!(error.to_string().contains("encoder"), "{error}");
    assert_eq!(files(dir.path()), before);
    job.encoding = PLAIN;
    assert_eq!(job.run(&path, Some(resume(&head))).unwrap(), 16);
    // Without `Resume::Yes`, a job starts from the beginning and removes the old files.
    job.killed(&path, &head, 20);
    assert_eq!(job.run(&path, Some(fresh(&other_key))).unwrap(), 0);
    assert_eq!(files(dir.path()), ["out.mp4"]);
}

#[test]
fn two_jobs_of_one_output_do_not_share_a_journal() {
    let job = Job::new(PLAIN);
    let (dir, head) = (tempdir().unwrap(), head());
    let path = dir.path().join("out.mp4");
    let mut first = VideoWriter::create(&job.output(&path, Some(fresh(&head)))).unwrap();
    let mut second = VideoWriter::create(&job.output(&path, Some(fresh(&head)))).unwrap();
    let error = job.run(&path, Some(resume(&head))).unwrap_err();
    assert!(
        matches!(error, Error::Media(media::Error::OutputBusy { .. })) && error.kind() == ErrorKind::Input,
        "{error:?}"
    );
    job.push(&mut first, 50).unwrap();
    job.push(&mut second, 50).unwrap();
    second.finish(&|| false).unwrap();
    assert!(Journal::path_of(&path).exists());
    first.finish(&|| false).unwrap();
    assert_eq!(files(dir.path()), ["out.mp4"]);
}

#[test]
fn a_failed_or_dropped_job_removes_its_journal() {
    let job = Job::new(PLAIN);
    let (dir, head) = (tempdir().unwrap(), head());
    let path = dir.path().join("out.mp4");
    let mut writer = VideoWriter::create(&job.output(&path, Some(fresh(&head)))).unwrap();
    job.push(&mut writer, 40).unwrap();
    assert_eq!(files(dir.path()).len(), 2);
    drop(writer);
    assert_eq!(files(dir.path()), [] as [String; 0]);
    let long = dir.path().join(format!("{}.mp4", "n".repeat(240)));
    job.run(&long, Some(fresh(&head))).unwrap();
}

#[test]
#[cfg(unix)]
fn a_symbolic_link_in_place_of_the_journal_is_not_followed() {
    let job = Job::new(PLAIN);
    let (dir, head) = (tempdir().unwrap(), head());
    let path = dir.path().join("out.mp4");
    let victim = dir.path().join("victim");
    std::fs::write(&victim, "mine").unwrap();
    std::os::unix::fs::symlink(&victim, Journal::path_of(&path)).unwrap();
    assert!(matches!(
        job.run(&path, Some(fresh(&head))),
        Err(Error::System(system::Error::WriteFile { .. }))
    ));
    assert_eq!(std::fs::read(&victim).unwrap(), b"mine");
    assert_eq!(Journal::peek(&path), None);
}

#[test]
fn segments_shorter_than_the_delay_of_the_encoder_are_written() {
    let job = Job::new(PLAIN);
    let dir = tempdir().unwrap();
    let (whole, short) = (dir.path().join("whole.mp4"), dir.path().join("short.mp4"));
    write(&whole, &job.info, &job.audio, &job.pictures, PLAIN).unwrap();
    // Segments of one and two pictures.
    let output = OutputVideo { effort: Default::default(), ..job.output(&short, None) };
    let mut writer = VideoWriter::create(&output).unwrap();
    for (index, picture) in job.pictures.iter().enumerate() {
        writer.push(picture).unwrap();
        if index % 3 != 1 {
            writer.end_segment().unwrap();
            writer.end_segment().unwrap();
        }
    }
    writer.finish(&|| false).unwrap();
    ffmpeg(&["-xerror", "-i", short.to_str().unwrap(), "-f", "null", "-"]);
    assert_eq!((read_all(&short).len(), read_all(&whole).len()), (50, 50));
}
