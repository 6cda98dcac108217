//! `latentsync models`: what is on this machine, and how it gets there.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use candle_core::DType;
use clap::builder::{FalseyValueParser, OsStringValueParser, TypedValueParser};
use clap::{Args, Subcommand};
use latentsync::options::{DTypeChoice, InvalidOption};
use latentsync::weights::{
    self, ConvertOptions, FileState, FileStatus, HubSettings, InsightFaceLicence, Package, PackageStatus,
};
use latentsync::{CancelToken, ModelChoice};

use super::failure::CommandError;
use super::interrupt::Interrupts;
use super::logging::Screen;
use super::sync::model_choice;
use super::{parse, progress, text};

#[derive(Debug, Args)]
pub struct ModelsArgs {
    #[command(subcommand)]
    command: ModelsCommand,
}

#[derive(Debug, Subcommand)]
enum ModelsCommand {
    /// Show the published models and what of them is here
    List,
    /// Fetch what is missing of a model; an interrupted download continues
    Pull {
        /// latentsync-1.6, latentsync-1.5, dlib or insightface
        #[arg(required = true, value_name = "NAME", value_parser = parse::<Package>)]
        packages: Vec<Package>,
        /// I know that InsightFace's models are for non-commercial research only
        #[arg(long, env = "LATENTSYNC_ACCEPT_INSIGHTFACE_LICENSE", value_parser = FalseyValueParser::new())]
        accept_insightface_license: bool,
        /// Never ask the network [also: HF_HUB_OFFLINE=1]
        #[arg(long)]
        offline: bool,
    },
    /// Check sizes and SHA-256 of what is here
    Verify {
        /// All that are here, when none is named
        #[arg(value_name = "NAME", value_parser = parse::<Package>)]
        packages: Vec<Package>,
    },
    /// Write a smaller copy, which is memory-mapped when it is loaded
    Convert {
        /// latentsync-1.6, latentsync-1.5, demo or a directory of checkpoint files
        #[arg(value_parser = OsStringValueParser::new().try_map(model_choice))]
        model: ModelChoice,
        /// The directory to create
        #[arg(short, long, value_name = "DIR")]
        out: PathBuf,
        /// bf16, f16 or f32
        #[arg(long, value_parser = parse::<DTypeChoice>, default_value = "bf16")]
        dtype: DTypeChoice,
    },
    /// Print where the files of a model are, one per line; without a name, where downloads go
    Path {
        #[arg(value_name = "NAME", value_parser = parse::<Package>)]
        package: Option<Package>,
    },
}

pub fn run(args: &ModelsArgs, screen: &Screen, interrupts: &Interrupts) -> Result<()> {
    let settings = HubSettings::from_env();
    let cancel = interrupts.start_work();
    match &args.command {
        ModelsCommand::List => list(&settings),
        ModelsCommand::Pull { packages, accept_insightface_license, offline } => {
            let settings = HubSettings { offline: settings.offline || *offline, ..settings };
            let licence = match accept_insightface_license {
                true => InsightFaceLicence::Accepted,
                false => InsightFaceLicence::NotAccepted,
            };
            pull(packages, licence, &settings, &Work { screen, cancel })
        }
        ModelsCommand::Verify { packages } => verify(packages, &settings, &Work { screen, cancel }),
        ModelsCommand::Convert { model, out, dtype } => {
            let options =
                ConvertOptions { source: model.clone(), output: out.clone(), dtype: stored(*dtype)? };
            convert(&options, &settings, &Work { screen, cancel })
        }
        ModelsCommand::Path { package } => path(*package, &settings),
    }
}

/// Something that takes long: where it shows its progress and what can stop it.
struct Work<'a> {
    screen: &'a Screen,
    cancel: &'a CancelToken,
}

impl Work<'_> {
    /// Runs `work` with a callback that shows its progress and carries an interruption into it.
    fn run<T>(&self, work: impl FnOnce(weights::OnProgress<'_>) -> weights::Result<T>) -> weights::Result<T> {
        let mut files = progress::Files::new(self.screen);
        let result = work(&mut |step| {
            files.update(step.file, step.done, step.total);
            Ok(self.cancel.check()?)
        });
        files.finish();
        result
    }
}

