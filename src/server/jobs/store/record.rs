//! The conversion of table rows to job records.

use rusqlite::Row;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::super::files::OUTPUT;
use super::super::{ApiHooks, JobRecord, Output, Priority, State, Webhook};

/// The columns that [`Stored::of`] reads.
pub(super) const COLUMNS: &str = "id, api, owner, body, base_url, webhook_url, webhook_secret, state, created_at, \
                       started_at, ended_at, attempts, failure, report, bytes, low_priority, start_by";

/// A row whose JSON columns are not parsed yet.
pub(super) struct Stored {
    job: JobRecord,
    body: String,
    failure: Option<String>,
    report: Option<String>,
    bytes: Option<i64>,
}

impl Stored {
    pub(super) fn of(row: &Row) -> rusqlite::Result<Self> {
        let text = |column: &str| row.get::<_, String>(column);
        let optional = |column: &str| row.get::<_, Option<String>>(column);
        let state = text("state")?;
        let secret = optional("webhook_secret")?;
        let job = JobRecord {
            id: text("id")?,
            api: text("api")?.parse().map_err(|error| unreadable("api", Box::new(error)))?,
            owner: text("owner")?,
            body: Value::Null,
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
            priority: if row.get("low_priority")? { Priority::Low } else { Priority::Normal },
            start_by: row.get("start_by")?,
            failure: None,
            output_name: String::new(),
            output: None,
        };
        Ok(Self {
            job,
            body: text("body")?,
            failure: optional("failure")?,
            report: optional("report")?,
            bytes: row.get("bytes")?,
        })
    }

    /// Parses the JSON columns.
    pub(super) fn read(self, hooks: &dyn ApiHooks) -> rusqlite::Result<JobRecord> {
        let body: Value = json("body", &self.body)?;
        let output_name = hooks.output_name(self.job.api, &body).unwrap_or_else(|| OUTPUT.to_string());
        let failure = self.failure.map(|failure| json("failure", &failure)).transpose()?;
        let output = match (self.bytes, self.report) {
            (Some(bytes), Some(report)) => {
                Some(Output { bytes: bytes as u64, report: json("report", &report)? })
            }
            _ => None,
        };
        Ok(JobRecord { body, failure, output_name, output, ..self.job })
    }
}

fn json<T: DeserializeOwned>(column: &str, text: &str) -> rusqlite::Result<T> {
    serde_json::from_str(text).map_err(|error| unreadable(column, Box::new(error)))
}

fn unreadable(column: &str, error: Box<dyn std::error::Error + Send + Sync>) -> rusqlite::Error {
    tracing::error!("the database's column `{column}` cannot be read: {error}");
    rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, error)
}
