//! Lip-syncs one file and prints the report.
//!
//! ```sh
//! cargo run --release --example lip_sync_file -- clip.mp4 voice.wav out.mp4
//! ```
//!
//! The published model must have been downloaded (`latentsync models pull latentsync-1.6`).

use std::error::Error;

use latentsync::pipeline::preflight;
use latentsync::{CancelToken, Job, LipSync, LoadOptions, ModelChoice, Options};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [video, audio, output] = arguments.as_slice() else {
        return Err("usage: lip_sync_file VIDEO AUDIO OUTPUT".into());
    };
    let job = Job {
        options: Options { steps: 20, seed: Some(7), ..Options::default() },
        ..Job::new(video.as_str(), audio.as_str(), output)
    };

    // Finds missing model files and unreadable inputs before gigabytes of weights are loaded.
    let (model, load_options) = (ModelChoice::LatentSync16, LoadOptions::default());
    preflight(&job, &model, &load_options)?;

    // A loaded model runs any number of jobs, one at a time.
    let lipsync = LipSync::load(&model, &load_options)?;
    let report = lipsync.run(&job, &mut (), &CancelToken::new())?;

    println!("{}: {} frames in {:.1} s on {}", output, report.frames, report.seconds, report.device);
    for range in &report.faces.frames_without_face {
        println!("no face in frames {} to {}", range.first, range.last);
    }
    for warning in &report.warnings {
        println!("warning: {warning}");
    }
    Ok(())
}
