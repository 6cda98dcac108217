//! Jobs in SQLite. What a client was promised is on the disk before it is promised: acceptance, cancelling
//! and the end of a job are written with `synchronous = FULL`. Logs are not promised and do not wait.

mod record;
mod schema;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, ToSql, TransactionBehavior, params};
use serde_json::Value;

use self::record::{COLUMNS, Stored};
use super::{JobRecord, Level, LogLine, NewJob, Outcome, Priority, State, deliveries, endpoints, now};
use crate::request::Api;
use crate::server::{Error, Result};

/// A job that waits for its turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    pub id: String,
    pub owner: String,
    pub api: Api,
    pub group: Group,
    pub start_by: Option<i64>,
}

/// Whose turn comes first; within a group, it is the earlier job's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Group {
    Normal,
    Low,
    /// The server has ended during it again and again: it may be the cause.
    Suspicious,
}

impl From<Priority> for Group {
    fn from(priority: Priority) -> Self {
        match priority {
            Priority::Normal => Group::Normal,
            Priority::Low => Group::Low,
        }
    }
}

/// Which jobs of an owner a list is to hold.
#[derive(Debug, Clone, Copy)]
pub struct Filter<'a> {
    pub owner: &'a str,
    pub apis: &'a [Api],
    pub states: &'a [State],
    /// Accepted at or after, and before (milliseconds since 1970).
    pub created: (i64, i64),
    pub limit: u32,
    pub offset: u32,
}

/// The database. Its functions block for as long as the disk takes.
pub struct Store {
    path: PathBuf,
    /// Returns when the disk has it.
    durable: Mutex<Connection>,
    /// Returns when the system has it: what is written here outlives the process, not a power cut.
    relaxed: Mutex<Connection>,
    reader: Mutex<Connection>,
}

impl Store {
    /// Opens the database at `path`, and creates it where there is none.
    pub fn open(path: &Path) -> Result<Self> {
        let refuse = |error: rusqlite::Error| database_error(path, error);
        let connect = |synchronous: &str| {
            let connection = Connection::open(path)?;
            connection.busy_timeout(Duration::from_secs(30))?;
            connection.pragma_update(None, "journal_mode", "WAL")?;
            connection.pragma_update(None, "synchronous", synchronous)?;
            Ok(connection)
        };
        let mut durable = connect("FULL").map_err(refuse)?;
        // One that begins with a question would fail, and not wait, where another connection is writing.
        durable.set_transaction_behavior(TransactionBehavior::Immediate);
        if !schema::migrate(&mut durable).map_err(refuse)? {
            return Err(Error::NewerDatabase { path: path.to_path_buf() });
        }
        let relaxed = connect("NORMAL").map_err(refuse)?;
        let reader = connect("NORMAL").map_err(refuse)?;
        Ok(Self {
            path: path.to_path_buf(),
            durable: Mutex::new(durable),
            relaxed: Mutex::new(relaxed),
            reader: Mutex::new(reader),
        })
    }

    pub(super) fn durable(&self) -> MutexGuard<'_, Connection> {
        self.durable.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn relaxed(&self) -> MutexGuard<'_, Connection> {
        self.relaxed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn reader(&self) -> MutexGuard<'_, Connection> {
        self.reader.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn refuse(&self) -> impl Fn(rusqlite::Error) -> Error {
        |error| database_error(&self.path, error)
    }

    /// Accepts a job that reads `files` of this server. When this returns, the job outlives the process and the
    /// machine's power.
    pub fn insert(&self, id: &str, job: &NewJob, files: &[String]) -> Result<()> {
        let webhook = job.webhook.as_ref();
        let mut connection = self.durable();
        let transaction = connection.transaction().map_err(self.refuse())?;
        transaction
            .execute(
                "INSERT INTO jobs (id, api, owner, body, base_url, webhook_url, webhook_secret, state, created_at, \
                 low_priority, start_by) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, 'queued', ?8, ?9, ?10)",
                params![
                    id,
                    job.api.name(),
                    job.owner,
                    job.body.to_string(),
                    job.base_url,
                    webhook.map(|webhook| &webhook.url),
                    webhook.and_then(|webhook| webhook.secret.as_ref()),
                    now(),
                    job.priority == Priority::Low,
                    job.start_by,
                ],
            )
            .map_err(self.refuse())?;
        for file in files {
            transaction
                .execute("INSERT INTO inputs (job, file) VALUES (?1, ?2)", params![id, file])
                .map_err(self.refuse())?;
        }
        transaction.commit().map_err(self.refuse())
    }

    pub fn get(&self, id: &str) -> Result<Option<JobRecord>> {
        self.one(&format!("SELECT {COLUMNS} FROM jobs WHERE id = ?1"), &[&id])
    }

