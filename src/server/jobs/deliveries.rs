//! Webhook deliveries in the database: promised in the transaction that ends the job, so that a crash
//! between the two loses neither, and kept with their history until the job is forgotten.

use rusqlite::{Connection, Params, params};

use super::Store;
use crate::request::Api;
use crate::server::Result;

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

/// Every single attempt, for the delivery log.
pub(super) const ATTEMPTS: &str = "
    CREATE TABLE attempts (
        delivery INTEGER NOT NULL,
        at INTEGER NOT NULL,
        status INTEGER,
        response TEXT,
        error TEXT
    );
    CREATE INDEX attempts_by_delivery ON attempts (delivery);
";

const COLUMNS: &str = "id, job, url, endpoint, created_at, attempts, next_at, delivered_at";

/// One webhook's message and what became of it. Times are in milliseconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    pub id: i64,
    pub job: String,
    pub url: String,
    /// The registered endpoint that it goes to, if it is not the job's own webhook.
    pub endpoint: Option<String>,
    pub created_at: i64,
    pub attempts: u32,
    /// When it is tried next; absent once it has arrived or was given up.
    pub next_at: Option<i64>,
    pub delivered_at: Option<i64>,
}

/// One time that a message was sent. It has arrived if the status is one of success.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// Milliseconds since 1970.
    pub at: i64,
    /// The answer's HTTP status.
    pub status: Option<u16>,
    /// The beginning of the answer's body.
    pub response: Option<String>,
    /// Why there was no answer.
    pub error: Option<String>,
}

impl Attempt {
    /// One that has not led to anything yet.
    pub fn at(at: i64) -> Self {
        Self { at, status: None, response: None, error: None }
    }

    pub fn succeeded(&self) -> bool {
        self.status.is_some_and(|status| (200..300).contains(&status))
    }
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
    /// Deliveries whose time has come, at most `per_host` to one host: a crowd of one receiver's hides nobody else's.
    /// Those that were never tried come first, so that repetitions hold none up.
    pub fn due_deliveries(&self, now: i64, per_host: usize, limit: u32) -> Result<Vec<Delivery>> {
        self.deliveries(
            &format!(
                "SELECT {COLUMNS} FROM ( \
                     SELECT *, row_number() OVER ( \
                         PARTITION BY substr(rest, 1, instr(rest || '/', '/') - 1) ORDER BY attempts, next_at \
                     ) AS place \
                     FROM (SELECT *, substr(url, instr(url, '://') + 3) AS rest FROM deliveries WHERE next_at <= ?1) \
                 ) WHERE place <= ?2 ORDER BY attempts, next_at LIMIT ?3"
            ),
            params![now, per_host as i64, limit],
        )
    }

    /// A job's last delivery, with its attempts in order.
    pub fn last_delivery_of(&self, job: &str) -> Result<Option<(Delivery, Vec<Attempt>)>> {
        let connection = self.reader();
        // Both as of one moment: an attempt is noted together with what it means for the delivery.
        let snapshot = connection.unchecked_transaction().map_err(self.refuse())?;
        let last = format!("SELECT {COLUMNS} FROM deliveries WHERE job = ?1 ORDER BY id DESC LIMIT 1");
        let Some(delivery) = deliveries(&snapshot, &last, [job]).map_err(self.refuse())?.pop() else {
            return Ok(None);
        };
        let attempts = attempts(&snapshot, delivery.id).map_err(self.refuse())?;
        Ok(Some((delivery, attempts)))
    }

    /// The deliveries of an owner's jobs that came by one API, newest first.
    pub fn deliveries_of_owner(
        &self,
        owner: &str,
        api: Api,
        limit: u32,
        offset: u32,
    ) -> Result<Vec<Delivery>> {
        self.deliveries(
            &format!(
                "SELECT {COLUMNS} FROM deliveries \
                 WHERE job IN (SELECT id FROM jobs WHERE owner = ?1 AND api = ?2) \
                 ORDER BY id DESC LIMIT ?3 OFFSET ?4"
            ),
            params![owner, api.name(), limit, offset],
        )
    }

    /// Notes that an attempt is about to be made.
    pub fn claim_delivery(&self, delivery: &Delivery) -> Result<()> {
        self.durable()
            .execute(
                "UPDATE deliveries SET attempts = ?2, next_at = ?3 WHERE id = ?1",
                params![delivery.id, delivery.attempts, delivery.next_at],
            )
            .map_err(self.refuse())?;
        Ok(())
    }

    /// Notes what an attempt came to, and what it means for the delivery.
    pub fn note_delivery(&self, delivery: &Delivery, attempt: &Attempt) -> Result<()> {
        let mut connection = self.durable();
        let transaction = connection.transaction().map_err(self.refuse())?;
        let known = transaction
            .execute(
                "UPDATE deliveries SET attempts = ?2, next_at = ?3, delivered_at = ?4 WHERE id = ?1",
                params![delivery.id, delivery.attempts, delivery.next_at, delivery.delivered_at],
            )
            .map_err(self.refuse())?;
        // The job may have been forgotten meanwhile.
        if known == 1 {
            transaction
                .execute(
                    "INSERT INTO attempts (delivery, at, status, response, error) VALUES (?1, ?2, ?3, ?4, ?5)",
                    params![delivery.id, attempt.at, attempt.status, attempt.response, attempt.error],
                )
                .map_err(self.refuse())?;
        }
        transaction.commit().map_err(self.refuse())
    }

    fn deliveries(&self, sql: &str, values: impl Params) -> Result<Vec<Delivery>> {
        deliveries(&self.reader(), sql, values).map_err(self.refuse())
    }
}

fn deliveries(connection: &Connection, sql: &str, values: impl Params) -> rusqlite::Result<Vec<Delivery>> {
    let mut statement = connection.prepare_cached(sql)?;
    let rows = statement.query_map(values, |row| {
        Ok(Delivery {
            id: row.get(0)?,
            job: row.get(1)?,
            url: row.get(2)?,
            endpoint: row.get(3)?,
            created_at: row.get(4)?,
            attempts: row.get(5)?,
            next_at: row.get(6)?,
            delivered_at: row.get(7)?,
        })
    })?;
    rows.collect()
}

fn attempts(connection: &Connection, delivery: i64) -> rusqlite::Result<Vec<Attempt>> {
    let sql = "SELECT at, status, response, error FROM attempts WHERE delivery = ?1 ORDER BY rowid";
    let mut statement = connection.prepare_cached(sql)?;
    let rows = statement.query_map([delivery], |row| {
        Ok(Attempt { at: row.get(0)?, status: row.get(1)?, response: row.get(2)?, error: row.get(3)? })
    })?;
    rows.collect()
}
