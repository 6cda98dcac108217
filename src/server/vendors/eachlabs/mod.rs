//! eachlabs' `latentsync`: predictions (create, run, get, cancel) and the log of their webhooks.

mod routes;

use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Map, Value, json};
use url::Url;
use uuid::Uuid;

use crate::input::AddressPolicy;
use crate::request::{Api, FieldError, Fields, Request};
use crate::server::app::{App, Caller, Shared};
use crate::server::jobs::inputs::media_id;
use crate::server::jobs::{Attempt, CancelOutcome, Delivery, JobRecord, LogLine, NewJob, State as JobState};
use crate::server::problem::Problem;
use crate::server::reply::{self, iso_time};
use crate::server::routes::Routes;
use crate::server::signing::hmac_hex;
use crate::server::vendor::{EndedJob, Message, RateLimit, Vendor, WebhookPolicy};

/// Unfinished predictions of one key.
const MAX_UNFINISHED: usize = 10;
/// Predictions that one key may create in a minute.
const MAX_CREATES_PER_MINUTE: usize = 100;
/// Default and maximum length of the list of webhooks.
const DEFAULT_PAGE: u32 = 50;
const MAX_PAGE: u32 = 100;
/// The service that eachlabs names as the sender of a webhook.
const SOURCE: &str = "api-gateway";

pub struct Eachlabs;

impl Vendor for Eachlabs {
    fn name(&self) -> &'static str {
        routes::TAG
    }

    fn apis(&self) -> &'static [Api] {
        &[Api::Eachlabs]
    }

    fn routes(&self) -> Routes {
        routes::routes()
    }

    fn schemas(&self, _max_upload: u64) -> Value {
        routes::schemas()
    }

    fn webhook_operation(&self) -> Value {
        routes::webhook_operation()
    }

    fn error_response(&self, problem: &Problem) -> Response {
        error_response(problem)
    }

    fn webhook_policy(&self) -> WebhookPolicy {
        WebhookPolicy { timeout: Duration::from_secs(30), retry_seconds: &[30, 120, 600] }
    }

    fn webhook_message(&self, ended: &EndedJob<'_>) -> Option<Message> {
        Some(webhook_message(ended.job, ended.logs))
    }

    fn rate_limit(&self) -> Option<RateLimit> {
        Some(RateLimit { per_minute: MAX_CREATES_PER_MINUTE, noun: "predictions" })
    }

    fn max_unfinished_per_key(&self) -> Option<usize> {
        Some(MAX_UNFINISHED)
    }
}

/// An error with the fields of both shapes that eachlabs publishes.
fn error_response(problem: &Problem) -> Response {
    let (message, details) = match problem {
        Problem::Field(error) => ("Invalid input", error.to_string()),
        Problem::Body(error) => ("Invalid input", error.clone()),
        Problem::Unauthorised => ("Unauthorized", "Invalid or missing API key".to_string()),
        Problem::NotFound(what @ ("model" | "prediction")) => (
            "Not found",
            if *what == "model" { "Model not found" } else { "Prediction not found" }.to_string(),
        ),
        Problem::NotFound(_) => ("Not found", problem.message()),
        Problem::Busy(_) => ("Rate limit exceeded", problem.message()),
        _ => ("Request failed", problem.message()),
    };
    // eachlabs answers 400 to the cancellation of a prediction that has ended.
    let status =
        if problem.status() == StatusCode::CONFLICT { StatusCode::BAD_REQUEST } else { problem.status() };
    let body = json!({"status": "error", "message": message, "details": details, "error": details});
    reply::json(status, &body)
}

async fn create(
    State(app): State<App>,
    caller: Caller,
    reply::Body(body): reply::Body,
) -> Result<Response, Problem> {
    let id = accept(&app, &caller, body).await?;
    let body = json!({
        "status": "success", "message": "Prediction created successfully", "predictionID": id,
    });
    Ok(reply::json(StatusCode::OK, &body))
}

/// Creates a prediction and waits for its end.
async fn run(
    State(app): State<App>,
    caller: Caller,
    reply::Body(body): reply::Body,
) -> Result<Response, Problem> {
    let id = accept(&app, &caller, body).await?;
    let job = app.wait(&caller, &id).await?;
    let (status, message) = match job.state {
        JobState::Completed => ("success", "Prediction completed successfully".to_string()),
        _ => ("error", failure_message(&job)),
    };
    let error = if status == "error" { message.clone() } else { String::new() };
    let body = json!({
        "status": status, "message": message, "predictionID": job.id,
        "output": job.output_url().unwrap_or_default(), "error": error,
    });
    Ok(reply::json(StatusCode::OK, &body))
}

