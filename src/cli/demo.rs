//! `latentsync demo`: the built-in model makes a drawn face say two sentences.

use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser};
use latentsync::demo::{self, DemoInputs, Sentence};
use latentsync::options::{DTypeChoice, DeviceChoice};
use latentsync::{LipSync, LoadOptions, ModelChoice};

use super::interrupt::Interrupts;
use super::logging::Screen;
use super::sync::model_choice;
use super::{parse, progress, text};

#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Where the clip, the two sentences, the two videos and a picture of each go
    #[arg(short, long, value_name = "DIR", default_value = "latentsync-demo")]
    out: PathBuf,
    /// Another model instead of the built-in one
    #[arg(long, value_name = "MODEL", default_value = "demo",
          value_parser = OsStringValueParser::new().try_map(model_choice))]
    model: ModelChoice,
    /// auto, cpu, cuda:N or metal
    #[arg(long, value_parser = parse::<DeviceChoice>, default_value = "auto")]
    device: DeviceChoice,
    /// auto, f32, bf16 or f16
    #[arg(long, value_parser = parse::<DTypeChoice>, default_value = "auto")]
    dtype: DTypeChoice,
}

pub fn run(args: &DemoArgs, screen: &Screen, interrupts: &Interrupts) -> Result<()> {
    let cancel = interrupts.start_work();
    let options = LoadOptions { device: args.device, dtype: args.dtype, ..LoadOptions::default() };
    let model = LipSync::load(&args.model, &options)?;
    let inputs = DemoInputs::write(&args.out)?;
    let mut out = io::stdout().lock();
    writeln!(out, "{}: a drawn person, silent", inputs.face.display())?;
    for sentence in Sentence::ALL {
        let result = demo::run(&model, &inputs, sentence, progress::of_job(screen).as_mut(), cancel)?;
        screen.clear();
        for warning in &result.report.warnings {
            tracing::warn!("{warning}");
        }
        let took = text::duration(Duration::from_secs_f64(result.report.seconds));
        let voice = inputs.voice(sentence);
        writeln!(out, "{}: the same person, saying {}, in {took}", result.video.display(), voice.display())?;
        writeln!(
            out,
            "{}: input, output, and the mouth's opening (orange) over what the sounds want (dark) and the loudness (grey); \
             correlation with what they want {:.2}",
            result.strip.display(),
            result.correlation
        )?;
    }
    interrupts.before_last_words();
    writeln!(
        out,
        "for faces on photographs: `latentsync models pull latentsync-1.6`, then `latentsync sync`"
    )?;
    Ok(())
}
