//! Voice and video of different durations: the shown frames, and the durations of both streams.

use std::sync::Mutex;

use candle_core::Tensor;
use latentsync::audio::load_speech;
use latentsync::options::{DurationPolicy, LoopMode, PlaybackType, SyncMode};
use latentsync::pipeline::Hooks;
use latentsync::{CancelToken, Job};

use crate::common::{Bench, bytes, read_frames};

/// Numbers of the source frames that a job shows. No frame has a face, so every picture equals its source.
fn shown(bench: &Bench, job: &Job, source: &[Vec<u8>]) -> Vec<usize> {
    let shown = Mutex::new(Vec::new());
    let on_frame = |_: usize, rgb: &Tensor| {
        let rgb = bytes(rgb);
        shown
            .lock()
            .unwrap()
            .push(source.iter().position(|frame| *frame == rgb).expect("a frame of the source"));
    };
    let hooks = Hooks { frame: Some(&on_frame), ..Hooks::default() };
    let report = bench.lipsync.run_with(job, &hooks, &mut (), &CancelToken::new()).expect("the job runs");
    let shown = shown.into_inner().unwrap();
    assert_eq!(report.frames, shown.len());
    shown
}

#[test]
fn every_mode_shows_its_frames_and_both_streams_end_together() {
    let bench = Bench::open();
    let source: Vec<_> = read_frames(&bench.video).iter().map(bytes).collect();
    assert_eq!(source.len(), 50);
    let forward: Vec<usize> = (0..50).collect();
    let up_to = |n: usize| forward[..n].to_vec();
    let then = |more: Vec<usize>| [forward.clone(), more].concat();
    let ping_pong = then((20..50).rev().collect());
    let looped = then((0..30).collect());
    // At 25 fps, 80 frames are 3.2 s and 30 frames 1.2 s. `remap` stretches or squeezes the 50 frames to the voice.
    let slowed: Vec<usize> = (0..80).map(|i| (2 * i + 1) * 50 / 160).collect();
    let sped_up: Vec<usize> = (0..30).map(|i| (2 * i + 1) * 50 / 60).collect();
    let table: [(&str, DurationPolicy, Vec<usize>, Vec<usize>); 10] = [
        ("pingpong", LoopMode::PingPong.into(), ping_pong.clone(), up_to(30)),
        ("loop_mode loop", LoopMode::Loop.into(), looped.clone(), up_to(30)),
        ("bounce", SyncMode::Bounce.into(), ping_pong.clone(), up_to(30)),
        ("loop", SyncMode::Loop.into(), looped, up_to(30)),
        ("cut_off", SyncMode::CutOff.into(), up_to(50), up_to(30)),
        ("silence", SyncMode::Silence.into(), then(vec![49; 30]), up_to(50)),
        ("remap", SyncMode::Remap.into(), slowed, sped_up),
        ("normal", PlaybackType::Normal.into(), up_to(50), up_to(30)),
        ("normal_reverse", PlaybackType::NormalReverse.into(), ping_pong.clone(), up_to(50)),
        ("normal_reverse_by_audio", PlaybackType::NormalReverseByAudio.into(), ping_pong, up_to(30)),
    ];
    for (name, policy, longer, shorter) in table {
        for (voice_frames, expected) in [(80, &longer), (50, &forward), (30, &shorter)] {
            let mut job = bench.job(bench.hum(voice_frames * 640));
            job.anchors = Some(bench.sparse_anchors(50, 0));
            job.options.duration = policy;
            assert_eq!(shown(&bench, &job, &source), *expected, "{name}, {voice_frames} frames of voice");
            assert_eq!(read_frames(&job.output).len(), expected.len(), "{name}, {voice_frames}: the file");
            let sound = load_speech(&job.output).unwrap().duration_seconds;
            let picture = expected.len() as f64 / 25.0;
            assert!(
                (sound - picture).abs() < 0.025,
                "{name}, {voice_frames}: {sound} s of sound, {picture} s of picture"
            );
        }
    }
}

#[test]
fn a_still_image_lasts_as_long_as_the_voice_in_every_mode() {
    let bench = Bench::open();
    let frames = read_frames(&bench.video);
    let (height, width, _) = frames[0].dims3().unwrap();
    let still = bench.directory.path().join("made_still.png");
    image::RgbImage::from_raw(width as u32, height as u32, bytes(&frames[0])).unwrap().save(&still).unwrap();
    for mode in [SyncMode::Bounce, SyncMode::CutOff, SyncMode::Silence, SyncMode::Remap] {
        let mut job = Job {
            video: still.clone().into(),
            anchors: Some(bench.sparse_anchors(1, 0)),
            ..bench.job(bench.hum(20 * 640))
        };
        job.options.duration = mode.into();
        let report = bench.run(&job);
        assert_eq!((report.frames, report.source_frames), (20, 1), "{mode}");
        assert_eq!(read_frames(&job.output).len(), 20, "{mode}");
    }
}
