//! Why a request is refused, independent of the vendor's error format.

use axum::http::header::RETRY_AFTER;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};

use super::Error;
use super::jobs::SubmitError;
use super::limits::slow_body::TooSlow;
use crate::request::FieldError;

/// The `Retry-After` header of a refusal that is temporary.
const RETRY_SECONDS: &str = "2";

/// Why a request is refused. Handlers return it; [`answer_with`] formats it as the vendor's error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    /// The API key is missing or unknown.
    Unauthorised,
    /// A browser sends the request for a foreign web page: the name of the host or origin.
    Foreign(String),
    /// No such job, model, upload or path.
    NotFound(&'static str),
    /// The path exists, but not with this method.
    Method,
    /// The body is not JSON or cannot be read.
    Body(String),
    Field(FieldError),
    TooLarge,
    /// The body arrives too slowly.
    TooSlow,
    /// A limit is reached; the request may be repeated later.
    Busy(String),
    /// The request contradicts itself or the state of its object.
    Conflict(&'static str),
    /// The server failed.
    Server(String),
    /// The server is shutting down. Accepted jobs run when it is started again.
    ShuttingDown,
}

impl Problem {
    pub fn status(&self) -> StatusCode {
        match self {
            Problem::Unauthorised => StatusCode::UNAUTHORIZED,
            Problem::Foreign(_) => StatusCode::FORBIDDEN,
            Problem::NotFound(_) => StatusCode::NOT_FOUND,
            Problem::Method => StatusCode::METHOD_NOT_ALLOWED,
            Problem::Body(_) | Problem::Field(_) => StatusCode::BAD_REQUEST,
            Problem::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Problem::TooSlow => StatusCode::REQUEST_TIMEOUT,
            Problem::Busy(_) => StatusCode::TOO_MANY_REQUESTS,
            Problem::Conflict(_) => StatusCode::CONFLICT,
            Problem::Server(_) => StatusCode::INTERNAL_SERVER_ERROR,
            Problem::ShuttingDown => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// The problem in one sentence.
    pub fn message(&self) -> String {
        match self {
            Problem::Unauthorised => "missing or invalid API key".to_string(),
            Problem::Foreign(name) => format!("requests for or from `{name}` need an API key"),
            Problem::NotFound(what) => format!("{what} not found"),
            Problem::Method => "method not allowed".to_string(),
            Problem::Body(problem) | Problem::Busy(problem) | Problem::Server(problem) => problem.clone(),
            Problem::Field(error) => error.to_string(),
            Problem::TooLarge => "the body is too large".to_string(),
            Problem::TooSlow => TooSlow.to_string(),
            Problem::Conflict(problem) => problem.to_string(),
            Problem::ShuttingDown => "the server is shutting down".to_string(),
        }
    }
}

/// The problem of a body that cannot be read.
pub fn body_error(error: &(dyn std::error::Error + 'static)) -> Problem {
    let mut causes = std::iter::successors(Some(error), |cause| cause.source());
    match causes.any(|cause| cause.is::<TooSlow>()) {
        true => Problem::TooSlow,
        false => Problem::Body(format!("the body cannot be read: {error}")),
    }
}

impl From<FieldError> for Problem {
    fn from(error: FieldError) -> Self {
        Problem::Field(error)
    }
}

/// Handlers call the store only, so the error is one of storage. Its text stays in the log.
impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        tracing::error!("{error}");
        Problem::Server("the server cannot reach its storage".to_string())
    }
}

impl From<SubmitError> for Problem {
    fn from(error: SubmitError) -> Self {
        match error {
            SubmitError::QueueFull => Problem::Busy("the queue is full".to_string()),
            SubmitError::KeyBusy(limit) => {
                Problem::Busy(format!("{limit} jobs of this key are waiting or running"))
            }
            SubmitError::Closed => Problem::ShuttingDown,
            SubmitError::Storage(error) => error.into(),
        }
    }
}

/// A plain text response, with the problem in its extensions for [`answer_with`].
impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = (self.status(), self.message()).into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// Replaces the responses of problems by those that `format` makes of them, for
/// `axum::middleware::map_response`.
pub fn answer_with(
    format: impl Fn(&Problem) -> Response + Clone,
) -> impl Fn(Response) -> std::future::Ready<Response> + Clone {
    move |mut response: Response| {
        let problem = response.extensions_mut().remove::<Problem>();
        // axum's response to a method that the path does not have is empty.
        let method = (response.status() == StatusCode::METHOD_NOT_ALLOWED).then_some(Problem::Method);
        std::future::ready(match problem.or(method) {
            Some(problem) => {
                let mut response = format(&problem);
                if matches!(problem, Problem::Busy(_) | Problem::ShuttingDown) {
                    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static(RETRY_SECONDS));
                }
                response
            }
            None => response,
        })
    }
}
