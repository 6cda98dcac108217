//! Running what was asked for: warm-up, then our runs and the peer's in turns, with the machine watched meanwhile.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use kernels::cpu::Isa;
use kernels::cpu::peak::Loop;

use super::machine::{self, Load, Machine, Usage};
use super::part_runs::PartRuns;
use super::peer::{Peer, PeerSetting};
use super::record::{JobRecord, PartRecord, Peak, PeerPart, PeerRecord, Record, Setting};
use super::subject::{Needs, Source, Subject};
use super::{Part, What};
use crate::bench::Result;
use crate::bench::stats::Spread;
use crate::options::{LoadOptions, Options};
use crate::pipeline::LipSync;
use crate::pipeline::report::{Report, Stage};
use crate::system;
use crate::system::cancel::CancelToken;
use crate::system::device::{device_name, dtype_name};
use crate::system::machine::peak_memory_bytes;
use crate::{Input, Job};

/// The share of the machine from which others make a measurement doubtful.
const DISTURBED: f64 = 0.05;
/// Steps and encoded images of the estimate for a second of output.
const STEPS: f64 = 20.0;
const FPS: f64 = 25.0;

/// What to measure.
#[derive(Debug, Clone)]
pub struct Bench {
    pub source: Source,
    pub what: Vec<What>,
    pub load: LoadOptions,
    pub runs: usize,
    pub warm_up: usize,
    /// The peer's script, where it is to be measured as well.
    pub peer: Option<PathBuf>,
    /// For [`What::Job`].
    pub job: Option<JobFiles>,
    /// As the user typed it.
    pub command: String,
}

/// What a measured job is made of.
#[derive(Debug, Clone)]
pub struct JobFiles {
    pub video: PathBuf,
    pub audio: PathBuf,
    pub anchors: Option<PathBuf>,
    pub steps: usize,
    pub deepcache: Option<usize>,
}

impl Bench {
    /// Measures everything. A cancelled measurement ends after the run that is under way.
    pub fn run(&self, cancel: &CancelToken) -> Result<Record> {
        let unix_seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
        if let Some(script) = &self.peer {
            Peer::check(script)?;
        }
        let load = Load::now();
        let mut warnings = warnings_of(&load);
        let parts: Vec<Part> =
            Part::ALL.into_iter().filter(|part| self.what.contains(&What::Part(*part))).collect();
        let with_job = self.what.contains(&What::Job);
        let needs = Needs {
            unet: with_job || parts.contains(&Part::UnetStep),
            vae: with_job || parts.iter().any(|part| *part != Part::UnetStep),
        };
        tracing::info!("loading the networks");
        let subject = Subject::load(self.source.clone(), needs, &self.load)?;
        cancel.check()?;
        let setting = self.setting(&subject);
        let peak = subject.device.is_cpu().then(|| measure_peak(&subject));
        let load_seconds = subject.load_seconds;

        let mut peer = match &self.peer {
            Some(script) => Some(Peer::start(script, &peer_setting(&setting))?),
            None => None,
        };
        let mut measured = BTreeMap::new();
        let mut of_peer = BTreeMap::new();
        for part in parts {
            let (ours, theirs) = self.part(part, &subject, peak.as_ref(), peer.as_mut(), cancel)?;
            if ours.others_share.is_some_and(|share| share > DISTURBED) {
                let share = 100.0 * ours.others_share.unwrap_or_default();
                warnings.push(format!("{}: others had {share:.0} % of the machine meanwhile", part.name()));
            }
            of_peer.extend(theirs.map(|theirs| (part, theirs)));
            measured.insert(part, ours);
        }
        let ratios = |of: fn(&Spread) -> f64| {
            let ratio = |(part, theirs): (&Part, &PeerPart)| {
                Some((*part, of(&theirs.seconds) / of(&measured.get(part)?.seconds)))
            };
            of_peer.iter().filter_map(ratio).collect::<BTreeMap<_, _>>()
        };
        let (ratios, ratios_of_minima) = (ratios(|s| s.median), ratios(|s| s.min));
        let peer =
            peer.map(|peer| PeerRecord { about: peer.about().clone(), parts: std::mem::take(&mut of_peer) });
        let job = match &self.job {
            Some(files) if with_job => {
                let lipsync = subject.into_lip_sync(&self.load)?;
                Some(self.job(files, &lipsync, cancel)?)
            }
            _ => None,
        };
        Ok(Record {
            version: env!("CARGO_PKG_VERSION").to_string(),
            commit: machine::commit(),
            command: self.command.clone(),
            unix_seconds,
            machine: Machine::here(),
            load,
            peak,
            load_seconds,
            seconds_per_output_second: per_output_second(&measured, setting.frames),
            setting,
            parts: measured,
            job,
            peer,
            ratios,
            ratios_of_minima,
            warnings,
        })
    }

    fn setting(&self, subject: &Subject) -> Setting {
        Setting {
            model: subject.name.clone(),
            resolution: subject.plan().resolution,
            frames: subject.plan().frames,
            device: device_name(&subject.device),
            dtype: dtype_name(subject.dtype).to_string(),
            threads: rayon::current_num_threads(),
            runs: self.runs,
            warm_up: self.warm_up,
        }
    }

