//! The second voice for a video: its faces are known.

use latentsync::{Job, Report};

use super::common::Bench;

#[test]
fn the_second_voice_needs_no_search_and_gives_the_same_file() {
    let Some(bench) = Bench::open() else { return };
    let cache = bench.directory.path().join("made_cache");
    let run = |frames: usize, cache: Option<&std::path::Path>| -> (Report, Vec<u8>) {
        let job = Job { cache: cache.map(Into::into), anchors: None, ..bench.job(bench.hum(frames * 640)) };
        let report = bench.run(&job);
        (report, std::fs::read(&job.output).unwrap())
    };
    let files = || std::fs::read_dir(&cache).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
    // The voice is longer than the video: what is cached is all of it.
    let (first, _) = run(60, Some(&cache));
    assert!(!first.faces_from_cache);
    assert_eq!(files().len(), 1);
    for frames in [20, 55] {
        let (cached, with) = run(frames, Some(&cache));
        let (searched, without) = run(frames, None);
        assert!(cached.faces_from_cache && !searched.faces_from_cache);
        assert!(with == without, "{frames} frames: the cache changes the file");
        assert_eq!(cached.faces, searched.faces);
    }
    // A damaged entry is as good as none, and replaced.
    let entry = &files()[0];
    let mut bytes = std::fs::read(entry).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(entry, bytes).unwrap();
    assert!(!run(20, Some(&cache)).0.faces_from_cache);
    assert!(run(20, Some(&cache)).0.faces_from_cache);
    // It has only 20 frames now.
    assert!(!run(21, Some(&cache)).0.faces_from_cache);
    assert_eq!(files().len(), 1);
}

#[test]
fn other_settings_and_other_videos_have_entries_of_their_own() {
    let Some(bench) = Bench::open() else { return };
    let cache = bench.directory.path().join("made_cache");
    let job = || Job { cache: Some(cache.clone()), ..bench.job(bench.hum(20 * 640)) };
    let from_cache = |job: &Job| bench.run(job).faces_from_cache;
    assert!(!from_cache(&job()));
    assert!(from_cache(&job()));
    assert!(!from_cache(&Job { anchors: Some(bench.sparse_anchors(50, 2)), ..job() }), "other anchors");
    let mut slower = job();
    slower.options.max_yaw = 12.0;
    assert!(!from_cache(&slower), "another option");
    let man = bench.media.join("man_4s.mp4");
    let anchors = Some(bench.media.join("man_4s.landmarks3.json"));
    assert!(!from_cache(&Job { video: man.into(), anchors, ..job() }), "another video");
    let mut steps = job();
    steps.options.steps = 2;
    steps.options.seed = Some(9);
    assert!(from_cache(&steps), "steps and seed do not matter to the faces");
}
