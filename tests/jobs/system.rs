//! Jobs whose faces the default detector finds; they need dlib's landmark model.

use latentsync::{Job, Report};

use crate::common::{Bench, bytes, read_frames};
use crate::whole::check_threads;

#[test]
#[ignore = "needs dlib's landmark model"]
fn the_second_job_of_a_video_reads_its_faces_from_the_cache() {
    let bench = Bench::open();
    let cache = bench.directory.path().join("made_cache");
    let run = |frames: usize, cache: Option<&std::path::Path>| -> (Report, Vec<u8>) {
        let job = Job { cache: cache.map(Into::into), anchors: None, ..bench.job(bench.hum(frames * 640)) };
        let report = bench.run(&job);
        (report, std::fs::read(&job.output).unwrap())
    };
    let files = || std::fs::read_dir(&cache).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
    // The voice is longer than the video, so the whole video is cached.
    let (first, _) = run(60, Some(&cache));
    assert!(!first.faces_from_cache);
    assert_eq!(files().len(), 1);
    for frames in [20, 55] {
        let (cached, with) = run(frames, Some(&cache));
        let (searched, without) = run(frames, None);
        assert!(cached.faces_from_cache && !searched.faces_from_cache);
        assert!(with == without, "{frames} frames: the file differs with the cache");
        assert_eq!(cached.faces, searched.faces);
    }
    // A damaged entry is replaced.
    let entry = &files()[0];
    let mut bytes = std::fs::read(entry).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(entry, bytes).unwrap();
    assert!(!run(20, Some(&cache)).0.faces_from_cache);
    assert!(run(20, Some(&cache)).0.faces_from_cache);
    // The new entry has 20 frames.
    assert!(!run(21, Some(&cache)).0.faces_from_cache);
    assert_eq!(files().len(), 1);
}

#[test]
#[ignore = "needs dlib's landmark model"]
fn a_still_image_is_a_video_of_one_frame() {
    let bench = Bench::open();
    let first = read_frames(&bench.video).swap_remove(0);
    let (height, width, _) = first.dims3().unwrap();
    let still = bench.directory.path().join("still.png");
    image::RgbImage::from_raw(width as u32, height as u32, bytes(&first)).unwrap().save(&still).unwrap();
    let job = Job { video: still.into(), anchors: None, ..bench.job(bench.hum(16_000)) };
    let report = bench.run(&job);
    assert_eq!((report.frames, report.source_frames), (25, 1));
    assert!(report.faces.frames_without_face.is_empty(), "{:?}", report.faces.frames_without_face);
}

#[test]
#[ignore = "needs dlib's landmark model"]
fn the_number_of_threads_does_not_change_the_file() {
    check_threads(&Bench::open(), &[]);
}
