//! Uploaded files in the database. The identifier is the permission to write the file once and to read it:
//! it is random, and told only to whoever asked for the upload.

use std::collections::HashSet;
use std::io;

use rusqlite::{OptionalExtension, params};

use super::{Store, now};
use crate::server::Result;
use crate::system;

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

    /// Marks an upload as complete once `publish` has put the file in its place. Of several attempts at one upload the
    /// first to come here is it; `false` for the others.
    pub fn complete_upload(
        &self,
        id: &str,
        bytes: u64,
        publish: impl FnOnce() -> io::Result<()>,
    ) -> Result<bool> {
        // Nobody else comes between the question and the answer.
        let connection = self.durable();
        let open = connection
            .query_row("SELECT 1 FROM uploads WHERE id = ?1 AND bytes IS NULL", [id], |_| Ok(()))
            .optional()
            .map_err(self.refuse())?;
        if open.is_none() {
            return Ok(false);
        }
        publish().map_err(|source| system::Error::WriteFile { path: id.into(), source })?;
        connection
            // From now on it is kept for as long as is promised, however long it took to arrive.
            .execute(
                "UPDATE uploads SET bytes = ?2, created_at = ?3 WHERE id = ?1",
                params![id, bytes as i64, now()],
            )
            .map_err(self.refuse())?;
        Ok(true)
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
    pub fn uploads_before(&self, before: i64) -> Result<Vec<String>> {
        self.ids("SELECT id FROM uploads WHERE created_at < ?1 ORDER BY created_at", [before])
    }

    /// Those of them that are complete.
    pub fn complete_uploads_before(&self, before: i64) -> Result<Vec<String>> {
        self.ids(
            "SELECT id FROM uploads WHERE created_at < ?1 AND bytes IS NOT NULL ORDER BY created_at",
            [before],
        )
    }

    /// All uploads, complete or not.
    pub fn all_uploads(&self) -> Result<HashSet<String>> {
        Ok(self.ids("SELECT id FROM uploads", [])?.into_iter().collect())
    }

    /// Forgets an upload; `false` if an unfinished job reads it.
    pub fn remove_upload(&self, id: &str) -> Result<bool> {
        let removed = self.durable().execute(
            "DELETE FROM uploads WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM inputs WHERE file = ?1)",
            [id],
        );
        Ok(removed.map_err(self.refuse())? == 1)
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
