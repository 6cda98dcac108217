//! JSON in and out of HTTP, and times as the vendors write them.

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

use super::problem::Problem;
use crate::request::FieldError;

/// A JSON answer.
pub fn json(status: StatusCode, body: &Value) -> Response {
    (status, [(CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}

/// A request's body as JSON, whatever its content type says: some of the vendors' own examples leave it out.
pub struct Body(pub Value);

impl<S: Send + Sync> FromRequest<S> for Body {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let bytes = Bytes::from_request(request, state).await.map_err(|error| match error {
            BytesRejection::FailedToBufferBody(error) if error.status() == StatusCode::PAYLOAD_TOO_LARGE => {
                Problem::TooLarge
            }
            error => Problem::Body(error.body_text()),
        })?;
        serde_json::from_slice(&bytes)
            .map(Body)
            .map_err(|error| Problem::Body(format!("the body is not JSON: {error}")))
    }
}

/// A query whose mistakes are told in the vendor's words.
pub struct Query<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let query = axum::extract::Query::from_request_parts(parts, state).await;
        query.map(|query| Query(query.0)).map_err(|error| {
            Problem::Field(FieldError { field: "query".to_string(), problem: error.body_text() })
        })
    }
}

/// What a path names; what is no text names nothing.
pub struct Path<T>(pub T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let path = axum::extract::Path::from_request_parts(parts, state).await;
        path.map(|path| Path(path.0)).map_err(|_| Problem::NotFound("path"))
    }
}

/// A form with files.
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
