//! Whose turn it is. The database is what counts; this is the part of it that changes often, in memory.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use uuid::Uuid;

use super::store::Waiting;
use super::{Blame, DataDir, Failure, JobRecord, NewJob, Outcome, State, Store};
use crate::error::{Error, Result};
use crate::report::{CancelToken, Stage};
use crate::request::Api;

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
    Running(Option<StageProgress>),
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
    progress: Option<StageProgress>,
    told: Option<Instant>,
}

impl Jobs {
    /// Opens the data directory and takes up the jobs that the last server left there.
    pub fn open(files: DataDir, limits: Limits) -> Result<Self> {
        let store = Store::open(&files.database())?;
        let (mut waiting, mut suspicious) = (VecDeque::new(), VecDeque::new());
        for job in store.unfinished()? {
            if let Some(outcome) = left_over(&job, &store, &files)? {
                store.finish(&job.id, &outcome)?;
                continue;
            }
            if job.state == State::Running {
                tracing::info!(job = job.id, "was running when the last server ended; starts again");
                store.requeue(&job.id)?;
            }
            let turn = if job.attempts < SUSPICIOUS_ATTEMPTS { &mut waiting } else { &mut suspicious };
            turn.push_back(Waiting { id: job.id, owner: job.owner, api: job.api });
        }
        waiting.append(&mut suspicious);
        Ok(Self {
            store,
            files,
            limits,
            queue: Mutex::new(Queue { waiting, ..Queue::default() }),
            wake: Condvar::new(),
            changes: watch::Sender::new(0),
        })
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
        let stored = self.store.insert(&id, job);
        let mut queue = self.lock();
        if let Some(place) = queue.arriving.iter().position(|other| *other == arriving) {
            queue.arriving.swap_remove(place);
        }
        stored.map_err(Refused::Storage)?;
        let (owner, api) = arriving;
        queue.waiting.push_back(Waiting { id: id.clone(), owner, api });
        drop(queue);
        self.wake.notify_one();
        self.tell();
        Ok(id)
    }

    /// Where an unfinished job is; `None` once it has ended, and for those that never were.
    pub fn live(&self, id: &str) -> Option<Live> {
        let queue = self.lock();
        match &queue.running {
            Some(running) if running.job.id == id => Some(Live::Running(running.progress)),
            _ => {
                let position = queue.waiting.iter().position(|job| job.id == id)?;
                Some(Live::Queued { position })
            }
        }
    }

    pub fn waiting(&self) -> usize {
        self.lock().waiting.len()
    }

    /// Cancels a job, waiting or running. Blocks on the disk.
    pub fn cancel(&self, id: &str) -> Result<Cancelled> {
        let mut queue = self.lock();
        if let Some(place) = queue.waiting.iter().position(|job| job.id == id) {
            queue.waiting.remove(place);
            drop(queue);
            self.store.finish(id, &Outcome::Cancelled)?;
            self.tell();
            return Ok(Cancelled::Done);
        }
        if let Some(running) = queue.running.as_mut().filter(|running| running.job.id == id) {
            running.by_client = true;
            let cancel = running.cancel.clone();
            drop(queue);
            self.store.request_cancel(id)?;
            cancel.cancel();
            return Ok(Cancelled::Requested);
        }
        drop(queue);
        Ok(match self.store.get(id)? {
            Some(_) => Cancelled::AlreadyEnded,
            None => Cancelled::Unknown,
        })
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
                let running =
                    Running { job, cancel: cancel.clone(), by_client: false, progress: None, told: None };
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

    /// Notes how far the running job is.
    pub fn progress(&self, progress: StageProgress) {
        let mut queue = self.lock();
        let Some(running) = &mut queue.running else { return };
        running.progress = Some(progress);
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
    if let Some(output) = files.published(&job.id) {
        return Ok(Some(Outcome::Completed(output)));
    }
    if store.cancel_requested(&job.id)? {
        return Ok(Some(Outcome::Cancelled));
    }
    if job.state != State::Running {
        return Ok(None);
    }
    Ok((job.attempts >= MAX_ATTEMPTS).then(|| {
        let message = format!("the server ended {MAX_ATTEMPTS} times while it ran this job");
        Outcome::Failed(Failure::of(Blame::Server, message))
    }))
}
