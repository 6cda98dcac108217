//! `latentsync doctor`: what this machine has for a job, and what it lacks.

use std::fmt::{self, Write as _};
use std::io::{self, Write};
use std::time::Duration;

use anyhow::Result;
use candle_core::{DType, Device};
use clap::Args;
use ffmpeg_next as ffmpeg;
use latentsync::options::{BatchChunks, DTypeChoice, DeviceChoice};
use latentsync::system::device::{DeviceMemory, device_memory, device_name, dtype_name};
use latentsync::system::machine;
use latentsync::weights::{self, BatchSize, HubSettings, MemoryNeeds, Package};
use serde::Serialize;

use super::estimate::{self, Estimate};
use super::hint::pull_command;
use super::{failure, parse, text};

#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// auto, cpu, cuda:N or metal
    #[arg(long, value_parser = parse::<DeviceChoice>, default_value = "auto")]
    device: DeviceChoice,
    /// Do not measure how long a job would take
    #[arg(long)]
    no_estimate: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Encoders that a build of FFmpeg may lack, of those that make H.264 and AAC.
const ENCODERS: [&str; 8] = [
    "libx264",
    "libopenh264",
    "h264_nvenc",
    "h264_qsv",
    "h264_vaapi",
    "h264_videotoolbox",
    "aac",
    "libfdk_aac",
];

/// Everything that was found out; `null` where the system does not tell.
#[derive(Debug, Serialize)]
struct Findings {
    version: &'static str,
    /// What was asked for, where it cannot be used.
    device: String,
    /// Why not.
    device_problem: Option<String>,
    dtype: Option<&'static str>,
    /// Devices that this build can use, apart from the CPU.
    gpu_support: Vec<&'static str>,
    cpu: String,
    memory_bytes: Option<u64>,
    memory_available_bytes: Option<u64>,
    /// The device's own; on a CPU the same again.
    device_memory: Option<DeviceMemory>,
    /// What the published models take on the device.
    memory_needs: Vec<Need>,
    models_directory: String,
    models_directory_free_bytes: Option<u64>,
    ffmpeg: Ffmpeg,
    /// dlib's 68-point shape predictor, without which the default detector cannot work.
    shape_predictor: Option<String>,
    models: Vec<Model>,
    estimate: Option<Estimate>,
}

#[derive(Debug, Serialize)]
struct Ffmpeg {
    libavcodec: String,
    libavformat: String,
    licence: &'static str,
    encoders: Vec<&'static str>,
    missing_encoders: Vec<&'static str>,
}

#[derive(Debug, Serialize)]
struct Need {
    model: &'static str,
    /// Without guidance, one chunk at a time.
    bytes: u64,
    /// How many chunks go together by themselves; 0: it does not fit.
    batch_chunks: Option<usize>,
}

#[derive(Debug, Serialize)]
struct Model {
    name: &'static str,
    complete: bool,
    bytes: u64,
    bytes_here: u64,
}

pub fn run(args: &DoctorArgs) -> Result<()> {
    let findings = examine(args)?;
    let mut out = io::stdout().lock();
    if args.json {
        serde_json::to_writer_pretty(&mut out, &findings)?;
        writeln!(out)?;
    } else {
        write!(out, "{findings}")?;
    }
    Ok(())
}

fn examine(args: &DoctorArgs) -> Result<Findings> {
    let opened = args.device.open().map(|device| (DTypeChoice::Auto.resolve(&device), device));
    let settings = HubSettings::from_env();
    let gpus = [
        ("cuda", candle_core::utils::cuda_is_available()),
        ("metal", candle_core::utils::metal_is_available()),
    ];
    let models = weights::list(&settings).into_iter().map(|status| Model {
        name: status.package.name(),
        complete: status.complete(),
        bytes: status.bytes(),
        bytes_here: status.bytes_here(),
    });
    Ok(Findings {
        version: env!("CARGO_PKG_VERSION"),
        device: match &opened {
            Ok((_, device)) => device_name(device),
            Err(_) => args.device.to_string(),
        },
        device_problem: opened.as_ref().err().map(|error| failure::chain(error).join(": ")),
        dtype: opened.as_ref().ok().map(|(dtype, _)| dtype_name(*dtype)),
        gpu_support: gpus.into_iter().filter(|(_, built_in)| *built_in).map(|(name, _)| name).collect(),
        cpu: kernels::cpu::features().to_string(),
        memory_bytes: machine::memory_bytes(),
        memory_available_bytes: machine::memory_available_bytes(),
        device_memory: opened.as_ref().ok().and_then(|(_, device)| device_memory(device)),
        memory_needs: match &opened {
            Ok((dtype, device)) => examine_needs(*dtype, device)?,
            Err(_) => Vec::new(),
        },
        models_directory_free_bytes: machine::free_space(&settings.cache),
        ffmpeg: examine_ffmpeg(),
        shape_predictor: weights::shape_predictor(&settings).ok().map(|path| path.display().to_string()),
        models: models.collect(),
        estimate: match &opened {
            Ok((dtype, device)) if !args.no_estimate => Some(estimate::measure(device, *dtype)?),
            _ => None,
        },
        models_directory: settings.cache.display().to_string(),
    })
}

