//! `latentsync bench`: how fast the networks are here, how much of the machine that is, and how it compares.

mod print;

use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser};
use latentsync::bench::compare::Comparison;
use latentsync::bench::record::Record;
use latentsync::bench::run::{Bench, JobFiles};
use latentsync::bench::subject::Source;
use latentsync::bench::{Size, What};
use latentsync::options::BatchChunks;
use latentsync::options::{DTypeChoice, DeviceChoice};
use latentsync::{LoadOptions, ModelChoice};

use super::failure::CommandError;
use super::interrupt::Interrupts;
use super::parse;
use super::sync::model_choice;

/// Where `--peer` looks for its script.
const PEER: &str = "scripts/bench_peer";

/// Times one UNet step on 16 frames, the VAE on one image each way, and whole jobs: median, spread, FLOP/s, the share of
/// what this machine's arithmetic reaches in registers, memory, and the time of every kind of operation.
///
/// Without --model the networks have the published sizes and made-up weights, which take as long as real ones: 2.6 GB of
/// memory in bf16, 5.2 GB in f32, and a few seconds to make. Nothing is downloaded. Other programs that compute
/// meanwhile spoil every figure: they are named, and their share is part of the result.
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// Networks with made-up weights: published sizes with faces of 256 or 512 pixels, or `small` ones
    #[arg(long, value_parser = parse::<Size>, default_value_t = Size::Pixels256, conflicts_with = "model")]
    size: Size,
    /// A published model's name, demo, or the directory of a checkpoint
    #[arg(long, value_name = "NAME|DIR", value_parser = OsStringValueParser::new().try_map(model_choice))]
    model: Option<ModelChoice>,
    /// unet-step, vae-encode, vae-decode and job, separated by commas [default: all but the job, which is measured where
    /// --video is given]
    #[arg(long, value_name = "PARTS", value_delimiter = ',', value_parser = parse::<What>)]
    what: Vec<What>,
    /// Runs that count
    #[arg(long, value_name = "N", default_value = "5")]
    runs: NonZeroUsize,
    /// Runs before them that do not
    #[arg(long, value_name = "N", default_value_t = 1)]
    warm_up: usize,
    /// Threads of the CPU kernels, and of the peer [default: as many as there are cores]
    #[arg(long, value_name = "N")]
    threads: Option<NonZeroUsize>,
    /// auto, cpu, cuda:N or metal
    #[arg(long, value_parser = parse::<DeviceChoice>, default_value = "auto")]
    device: DeviceChoice,
    /// auto, f32, bf16 or f16
    #[arg(long, value_parser = parse::<DTypeChoice>, default_value = "auto")]
    dtype: DTypeChoice,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    /// Write the JSON object to FILE as well
    #[arg(short, long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Print two results of --out side by side, and measure nothing
    #[arg(long, num_args = 2, value_names = ["A.json", "B.json"], conflicts_with_all = ["peer", "what", "video", "out"])]
    compare: Vec<PathBuf>,

    /// Measure PyTorch and diffusers in turns with this engine, and print the ratios
    ///
    /// Needs Python 3.11 and the network: the first time PyTorch is installed into ~/.cache/latentsync (5 GB). The peer
    /// takes the fastest of f32, bf16, channels-last and torch.compile. Where LATENTSYNC_CPU=avx2 limits this engine, the
    /// peer is limited to AVX2 as well.
    #[arg(long, help_heading = "Peer", conflicts_with = "model")]
    peer: bool,
    /// The script that runs the peer
    #[arg(long, value_name = "FILE", default_value = PEER, help_heading = "Peer")]
    peer_script: PathBuf,

    /// The video of the job
    #[arg(long, value_name = "FILE", requires = "audio", help_heading = "Job")]
    video: Option<PathBuf>,
    /// The voice of the job
    #[arg(long, value_name = "FILE", requires = "video", help_heading = "Job")]
    audio: Option<PathBuf>,
    /// Anchor points of every frame of the video, instead of searching for the face
    #[arg(long, value_name = "FILE", requires = "video", help_heading = "Job")]
    anchors: Option<PathBuf>,
    /// Denoising steps of the job
    #[arg(long, value_name = "N", default_value_t = 20, help_heading = "Job")]
    steps: usize,
    /// Run the whole UNet only on every N-th step of the job
    #[arg(long, value_name = "N", help_heading = "Job")]
    deepcache: Option<usize>,
    /// Chunks of the job that go through the UNet together: auto, or 1 to 15
    #[arg(long, value_name = "N", value_parser = parse::<BatchChunks>, default_value_t, help_heading = "Job")]
    batch_chunks: BatchChunks,
}

pub fn run(args: &BenchArgs, interrupts: &Interrupts) -> Result<()> {
    if let [a, b] = &args.compare[..] {
        let (a, b) = (Record::read(a)?, Record::read(b)?);
        write!(io::stdout().lock(), "{}", Comparison { a: &a, b: &b })?;
        return Ok(());
    }
    let bench = args.bench()?;
    if let Some(threads) = args.threads {
        // Before anything computes.
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads.get())
            .build_global()
            .map_err(|error| CommandError::Usage(format!("--threads {threads}: {error}")))?;
    }
    let cancel = interrupts.start_work();
    let record = bench.run(cancel)?;
    if let Some(path) = &args.out {
        record.write(path)?;
    }
    interrupts.before_last_words();
    for warning in &record.warnings {
        tracing::warn!("{warning}");
    }
    let mut out = io::stdout().lock();
    if args.json {
        serde_json::to_writer_pretty(&mut out, &record)?;
        writeln!(out)?;
    } else {
        write!(out, "{}", print::Printed(&record))?;
    }
    Ok(())
}

impl BenchArgs {
    fn bench(&self) -> Result<Bench, CommandError> {
        let job = match (&self.video, &self.audio) {
            (Some(video), Some(audio)) => Some(JobFiles {
                video: video.clone(),
                audio: audio.clone(),
                anchors: self.anchors.clone(),
                steps: self.steps,
                deepcache: self.deepcache,
            }),
            _ => None,
        };
        let mut what = self.what.clone();
        if what.is_empty() {
            what.extend(latentsync::bench::Part::ALL.map(What::Part));
            what.extend(job.as_ref().map(|_| What::Job));
        }
        if what.contains(&What::Job) && job.is_none() {
            return Err(CommandError::Usage("--what job needs a job: give --video and --audio".into()));
        }
        if self.peer && self.size == Size::Small {
            return Err(CommandError::Usage(
                "--peer knows the published networks: give --size 256 or 512".into(),
            ));
        }
        Ok(Bench {
            source: match &self.model {
                Some(model) => Source::Model(model.clone()),
                None => Source::Synthetic(self.size),
            },
            what,
            load: LoadOptions {
                device: self.device,
                dtype: self.dtype,
                batch_chunks: self.batch_chunks,
                ..LoadOptions::default()
            },
            runs: self.runs.get(),
            warm_up: self.warm_up,
            peer: self.peer.then(|| self.peer_script.clone()),
            job,
            command: command_line(),
        })
    }
}

/// As it was typed, with what the environment says of the CPU kernels.
fn command_line() -> String {
    let chosen = std::env::var("LATENTSYNC_CPU").ok().map(|isa| format!("LATENTSYNC_CPU={isa}"));
    let typed = std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned());
    chosen.into_iter().chain(["latentsync".to_string()]).chain(typed).collect::<Vec<_>>().join(" ")
}