/// Validates a body and submits the job.
async fn accept(app: &App, caller: &Caller, body: Value) -> Result<String, Problem> {
    check_model(&body)?;
    let request = Request::from_json(&body, Some(Api::Eachlabs))?;
    for (field, url) in [("input.video_url", &request.video), ("input.audio_url", &request.audio)] {
        check_url(app, field, url)?;
    }
    let fields = Fields::new(&body)?;
    fields.string("version")?;
    let secret = fields.string("webhook_secret")?;
    let url = fields.string("webhook_url")?.filter(|url| !url.is_empty());
    let webhook = url.map(|url| app.webhook("webhook_url", url, secret)).transpose()?;
    app.submit(NewJob { webhook, ..caller.job(request, &body) }).await
}

/// An unknown model is 404, every other mistake 400, as on the model's page.
fn check_model(body: &Value) -> Result<(), Problem> {
    match &body["model"] {
        Value::String(model) if model != "latentsync" => Err(Problem::NotFound("model")),
        Value::Null if body.is_object() => Err(FieldError::new("model", "is missing").into()),
        _ => Ok(()),
    }
}

/// eachlabs accepts public HTTPS URLs only; here, URLs of this server's own files are accepted too.
fn check_url(app: &App, field: &str, url: &str) -> Result<(), Problem> {
    let refuse = |problem: &str| FieldError::new(field, problem);
    let parsed = Url::parse(url).map_err(|_| refuse("must be a publicly reachable HTTPS URL"))?;
    if !matches!(parsed.scheme(), "http" | "https") {
        return Err(refuse("must be a publicly reachable HTTPS URL: data URIs and files are rejected").into());
    }
    if app.config.addresses == AddressPolicy::Any || media_id(url).is_some() {
        return Ok(());
    }
    let local = parsed.host_str().is_some_and(|host| host == "localhost" || host.ends_with(".localhost"));
    if local || app.outbound.checked(url).is_err() {
        return Err(refuse("must be a publicly reachable HTTPS URL: localhost is rejected").into());
    }
    if parsed.scheme() != "https" {
        return Err(refuse("must be a publicly reachable HTTPS URL: plain HTTP is rejected").into());
    }
    Ok(())
}

async fn show(
    State(app): State<App>,
    caller: Caller,
    reply::Path(id): reply::Path<String>,
) -> Result<Response, Problem> {
    let job = find(&app, &caller, &id).await?;
    let logs = app.blocking(move |app| Ok(app.jobs.store.logs(&id)?)).await?;
    Ok(reply::json(StatusCode::OK, &prediction(&job, &logs)))
}

async fn cancel(
    State(app): State<App>,
    caller: Caller,
    reply::Path(id): reply::Path<String>,
) -> Result<Response, Problem> {
    find(&app, &caller, &id).await?;
    let job = id.clone();
    match app.blocking(move |app| Ok(app.jobs.cancel(&job)?)).await? {
        CancelOutcome::Cancelled | CancelOutcome::Requested => {
            let body = json!({
                "status": "cancelled", "message": "Prediction canceled successfully", "predictionID": id,
            });
            Ok(reply::json(StatusCode::OK, &body))
        }
        CancelOutcome::AlreadyEnded => Err(Problem::Conflict("the prediction has already ended")),
        CancelOutcome::Unknown => Err(Problem::NotFound("prediction")),
    }
}

/// The log of all webhooks, newest first.
async fn webhooks(State(app): State<App>, caller: Caller, query: reply::Query) -> Result<Response, Problem> {
    let limit = query.count("limit", 1..=MAX_PAGE)?.unwrap_or(DEFAULT_PAGE);
    let offset = query.count("offset", 0..=u32::MAX)?.unwrap_or(0);
    let list = app.blocking(move |app| {
        let deliveries = app.jobs.store.deliveries_of_owner(&caller.owner, Api::Eachlabs, limit, offset)?;
        let log = deliveries.iter().filter_map(|delivery| log_entry(app, delivery).transpose());
        log.collect::<Result<Vec<Value>, Problem>>()
    });
    Ok(reply::json(StatusCode::OK, &json!({"webhooks": list.await?, "limit": limit, "offset": offset})))
}

