//! The tables and their migrations.

use rusqlite::Connection;

use super::super::{deliveries, endpoints, uploads};

/// The first version of the tables.
pub(super) const JOBS: &str = "
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

/// Priorities and start timeouts.
const PRIORITIES: &str = "
    ALTER TABLE jobs ADD COLUMN low_priority INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE jobs ADD COLUMN start_by INTEGER;
";

/// The uploads and results of this server that unfinished jobs read.
const INPUTS: &str = "
    CREATE TABLE inputs (job TEXT NOT NULL, file TEXT NOT NULL);
    CREATE INDEX inputs_by_job ON inputs (job);
    CREATE INDEX inputs_by_file ON inputs (file);
";

/// The migrations, in order. `user_version` of a database is the number of those that were applied.
const SCHEMA: [&str; 7] =
    [JOBS, uploads::SCHEMA, deliveries::SCHEMA, PRIORITIES, endpoints::SCHEMA, deliveries::ATTEMPTS, INPUTS];

/// Applies the missing migrations; `false` if the database has more than this program knows.
pub(super) fn migrate(connection: &mut Connection) -> rusqlite::Result<bool> {
    let transaction = connection.transaction()?;
    let done: u32 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if done as usize > SCHEMA.len() {
        return Ok(false);
    }
    for step in SCHEMA.iter().skip(done as usize) {
        transaction.execute_batch(step)?;
    }
    transaction.pragma_update(None, "user_version", SCHEMA.len() as u32)?;
    transaction.commit()?;
    Ok(true)
}
