//! A job from end to end: what it makes, and what it leaves behind.

use std::sync::Mutex;

use candle_core::Tensor;
use latentsync::audio::load_speech;
use latentsync::options::{DurationPolicy, LoopMode, OnMissingFace, SyncMode};
use latentsync::pipeline::Hooks;
use latentsync::{CancelToken, Error, Job, Progress, Stage, face};

use super::common::{Bench, bytes, read_frames};

#[test]
fn a_longer_voice_shows_the_video_again() {
    let Some(bench) = Bench::open() else { return };
    let source = read_frames(&bench.media.join("woman_2s.mp4"));
    for mode in [LoopMode::PingPong, LoopMode::Loop] {
        let mut job = bench.job("speech_3s.wav");
        job.options.duration = DurationPolicy::from(mode);
        let shown = Mutex::new(Vec::new());
        let look = |_: usize, rgb: &Tensor| shown.lock().unwrap().push(rgb.clone());
        let hooks = Hooks { frame: Some(&look), ..Hooks::default() };
        let report = bench.lipsync.run_with(&job, &hooks, &mut (), &CancelToken::new()).unwrap();
        // speech_3s has 51 200 samples: 3.2 s.
        assert_eq!((report.frames, report.source_frames), (80, 50));
        let shown = shown.into_inner().unwrap();
        assert_eq!(shown.len(), 80);
        for (output, rgb) in shown.iter().enumerate() {
            let expected = match (mode, output / 50) {
                (_, 0) => output,
                (LoopMode::PingPong, _) => 99 - output,
                (LoopMode::Loop, _) => output - 50,
            };
            // The forehead is never repainted: these rows tell the source frame.
            let top = |frame: &Tensor| bytes(&frame.narrow(0, 0, 40).unwrap());
            assert!(
                top(rgb) == top(&source[expected]),
                "{mode:?}: output frame {output} is not source frame {expected}"
            );
        }
    }
}

#[test]
fn the_output_is_as_long_as_the_voice() {
    let Some(bench) = Bench::open() else { return };
    // 3 frames; not a whole number of frames; a single sample; longer than a window of Whisper.
    for (samples, frames) in [(1920, 3), (16_000 + 1, 26), (1, 1), (31 * 16_000, 775)] {
        let job = bench.job(bench.hum(samples));
        let report = bench.run(&job);
        assert_eq!(report.frames, frames, "{samples} samples");
        assert_eq!(read_frames(&job.output).len(), frames, "{samples} samples: frames in the file");
        if samples > 16_000 {
            let sound = load_speech(&job.output).unwrap().duration_seconds;
            assert!(
                (sound - samples as f64 / 16_000.0).abs() < 0.05,
                "{samples} samples: {sound} s of sound"
            );
        }
    }
}

#[test]
fn a_still_image_is_a_video_of_one_frame() {
    let Some(bench) = Bench::open() else { return };
    let first = read_frames(&bench.media.join("woman_2s.mp4")).swap_remove(0);
    let (height, width, _) = first.dims3().unwrap();
    let still = bench.directory.path().join("still.png");
    image::RgbImage::from_raw(width as u32, height as u32, bytes(&first)).unwrap().save(&still).unwrap();
    let job = Job { video: still.into(), anchors: None, ..bench.job(bench.hum(16_000)) };
    let report = bench.run(&job);
    assert_eq!((report.frames, report.source_frames), (25, 1));
    assert!(report.faces.frames_without_face.is_empty(), "{:?}", report.faces.frames_without_face);
}

#[test]
fn the_same_seed_gives_the_same_file() {
    let Some(bench) = Bench::open() else { return };
    let file = |seed| {
        let mut job = bench.job(bench.hum(20 * 640));
        job.options.seed = Some(seed);
        bench.run(&job);
        std::fs::read(&job.output).unwrap()
    };
    let first = file(7);
    assert!(first == file(7), "a second run differs");
    assert!(first != file(8), "another seed gives the same file");
}

