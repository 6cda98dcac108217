//! The runs of one part, timed, and the operations of the fastest of them by kind and by shape.

use std::collections::BTreeMap;
use std::time::Instant;

use kernels::profile::{self, Operation, Totals};

use super::Part;
use super::machine::Usage;
use super::record::{OperationRecord, PartRecord, Peak};
use super::subject::Work;
use crate::bench::Result;
use crate::bench::stats::Spread;
use crate::error::compute;
use crate::system::machine::peak_memory_bytes;

/// The runs of one part.
pub struct PartRuns<'a> {
    part: Part,
    work: Work<'a>,
    first_seconds: Option<f64>,
    seconds: Vec<f64>,
    processor_seconds: Vec<f64>,
    others: Vec<f64>,
    /// Of the fastest run.
    profile: Option<(f64, Vec<Operation>)>,
}

impl<'a> PartRuns<'a> {
    pub fn new(part: Part, work: Work<'a>) -> Self {
        Self {
            part,
            work,
            first_seconds: None,
            seconds: Vec::new(),
            processor_seconds: Vec::new(),
            others: Vec::new(),
            profile: None,
        }
    }

    fn once(&mut self) -> Result<f64> {
        let started = Instant::now();
        (self.work)().map_err(compute(self.part.name()))?;
        let seconds = started.elapsed().as_secs_f64();
        self.first_seconds.get_or_insert(seconds);
        Ok(seconds)
    }

    pub fn warm_up(&mut self) -> Result<()> {
        self.once().map(drop)
    }

    /// A run that counts. On a CPU the operations are timed in it: that costs two looks at the clock each.
    pub fn run(&mut self, profiled: bool) -> Result<()> {
        let usage = Usage::now();
        if profiled {
            profile::start();
        }
        let result = self.once();
        let operations = profile::stop();
        let seconds = result?;
        if let Some(used) = usage.and_then(|usage| usage.since()) {
            self.processor_seconds.push(used.own_seconds);
            self.others.extend(used.others_share);
        }
        if profiled && self.seconds.iter().all(|other| seconds < *other) {
            self.profile = Some((seconds, operations));
        }
        self.seconds.push(seconds);
        Ok(())
    }

    pub fn finish(mut self, profiled: bool, peak: Option<&Peak>) -> Result<PartRecord> {
        let peak_memory_bytes = peak_memory_bytes();
        if !profiled {
            // A device is not waited for between operations, unless they are to be told apart.
            profile::start();
            let result = self.once();
            self.profile = Some((result?, profile::stop()));
        }
        let (run_seconds, operations) = self.profile.unwrap_or_default();
        let seconds = Spread::of(self.seconds);
        let flop = operations.iter().map(|operation| operation.totals.flop).sum();
        let of_peak = |flops: f64| peak.map(|peak| flops / peak.flops);
        let flops = rate(flop, seconds.median);
        let processor_seconds =
            (!self.processor_seconds.is_empty()).then(|| Spread::of(self.processor_seconds));
        let of_core = processor_seconds.as_ref().filter(|seconds| seconds.median > 0.0);
        let core_flops = of_core.map(|seconds| flop / seconds.median);
        let core_peak = peak.map(|peak| peak.flops / rayon::current_num_threads() as f64);
        let table = Table { run_seconds, peak: peak.map(|peak| peak.flops) };
        Ok(PartRecord {
            first_seconds: self.first_seconds.unwrap_or_default(),
            core_share_of_peak: core_flops.zip(core_peak).map(|(flops, peak)| flops / peak),
            core_flops,
            processor_seconds,
            others_share: mean(&self.others),
            flop,
            flops,
            share_of_peak: of_peak(flops),
            peak_memory_bytes,
            operations: table.by_kind(&operations),
            shapes: table.by_shape(&operations),
            seconds,
        })
    }
}

/// Turns a profile into lines.
struct Table {
    run_seconds: f64,
    peak: Option<f64>,
}

impl Table {
    fn by_kind(&self, operations: &[Operation]) -> Vec<OperationRecord> {
        let mut kinds: BTreeMap<_, Totals> = BTreeMap::new();
        for Operation { kind, totals, .. } in operations {
            let sum = kinds.entry(*kind).or_default();
            sum.calls += totals.calls;
            sum.seconds += totals.seconds;
            sum.flop += totals.flop;
            sum.bytes += totals.bytes;
        }
        let timed: f64 = kinds.values().map(|totals| totals.seconds).sum();
        let other = Totals { seconds: (self.run_seconds - timed).max(0.0), ..Totals::default() };
        let lines = kinds.into_iter().map(|(kind, totals)| self.line(kind.name(), None, totals));
        sorted(lines.chain([self.line("other", None, other)]))
    }

    fn by_shape(&self, operations: &[Operation]) -> Vec<OperationRecord> {
        let line = |of: &Operation| self.line(of.kind.name(), Some(of.shape.clone()), of.totals);
        sorted(operations.iter().map(line))
    }

    fn line(&self, kind: &str, shape: Option<String>, totals: Totals) -> OperationRecord {
        let Totals { calls, seconds, flop, bytes } = totals;
        let flops = rate(flop, seconds);
        OperationRecord {
            kind: kind.to_string(),
            shape,
            calls,
            seconds,
            share: rate(seconds, self.run_seconds),
            flop,
            flops,
            share_of_peak: self.peak.filter(|_| flop > 0.0).map(|peak| flops / peak),
            bytes,
            bytes_per_second: rate(bytes, seconds),
        }
    }
}

/// The slowest first.
fn sorted(lines: impl Iterator<Item = OperationRecord>) -> Vec<OperationRecord> {
    let mut lines: Vec<_> = lines.collect();
    lines.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    lines
}

fn rate(amount: f64, seconds: f64) -> f64 {
    if seconds > 0.0 { amount / seconds } else { 0.0 }
}

fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

#[cfg(test)]
mod tests {
    use kernels::profile::Kind;

    use super::*;

    #[test]
    fn kinds_add_up_to_the_run() {
        let operation = |kind, shape: &str, seconds, flop| Operation {
            kind,
            shape: shape.into(),
            totals: Totals { calls: 2, seconds, flop, bytes: 10.0 },
        };
        let operations = [
            operation(Kind::Linear, "a", 1.0, 100.0),
            operation(Kind::Linear, "b", 3.0, 100.0),
            operation(Kind::LayerNorm, "c", 0.5, 0.0),
        ];
        let table = Table { run_seconds: 5.0, peak: Some(100.0) };
        let kinds = table.by_kind(&operations);
        let names: Vec<_> = kinds.iter().map(|line| line.kind.as_str()).collect();
        assert_eq!(names, ["linear", "layer_norm", "other"]);
        assert_eq!((kinds[0].calls, kinds[0].seconds, kinds[0].flops), (4, 4.0, 50.0));
        assert_eq!((kinds[0].share_of_peak, kinds[1].share_of_peak), (Some(0.5), None));
        assert_eq!(kinds.iter().map(|line| line.share).sum::<f64>(), 1.0);
        assert_eq!(table.by_shape(&operations)[0].shape.as_deref(), Some("b"));
    }
}
