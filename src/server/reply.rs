//! Extractors and responses: JSON bodies, queries, paths, forms, and the vendors' time formats.

use std::collections::HashMap;
use std::convert::Infallible;
use std::ops::RangeInclusive;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{FromRequest, FromRequestParts, Multipart, Request};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, SecondsFormat, Utc};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::problem::{Problem, body_error};
use crate::request::FieldError;

/// Approximate number of JSON values in a body. A vendor's request has about a dozen.
const MAX_VALUES: usize = 20_000;

/// A JSON response.
pub fn json(status: StatusCode, body: &Value) -> Response {
    (status, [(CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}

/// The error format of the server's own routes: an object with the field `detail`.
pub fn detail(problem: &Problem) -> Response {
    json(problem.status(), &serde_json::json!({"detail": problem.message()}))
}

/// A request's JSON body. The content type is ignored: some of the vendors' own examples have none.
pub struct Body(pub Value);

impl<S: Send + Sync> FromRequest<S> for Body {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let bytes = Bytes::from_request(request, state).await.map_err(|error| match error {
            BytesRejection::FailedToBufferBody(error) if error.status() == StatusCode::PAYLOAD_TOO_LARGE => {
                Problem::TooLarge
            }
            error => body_error(&error),
        })?;
        json_of(&bytes).map(Body)
    }
}

/// Parses JSON. The number of values is limited because small ones take many times their size in memory.
pub fn json_of(bytes: &[u8]) -> Result<Value, Problem> {
    if bytes.iter().filter(|byte| matches!(byte, b'{' | b'[' | b',')).count() > MAX_VALUES {
        return Err(Problem::TooLarge);
    }
    serde_json::from_slice(bytes).map_err(|error| Problem::Body(format!("the body is not JSON: {error}")))
}

/// The query parameters. The last of repeated ones counts.
pub struct Query(HashMap<String, String>);

impl Query {
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// A whole number within a range.
    pub fn count(&self, name: &str, range: RangeInclusive<u32>) -> Result<Option<u32>, FieldError> {
        let Some(text) = self.get(name) else { return Ok(None) };
        match text.parse().ok().filter(|number| range.contains(number)) {
            Some(number) => Ok(Some(number)),
            None => {
                let problem = format!("must be a whole number from {} to {}", range.start(), range.end());
                Err(FieldError { field: name.to_string(), problem })
            }
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Query {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let query = parts.uri.query().unwrap_or_default();
        Ok(Self(url::form_urlencoded::parse(query.as_bytes()).into_owned().collect()))
    }
}

/// Path parameters; "not found" if they cannot be read.
pub struct Path<T>(pub T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let path = axum::extract::Path::from_request_parts(parts, state).await;
        path.map(|path| Path(path.0)).map_err(|_| Problem::NotFound("path"))
    }
}

/// A multipart form.
pub async fn form<S: Send + Sync>(request: Request, state: &S) -> Result<Multipart, Problem> {
    Multipart::from_request(request, state).await.map_err(|error| Problem::Body(error.body_text()))
}

/// `2023-04-01T12:34:56.789Z`, from milliseconds since 1970.
pub fn iso_time(milliseconds: i64) -> String {
    time(milliseconds).to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// `2023-04-01T12:34:56.789000+00:00`, which every Python's `fromisoformat` reads.
pub fn python_time(milliseconds: i64) -> String {
    time(milliseconds).to_rfc3339_opts(SecondsFormat::Micros, false)
}

fn time(milliseconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(milliseconds).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_the_clients_read_them() {
        assert_eq!(iso_time(1_680_352_496_789), "2023-04-01T12:34:56.789Z");
        assert_eq!(python_time(1_680_352_496_000), "2023-04-01T12:34:56.000000+00:00");
    }
}