    /// The newest job of `api` and `owner` whose body satisfies `wanted`, among the last thousand.
    pub fn newest(
        &self,
        api: Api,
        owner: &str,
        wanted: impl Fn(&Value) -> bool,
    ) -> Result<Option<JobRecord>> {
        let jobs = self.list(
            &format!(
                "SELECT {COLUMNS} FROM jobs WHERE api = ?1 AND owner = ?2 ORDER BY number DESC LIMIT 1000"
            ),
            &[&api.name(), &owner],
        )?;
        Ok(jobs.into_iter().find(|job| wanted(&job.body)))
    }

    /// Jobs of an owner, newest first, and how many there are beyond the limit.
    pub fn page(&self, filter: &Filter) -> Result<(u64, Vec<JobRecord>)> {
        let named =
            |names: Vec<&str>| names.iter().map(|name| format!("'{name}'")).collect::<Vec<_>>().join(", ");
        let wanted = format!(
            "owner = ?1 AND created_at >= ?2 AND created_at < ?3 AND api IN ({}) AND state IN ({})",
            named(filter.apis.iter().map(|api| api.name()).collect()),
            named(filter.states.iter().map(|state| state.name()).collect()),
        );
        let (after, before) = filter.created;
        let total: i64 = self
            .reader()
            .query_row(
                &format!("SELECT count(*) FROM jobs WHERE {wanted}"),
                params![filter.owner, after, before],
                |row| row.get(0),
            )
            .map_err(self.refuse())?;
        let jobs = self.list(
            &format!("SELECT {COLUMNS} FROM jobs WHERE {wanted} ORDER BY number DESC LIMIT ?4 OFFSET ?5"),
            &[&filter.owner, &after, &before, &filter.limit, &filter.offset],
        )?;
        Ok((total as u64, jobs))
    }

    /// The jobs of `owner`, of every API, newest first, at most `limit`.
    pub fn newest_of(&self, owner: &str, limit: u32) -> Result<Vec<JobRecord>> {
        self.list(
            &format!("SELECT {COLUMNS} FROM jobs WHERE owner = ?1 ORDER BY number DESC LIMIT ?2"),
            &[&owner, &limit],
        )
    }

    /// Notes what an unfinished job reads, where an older server has not done so.
    pub fn insert_inputs(&self, id: &str, files: &[String]) -> Result<()> {
        let mut connection = self.durable();
        let transaction = connection.transaction().map_err(self.refuse())?;
        for file in files {
            transaction
                .execute(
                    "INSERT INTO inputs (job, file) SELECT ?1, ?2 \
                     WHERE NOT EXISTS (SELECT 1 FROM inputs WHERE job = ?1 AND file = ?2)",
                    params![id, file],
                )
                .map_err(self.refuse())?;
        }
        transaction.commit().map_err(self.refuse())
    }

    /// Finished jobs that ended before `before` (milliseconds since 1970), oldest first.
    pub fn ended_before(&self, before: i64) -> Result<Vec<String>> {
        self.ids(
            "SELECT id FROM jobs WHERE state IN ('completed', 'failed', 'cancelled') AND ended_at < ?1 \
             ORDER BY ended_at",
            [before],
        )
    }

    /// All jobs.
    pub fn all(&self) -> Result<HashSet<String>> {
        Ok(self.ids("SELECT id FROM jobs", [])?.into_iter().collect())
    }

    /// Every job that has not ended, the oldest first.
    pub fn unfinished(&self) -> Result<Vec<JobRecord>> {
        self.list(
            &format!("SELECT {COLUMNS} FROM jobs WHERE state IN ('queued', 'running') ORDER BY number"),
            &[],
        )
    }

    /// Whether the client has asked to cancel a job that was running.
    pub fn cancel_requested(&self, id: &str) -> Result<bool> {
        let asked = self
            .reader()
            .query_row("SELECT cancel_requested FROM jobs WHERE id = ?1", [id], |row| row.get(0))
            .optional()
            .map_err(self.refuse())?;
        Ok(asked.unwrap_or(false))
    }

    /// Marks a job as started; `false` if it is not waiting.
    pub fn start(&self, id: &str) -> Result<bool> {
        self.change(
            "UPDATE jobs SET state = 'running', started_at = ?2, attempts = attempts + 1 \
             WHERE id = ?1 AND state = 'queued'",
            params![id, now()],
        )
    }

    /// Puts a job back in the queue that was running when the last server ended, however that was.
    pub fn requeue(&self, id: &str) -> Result<bool> {
        self.change("UPDATE jobs SET state = 'queued' WHERE id = ?1 AND state = 'running'", [id])
    }

    /// Puts a job back that this server stops in good order: the attempt does not count.
    pub fn put_back(&self, id: &str) -> Result<bool> {
        self.change(
            "UPDATE jobs SET state = 'queued', attempts = attempts - 1 WHERE id = ?1 AND state = 'running'",
            [id],
        )
    }

