//! A record as a person reads it.

use std::fmt;

use latentsync::bench::Part;
use latentsync::bench::record::{JobRecord, OperationRecord, PartRecord, PeerPart, Record};
use latentsync::bench::stats::Spread;

use crate::cli::text;

/// Lines of shapes; the rest is in the JSON object.
const SHAPES: usize = 12;

pub struct Printed<'a>(pub &'a Record);

impl fmt::Display for Printed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let record = self.0;
        let (setting, machine) = (&record.setting, &record.machine);
        writeln!(
            f,
            "{}: {} pixels, {} frames, {} on {}, {} threads, {} runs",
            setting.model,
            setting.resolution,
            setting.frames,
            setting.dtype,
            setting.device,
            setting.threads,
            setting.runs
        )?;
        writeln!(
            f,
            "{}, {} cores, {}",
            machine.cpu.as_deref().unwrap_or("CPU unknown"),
            machine.cores,
            machine.isa
        )?;
        if let Some(peak) = &record.peak {
            let loops: Vec<_> =
                peak.loops.iter().map(|(name, flops)| format!("{name} {:.0}", flops / 1e9)).collect();
            writeln!(f, "register loops: {} GFLOP/s; shares are of {}", loops.join(", "), peak.name)?;
        }
        let average = record.load.average.map_or("unknown".to_string(), |average| format!("{average:.2}"));
        writeln!(f, "load average before: {average}; weights ready after {:.1} s", record.load_seconds)?;
        for part in Part::ALL {
            if let Some(of_part) = record.parts.get(&part) {
                write!(f, "\n{}", part.name())?;
                self.part(f, of_part)?;
                if let Some(peer) = record.peer.as_ref().and_then(|peer| peer.parts.get(&part)) {
                    self.peer(f, part, peer)?;
                }
            }
        }
        if let Some(seconds) = record.seconds_per_output_second {
            writeln!(f, "\nthe networks take {seconds:.1} s for a second of output (20 steps, no guidance)")?;
        }
        match &record.job {
            Some(job) => self.job(f, job),
            None => Ok(()),
        }
    }
}

impl Printed<'_> {
    fn part(&self, f: &mut fmt::Formatter<'_>, part: &PartRecord) -> fmt::Result {
        write!(f, ": {}; {:.3} TFLOP, {}", spread(&part.seconds), part.flop / 1e12, rate(part.flops))?;
        if let Some(share) = part.share_of_peak {
            write!(f, ", {:.0} % of the peak", 100.0 * share)?;
        }
        if let Some(bytes) = part.peak_memory_bytes {
            write!(f, "; {}", text::bytes(bytes))?;
        }
        writeln!(f)?;
        if let Some(flops) = part.core_flops {
            let share = part
                .core_share_of_peak
                .map_or(String::new(), |share| format!(", {:.0} % of its peak", 100.0 * share));
            writeln!(f, "  by processor time: {} a core{share}", rate(flops))?;
        }
        if let Some(others) = part.others_share.filter(|share| *share > 0.01) {
            writeln!(f, "  others had {:.0} % of the machine meanwhile", 100.0 * others)?;
        }
        writeln!(
            f,
            "  {:<58}{:>6}{:>10}{:>7}{:>12}{:>7}{:>9}",
            "fastest run", "calls", "ms", "share", "GFLOP/s", "peak", "GB/s"
        )?;
        for operation in &part.operations {
            self.operation(f, operation)?;
        }
        for shape in part.shapes.iter().take(SHAPES) {
            self.operation(f, shape)?;
        }
        Ok(())
    }

    fn operation(&self, f: &mut fmt::Formatter<'_>, of: &OperationRecord) -> fmt::Result {
        let name = match &of.shape {
            Some(shape) => format!("  {} {shape}", of.kind),
            None => of.kind.clone(),
        };
        let number = |value: f64| if value > 0.0 { format!("{:.0}", value / 1e9) } else { String::new() };
        let peak = of.share_of_peak.map_or(String::new(), |share| format!("{:.0} %", 100.0 * share));
        writeln!(
            f,
            "  {name:<58}{:>6}{:>10.2}{:>7}{:>12}{peak:>7}{:>9}",
            of.calls,
            of.seconds * 1e3,
            format!("{:.1} %", 100.0 * of.share),
            number(of.flops),
            number(of.bytes_per_second)
        )
    }

    fn peer(&self, f: &mut fmt::Formatter<'_>, part: Part, peer: &PeerPart) -> fmt::Result {
        writeln!(f, "  peer, {}: {}", peer.variant, spread(&peer.seconds))?;
        let tried: Vec<_> =
            peer.tried.iter().map(|(variant, seconds)| format!("{variant} {seconds:.3} s")).collect();
        writeln!(f, "  peer tried {}", tried.join(", "))?;
        for (variant, problem) in &peer.failed {
            writeln!(f, "  peer cannot run {variant}: {problem}")?;
        }
        let ratios = (self.0.ratios.get(&part), self.0.ratios_of_minima.get(&part));
        match ratios {
            (Some(medians), Some(minima)) => {
                writeln!(
                    f,
                    "  {medians:.2} times the peer's speed (medians; {minima:.2} by the fastest runs)"
                )
            }
            _ => Ok(()),
        }
    }

    fn job(&self, f: &mut fmt::Formatter<'_>, job: &JobRecord) -> fmt::Result {
        let deepcache = job.deepcache.map_or(String::new(), |interval| format!(", DeepCache {interval}"));
        let together = match job.batch_chunks {
            0 | 1 => String::new(),
            chunks => format!(", {chunks} chunks together"),
        };
        writeln!(
            f,
            "\njob: {}; {} frames at {} a second, {} steps{deepcache}{together}: {:.1} s for a second of output",
            spread(&job.seconds),
            job.frames,
            job.fps,
            job.steps,
            job.seconds_per_output_second
        )?;
        if let Some(bytes) = job.peak_memory_bytes {
            writeln!(f, "  {} at most", text::bytes(bytes))?;
        }
        writeln!(f, "  UNet and VAE have {:.1} % of the time", 100.0 * job.networks_share)?;
        for (stage, seconds) in &job.stage_seconds {
            writeln!(f, "  {stage:<18}{seconds:>10.3} s")?;
        }
        Ok(())
    }
}

fn spread(of: &Spread) -> String {
    format!("{:.4} s median ({:.4} to {:.4}, mean {:.4} ± {:.4})", of.median, of.min, of.max, of.mean, of.sd)
}

fn rate(flops: f64) -> String {
    format!("{:.0} GFLOP/s", flops / 1e9)
}