#[test]
fn the_number_of_threads_does_not_change_the_file() {
    let Some(bench) = Bench::open() else { return };
    let voice = bench.hum(20 * 640);
    let file = |threads| {
        let out = bench.directory.path().join(format!("threads_{threads}.mp4"));
        bench.program(&voice, &out, &[("RAYON_NUM_THREADS", threads)], &[]);
        std::fs::read(out).unwrap()
    };
    assert!(file("1") == file("2"), "one thread gives another file than two");
}

#[test]
fn frames_without_a_face_pass_through() {
    let Some(bench) = Bench::open() else { return };
    let text = std::fs::read_to_string(bench.media.join("woman_2s.landmarks3.json")).unwrap();
    let mut anchors: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
    for frame in [0, 3, 4, 5, 20] {
        anchors[frame] = serde_json::Value::Null;
    }
    let path = bench.directory.path().join("anchors.json");
    std::fs::write(&path, serde_json::to_string(&anchors).unwrap()).unwrap();
    let job = Job { anchors: Some(path), ..bench.job(bench.hum(24 * 640)) };
    let (changed, source) = (Mutex::new(Vec::new()), read_frames(&bench.media.join("woman_2s.mp4")));
    let look = |output: usize, rgb: &Tensor| {
        if bytes(rgb) != bytes(&source[output]) {
            changed.lock().unwrap().push(output);
        }
    };
    let hooks = Hooks { frame: Some(&look), ..Hooks::default() };
    let report = bench.lipsync.run_with(&job, &hooks, &mut (), &CancelToken::new()).unwrap();
    let ranges: Vec<_> = report.faces.frames_without_face.iter().map(|r| (r.first, r.last)).collect();
    assert_eq!(ranges, [(0, 0), (3, 5), (20, 20)]);
    let expected: Vec<_> = (0..24).filter(|frame| ![0, 3, 4, 5, 20].contains(frame)).collect();
    assert_eq!(changed.into_inner().unwrap(), expected);
}

/// Cancels the job when the given stage says something.
struct CancelAt(Stage, CancelToken);

impl Progress for CancelAt {
    fn stage(&mut self, stage: Stage, _: usize, _: Option<usize>) {
        if stage == self.0 {
            self.1.cancel();
        }
    }
}

#[test]
fn an_interrupted_job_leaves_nothing() {
    let Some(bench) = Bench::open() else { return };
    for stage in [Stage::AudioFeatures, Stage::EncodeLatents, Stage::DenoiseLatents, Stage::MuxVideo] {
        let token = CancelToken::new();
        let result =
            bench.lipsync.run(&bench.job("speech_3s.wav"), &mut CancelAt(stage, token.clone()), &token);
        assert!(result.as_ref().is_err_and(Error::is_interrupted), "{stage:?}: {result:?}");
        assert_eq!(bench.leftovers(&[]), [""; 0], "{stage:?}");
    }
}

#[test]
fn two_jobs_in_one_directory_do_not_meet() {
    let Some(bench) = Bench::open() else { return };
    let hum = bench.hum(20 * 640);
    let job = |seed: u64, name: &str| {
        let mut job = bench.job(&hum);
        job.options.seed = Some(seed);
        job.output = bench.directory.path().join(name);
        job
    };
    std::thread::scope(|scope| {
        for (seed, name) in [(1, "a.mp4"), (2, "b.mp4")] {
            let (bench, job) = (&bench, job(seed, name));
            scope.spawn(move || bench.run(&job));
        }
    });
    assert_eq!(bench.leftovers(&["a.mp4", "b.mp4"]), [""; 0]);
    let together = std::fs::read(bench.directory.path().join("a.mp4")).unwrap();
    bench.run(&job(1, "alone.mp4"));
    assert!(together == std::fs::read(bench.directory.path().join("alone.mp4")).unwrap());
}

/// What a job said of its progress.
#[derive(Default)]
struct Told(Vec<(Stage, usize, Option<usize>)>);

impl Progress for Told {
    fn stage(&mut self, stage: Stage, done: usize, total: Option<usize>) {
        self.0.push((stage, done, total));
    }
}