/// A prediction's webhook, with every attempt to deliver it.
async fn webhook_log(
    State(app): State<App>,
    caller: Caller,
    reply::Path(id): reply::Path<String>,
) -> Result<Response, Problem> {
    if Uuid::try_parse(&id).is_err() {
        return Err(Problem::Body("invalid execution_id".to_string()));
    }
    let missing = || Problem::NotFound("webhook");
    find(&app, &caller, &id).await.map_err(|problem| match problem {
        Problem::NotFound(_) => missing(),
        problem => problem,
    })?;
    let webhook = app.blocking(move |app| {
        let (delivery, attempts) = app.jobs.store.last_delivery_of(&id)?.ok_or_else(missing)?;
        let mut webhook = log_entry(app, &delivery)?.ok_or_else(missing)?;
        let mut attempts: Vec<Value> = attempts.iter().map(attempt_entry).collect();
        if let Some(next_at) = delivery.next_at {
            attempts.push(json!({
                "status": "PENDING", "status_code": null, "response": null, "error_message": null,
                "created_at": iso_time(next_at),
            }));
        }
        webhook["attempts"] = attempts.into();
        Ok(webhook)
    });
    Ok(reply::json(StatusCode::OK, &webhook.await?))
}

/// A webhook as it was sent; `None` if its prediction was deleted in the meantime.
fn log_entry(app: &Shared, delivery: &Delivery) -> Result<Option<Value>, Problem> {
    let Some(job) = app.jobs.store.get(&delivery.job)? else { return Ok(None) };
    let message = webhook_message(&job, &app.jobs.store.logs(&delivery.job)?);
    let mut headers = Map::from_iter([("Content-Type".to_string(), "application/json".into())]);
    for (name, value) in &message.headers {
        headers.insert(name.to_string(), String::from_utf8_lossy(value.as_bytes()).into());
    }
    Ok(Some(json!({
        "execution_id": delivery.job,
        "url": delivery.url,
        "request": String::from_utf8_lossy(&message.body),
        "headers": headers,
        "source": SOURCE,
        "created_at": iso_time(delivery.created_at),
    })))
}

fn attempt_entry(attempt: &Attempt) -> Value {
    json!({
        "status": if attempt.succeeded() { "SUCCESS" } else { "FAILED" },
        "status_code": attempt.status,
        "response": attempt.response,
        "error_message": attempt.error,
        "created_at": iso_time(attempt.at),
    })
}

async fn find(app: &App, caller: &Caller, id: &str) -> Result<JobRecord, Problem> {
    let job = app.job(caller, id, "prediction").await?;
    match job.api {
        Api::Eachlabs => Ok(job),
        _ => Err(Problem::NotFound("prediction")),
    }
}

/// A prediction with the fields of both shapes that eachlabs publishes. The status values are those of the
/// model's page, and `cancelled`, which only the general documents have.
fn prediction(job: &JobRecord, logs: &[LogLine]) -> Value {
    let status = match job.state {
        JobState::Queued | JobState::Running => "processing",
        JobState::Completed => "success",
        JobState::Failed => "error",
        JobState::Cancelled => "cancelled",
    };
    let url = format!("{}/v1/prediction/{}", job.base_url, job.id);
    let mut body = json!({
        "id": job.id,
        "predictionID": job.id,
        "status": status,
        "input": job.body["input"],
        "output": job.output_url(),
        "logs": joined_lines(logs),
        "metrics": {"predict_time": job.run_seconds().unwrap_or(0.0), "cost": 0},
        "urls": {"get": url, "cancel": format!("{url}/cancel")},
    });
    if matches!(job.state, JobState::Failed | JobState::Cancelled) {
        body["message"] = failure_message(job).into();
        body["details"] = failure_message(job).into();
        body["error"] = failure_message(job).into();
    }
    body
}

fn joined_lines(logs: &[LogLine]) -> String {
    logs.iter().map(|line| line.message.as_str()).collect::<Vec<_>>().join("\n")
}

fn failure_message(job: &JobRecord) -> String {
    match (&job.failure, job.state) {
        (Some(failure), _) => failure.message.clone(),
        (None, JobState::Cancelled) => "the prediction was cancelled".to_string(),
        (None, _) => String::new(),
    }
}

/// The webhook message, with the fields of the model's page and of the general documents.
fn webhook_message(job: &JobRecord, logs: &[LogLine]) -> Message {
    let body = json!({
        "exec_id": job.id,
        "id": job.id,
        "status": if job.state == JobState::Completed { "succeeded" } else { "failed" },
        "output": job.output_url().unwrap_or_default(),
        "error": failure_message(job),
        "input": job.body["input"],
        "metrics": {"predict_time": job.run_seconds().unwrap_or(0.0), "cost": 0},
        "logs": joined_lines(logs),
    });
    let message = Message::new(&body);
    match job.webhook.as_ref().and_then(|webhook| webhook.secret.as_ref()) {
        Some(secret) => {
            let signature = hmac_hex(secret.as_bytes(), &message.body);
            message.with("x-webhook-signature", &signature)
        }
        None => message,
    }
}
