//! What the job core asks of the API that a job came through.

use std::path::Path;

use serde_json::Value;

use super::{DataDir, JobRecord, Outcome};
use crate::request::Api;
use crate::server::Result;

/// What differs between the jobs of different APIs. The core knows no API by name; the server's vendors
/// answer.
pub trait ApiHooks: Send + Sync {
    /// The file name that a request body asks for the result; `None` for the default.
    fn output_name(&self, _api: Api, _body: &Value) -> Option<String> {
        None
    }

    /// Runs after the engine has written `result` and before it is published.
    fn after_success(&self, _job: &JobRecord, _result: &Path, _files: &DataDir) -> Result<()> {
        Ok(())
    }

    /// The event that a job's end is for the owner's registered webhook endpoints; `None` if the API has
    /// none.
    fn endpoint_event(&self, _api: Api, _outcome: &Outcome) -> Option<&'static str> {
        None
    }
}

/// An API without differences, for tests.
#[cfg(test)]
impl ApiHooks for () {}
