//! The queue in memory: the order of the waiting jobs and the progress of the running one. The database is
//! authoritative.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use uuid::Uuid;

use super::inputs::media_id;
use super::store::{Group, Waiting};
use super::{ApiHooks, Blame, DataDir, Failure, JobRecord, Level, NewJob, Outcome, State, Store, now};
use crate::pipeline::report::Stage;
use crate::request::{Api, Request};
use crate::server::{Error, Result};
use crate::system::cancel::CancelToken;

/// A job during which the server ended this often runs after all others, since it may be the cause.
const SUSPICIOUS_ATTEMPTS: u32 = 3;
/// A job during which the server ended this often fails.
const MAX_ATTEMPTS: u32 = 40;
/// Shortest pause between two notifications of progress.
const MIN_PROGRESS_INTERVAL: Duration = Duration::from_millis(250);

/// Limits on accepted jobs.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Waiting jobs.
    pub queue: usize,
    /// Unfinished jobs of one key.
    pub per_key: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { queue: 1000, per_key: 1000 }
    }
}

/// Why a job is not accepted.
#[derive(Debug)]
pub enum SubmitError {
    QueueFull,
    /// The key has this many unfinished jobs already.
    KeyBusy(usize),
    /// The server is shutting down.
    Closed,
    Storage(Error),
}

/// The place of an unfinished job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LiveState {
    Queued {
        /// Jobs that run before this one.
        position: usize,
    },
    Running,
}

/// `done` of `total` units of `stage`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StageProgress {
    pub stage: Stage,
    pub done: usize,
    pub total: Option<usize>,
}

/// The result of a cancel request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CancelOutcome {
    /// The job was waiting and is cancelled.
    Cancelled,
    /// The job is running and stops at its next check.
    Requested,
    AlreadyEnded,
    Unknown,
}

/// What the worker does next.
pub enum Turn {
    Job {
        id: String,
        cancel: CancelToken,
    },
    /// No job came within the timeout.
    Idle,
    Closed,
}

/// All jobs: database, files and queue.
pub struct Jobs {
    pub store: Store,
    pub files: DataDir,
    limits: Limits,
    queue: Mutex<Queue>,
    wake: Condvar,
    changes: watch::Sender<u64>,
    /// Jobs that have ended since [`Jobs::take_ended`] was last called, by state.
    ended: Mutex<[u64; State::ALL.len()]>,
    /// Held while the directory is cleaned.
    pub(super) cleaning: Mutex<()>,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    /// Owner and API of jobs that are being stored.
    arriving: Vec<(String, Api)>,
    running: Option<Running>,
    closed: bool,
}

struct Running {
    job: Waiting,
    cancel: CancelToken,
    by_client: bool,
    /// The progress of each stage, in the order of the stages.
    progress: Vec<StageProgress>,
    /// When progress was last notified.
    notified_at: Option<Instant>,
}

impl Jobs {
    /// Opens the database in the data directory and queues its unfinished jobs.
    pub fn open(files: DataDir, limits: Limits, hooks: &'static dyn ApiHooks) -> Result<Self> {
        let store = Store::open(&files.database(), hooks)?;
        let mut queue = Queue::default();
        for job in store.unfinished()? {
            if let Some(outcome) = outcome_at_start(&job, &store, &files)? {
                if store.finish(&job.id, &outcome)? != Some(State::Completed) {
                    files.remove_result(&job.id);
                }
                continue;
            }
            if job.state == State::Running {
                tracing::info!(job = job.id, "was running when the last server ended; restarts");
                store.requeue(&job.id)?;
            }
            let group = match job.attempts {
                SUSPICIOUS_ATTEMPTS.. => Group::Suspicious,
                _ => job.priority.into(),
            };
            store.insert_inputs(&job.id, &stored_inputs(&job))?;
            // A job that was started before has met its start timeout.
            let start_by = job.start_by.filter(|_| job.started_at.is_none());
            queue.append(Waiting { id: job.id, owner: job.owner, api: job.api, group, start_by });
        }
        Ok(Self {
            store,
            files,
            limits,
            queue: Mutex::new(queue),
            wake: Condvar::new(),
            changes: watch::Sender::new(0),
            ended: Mutex::default(),
            cleaning: Mutex::default(),
        })
    }