/// As jobs ask before they begin.
fn examine_needs(dtype: DType, device: &Device) -> Result<Vec<Need>> {
    let memory = device_memory(device);
    let most = BatchSize { chunks: BatchChunks::Auto.max_on(device), ..BatchSize::ONE };
    let mut found = Vec::new();
    for package in Package::ALL {
        let Some(resolution) = package.manifest().resolution else { continue };
        let needs = MemoryNeeds::published(resolution, dtype, device)?;
        found.push(Need {
            model: package.name(),
            bytes: needs.bytes(BatchSize::ONE),
            batch_chunks: memory
                .map(|memory| needs.chunks_within(most, memory.free, device).unwrap_or_default()),
        });
    }
    Ok(found)
}

fn examine_ffmpeg() -> Ffmpeg {
    let (encoders, missing_encoders) =
        ENCODERS.into_iter().partition(|name| ffmpeg::encoder::find_by_name(name).is_some());
    Ffmpeg {
        libavcodec: version(ffmpeg::codec::version()),
        libavformat: version(ffmpeg::format::version()),
        licence: ffmpeg::codec::license(),
        encoders,
        missing_encoders,
    }
}

/// FFmpeg's libraries pack major, minor and micro into 16, 8 and 8 bits.
fn version(packed: u32) -> String {
    format!("{}.{}.{}", packed >> 16, packed >> 8 & 0xff, packed & 0xff)
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = |bytes: Option<u64>| bytes.map_or("unknown".to_string(), text::bytes);
        let gpus = match self.gpu_support.as_slice() {
            [] => "this build computes on the CPU only".to_string(),
            names => format!("this build also knows {}", names.join(", ")),
        };
        writeln!(f, "latentsync  {}", self.version)?;
        match (&self.device_problem, self.dtype) {
            (Some(problem), _) => writeln!(f, "device      {problem}; {gpus}")?,
            (None, dtype) => {
                writeln!(f, "device      {} in {}; {gpus}", self.device, dtype.unwrap_or("unknown"))?;
            }
        }
        writeln!(f, "cpu         {}", self.cpu)?;
        writeln!(
            f,
            "memory      {}, {} available",
            size(self.memory_bytes),
            size(self.memory_available_bytes)
        )?;
        if let Some(memory) = self.device_memory.filter(|_| self.device != "cpu") {
            writeln!(f, "gpu memory  {}, {} free", text::bytes(memory.total), text::bytes(memory.free))?;
        }
        for (i, need) in self.memory_needs.iter().enumerate() {
            let left = if i == 0 { "takes" } else { "" };
            writeln!(f, "{left:12}{}", describe_need(need))?;
        }
        let ffmpeg = &self.ffmpeg;
        writeln!(
            f,
            "ffmpeg      libavcodec {}, libavformat {} ({})",
            ffmpeg.libavcodec, ffmpeg.libavformat, ffmpeg.licence
        )?;
        writeln!(f, "encoders    {}", ffmpeg.encoders.join(", "))?;
        writeln!(f, "            not in this FFmpeg: {}", ffmpeg.missing_encoders.join(", "))?;
        match &self.shape_predictor {
            Some(path) => writeln!(f, "faces       dlib's shape predictor is {path}")?,
            None => writeln!(
                f,
                "faces       dlib's shape predictor is missing: install the package `libdlib-data`, or run \
                 `{}`",
                pull_command(Package::Dlib.name())
            )?,
        }
        for (i, model) in self.models.iter().enumerate() {
            let left = if i == 0 { "models" } else { "" };
            writeln!(f, "{left:12}{}", describe(model))?;
        }
        writeln!(
            f,
            "            in {}, {} free",
            self.models_directory,
            size(self.models_directory_free_bytes)
        )?;
        match &self.estimate {
            Some(estimate) => writeln!(f, "estimate    {}", describe_estimate(estimate)?),
            None => Ok(()),
        }
    }
}

fn describe_need(need: &Need) -> String {
    let (model, bytes) = (need.model, text::bytes(need.bytes));
    match need.batch_chunks {
        Some(0) => format!("{model}: {bytes} of memory, which do not fit"),
        Some(1) | None => format!("{model}: {bytes} of memory"),
        Some(chunks) => format!("{model}: {bytes} of memory; {chunks} chunks fit together"),
    }
}

fn describe(model: &Model) -> String {
    let (name, bytes) = (model.name, text::bytes(model.bytes));
    match (model.complete, model.bytes_here) {
        (true, _) => format!("{name}: here, {bytes}"),
        (false, 0) => format!("{name}: not here; `{}` fetches {bytes}", pull_command(name)),
        (false, here) => {
            let here = text::bytes(here);
            format!("{name}: {here} of {bytes} here; `{}` fetches the rest", pull_command(name))
        }
    }
}

fn describe_estimate(estimate: &Estimate) -> Result<String, fmt::Error> {
    let mut line = format!(
        "{:.0} GFLOP/s in convolutions, {:.0} in products, measured just now; from that, for one second of \
         video with 20 steps:",
        estimate.convolution_gflops, estimate.product_gflops
    );
    for model in &estimate.seconds_per_output_second {
        let time = text::duration(Duration::from_secs_f64(model.seconds));
        write!(line, "\n            {}: about {time}", model.model)?;
    }
    Ok(line)
}
