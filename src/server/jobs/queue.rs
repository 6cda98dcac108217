//! Whose turn it is. The database is what counts; this is the part of it that changes often, in memory.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::sync::watch;
use uuid::Uuid;

use super::inputs::own_id;
use super::store::{Group, Waiting};
use super::{Blame, DataDir, Failure, JobRecord, Level, NewJob, Outcome, State, Store, now};
use crate::pipeline::report::Stage;
use crate::request::{Api, Request};
use crate::server::{Error, Result};
use crate::system::cancel::CancelToken;

/// A job during which the server ended this often waits until all others have run: it may be the cause.
const SUSPICIOUS_ATTEMPTS: u32 = 3;
/// And this often, it is given up.
const MAX_ATTEMPTS: u32 = 40;
/// Progress is told to those who listen at most this often.
const PROGRESS_EVERY: Duration = Duration::from_millis(250);

/// How much is accepted.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Jobs that wait.
    pub queue: usize,
    /// Jobs of one key that wait or run.
    pub per_key: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { queue: 1000, per_key: 1000 }
    }
}

/// Why a job is not accepted.
#[derive(Debug)]
pub enum Refused {
    QueueFull,
    /// The key has this many unfinished jobs already.
    KeyBusy(usize),
    /// The server is shutting down.
    Closed,
    Storage(Error),
}

/// What is known of an unfinished job beyond its record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Live {
    /// Jobs that come before this one.
    Queued {
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

/// What became of the wish to cancel a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cancelled {
    /// It was waiting, and is gone.
    Done,
    /// It is running, and stops at the next safe place.
    Requested,
    AlreadyEnded,
    Unknown,
}

/// The worker's next task.
pub enum Turn {
    Job {
        id: String,
        cancel: CancelToken,
    },
    /// Nothing has come for the whole time that the worker wanted to wait.
    Idle,
    Closed,
}

/// All jobs, those in the database and those in the queue.
pub struct Jobs {
    pub store: Store,
    pub files: DataDir,
    limits: Limits,
    queue: Mutex<Queue>,
    wake: Condvar,
    changes: watch::Sender<u64>,
    /// Jobs that have ended and were not asked for yet, by state.
    ended: Mutex<[u64; State::ALL.len()]>,
    /// Held by who cleans the directory.
    pub(super) cleaning: Mutex<()>,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    /// Jobs on their way into the database.
    arriving: Vec<(String, Api)>,
    running: Option<Running>,
    closed: bool,
}

struct Running {
    job: Waiting,
    cancel: CancelToken,
    by_client: bool,
    /// How far each stage is, in the stages' order.
    progress: Vec<StageProgress>,
    told: Option<Instant>,
}

