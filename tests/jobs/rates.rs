//! Output at the frame rate of the source. The model runs at 25 fps; its mouths are assigned to output frames by time.

use std::sync::Mutex;

use candle_core::Tensor;
use latentsync::audio::load_speech;
use latentsync::options::OutputRate;
use latentsync::pipeline::Hooks;
use latentsync::{CancelToken, Job};

use crate::common::{Bench, bytes, read_frames_at};

#[test]
fn the_output_can_keep_the_frame_rate_of_the_source() {
    let bench = Bench::open();
    let source = &bench.video;
    // 1.2 s of voice. At 12 fps every second mouth is shown, at 60 fps every mouth in two or three frames.
    for (rate, fps, frames) in
        [("12", 12.0, 15), ("24000/1001", 24000.0 / 1001.0, 29), ("50", 50.0, 60), ("60", 60.0, 72)]
    {
        let name = format!("{}.mp4", rate.replace('/', "_"));
        let args = format!("-i {} -an -r {rate} -c:v libx264 -qp 0 -preset ultrafast", source.display());
        let video = bench.make(&name, &args);
        let mut job = Job {
            video: video.into(),
            anchors: Some(bench.sparse_anchors(200, 1)),
            ..bench.job(bench.hum(30 * 640))
        };
        job.options.fps = OutputRate::Source;
        let shown = Mutex::new(Vec::new());
        let on_frame = |_: usize, rgb: &Tensor| shown.lock().unwrap().push(bytes(rgb));
        let latents = Mutex::new(0);
        let count =
            |_: usize, latents_of_chunk: &Tensor| *latents.lock().unwrap() += latents_of_chunk.dims()[1];
        let hooks = Hooks { frame: Some(&on_frame), latents: Some(&count), ..Hooks::default() };
        let report = bench.lipsync.run_with(&job, &hooks, &mut (), &CancelToken::new()).unwrap();
        assert_eq!(report.frames, frames, "{rate}");
        assert!((report.fps - fps).abs() < 1e-9, "{rate}: {}", report.fps);
        // The model makes 25 frames per second at any output rate: 30, or one more or less if the last output frame is
        // nearer to another model frame.
        let made = latents.into_inner().unwrap();
        assert!((29..=31).contains(&made), "{rate}: {made} model frames");
        let written = read_frames_at(&job.output, OutputRate::Source);
        assert_eq!(written.len(), frames, "{rate}: the file");
        let sound = load_speech(&job.output).unwrap().duration_seconds;
        assert!((sound - 1.2).abs() < 0.05, "{rate}: {sound} s of sound");
        assert_eq!(shown.into_inner().unwrap().len(), frames);
        // The same video at the default rate of 25 fps.
        job.options.fps = OutputRate::default();
        assert_eq!(bench.run(&job).frames, 30, "{rate} to 25");
    }
}
