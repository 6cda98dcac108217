//! The cache of faces by video and options.

use latentsync::Job;

use crate::common::Bench;
use crate::demo_clip;

#[test]
fn each_video_and_each_setting_of_the_faces_has_its_own_entry() {
    let bench = Bench::open();
    let cache = bench.directory.path().join("made_cache");
    let job = || Job { cache: Some(cache.clone()), ..bench.job(bench.hum(20 * 640)) };
    let from_cache = |job: &Job| bench.run(job).faces_from_cache;
    assert!(!from_cache(&job()));
    assert!(from_cache(&job()));
    assert!(!from_cache(&Job { anchors: Some(bench.sparse_anchors(50, 2)), ..job() }), "other anchors");
    let mut other = job();
    other.options.max_yaw = 12.0;
    assert!(!from_cache(&other), "another option");
    let video = demo_clip::video();
    let anchors = Some(demo_clip::anchors());
    assert!(!from_cache(&Job { video: video.into(), anchors, ..job() }), "another video");
    let mut steps = job();
    steps.options.steps = 2;
    steps.options.seed = Some(9);
    assert!(from_cache(&steps), "faces do not depend on steps and seed");
}
