//! Webhook deliveries in the database: promised in the transaction that ends the job, so that a crash
//! between the two loses neither, and kept with their history until the job is forgotten.

use rusqlite::{Connection, params};

use super::Store;
use crate::error::Result;

pub(super) const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS deliveries (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        job TEXT NOT NULL,
        url TEXT NOT NULL,
        created_at INTEGER NOT NULL,
        attempts INTEGER NOT NULL DEFAULT 0,
        next_at INTEGER,
        delivered_at INTEGER,
        last_status INTEGER,
        last_error TEXT
    );
    CREATE INDEX IF NOT EXISTS deliveries_by_time ON deliveries (next_at);
    CREATE INDEX IF NOT EXISTS deliveries_by_job ON deliveries (job);
";

const COLUMNS: &str = "id, job, url, created_at, attempts, next_at, delivered_at, last_status, last_error";

/// One webhook's message and what became of it. Times are in milliseconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    pub id: i64,
    pub job: String,
    pub url: String,
    pub created_at: i64,
    pub attempts: u32,
    /// When it is tried next; absent once it has arrived or was given up.
    pub next_at: Option<i64>,
    pub delivered_at: Option<i64>,
    /// The last answer's HTTP status.
    pub last_status: Option<u16>,
    /// Why the last attempt failed.
    pub last_error: Option<String>,
}

/// Promises the delivery of a job's webhook, if it has one.
pub(super) fn promise(connection: &Connection, job: &str, at: i64) -> rusqlite::Result<()> {
    connection.execute(
        "INSERT INTO deliveries (job, url, created_at, next_at) \
         SELECT id, webhook_url, ?2, ?2 FROM jobs WHERE id = ?1 AND webhook_url IS NOT NULL",
        params![job, at],
    )?;
    Ok(())
}

impl Store {
    /// Deliveries whose time has come.
    pub fn due_deliveries(&self, now: i64, limit: u32) -> Result<Vec<Delivery>> {
        self.deliveries(
            &format!("SELECT {COLUMNS} FROM deliveries WHERE next_at <= ?1 ORDER BY next_at LIMIT ?2"),
            params![now, limit],
        )
    }

    /// The deliveries of one job, oldest first.
    pub fn deliveries_of(&self, job: &str) -> Result<Vec<Delivery>> {
        self.deliveries(&format!("SELECT {COLUMNS} FROM deliveries WHERE job = ?1 ORDER BY id"), [job])
    }

    /// The deliveries of an owner's jobs, newest first.
    pub fn deliveries_of_owner(&self, owner: &str, limit: u32) -> Result<Vec<Delivery>> {
        self.deliveries(
            &format!(
                "SELECT {COLUMNS} FROM deliveries WHERE job IN (SELECT id FROM jobs WHERE owner = ?1) \
                 ORDER BY id DESC LIMIT ?2"
            ),
            params![owner, limit],
        )
    }

    /// Notes an attempt and its result.
    pub fn note_delivery(&self, delivery: &Delivery) -> Result<()> {
        self.durable()
            .execute(
                "UPDATE deliveries SET attempts = ?2, next_at = ?3, delivered_at = ?4, last_status = ?5, \
                 last_error = ?6 WHERE id = ?1",
                params![
                    delivery.id,
                    delivery.attempts,
                    delivery.next_at,
                    delivery.delivered_at,
                    delivery.last_status,
                    delivery.last_error
                ],
            )
            .map_err(self.refuse())?;
        Ok(())
    }

    fn deliveries(&self, sql: &str, values: impl rusqlite::Params) -> Result<Vec<Delivery>> {
        let connection = self.reader();
        let mut statement = connection.prepare_cached(sql).map_err(self.refuse())?;
        let rows = statement
            .query_map(values, |row| {
                Ok(Delivery {
                    id: row.get(0)?,
                    job: row.get(1)?,
                    url: row.get(2)?,
                    created_at: row.get(3)?,
                    attempts: row.get(4)?,
                    next_at: row.get(5)?,
                    delivered_at: row.get(6)?,
                    last_status: row.get(7)?,
                    last_error: row.get(8)?,
                })
            })
            .map_err(self.refuse())?;
        rows.collect::<Result<_, _>>().map_err(self.refuse())
    }
}