    /// Remembers that a job is to stop, so that it does not start again after a crash.
    pub fn request_cancel(&self, id: &str) -> Result<bool> {
        self.change(
            "UPDATE jobs SET cancel_requested = 1 WHERE id = ?1 AND state IN ('queued', 'running')",
            [id],
        )
    }

    /// Ends a job, and with it promises its webhook's delivery. Returns how it has ended, which is cancelled if that
    /// was asked for before; `None` if it had ended already.
    pub fn finish(&self, id: &str, outcome: &Outcome) -> Result<Option<State>> {
        let ended_at = now();
        let mut connection = self.durable();
        let transaction = connection.transaction().map_err(self.refuse())?;
        let cancelled = transaction
            .query_row("SELECT cancel_requested FROM jobs WHERE id = ?1", [id], |row| row.get(0))
            .optional()
            .map_err(self.refuse())?;
        let outcome = if cancelled.unwrap_or(false) { &Outcome::Cancelled } else { outcome };
        let (failure, output) = match outcome {
            Outcome::Completed(output) => (None, Some(output)),
            Outcome::Failed(failure) => (serde_json::to_string(failure).ok(), None),
            Outcome::Cancelled => (None, None),
        };
        let changed = transaction
            .execute(
                "UPDATE jobs SET state = ?2, ended_at = ?3, failure = ?4, report = ?5, bytes = ?6 \
                 WHERE id = ?1 AND state IN ('queued', 'running')",
                params![
                    id,
                    outcome.state().name(),
                    ended_at,
                    failure,
                    output.map(|output| output.report.to_string()),
                    output.map(|output| output.bytes as i64),
                ],
            )
            .map_err(self.refuse())?;
        if changed == 1 {
            deliveries::promise(&transaction, id, ended_at).map_err(self.refuse())?;
            endpoints::promise(&transaction, id, outcome, ended_at).map_err(self.refuse())?;
            transaction.execute("DELETE FROM inputs WHERE job = ?1", [id]).map_err(self.refuse())?;
        }
        transaction.commit().map_err(self.refuse())?;
        Ok((changed == 1).then(|| outcome.state()))
    }

    /// Forgets a job and all that was noted about it; `false` if it has to stay: it has not ended, an unfinished job
    /// reads its result, or somebody is still to be told of it.
    pub fn remove(&self, id: &str) -> Result<bool> {
        let mut connection = self.durable();
        let transaction = connection.transaction().map_err(self.refuse())?;
        let stays: bool = transaction
            .query_row(
                "SELECT EXISTS (SELECT 1 FROM jobs WHERE id = ?1 AND state IN ('queued', 'running')) \
                 OR EXISTS (SELECT 1 FROM inputs WHERE file = ?1) \
                 OR EXISTS (SELECT 1 FROM deliveries WHERE job = ?1 AND next_at IS NOT NULL)",
                [id],
                |row| row.get(0),
            )
            .map_err(self.refuse())?;
        if stays {
            return Ok(false);
        }
        for sql in [
            "DELETE FROM attempts WHERE delivery IN (SELECT id FROM deliveries WHERE job = ?1)",
            "DELETE FROM deliveries WHERE job = ?1",
            "DELETE FROM logs WHERE job = ?1",
            "DELETE FROM jobs WHERE id = ?1",
        ] {
            transaction.execute(sql, [id]).map_err(self.refuse())?;
        }
        transaction.commit().map_err(self.refuse())?;
        Ok(true)
    }

    pub fn log(&self, id: &str, level: Level, message: &str) -> Result<()> {
        self.relaxed()
            .execute(
                "INSERT INTO logs (job, at, level, message) VALUES (?1, ?2, ?3, ?4)",
                params![id, now(), level.name(), message],
            )
            .map_err(self.refuse())?;
        Ok(())
    }

    pub fn logs(&self, id: &str) -> Result<Vec<LogLine>> {
        let connection = self.reader();
        let mut statement = connection
            .prepare_cached("SELECT at, level, message FROM logs WHERE job = ?1 ORDER BY rowid")
            .map_err(self.refuse())?;
        let lines = statement
            .query_map([id], |row| {
                let level: String = row.get(1)?;
                let level = [Level::Warning, Level::Error].into_iter().find(|known| known.name() == level);
                Ok(LogLine { at: row.get(0)?, level: level.unwrap_or(Level::Info), message: row.get(2)? })
            })
            .map_err(self.refuse())?;
        lines.collect::<Result<_, _>>().map_err(self.refuse())
    }

    /// How many jobs are in each state.
    pub fn count(&self) -> Result<[(State, u64); State::ALL.len()]> {
        let connection = self.reader();
        let mut counts = State::ALL.map(|state| (state, 0));
        for (state, count) in &mut counts {
            let counted: i64 = connection
                .query_row("SELECT count(*) FROM jobs WHERE state = ?1", [state.name()], |row| row.get(0))
                .map_err(self.refuse())?;
            *count = counted as u64;
        }
        Ok(counts)
    }

