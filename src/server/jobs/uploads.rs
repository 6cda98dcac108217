//! Uploaded files in the database. The identifier is the permission to write the file once and to read it:
//! it is random, and told only to whoever asked for the upload.

use rusqlite::{OptionalExtension, params};

use super::{Store, now};
use crate::error::Result;

pub(super) const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS uploads (
        id TEXT PRIMARY KEY,
        name TEXT NOT NULL,
        content_type TEXT NOT NULL,
        owner TEXT NOT NULL,
        created_at INTEGER NOT NULL,
        bytes INTEGER
    );
";

/// A file that was or is to be uploaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upload {
    pub id: String,
    /// The client's name for it, fit for a URL and a header.
    pub name: String,
    pub content_type: String,
    pub owner: String,
    /// Milliseconds since 1970.
    pub created_at: i64,
    /// Absent until the file is complete.
    pub bytes: Option<u64>,
}

impl Store {
    pub fn insert_upload(&self, id: &str, name: &str, content_type: &str, owner: &str) -> Result<()> {
        self.relaxed()
            .execute(
                "INSERT INTO uploads (id, name, content_type, owner, created_at) VALUES (?1, ?2, ?3, ?4, ?5)",
                params![id, name, content_type, owner, now()],
            )
            .map_err(self.refuse())?;
        Ok(())
    }

    /// The file is there, whole, and will stay.
    pub fn complete_upload(&self, id: &str, bytes: u64) -> Result<()> {
        self.durable()
            .execute("UPDATE uploads SET bytes = ?2 WHERE id = ?1", params![id, bytes as i64])
            .map_err(self.refuse())?;
        Ok(())
    }

    pub fn upload(&self, id: &str) -> Result<Option<Upload>> {
        self.reader()
            .query_row(
                "SELECT id, name, content_type, owner, created_at, bytes FROM uploads WHERE id = ?1",
                [id],
                upload_of,
            )
            .optional()
            .map_err(self.refuse())
    }

    /// Uploads from before `before` (milliseconds since 1970), oldest first.
    pub fn uploads_before(&self, before: i64) -> Result<Vec<Upload>> {
        let connection = self.reader();
        let mut statement = connection
            .prepare_cached(
                "SELECT id, name, content_type, owner, created_at, bytes FROM uploads \
                 WHERE created_at < ?1 ORDER BY created_at",
            )
            .map_err(self.refuse())?;
        let uploads = statement.query_map([before], upload_of).map_err(self.refuse())?;
        uploads.collect::<Result<_, _>>().map_err(self.refuse())
    }

    pub fn remove_upload(&self, id: &str) -> Result<()> {
        self.durable().execute("DELETE FROM uploads WHERE id = ?1", [id]).map_err(self.refuse())?;
        Ok(())
    }
}

fn upload_of(row: &rusqlite::Row) -> rusqlite::Result<Upload> {
    let bytes: Option<i64> = row.get(5)?;
    Ok(Upload {
        id: row.get(0)?,
        name: row.get(1)?,
        content_type: row.get(2)?,
        owner: row.get(3)?,
        created_at: row.get(4)?,
        bytes: bytes.map(|bytes| bytes as u64),
    })
}
