//! Jobs in SQLite. What a client was promised is on the disk before it is promised: acceptance, cancelling
//! and the end of a job are written with `synchronous = FULL`. Logs are not promised and do not wait.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, Row, ToSql, params};
use serde_json::Value;

use super::{
    Failure, JobRecord, Level, LogLine, NewJob, Outcome, Output, State, Webhook, deliveries, now, uploads,
};
use crate::error::{Error, Result};
use crate::request::Api;

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS jobs (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        api TEXT NOT NULL,
        owner TEXT NOT NULL,
        body TEXT NOT NULL,
        base_url TEXT NOT NULL,
        webhook_url TEXT,
        webhook_secret TEXT,
        state TEXT NOT NULL,
        created_at INTEGER NOT NULL,
        started_at INTEGER,
        ended_at INTEGER,
        attempts INTEGER NOT NULL DEFAULT 0,
        cancel_requested INTEGER NOT NULL DEFAULT 0,
        failure TEXT,
        report TEXT,
        bytes INTEGER
    );
    CREATE INDEX IF NOT EXISTS jobs_by_state ON jobs (state, ended_at);
    CREATE TABLE IF NOT EXISTS logs (
        job TEXT NOT NULL,
        at INTEGER NOT NULL,
        level TEXT NOT NULL,
        message TEXT NOT NULL
    );
    CREATE INDEX IF NOT EXISTS logs_by_job ON logs (job);
    CREATE TABLE IF NOT EXISTS secrets (name TEXT PRIMARY KEY, value BLOB NOT NULL);
";

const COLUMNS: &str = "id, api, owner, body, base_url, webhook_url, webhook_secret, state, created_at, \
                       started_at, ended_at, attempts, failure, report, bytes";