    /// The secret of this name, made by `make` when it is asked for the first time.
    pub fn secret(&self, name: &str, make: impl FnOnce() -> Result<Vec<u8>>) -> Result<Vec<u8>> {
        let connection = self.durable();
        let known = connection
            .query_row("SELECT value FROM secrets WHERE name = ?1", [name], |row| row.get(0))
            .optional()
            .map_err(self.refuse())?;
        if let Some(secret) = known {
            return Ok(secret);
        }
        let secret = make()?;
        connection
            .execute("INSERT INTO secrets (name, value) VALUES (?1, ?2)", params![name, secret])
            .map_err(self.refuse())?;
        Ok(secret)
    }

    pub(super) fn ids(&self, sql: &str, values: impl rusqlite::Params) -> Result<Vec<String>> {
        let connection = self.reader();
        let mut statement = connection.prepare_cached(sql).map_err(self.refuse())?;
        let ids = statement.query_map(values, |row| row.get(0)).map_err(self.refuse())?;
        ids.collect::<Result<_, _>>().map_err(self.refuse())
    }

    fn change(&self, sql: &str, values: impl rusqlite::Params) -> Result<bool> {
        Ok(self.durable().execute(sql, values).map_err(self.refuse())? == 1)
    }

    fn one(&self, sql: &str, values: &[&dyn ToSql]) -> Result<Option<JobRecord>> {
        Ok(self.list(sql, values)?.pop())
    }

    fn list(&self, sql: &str, values: &[&dyn ToSql]) -> Result<Vec<JobRecord>> {
        let rows = {
            let connection = self.reader();
            let mut statement = connection.prepare_cached(sql).map_err(self.refuse())?;
            let rows = statement.query_map(values, Stored::of).map_err(self.refuse())?;
            rows.collect::<Result<Vec<_>, _>>().map_err(self.refuse())?
        };
        // Long bodies are read while others may ask.
        rows.into_iter().map(Stored::read).collect::<Result<_, _>>().map_err(self.refuse())
    }
}

/// Whether the disk is full.
pub fn is_full(error: &Error) -> bool {
    let Error::Database { source, .. } = error else { return false };
    let failure = source.downcast_ref::<rusqlite::Error>().and_then(rusqlite::Error::sqlite_error_code);
    failure == Some(rusqlite::ErrorCode::DiskFull)
}

fn database_error(path: &Path, source: rusqlite::Error) -> Error {
    Error::Database { path: path.to_path_buf(), source: Box::new(source) }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::super::{Output, uploads};
    use super::*;

    fn job(store: &Store, id: &str) {
        let job = NewJob {
            api: Api::SyncSo,
            owner: String::new(),
            body: serde_json::json!({}),
            base_url: String::new(),
            webhook: None,
            priority: Priority::Normal,
            start_by: None,
        };
        store.insert(id, &job, &[]).unwrap();
    }

    #[test]
    fn a_job_ends_while_others_write() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("jobs.sqlite")).unwrap();
        let ended = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !ended.load(Ordering::Relaxed) {
                    store.log("another", Level::Info, "a line").unwrap();
                }
            });
            for number in 0..100 {
                let id = number.to_string();
                job(&store, &id);
                assert_eq!(store.finish(&id, &Outcome::Cancelled).unwrap(), Some(State::Cancelled));
                assert!(store.remove(&id).unwrap());
            }
            ended.store(true, Ordering::Relaxed);
        });
    }

    #[test]
    fn a_wish_to_cancel_wins_over_the_result() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("jobs.sqlite")).unwrap();
        job(&store, "a");
        assert!(store.start("a").unwrap() && store.request_cancel("a").unwrap());
        let output = Output { bytes: 1, report: serde_json::json!({}) };
        assert_eq!(store.finish("a", &Outcome::Completed(output)).unwrap(), Some(State::Cancelled));
        assert!(store.get("a").unwrap().unwrap().output.is_none() && !store.request_cancel("a").unwrap());
    }

    #[test]
    fn a_database_without_versions_is_taken_up_and_a_newer_one_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("jobs.sqlite");
        let old = Connection::open(&path).unwrap();
        for step in [schema::JOBS, uploads::SCHEMA, deliveries::SCHEMA] {
            old.execute_batch(step).unwrap();
        }
        drop(old);
        job(&Store::open(&path).unwrap(), "a");
        assert_eq!(Store::open(&path).unwrap().unfinished().unwrap().len(), 1);
        Connection::open(&path).unwrap().pragma_update(None, "user_version", 1000).unwrap();
        assert!(Store::open(&path).err().unwrap().to_string().contains("newer"));
    }
}
