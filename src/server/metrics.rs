//! Numbers for Prometheus: jobs by state, the queue's wait, the stages' times, memory.

use std::sync::atomic::{AtomicBool, Ordering};

use prometheus::{
    CounterVec, Histogram, HistogramOpts, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};
use prometheus::{Encoder, TextEncoder};

use super::jobs::{JobRecord, Jobs};
use crate::pipeline::report::{Report, Stage};
use crate::system::machine::{peak_memory_bytes, proc_bytes};

/// Waits and runs are counted in buckets of seconds.
const SECONDS: [f64; 10] = [0.1, 1.0, 5.0, 15.0, 60.0, 180.0, 600.0, 1800.0, 3600.0, 14400.0];

/// The server's numbers.
pub struct Metrics {
    registry: Registry,
    ready: AtomicBool,
    jobs: IntGaugeVec,
    ended: IntCounterVec,
    queued: IntGauge,
    wait: Histogram,
    run: Histogram,
    stages: CounterVec,
    memory: IntGauge,
    peak_memory: IntGauge,
}

impl Metrics {
    pub fn new() -> Result<Self, prometheus::Error> {
        let histogram = |name: &str, help: &str| {
            Histogram::with_opts(HistogramOpts::new(name, help).buckets(SECONDS.to_vec()))
        };
        let metrics = Self {
            registry: Registry::new(),
            ready: AtomicBool::new(false),
            jobs: IntGaugeVec::new(
                Opts::new("latentsync_jobs", "Jobs in the database by state"),
                &["state"],
            )?,
            ended: IntCounterVec::new(
                Opts::new("latentsync_jobs_ended_total", "Jobs that ended since the server started"),
                &["state"],
            )?,
            queued: IntGauge::new("latentsync_queue_length", "Jobs that wait for their turn")?,
            wait: histogram("latentsync_queue_wait_seconds", "From a job's acceptance to its start")?,
            run: histogram("latentsync_run_seconds", "Time that the engine took for a job")?,
            stages: CounterVec::new(
                Opts::new("latentsync_stage_seconds_total", "Seconds of work by stage"),
                &["stage"],
            )?,
            memory: IntGauge::new("latentsync_memory_bytes", "Memory that the process holds")?,
            peak_memory: IntGauge::new("latentsync_memory_peak_bytes", "The most it has held")?,
        };
        let collectors: [Box<dyn prometheus::core::Collector>; 8] = [
            Box::new(metrics.jobs.clone()),
            Box::new(metrics.ended.clone()),
            Box::new(metrics.queued.clone()),
            Box::new(metrics.wait.clone()),
            Box::new(metrics.run.clone()),
            Box::new(metrics.stages.clone()),
            Box::new(metrics.memory.clone()),
            Box::new(metrics.peak_memory.clone()),
        ];
        for collector in collectors {
            metrics.registry.register(collector)?;
        }
        Ok(metrics)
    }

    /// The model has been loaded.
    pub fn ready(&self) {
        self.ready.store(true, Ordering::Relaxed);
    }

    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }

    pub(super) fn waited(&self, job: &JobRecord) {
        if let Some(started) = job.started_at {
            self.wait.observe((started - job.created_at).max(0) as f64 / 1000.0);
        }
    }

    pub(super) fn stages(&self, report: &Report) {
        self.run.observe(report.seconds);
        for stage in Stage::ALL {
            let seconds = report.stage_seconds.seconds(stage);
            self.stages.with_label_values(&[stage.name()]).inc_by(seconds);
        }
    }

    /// All numbers, in Prometheus' text format.
    pub fn text(&self, jobs: &Jobs) -> crate::server::Result<Vec<u8>> {
        for (state, count) in jobs.store.count()? {
            self.jobs.with_label_values(&[state.name()]).set(count as i64);
        }
        for (state, count) in jobs.take_ended().into_iter().filter(|(state, _)| state.is_final()) {
            self.ended.with_label_values(&[state.name()]).inc_by(count);
        }
        self.queued.set(jobs.waiting() as i64);
        self.memory.set(proc_bytes("/proc/self/status", "VmRSS:").unwrap_or(0) as i64);
        self.peak_memory.set(peak_memory_bytes().unwrap_or(0) as i64);
        let mut text = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            tracing::error!("the metrics cannot be written: {error}");
        }
        Ok(text)
    }
}