/// A job that waits for its turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    pub id: String,
    pub owner: String,
    pub api: Api,
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
        let durable = connect("FULL").map_err(refuse)?;
        durable.execute_batch(SCHEMA).map_err(refuse)?;
        durable.execute_batch(uploads::SCHEMA).map_err(refuse)?;
        durable.execute_batch(deliveries::SCHEMA).map_err(refuse)?;
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

    /// Accepts a job. When this returns, the job outlives the process and the machine's power.
    pub fn insert(&self, id: &str, job: &NewJob) -> Result<()> {
        let webhook = job.webhook.as_ref();
        self.durable()
            .execute(
                "INSERT INTO jobs (id, api, owner, body, base_url, webhook_url, webhook_secret, state, created_at) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, 'queued', ?8)",
                params![
                    id,
                    job.api.name(),
                    job.owner,
                    job.body.to_string(),
                    job.base_url,
                    webhook.map(|webhook| &webhook.url),
                    webhook.and_then(|webhook| webhook.secret.as_ref()),
                    now(),
                ],
            )
            .map_err(self.refuse())?;
        Ok(())
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

    /// The jobs of `api` and `owner`, newest first, at most `limit`.
    pub fn of_owner(&self, api: Api, owner: &str, limit: u32) -> Result<Vec<JobRecord>> {
        self.list(
            &format!(
                "SELECT {COLUMNS} FROM jobs WHERE api = ?1 AND owner = ?2 ORDER BY number DESC LIMIT ?3"
            ),
            &[&api.name(), &owner, &limit],
        )
    }

    /// Finished jobs that ended before `before` (milliseconds since 1970), oldest first.
    pub fn ended_before(&self, before: i64) -> Result<Vec<JobRecord>> {
        self.list(
            &format!(
                "SELECT {COLUMNS} FROM jobs WHERE state IN ('completed', 'failed', 'cancelled') \
                 AND ended_at < ?1 ORDER BY ended_at"
            ),
            &[&before],
        )
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

    /// Puts a job that was running back in the queue.
    pub fn requeue(&self, id: &str) -> Result<bool> {
        self.change("UPDATE jobs SET state = 'queued' WHERE id = ?1 AND state = 'running'", [id])
    }

    /// Remembers that a job is to stop, so that it does not start again after a crash.
    pub fn request_cancel(&self, id: &str) -> Result<bool> {
        self.change(
            "UPDATE jobs SET cancel_requested = 1 WHERE id = ?1 AND state IN ('queued', 'running')",
            [id],
        )
    }

    /// Ends a job, and with it promises its webhook's delivery; `false` if it has ended before.
    pub fn finish(&self, id: &str, outcome: &Outcome) -> Result<bool> {
        let (failure, output) = match outcome {
            Outcome::Completed(output) => (None, Some(output)),
            Outcome::Failed(failure) => (serde_json::to_string(failure).ok(), None),
            Outcome::Cancelled => (None, None),
        };
        let ended_at = now();
        let mut connection = self.durable();
        let transaction = connection.transaction().map_err(self.refuse())?;
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
        }
        transaction.commit().map_err(self.refuse())?;
        Ok(changed == 1)
    }

    /// Forgets a job and all that was noted about it.
    pub fn remove(&self, id: &str) -> Result<()> {
        let mut connection = self.durable();
        let transaction = connection.transaction().map_err(self.refuse())?;
        for table in ["logs", "deliveries"] {
            transaction
                .execute(&format!("DELETE FROM {table} WHERE job = ?1"), [id])
                .map_err(self.refuse())?;
        }
        transaction.execute("DELETE FROM jobs WHERE id = ?1", [id]).map_err(self.refuse())?;
        transaction.commit().map_err(self.refuse())
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

    fn change(&self, sql: &str, values: impl rusqlite::Params) -> Result<bool> {
        Ok(self.durable().execute(sql, values).map_err(self.refuse())? == 1)
    }

    fn one(&self, sql: &str, values: &[&dyn ToSql]) -> Result<Option<JobRecord>> {
        Ok(self.list(sql, values)?.pop())
    }

    fn list(&self, sql: &str, values: &[&dyn ToSql]) -> Result<Vec<JobRecord>> {
        let connection = self.reader();
        let mut statement = connection.prepare_cached(sql).map_err(self.refuse())?;
        let jobs = statement.query_map(values, job_of).map_err(self.refuse())?;
        jobs.collect::<Result<_, _>>().map_err(self.refuse())
    }
}

fn job_of(row: &Row) -> rusqlite::Result<JobRecord> {
    let text = |column: &str| row.get::<_, String>(column);
    let optional = |column: &str| row.get::<_, Option<String>>(column);
    let json = |column: &str, text: &str| {
        serde_json::from_str(text).map_err(|error| unreadable(column, Box::new(error)))
    };
    let state = text("state")?;
    let bytes: Option<i64> = row.get("bytes")?;
    let report = optional("report")?;
    let secret = optional("webhook_secret")?;
    Ok(JobRecord {
        id: text("id")?,
        api: text("api")?.parse().map_err(|error| unreadable("api", Box::new(error)))?,
        owner: text("owner")?,
        body: json("body", &text("body")?)?,
        base_url: text("base_url")?,
        webhook: optional("webhook_url")?.map(|url| Webhook { url, secret }),
        state: State::ALL
            .into_iter()
            .find(|known| known.name() == state)
            .ok_or_else(|| unreadable("state", format!("`{state}` is no state").into()))?,
        created_at: row.get("created_at")?,
        started_at: row.get("started_at")?,
        ended_at: row.get("ended_at")?,
        attempts: row.get("attempts")?,
        failure: optional("failure")?
            .map(|text| serde_json::from_str::<Failure>(&text))
            .transpose()
            .map_err(|error| unreadable("failure", Box::new(error)))?,
        output: match (bytes, report) {
            (Some(bytes), Some(report)) => {
                Some(Output { bytes: bytes as u64, report: json("report", &report)? })
            }
            _ => None,
        },
    })
}

fn unreadable(column: &str, error: Box<dyn std::error::Error + Send + Sync>) -> rusqlite::Error {
    tracing::error!("the database's column `{column}` cannot be read: {error}");
    rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, error)
}

fn database_error(path: &Path, source: rusqlite::Error) -> Error {
    Error::Database { path: path.to_path_buf(), source: Box::new(source) }
}
