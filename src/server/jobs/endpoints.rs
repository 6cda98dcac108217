//! JoggAI's webhook endpoints: registered once, and told of every job of their owner that ends.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{Outcome, Store};
use crate::request::Api;
use crate::server::Result;

pub(super) const SCHEMA: &str = "
    CREATE TABLE endpoints (
        id TEXT PRIMARY KEY,
        owner TEXT NOT NULL,
        url TEXT NOT NULL,
        secret TEXT NOT NULL,
        enabled INTEGER NOT NULL,
        events TEXT NOT NULL,
        created_at INTEGER NOT NULL
    );
    CREATE INDEX endpoints_by_owner ON endpoints (owner);
    ALTER TABLE deliveries ADD COLUMN endpoint TEXT;
";

const COLUMNS: &str = "id, owner, url, secret, enabled, events, created_at";

/// Where an owner wants to be told of events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    pub id: String,
    pub owner: String,
    pub url: String,
    /// Signs its messages.
    pub secret: String,
    pub enabled: bool,
    pub events: Vec<String>,
    /// Milliseconds since 1970.
    pub created_at: i64,
}

impl Endpoint {
    /// The event of a job that succeeded. JoggAI documents none for lip sync: this is its event for a video of
    /// no particular kind.
    pub const SUCCEEDED: &str = "generated_video_success";
    /// And that of one that did not.
    pub const FAILED: &str = "generated_video_failed";
}

/// Promises the delivery of a JoggAI job's end to every endpoint of its owner that wants to know.
pub(super) fn promise(
    connection: &Connection,
    job: &str,
    outcome: &Outcome,
    at: i64,
) -> rusqlite::Result<()> {
    let event = match outcome {
        Outcome::Completed(_) => Endpoint::SUCCEEDED,
        Outcome::Failed(_) | Outcome::Cancelled => Endpoint::FAILED,
    };
    connection.execute(
        "INSERT INTO deliveries (job, url, endpoint, created_at, next_at) \
         SELECT jobs.id, endpoints.url, endpoints.id, ?2, ?2 FROM jobs JOIN endpoints USING (owner) \
         WHERE jobs.id = ?1 AND jobs.api = ?3 AND endpoints.enabled \
         AND EXISTS (SELECT 1 FROM json_each(endpoints.events) WHERE value = ?4)",
        params![job, at, Api::Jogg.name(), event],
    )?;
    Ok(())
}

impl Store {
    /// Registers an endpoint, unless its owner has `most` of them; `false` if so.
    pub fn insert_endpoint(&self, endpoint: &Endpoint, most: usize) -> Result<bool> {
        let inserted = self.durable().execute(
            "INSERT INTO endpoints (id, owner, url, secret, enabled, events, created_at) \
             SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7 WHERE (SELECT count(*) FROM endpoints WHERE owner = ?2) < ?8",
            params![
                endpoint.id,
                endpoint.owner,
                endpoint.url,
                endpoint.secret,
                endpoint.enabled,
                serde_json::Value::from(endpoint.events.clone()).to_string(),
                endpoint.created_at,
                most as i64,
            ],
        );
        Ok(inserted.map_err(self.refuse())? == 1)
    }

    /// Changes everything of an endpoint but its secret. What is still to be delivered goes where it is now, or
    /// nowhere.
    pub fn update_endpoint(&self, endpoint: &Endpoint) -> Result<()> {
        let mut connection = self.durable();
        let transaction = connection.transaction().map_err(self.refuse())?;
        transaction
            .execute(
                "UPDATE deliveries SET url = ?2, next_at = iif(?3, next_at, NULL) \
                 WHERE endpoint = ?1 AND next_at IS NOT NULL",
                params![endpoint.id, endpoint.url, endpoint.enabled],
            )
            .map_err(self.refuse())?;
        transaction
            .execute(
                "UPDATE endpoints SET url = ?2, enabled = ?3, events = ?4 WHERE id = ?1",
                params![
                    endpoint.id,
                    endpoint.url,
                    endpoint.enabled,
                    serde_json::Value::from(endpoint.events.clone()).to_string(),
                ],
            )
            .map_err(self.refuse())?;
        transaction.commit().map_err(self.refuse())
    }

    pub fn remove_endpoint(&self, id: &str) -> Result<()> {
        self.durable().execute("DELETE FROM endpoints WHERE id = ?1", [id]).map_err(self.refuse())?;
        Ok(())
    }

    pub fn endpoint(&self, id: &str) -> Result<Option<Endpoint>> {
        self.reader()
            .query_row(&format!("SELECT {COLUMNS} FROM endpoints WHERE id = ?1"), [id], endpoint_of)
            .optional()
            .map_err(self.refuse())
    }

    /// An owner's endpoints, oldest first.
    pub fn endpoints(&self, owner: &str) -> Result<Vec<Endpoint>> {
        let connection = self.reader();
        let mut statement = connection
            .prepare_cached(&format!("SELECT {COLUMNS} FROM endpoints WHERE owner = ?1 ORDER BY rowid"))
            .map_err(self.refuse())?;
        let endpoints = statement.query_map([owner], endpoint_of).map_err(self.refuse())?;
        endpoints.collect::<Result<_, _>>().map_err(self.refuse())
    }
}

fn endpoint_of(row: &Row) -> rusqlite::Result<Endpoint> {
    let events: String = row.get(5)?;
    Ok(Endpoint {
        id: row.get(0)?,
        owner: row.get(1)?,
        url: row.get(2)?,
        secret: row.get(3)?,
        enabled: row.get(4)?,
        events: serde_json::from_str(&events).unwrap_or_default(),
        created_at: row.get(6)?,
    })
}