impl Jobs {
    /// Opens the data directory and takes up the jobs that the last server left there.
    pub fn open(files: DataDir, limits: Limits) -> Result<Self> {
        let store = Store::open(&files.database())?;
        let mut queue = Queue::default();
        for job in store.unfinished()? {
            if let Some(outcome) = left_over(&job, &store, &files)? {
                if store.finish(&job.id, &outcome)? != Some(State::Completed) {
                    files.remove_result(&job.id);
                }
                continue;
            }
            if job.state == State::Running {
                tracing::info!(job = job.id, "was running when the last server ended; starts again");
                store.requeue(&job.id)?;
            }
            let group = match job.attempts {
                SUSPICIOUS_ATTEMPTS.. => Group::Suspicious,
                _ => job.priority.into(),
            };
            store.insert_inputs(&job.id, &own_files(&job.body, job.api))?;
            // What has begun once has begun in time.
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

    /// Ends a job. What it may have written goes, unless it has completed. Returns how it ended; `None` if it had
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

    /// How many jobs have ended in which state since this was last asked.
    pub fn take_ended(&self) -> [(State, u64); State::ALL.len()] {
        let counts = std::mem::take(&mut *self.ended.lock().unwrap_or_else(PoisonError::into_inner));
        State::ALL.map(|state| (state, counts[state as usize]))
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    /// Counts up whenever a job comes, moves or ends.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Accepts a job: once this returns its identifier, the job survives the server. `at_once` is how many
    /// unfinished jobs of one key the API allows, beside what this server allows. Blocks on the disk.
    pub fn submit(&self, job: &NewJob, at_once: Option<usize>) -> Result<String, Refused> {
        let arriving = (job.owner.clone(), job.api);
        {
            let mut queue = self.lock();
            queue.admit(job, self.limits, at_once)?;
            queue.arriving.push(arriving.clone());
        }
        let id = Uuid::new_v4().to_string();
        let stored = self.store.insert(&id, job, &own_files(&job.body, job.api));
        let mut queue = self.lock();
        if let Some(place) = queue.arriving.iter().position(|other| *other == arriving) {
            queue.arriving.swap_remove(place);
        }
        stored.map_err(Refused::Storage)?;
        let (owner, api) = arriving;
        let (group, start_by) = (job.priority.into(), job.start_by);
        queue.append(Waiting { id: id.clone(), owner, api, group, start_by });
        drop(queue);
        self.wake.notify_one();
        self.tell();
        Ok(id)
    }

    /// Where an unfinished job is; `None` once it has ended, and for those that never were.
    pub fn live(&self, id: &str) -> Option<Live> {
        let queue = self.lock();
        match &queue.running {
            Some(running) if running.job.id == id => Some(Live::Running),
            _ => {
                let position = queue.waiting.iter().position(|job| job.id == id)?;
                Some(Live::Queued { position })
            }
        }
    }

    /// How far each stage of a job is that has begun, in the stages' order; none unless the job runs.
    pub fn stages(&self, id: &str) -> Vec<StageProgress> {
        let queue = self.lock();
        let running = queue.running.as_ref().filter(|running| running.job.id == id);
        running.map(|running| running.progress.clone()).unwrap_or_default()
    }

    pub fn waiting(&self) -> usize {
        self.lock().waiting.len()
    }

    /// Cancels a job, waiting or running. Blocks on the disk.
    pub fn cancel(&self, id: &str) -> Result<Cancelled> {
        if self.end_waiting(id, &Outcome::Cancelled)? {
            return Ok(Cancelled::Done);
        }
        let queue = self.lock();
        if queue.running.as_ref().is_some_and(|running| running.job.id == id) {
            drop(queue);
            if !self.store.request_cancel(id)? {
                return Ok(Cancelled::AlreadyEnded);
            }
            let mut queue = self.lock();
            if let Some(running) = queue.running.as_mut().filter(|running| running.job.id == id) {
                running.by_client = true;
                running.cancel.cancel();
            }
            return Ok(Cancelled::Requested);
        }
        drop(queue);
        Ok(match self.store.get(id)? {
            Some(_) => Cancelled::AlreadyEnded,
            None => Cancelled::Unknown,
        })
    }

    /// Ends a job that waits, and keeps it in its place if that cannot be noted; `false` if it does not wait. Blocks
    /// on the disk.
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
        self.tell();
        ended.map(|_| true)
    }

    /// The waiting jobs whose clients wanted them to have started by `now` (milliseconds since 1970).
    pub fn late(&self, now: i64) -> Vec<String> {
        let queue = self.lock();
        let late = queue.waiting.iter().filter(|job| job.start_by.is_some_and(|start_by| start_by <= now));
        late.map(|job| job.id.clone()).collect()
    }

    /// Ends jobs whose turn did not come in time. Blocks on the disk.
    pub fn end_late(&self, ids: &[String]) -> Result<()> {
        ids.iter().try_for_each(|id| self.end_waiting(id, &too_late()).map(|_| ()))
    }

    /// Waits for the next job, at most `patience`, and takes it.
    pub fn next(&self, patience: Option<Duration>) -> Turn {
        let until = patience.map(|patience| Instant::now() + patience);
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
                    told: None,
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

    /// The job that comes next.
    pub fn first(&self) -> Option<String> {
        self.lock().waiting.front().map(|job| job.id.clone())
    }

    /// Waits, but not longer than the server runs.
    pub fn pause(&self, time: Duration) {
        let until = Instant::now() + time;
        let mut queue = self.lock();
        while !queue.closed
            && let Some(left) = until.checked_duration_since(Instant::now())
        {
            queue = self.wake.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Keeps a line of a job's log, if the disk takes it.
    pub fn log(&self, id: &str, level: Level, message: &str) {
        if let Err(error) = self.store.log(id, level, message) {
            tracing::error!(job = id, "a line of the log is lost: {error}");
        }
    }

    /// Notes how far the running job is.
    pub fn progress(&self, progress: StageProgress) {
        let mut queue = self.lock();
        let Some(running) = &mut queue.running else { return };
        match running.progress.binary_search_by_key(&progress.stage, |known| known.stage) {
            Ok(place) => running.progress[place] = progress,
            Err(place) => running.progress.insert(place, progress),
        }
        if running.told.is_none_or(|told| told.elapsed() >= PROGRESS_EVERY) {
            running.told = Some(Instant::now());
            drop(queue);
            self.tell();
        }
    }

    /// The job that was taken is started: those who listen learn of it.
    pub fn started(&self) {
        self.tell();
    }

    /// Whether the running job was cancelled because the server ends, and not by its client.
    pub fn stopped_by_closing(&self) -> bool {
        let queue = self.lock();
        queue.closed && queue.running.as_ref().is_some_and(|running| !running.by_client)
    }

    /// The job that was taken is done with, and the database knows how it ended.
    pub fn end_turn(&self) {
        self.lock().running = None;
        self.tell();
    }

    /// Accepts no more jobs and stops the running one, which the next server starts again.
    pub fn close(&self) {
        let mut queue = self.lock();
        queue.closed = true;
        if let Some(running) = &queue.running {
            running.cancel.cancel();
        }
        drop(queue);
        self.wake.notify_all();
        self.tell();
    }

    pub fn is_closed(&self) -> bool {
        self.lock().closed
    }
}

impl Queue {
    /// The last of its group.
    fn append(&mut self, job: Waiting) {
        let place = self.waiting.partition_point(|other| other.group <= job.group);
        self.waiting.insert(place, job);
    }

    fn admit(&self, job: &NewJob, limits: Limits, at_once: Option<usize>) -> Result<(), Refused> {
        if self.closed {
            return Err(Refused::Closed);
        }
        if self.waiting.len() + self.arriving.len() >= limits.queue {
            return Err(Refused::QueueFull);
        }
        let unfinished = || {
            let waiting = self.waiting.iter().chain(self.running.as_ref().map(|running| &running.job));
            let waiting = waiting.map(|waiting| (&waiting.owner, waiting.api));
            let arriving = self.arriving.iter().map(|(owner, api)| (owner, *api));
            waiting.chain(arriving).filter(|(owner, _)| **owner == job.owner)
        };
        if unfinished().count() >= limits.per_key {
            return Err(Refused::KeyBusy(limits.per_key));
        }
        match at_once {
            Some(limit) if unfinished().filter(|(_, api)| *api == job.api).count() >= limit => {
                Err(Refused::KeyBusy(limit))
            }
            _ => Ok(()),
        }
    }
}

/// How a job has ended that the last server did not get to mark as ended; `None` if it is to run.
fn left_over(job: &JobRecord, store: &Store, files: &DataDir) -> Result<Option<Outcome>> {
    if store.cancel_requested(&job.id)? {
        return Ok(Some(Outcome::Cancelled));
    }
    if let Some(output) = files.published(&job.id) {
        return Ok(Some(Outcome::Completed(output)));
    }
    if job.started_at.is_none() && job.start_by.is_some_and(|start_by| start_by <= now()) {
        return Ok(Some(too_late()));
    }
    if job.state != State::Running {
        return Ok(None);
    }
    Ok((job.attempts >= MAX_ATTEMPTS).then(|| {
        let message = format!("the server ended {MAX_ATTEMPTS} times while it ran this job");
        Outcome::Failed(Failure::of(Blame::Server, message))
    }))
}

/// The uploads and results of this server that a job reads.
fn own_files(body: &Value, api: Api) -> Vec<String> {
    let Ok(request) = Request::from_json(body, Some(api)) else { return Vec::new() };
    [request.video, request.audio].iter().filter_map(|url| own_id(url)).collect()
}

fn too_late() -> Outcome {
    let message = "the request was not started within the time that it allowed for that".to_string();
    Outcome::Failed(Failure::of(Blame::Patience, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn low_ones_wait_for_all_others_and_suspects_for_those() {
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