    /// Ends a job, and deletes its output unless it has completed. Returns its final state; `None` if it had
    /// ended before. Blocks on the disk.
    pub fn finish(&self, id: &str, outcome: &Outcome) -> Result<Option<State>> {
        let ended = self.store.finish(id, outcome)?;
        if let Some(state) = ended {
            self.ended.lock().unwrap_or_else(PoisonError::into_inner)[state as usize] += 1;
            if state != State::Completed {
                self.files.remove_result(id);
            }
        }
        Ok(ended)
    }

    /// The number of jobs that have ended since the last call, by state.
    pub fn take_ended(&self) -> [(State, u64); State::ALL.len()] {
        let counts = std::mem::take(&mut *self.ended.lock().unwrap_or_else(PoisonError::into_inner));
        State::ALL.map(|state| (state, counts[state as usize]))
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn notify(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    /// A counter that increases whenever a job is accepted, progresses or ends.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Accepts a job and returns its identifier. The job then survives a crash of the server.
    /// `max_unfinished` is the limit of the API on the unfinished jobs of a key, beside that of the server.
    /// Blocks on the disk.
    pub fn submit(&self, job: &NewJob, max_unfinished: Option<usize>) -> Result<String, SubmitError> {
        let arriving = (job.owner.clone(), job.request.api);
        {
            let mut queue = self.lock();
            queue.admit(job, self.limits, max_unfinished)?;
            queue.arriving.push(arriving.clone());
        }
        let id = Uuid::new_v4().to_string();
        let stored = self.store.insert(&id, job, &own_files(&job.request));
        let mut queue = self.lock();
        if let Some(place) = queue.arriving.iter().position(|other| *other == arriving) {
            queue.arriving.swap_remove(place);
        }
        stored.map_err(SubmitError::Storage)?;
        let (owner, api) = arriving;
        let (group, start_by) = (job.priority.into(), job.start_by);
        queue.append(Waiting { id: id.clone(), owner, api, group, start_by });
        drop(queue);
        self.wake.notify_one();
        self.notify();
        Ok(id)
    }

    /// The place of a job; `None` if it has ended or does not exist.
    pub fn live(&self, id: &str) -> Option<LiveState> {
        let queue = self.lock();
        match &queue.running {
            Some(running) if running.job.id == id => Some(LiveState::Running),
            _ => {
                let position = queue.waiting.iter().position(|job| job.id == id)?;
                Some(LiveState::Queued { position })
            }
        }
    }

    /// The progress of the stages that have begun, in their order; empty unless the job is running.
    pub fn stages(&self, id: &str) -> Vec<StageProgress> {
        let queue = self.lock();
        let running = queue.running.as_ref().filter(|running| running.job.id == id);
        running.map(|running| running.progress.clone()).unwrap_or_default()
    }

    /// The number of waiting jobs.
    pub fn waiting(&self) -> usize {
        self.lock().waiting.len()
    }

    /// Cancels a job, waiting or running. Blocks on the disk.
    pub fn cancel(&self, id: &str) -> Result<CancelOutcome> {
        if self.end_waiting(id, &Outcome::Cancelled)? {
            return Ok(CancelOutcome::Cancelled);
        }
        let queue = self.lock();
        if queue.running.as_ref().is_some_and(|running| running.job.id == id) {
            drop(queue);
            if !self.store.request_cancel(id)? {
                return Ok(CancelOutcome::AlreadyEnded);
            }
            let mut queue = self.lock();
            if let Some(running) = queue.running.as_mut().filter(|running| running.job.id == id) {
                running.by_client = true;
                running.cancel.cancel();
            }
            return Ok(CancelOutcome::Requested);
        }
        drop(queue);
        Ok(match self.store.get(id)? {
            Some(_) => CancelOutcome::AlreadyEnded,
            None => CancelOutcome::Unknown,
        })
    }

    /// Ends a waiting job; `false` if it is not waiting. If the database cannot be written to, the job keeps
    /// its place. Blocks on the disk.
    fn end_waiting(&self, id: &str, outcome: &Outcome) -> Result<bool> {
        let mut queue = self.lock();
        let Some(place) = queue.waiting.iter().position(|job| job.id == id) else { return Ok(false) };
        let taken = queue.waiting.remove(place);
        drop(queue);
        let ended = self.finish(id, outcome);
        if ended.is_err() {
            let mut queue = self.lock();
            let place = place.min(queue.waiting.len());
            taken.into_iter().for_each(|job| queue.waiting.insert(place, job));
            self.wake.notify_one();
        }
        self.notify();
        ended.map(|_| true)
    }

    /// The waiting jobs whose start timeouts have expired at `now` (milliseconds since 1970).
    pub fn late(&self, now: i64) -> Vec<String> {
        let queue = self.lock();
        let late = queue.waiting.iter().filter(|job| job.start_by.is_some_and(|start_by| start_by <= now));
        late.map(|job| job.id.clone()).collect()
    }

    /// Fails waiting jobs whose start timeouts have expired. Blocks on the disk.
    pub fn end_late(&self, ids: &[String]) -> Result<()> {
        ids.iter().try_for_each(|id| self.end_waiting(id, &start_timeout()).map(|_| ()))
    }

    /// Takes the next job. Waits for one, up to `timeout`.
    pub fn next(&self, timeout: Option<Duration>) -> Turn {
        let until = timeout.map(|timeout| Instant::now() + timeout);
        let mut queue = self.lock();
        loop {
            if queue.closed {
                return Turn::Closed;
            }
            if let Some(job) = queue.waiting.pop_front() {
                let (id, cancel) = (job.id.clone(), CancelToken::new());
                let running = Running {
                    job,
                    cancel: cancel.clone(),
                    by_client: false,
                    progress: Vec::new(),
                    notified_at: None,
                };
                queue.running = Some(running);
                return Turn::Job { id, cancel };
            }
            queue = match until {
                None => self.wake.wait(queue).unwrap_or_else(PoisonError::into_inner),
                Some(until) => {
                    let Some(left) = until.checked_duration_since(Instant::now()) else {
                        return Turn::Idle;
                    };
                    self.wake.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// The job that runs next.
    pub fn first(&self) -> Option<String> {
        self.lock().waiting.front().map(|job| job.id.clone())
    }

    /// Sleeps for `time`, or until the queue is closed.
    pub fn pause(&self, time: Duration) {
        let until = Instant::now() + time;
        let mut queue = self.lock();
        while !queue.closed
            && let Some(left) = until.checked_duration_since(Instant::now())
        {
            queue = self.wake.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Adds a line to a job's log. A failure is logged only.
    pub fn log(&self, id: &str, level: Level, message: &str) {
        if let Err(error) = self.store.log(id, level, message) {
            tracing::error!(job = id, "a log line cannot be stored: {error}");
        }
    }

    /// Records the progress of the running job.
    pub fn progress(&self, progress: StageProgress) {
        let mut queue = self.lock();
        let Some(running) = &mut queue.running else { return };
        match running.progress.binary_search_by_key(&progress.stage, |known| known.stage) {
            Ok(place) => running.progress[place] = progress,
            Err(place) => running.progress.insert(place, progress),
        }
        if running.notified_at.is_none_or(|at| at.elapsed() >= MIN_PROGRESS_INTERVAL) {
            running.notified_at = Some(Instant::now());
            drop(queue);
            self.notify();
        }
    }

    /// Notifies subscribers that the job that was taken has started.
    pub fn started(&self) {
        self.notify();
    }

    /// Whether the running job was cancelled by the end of the server, not by its client.
    pub fn stopped_by_closing(&self) -> bool {
        let queue = self.lock();
        queue.closed && queue.running.as_ref().is_some_and(|running| !running.by_client)
    }

    /// Marks the job that was taken as finished; its outcome is in the database.
    pub fn end_turn(&self) {
        self.lock().running = None;
        self.notify();
    }

    /// Refuses further jobs and stops the running one, which the next server restarts.
    pub fn close(&self) {
        let mut queue = self.lock();
        queue.closed = true;
        if let Some(running) = &queue.running {
            running.cancel.cancel();
        }
        drop(queue);
        self.wake.notify_all();
        self.notify();
    }

    pub fn is_closed(&self) -> bool {
        self.lock().closed
    }
}

impl Queue {
    /// Adds a job after the last one of its group.
    fn append(&mut self, job: Waiting) {
        let place = self.waiting.partition_point(|other| other.group <= job.group);
        self.waiting.insert(place, job);
    }

    fn admit(&self, job: &NewJob, limits: Limits, max_unfinished: Option<usize>) -> Result<(), SubmitError> {
        if self.closed {
            return Err(SubmitError::Closed);
        }
        if self.waiting.len() + self.arriving.len() >= limits.queue {
            return Err(SubmitError::QueueFull);
        }
        let unfinished = || {
            let waiting = self.waiting.iter().chain(self.running.as_ref().map(|running| &running.job));
            let waiting = waiting.map(|waiting| (&waiting.owner, waiting.api));
            let arriving = self.arriving.iter().map(|(owner, api)| (owner, *api));
            waiting.chain(arriving).filter(|(owner, _)| **owner == job.owner)
        };
        if unfinished().count() >= limits.per_key {
            return Err(SubmitError::KeyBusy(limits.per_key));
        }
        match max_unfinished {
            Some(limit) if unfinished().filter(|(_, api)| *api == job.request.api).count() >= limit => {
                Err(SubmitError::KeyBusy(limit))
            }
            _ => Ok(()),
        }
    }
}

/// The outcome of a job whose end the last server did not record; `None` if the job is to run.
fn outcome_at_start(job: &JobRecord, store: &Store, files: &DataDir) -> Result<Option<Outcome>> {
    if store.cancel_requested(&job.id)? {
        return Ok(Some(Outcome::Cancelled));
    }
    if let Some(output) = files.published(&job.id) {
        return Ok(Some(Outcome::Completed(output)));
    }
    if job.started_at.is_none() && job.start_by.is_some_and(|start_by| start_by <= now()) {
        return Ok(Some(start_timeout()));
    }
    if job.state != State::Running {
        return Ok(None);
    }
    Ok((job.attempts >= MAX_ATTEMPTS).then(|| {
        let message = format!("the server ended {MAX_ATTEMPTS} times while it ran this job");
        Outcome::Failed(Failure::of(Blame::Server, message))
    }))
}

/// The identifiers of this server's uploads and results that a job reads.
fn own_files(request: &Request) -> Vec<String> {
    [&request.video, &request.audio].into_iter().filter_map(|url| media_id(url)).collect()
}

/// [`own_files`] of a stored job; none if its body can no longer be parsed.
fn stored_inputs(job: &JobRecord) -> Vec<String> {
    Request::from_json(&job.body, Some(job.api)).map(|request| own_files(&request)).unwrap_or_default()
}

fn start_timeout() -> Outcome {
    let message = "the request was not started within the time that it allowed for that".to_string();
    Outcome::Failed(Failure::of(Blame::StartTimeout, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_run_in_order_and_jobs_within_a_group_too() {
        let mut queue = Queue::default();
        for (id, group) in [
            ("suspect", Group::Suspicious),
            ("low", Group::Low),
            ("first", Group::Normal),
            ("lower", Group::Low),
            ("second", Group::Normal),
        ] {
            let (owner, api) = (String::new(), Api::Fal);
            queue.append(Waiting { id: id.to_string(), owner, api, group, start_by: None });
        }
        let order: Vec<&str> = queue.waiting.iter().map(|job| job.id.as_str()).collect();
        assert_eq!(order, ["first", "second", "low", "lower", "suspect"]);
    }
}