#[test]
fn every_stage_tells_how_far_it_is_and_ends() {
    let Some(bench) = Bench::open() else { return };
    for (policy, frames) in [(SyncMode::CutOff.policy(), 50), (LoopMode::PingPong.into(), 80)] {
        let mut job = bench.job("speech_3s.wav");
        job.options.duration = policy;
        job.options.steps = 2;
        let mut told = Told::default();
        bench.lipsync.run(&job, &mut told, &CancelToken::new()).unwrap();
        for stage in Stage::ALL {
            let calls: Vec<_> = told.0.iter().filter(|call| call.0 == stage).collect();
            let total = match stage {
                Stage::AudioFeatures => 1,
                Stage::DecodeVideo | Stage::AlignFaces | Stage::EncodeLatents => 50,
                Stage::DenoiseLatents => 2 * frames,
                _ => frames,
            };
            assert!(
                calls.iter().all(|call| call.2 == Some(total) && call.1 <= total),
                "{policy:?}: {calls:?}"
            );
            assert!(calls.is_sorted_by_key(|call| call.1), "{policy:?}: {calls:?}");
            assert_eq!(calls.last().unwrap().1, total, "{policy:?}: {stage:?} ends");
            assert!(calls.len() > 1, "{policy:?}: {stage:?} tells nothing on the way");
        }
    }
}

#[test]
fn a_video_whose_end_is_undecodable_is_shown_again_from_there() {
    let Some(bench) = Bench::open() else { return };
    let source = bench.media.join("woman_2s.mp4");
    let Some(video) = bench.make("holed.mov", &format!("-i {} -an -c:v mjpeg -q:v 3", source.display()))
    else {
        return;
    };
    // 50 pictures, each of which starts with these two bytes and can be decoded alone: the last ten are wiped out.
    let mut bytes = std::fs::read(&video).unwrap();
    let starts: Vec<usize> =
        (0..bytes.len() - 3).filter(|&i| bytes[i..i + 3] == [0xff, 0xd8, 0xff]).collect();
    assert_eq!(starts.len(), 50);
    let end = (starts[49]..).find(|&i| bytes[i..i + 2] == [0xff, 0xd9]).unwrap() + 2;
    bytes[starts[40]..end].fill(0);
    std::fs::write(&video, bytes).unwrap();
    let job = Job { video: video.into(), ..bench.job(bench.hum(50 * 640)) };
    let report = bench.run(&job);
    assert_eq!((report.frames, report.source_frames), (50, 40));
    assert!(report.warnings.iter().any(|warning| warning.contains("damaged")), "{:?}", report.warnings);
    assert_eq!(read_frames(&job.output).len(), 50);
}

#[test]
fn a_job_that_fails_leaves_nothing() {
    let Some(bench) = Bench::open() else { return };
    let anchors = bench.directory.path().join("made_anchors.json");
    std::fs::write(&anchors, format!("[{}]", ["[[150,120],[200,120],[175,160]]"; 20].join(","))).unwrap();
    let job = Job { anchors: Some(anchors), ..bench.job("speech_3s.wav") };
    let run = |job: &Job| {
        let mut told = Told::default();
        let error = bench.lipsync.run(job, &mut told, &CancelToken::new()).unwrap_err();
        assert!(matches!(error, Error::Face(face::Error::Anchors { .. })), "{error}");
        assert_eq!(bench.leftovers(&[]), [""; 0]);
        told.0.iter().any(|call| call.0 == Stage::MuxVideo)
    };
    assert!(!run(&job), "there are too few anchors: that is seen before the work");
    // A face that is missing is found on the way.
    let anchors = bench.sparse_anchors(50, 40);
    let mut job = Job { anchors: Some(anchors), ..job };
    job.options.on_missing_face = OnMissingFace::Error;
    let mut told = Told::default();
    let error = bench.lipsync.run(&job, &mut told, &CancelToken::new()).unwrap_err();
    assert!(matches!(error, Error::Face(face::Error::Missing { frame: 1, .. })), "{error}");
    assert_eq!(bench.leftovers(&[]), [""; 0]);
}
