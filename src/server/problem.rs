//! What can be wrong with a request, before a vendor's words are put to it.

use axum::http::header::RETRY_AFTER;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};

use super::jobs::Refused;
use crate::request::FieldError;
use crate::server::Error;
use crate::server::limits::slow_body::TooSlow;

/// When a client may ask again that was told to wait.
const RETRY_SECONDS: &str = "2";

/// Why a request is not answered as it wishes. Handlers return it; each vendor's router turns it into that
/// vendor's error with [`answer_with`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    /// No key, or not one of ours.
    Unauthorised,
    /// A web page of somebody else's sends it through a browser on this machine.
    Foreign(String),
    /// No such job, model, upload or path.
    NotFound(&'static str),
    /// The path is there, the method is not.
    Method,
    /// The body is no JSON, or cannot be read.
    Body(String),
    Field(FieldError),
    TooLarge,
    /// The body comes so slowly that it is not waited for.
    TooSlow,
    /// A limit that passes with time.
    Busy(String),
    /// The request contradicts itself, or the state of what it is about.
    Conflict(&'static str),
    /// The server's own fault.
    Server(String),
    /// It is shutting down. What was accepted goes on with the next one.
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

/// Why a body cannot be read.
pub fn unreadable(error: &(dyn std::error::Error + 'static)) -> Problem {
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

/// Only storage fails here; the client is told no more than that.
impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        tracing::error!("{error}");
        Problem::Server("the server cannot reach its storage".to_string())
    }
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::QueueFull => Problem::Busy("the queue is full".to_string()),
            Refused::KeyBusy(limit) => {
                Problem::Busy(format!("{limit} jobs of this key are waiting or running"))
            }
            Refused::Closed => Problem::ShuttingDown,
            Refused::Storage(error) => error.into(),
        }
    }
}

/// A plain answer, with the problem beside it for [`answer_with`].
impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = (self.status(), self.message()).into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// Puts a vendor's words to the problems of its router.
pub fn answer_with(
    words: fn(&Problem) -> Response,
) -> impl Fn(Response) -> std::future::Ready<Response> + Clone {
    move |mut response: Response| {
        let problem = response.extensions_mut().remove::<Problem>();
        // The router's own answer to a method that a path does not have is empty.
        let method = (response.status() == StatusCode::METHOD_NOT_ALLOWED).then_some(Problem::Method);
        std::future::ready(match problem.or(method) {
            Some(problem) => {
                let mut told = words(&problem);
                if matches!(problem, Problem::Busy(_) | Problem::ShuttingDown) {
                    told.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static(RETRY_SECONDS));
                }
                told
            }
            None => response,
        })
    }
}