    /// Our runs of one part, each followed by one of the peer's.
    fn part(
        &self,
        part: Part,
        subject: &Subject,
        peak: Option<&Peak>,
        mut peer: Option<&mut Peer>,
        cancel: &CancelToken,
    ) -> Result<(PartRecord, Option<PeerPart>)> {
        let work = subject.work(part)?;
        let prepared = match &mut peer {
            Some(peer) => {
                tracing::info!("{}: choosing the peer's fastest variant", part.name());
                Some(peer.prepare(part)?)
            }
            None => None,
        };
        let mut ours = PartRuns::new(part, work);
        for _ in 0..self.warm_up {
            cancel.check()?;
            ours.warm_up()?;
        }
        machine::reset_peak_memory();
        let mut theirs = Vec::new();
        for run in 0..self.runs {
            cancel.check()?;
            ours.run(subject.device.is_cpu())?;
            tracing::info!("{}: run {} of {}", part.name(), run + 1, self.runs);
            if let Some(peer) = &mut peer {
                theirs.push(peer.run(part)?);
            }
        }
        if let Some(peer) = peer {
            peer.release(part)?;
        }
        let of_peer = prepared.map(|prepared| PeerPart {
            variant: prepared.best,
            seconds: Spread::of(theirs),
            tried: prepared.tried,
            failed: prepared.failed,
            parameters: prepared.parameters,
        });
        Ok((ours.finish(subject.device.is_cpu(), peak)?, of_peer))
    }

    fn job(&self, files: &JobFiles, lipsync: &LipSync, cancel: &CancelToken) -> Result<JobRecord> {
        let directory = tempfile::tempdir()
            .map_err(|source| system::Error::WriteFile { path: std::env::temp_dir(), source })?;
        let job = Job {
            anchors: files.anchors.clone(),
            options: Options {
                steps: files.steps,
                deepcache: files.deepcache,
                seed: Some(7),
                ..Options::default()
            },
            ..Job::new(
                Input::File(files.video.clone()),
                Input::File(files.audio.clone()),
                directory.path().join("bench.mp4"),
            )
        };
        machine::reset_peak_memory();
        let usage = Usage::now();
        let mut reports: Vec<Report> = Vec::with_capacity(self.runs);
        for run in 0..self.runs {
            reports.push(lipsync.run(&job, &mut (), cancel)?);
            tracing::info!("job: run {} of {}", run + 1, self.runs);
        }
        let others_share = usage.and_then(|usage| usage.since()?.others_share);
        let seconds = Spread::of(reports.iter().map(|report| report.seconds).collect());
        let fastest = reports.iter().min_by(|a, b| a.seconds.total_cmp(&b.seconds));
        let of_stage = |stage: Stage| fastest.map_or(0.0, |report| report.stage_seconds.seconds(stage));
        let networks: f64 =
            [Stage::EncodeLatents, Stage::DenoiseLatents, Stage::DecodeLatents].map(of_stage).iter().sum();
        let (frames, fps) = fastest.map_or((0, FPS), |report| (report.frames, report.fps));
        Ok(JobRecord {
            seconds_per_output_second: seconds.median * fps / frames.max(1) as f64,
            frames,
            fps,
            steps: files.steps,
            deepcache: files.deepcache,
            batch_chunks: fastest.map_or(0, |report| report.batch_chunks),
            stage_seconds: Stage::ALL.map(|stage| (stage.name().to_string(), of_stage(stage))).into(),
            networks_share: networks / seconds.min,
            seconds,
            peak_memory_bytes: peak_memory_bytes(),
            others_share,
        })
    }
}

fn measure_peak(subject: &Subject) -> Peak {
    let ours = Loop::of(Isa::current(), subject.dtype);
    let loops: BTreeMap<_, _> =
        Loop::available().into_iter().map(|of| (of.name().to_string(), of.measure())).collect();
    let flops = loops.get(ours.name()).copied().unwrap_or_else(|| ours.measure());
    Peak { name: ours.name().to_string(), flops, loops }
}

fn peer_setting(setting: &Setting) -> PeerSetting {
    PeerSetting {
        resolution: setting.resolution,
        device: setting.device.clone(),
        threads: setting.threads,
        only_avx2: setting.device == "cpu" && Isa::current() == Isa::Avx2,
    }
}

fn per_output_second(parts: &BTreeMap<Part, PartRecord>, frames: usize) -> Option<f64> {
    let median = |part| parts.get(&part).map(|part: &PartRecord| part.seconds.median);
    let (step, encode, decode) =
        (median(Part::UnetStep)?, median(Part::VaeEncode)?, median(Part::VaeDecode)?);
    Some(STEPS * FPS / frames as f64 * step + FPS * (2.0 * encode + decode))
}

fn warnings_of(load: &Load) -> Vec<String> {
    let names: Vec<_> =
        load.busy.iter().map(|busy| format!("{} ({:.1} cores)", busy.name, busy.share)).collect();
    match names.is_empty() {
        true => Vec::new(),
        false => vec![format!("the machine is busy, so these times say little: {}", names.join(", "))],
    }
}
