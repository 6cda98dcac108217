//! What a measurement ran on, and what else ran there. From Linux's `/proc`; elsewhere it is not known.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::system::machine;

/// How long other processes are watched before a measurement.
const WATCH: Duration = Duration::from_millis(500);
/// The share of a core from which another process is named.
const BUSY: f64 = 0.1;
/// Clock ticks a second in `/proc`, on every Linux that Rust runs on.
const TICKS: f64 = 100.0;

/// The machine, as far as it tells.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    pub cpu: Option<String>,
    pub cores: usize,
    pub memory_bytes: Option<u64>,
    /// Of the operating system.
    pub system: String,
    /// The instruction set that the CPU kernels use.
    pub isa: String,
}

impl Machine {
    pub fn here() -> Self {
        let cpu = fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| {
            let line = text.lines().find(|line| line.starts_with("model name"))?;
            Some(line.split_once(':')?.1.trim().to_string())
        });
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self {
            cpu,
            cores: thread::available_parallelism().map_or(1, usize::from),
            memory_bytes: machine::memory_bytes(),
            system: format!("{} {}", std::env::consts::OS, release.trim()).trim().to_string(),
            isa: kernels::cpu::Isa::current().name().to_string(),
        }
    }
}

/// How busy the machine was without the measurement.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Load {
    /// Processes that wanted to run, averaged over the last minute.
    pub average: Option<f64>,
    /// Those that took a tenth of a core or more, the busiest first.
    pub busy: Vec<BusyProcess>,
}

/// Another process that computes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BusyProcess {
    pub name: String,
    /// Of one core.
    pub share: f64,
}

impl Load {
    /// Watches for half a second, in which this process should rest.
    pub fn now() -> Self {
        let average = fs::read_to_string("/proc/loadavg")
            .ok()
            .and_then(|text| text.split_whitespace().next()?.parse().ok());
        let before = processes();
        thread::sleep(WATCH);
        let mut busy: Vec<_> = processes()
            .into_iter()
            .filter_map(|(id, (name, ticks))| {
                let since = ticks - before.get(&id).map_or(ticks, |(_, ticks)| *ticks);
                let share = since / TICKS / WATCH.as_secs_f64();
                (share >= BUSY && id != std::process::id()).then_some(BusyProcess { name, share })
            })
            .collect();
        busy.sort_by(|a, b| b.share.total_cmp(&a.share));
        Self { average, busy }
    }
}

/// Name and ticks of processor time by process.
fn processes() -> HashMap<u32, (String, f64)> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return HashMap::new();
    };
    let of_process = |entry: fs::DirEntry| {
        let id = entry.file_name().to_str()?.parse().ok()?;
        Some((id, process_ticks(&entry.path())?))
    };
    entries.flatten().filter_map(of_process).collect()
}

/// Of a process's directory: its name, and its ticks in both modes.
fn process_ticks(directory: &Path) -> Option<(String, f64)> {
    let text = fs::read_to_string(directory.join("stat")).ok()?;
    // The name is in brackets, and may contain any others.
    let (start, end) = (text.find('(')?, text.rfind(')')?);
    let mut fields = text[end + 1..].split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<f64>().ok();
    Some((text[start + 1..end].to_string(), ticks()? + ticks()?))
}

/// Processor time since a moment: this process's own, and the whole machine's.
pub struct Usage {
    own: f64,
    busy: f64,
    all: f64,
}

/// What was used between two moments.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Used {
    /// Seconds of all of this process's threads.
    pub own_seconds: f64,
    /// The share of all cores that other processes took, or that the host did not give; absent where the time was too
    /// short to tell.
    pub others_share: Option<f64>,
}

impl Usage {
    pub fn now() -> Option<Self> {
        let (_, own) = process_ticks(Path::new("/proc/self"))?;
        let text = fs::read_to_string("/proc/stat").ok()?;
        let line = text.lines().next()?.strip_prefix("cpu ")?;
        // user nice system idle iowait irq softirq steal
        let ticks: Vec<f64> =
            line.split_whitespace().take(8).filter_map(|field| field.parse().ok()).collect();
        let [_, _, _, idle, wait, ..] = ticks[..] else { return None };
        let all: f64 = ticks.iter().sum();
        Some(Self { own, busy: all - idle - wait, all })
    }

    pub fn since(&self) -> Option<Used> {
        let now = Self::now()?;
        let (own, busy, all) = (now.own - self.own, now.busy - self.busy, now.all - self.all);
        let others_share = (all >= 20.0).then(|| ((busy - own) / all).clamp(0.0, 1.0));
        Some(Used { own_seconds: own / TICKS, others_share })
    }
}

/// Lets the peak of memory begin again with what is held now, where the system allows that.
pub fn reset_peak_memory() {
    // Refused on some systems; the peak is then that of the whole process.
    let _ = fs::write("/proc/self/clear_refs", "5");
}

/// The commit that the current directory is at, with `-dirty` where files differ from it.
pub fn commit() -> Option<String> {
    let output =
        Command::new("git").args(["describe", "--always", "--dirty", "--abbrev=12"]).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    (output.status.success() && !text.trim().is_empty()).then(|| text.trim().to_string())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_seen_to_compute() {
        let before = Usage::now().unwrap();
        let mut sum = 0u64;
        let used = loop {
            sum = (0..1_000_000).fold(sum, |sum: u64, i| sum.wrapping_mul(31) ^ i);
            let used = before.since().unwrap();
            if used.own_seconds >= 0.05 && used.others_share.is_some() {
                break used;
            }
        };
        std::hint::black_box(sum);
        assert!(used.others_share.is_some_and(|share| (0.0..=1.0).contains(&share)), "{used:?}");
        let (name, ticks) = process_ticks(Path::new("/proc/self")).unwrap();
        assert!(!name.is_empty() && ticks >= 5.0, "{name} {ticks}");
    }
}