fn list(settings: &HubSettings) -> Result<()> {
    let mut out = io::stdout().lock();
    for status in weights::list(settings) {
        let (here, all) = (text::bytes(status.bytes_here()), text::bytes(status.bytes()));
        let summary = match (status.complete(), status.bytes_here()) {
            (true, _) => format!("here, {all}"),
            (false, 0) => format!("not here, {all}"),
            (false, _) => format!("{here} of {all} here"),
        };
        writeln!(out, "{:16}{} ({summary})", status.package.name(), status.package.manifest().title)?;
        for FileStatus { file, state } in &status.files {
            let state = match state {
                FileState::Missing => "missing".to_string(),
                FileState::Partial { bytes } => format!("{} so far", text::bytes(*bytes)),
                FileState::Present { .. } => "here".to_string(),
                FileState::Corrupt { reason, .. } => format!("damaged: {reason}"),
            };
            let size = text::bytes(file.bytes);
            writeln!(out, "  {size:>9}  {}, {} [{}] {state}", file.path, file.repository, file.licence)?;
        }
    }
    if cfg!(feature = "demo") {
        writeln!(out, "{:16}a small model for drawn faces (built in)", ModelChoice::Demo.to_string())?;
    }
    writeln!(out, "downloads are kept in {}", settings.cache.display())?;
    Ok(())
}

fn pull(
    packages: &[Package],
    licence: InsightFaceLicence,
    settings: &HubSettings,
    work: &Work,
) -> Result<()> {
    for &package in packages {
        let files = work.run(|progress| weights::pull(package, licence, settings, progress))?;
        let mut out = io::stdout().lock();
        for file in files {
            print_path(&mut out, &file.path)?;
        }
    }
    Ok(())
}

fn verify(packages: &[Package], settings: &HubSettings, work: &Work) -> Result<()> {
    let packages: Vec<Package> = match packages {
        [] => weights::list(settings)
            .into_iter()
            .filter(|status| status.bytes_here() > 0 || status.files.iter().any(is_damaged))
            .map(|status| status.package)
            .collect(),
        named => named.to_vec(),
    };
    if packages.is_empty() {
        writeln!(io::stdout(), "no model is in {}", settings.cache.display())?;
    }
    let mut bad = Vec::new();
    for package in packages {
        let status = work.run(|progress| weights::verify(package, settings, progress))?;
        show_verified(&status)?;
        if !status.complete() {
            bad.push(status.package);
        }
    }
    match bad.first() {
        None => Ok(()),
        Some(&first) => bail!(CommandError::ModelsNotIntact {
            models: bad.iter().map(|package| package.name()).collect::<Vec<_>>().join(", "),
            first,
        }),
    }
}

fn is_damaged(file: &FileStatus) -> bool {
    matches!(file.state, FileState::Corrupt { .. })
}

fn show_verified(status: &PackageStatus) -> Result<()> {
    let mut out = io::stdout().lock();
    for FileStatus { file, state } in &status.files {
        let name = format!("{} {}", status.package, file.path);
        match state {
            FileState::Missing => writeln!(out, "missing  {name}")?,
            FileState::Partial { bytes } => writeln!(out, "partial  {name}: {}", text::bytes(*bytes))?,
            FileState::Present { path } => writeln!(out, "good     {name}: {}", path.display())?,
            FileState::Corrupt { path, reason } => {
                writeln!(out, "damaged  {name}: {}: {reason}", path.display())?;
            }
        }
    }
    Ok(())
}

fn stored(dtype: DTypeChoice) -> Result<DType, InvalidOption> {
    match dtype {
        DTypeChoice::BF16 => Ok(DType::BF16),
        DTypeChoice::F16 => Ok(DType::F16),
        DTypeChoice::F32 => Ok(DType::F32),
        DTypeChoice::Auto => Err(InvalidOption::Value {
            option: "dtype",
            value: "auto".to_string(),
            expected: "`bf16`, `f16` or `f32`".to_string(),
        }),
    }
}

fn convert(options: &ConvertOptions, settings: &HubSettings, work: &Work) -> Result<()> {
    let done = work.run(|progress| weights::convert(options, settings, progress))?;
    let (before, after) = (text::bytes(done.bytes_before), text::bytes(done.bytes_after));
    writeln!(io::stdout(), "{}: {after}, from {before}", done.directory.display())?;
    Ok(())
}

fn path(package: Option<Package>, settings: &HubSettings) -> Result<()> {
    let mut out = io::stdout().lock();
    let Some(package) = package else {
        return print_path(&mut out, &settings.cache);
    };
    for file in weights::path(package, settings)? {
        print_path(&mut out, &file.path)?;
    }
    Ok(())
}

/// Byte by byte, for the program that opens it.
fn print_path(out: &mut impl Write, path: &Path) -> Result<()> {
    out.write_all(path.as_os_str().as_encoded_bytes())?;
    writeln!(out)?;
    Ok(())
}
