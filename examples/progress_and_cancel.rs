//! Prints the progress of a job and cancels it after a time limit. Needs no download: it runs the built-in model on the built-in clip.
//!
//! ```sh
//! cargo run --release --example progress_and_cancel            # runs to the end
//! cargo run --release --example progress_and_cancel -- 5       # cancels after 5 seconds
//! ```

use std::error::Error as StdError;
use std::thread;
use std::time::Duration;

use latentsync::demo::{DemoInputs, Sentence};
use latentsync::{CancelToken, Job, LipSync, LoadOptions, ModelChoice, Progress, Stage};

/// Prints every tenth of each stage.
#[derive(Default)]
struct Tenths {
    printed: [usize; Stage::ALL.len()],
}

impl Progress for Tenths {
    // Runs on the job's thread, often: it must not block.
    fn stage(&mut self, stage: Stage, done: usize, total: Option<usize>) {
        let Some(total) = total.filter(|&total| total > 0) else { return };
        let tenths = done * 10 / total;
        let printed = &mut self.printed[stage as usize];
        if tenths > *printed {
            *printed = tenths;
            println!("{:>16} {:3} %", stage.name(), tenths * 10);
        }
    }

    fn log(&mut self, message: &str) {
        println!("{message}");
    }
}

fn main() -> Result<(), Box<dyn StdError>> {
    let limit = std::env::args().nth(1).map(|seconds| seconds.parse()).transpose()?;

    let directory = std::env::temp_dir().join("latentsync-progress-and-cancel");
    let inputs = DemoInputs::write(&directory)?;
    let output = directory.join("out.mp4");
    let job = Job {
        // Positions of the face; without them the face is detected, which needs dlib's landmark model.
        anchors: Some(inputs.anchors.clone()),
        ..Job::new(inputs.face.clone(), inputs.voice(Sentence::First), &output)
    };
    let lipsync = LipSync::load(&ModelChoice::Demo, &LoadOptions::default())?;

    // Clones share their state: cancelling one cancels the job.
    let cancel = CancelToken::new();
    if let Some(seconds) = limit {
        let cancel = cancel.clone();
        thread::spawn(move || {
            thread::sleep(Duration::from_secs(seconds));
            cancel.cancel();
        });
    }

    match lipsync.run(&job, &mut Tenths::default(), &cancel) {
        Ok(report) => println!("{}: {} frames in {:.1} s", output.display(), report.frames, report.seconds),
        // A cancelled job leaves no output behind.
        Err(error) if error.is_interrupted() => {
            println!("cancelled; `{}` exists: {}", output.display(), output.exists())
        }
        Err(error) => return Err(error.into()),
    }
    Ok(())
}
