//! eachlabs' `latentsync`: predictions, created, polled, cancelled or waited for, and the log of their webhooks.

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::middleware::map_response;
use axum::response::Response;
use axum::routing::{any, get, post};
use serde_json::{Map, Value, json};
use url::Url;
use uuid::Uuid;

use super::app::{App, Caller, Order, Shared};
use super::jobs::inputs::own_id;
use super::jobs::{Attempt, Cancelled, Delivery, JobRecord, LogLine, State as JobState};
use super::problem::{Problem, answer_with};
use super::reply::{self, iso_time};
use super::signing::hmac_hex;
use super::webhooks::Message;
use crate::input::AddressPolicy;
use crate::request::{Api, FieldError, Fields, Request};

/// Unfinished predictions of one key.
const AT_ONCE: usize = 10;
/// Predictions that one key may create in a minute.
pub const CREATES_PER_MINUTE: usize = 100;
/// Deliveries in a list, unless it is to have more or fewer, and at most.
const LISTED: u32 = 50;
const LISTED_AT_MOST: u32 = 100;
/// Which of its services eachlabs says to have sent a webhook.
const SOURCE: &str = "api-gateway";

pub fn router() -> Router<App> {
    Router::new()
        .route("/v1/prediction", post(create))
        .route("/v1/prediction/", post(create))
        .route("/v1/prediction/run", post(run))
        .route("/v1/prediction/{id}", get(show))
        .route("/v1/prediction/{id}/cancel", post(cancel))
        .route("/v1/webhooks", get(webhooks))
        .route("/v1/webhooks/{id}", get(webhook_of))
        .route("/v1/{*path}", any(|_: Caller| async { Problem::NotFound("path") }))
        .layer(map_response(answer_with(words)))
}

/// Both of eachlabs' published shapes of an error.
fn words(problem: &Problem) -> Response {
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
    // A cancel that comes too late is an invalid request here.
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

/// `run`: the request stays open until the prediction has ended.
async fn run(
    State(app): State<App>,
    caller: Caller,
    reply::Body(body): reply::Body,
) -> Result<Response, Problem> {
    let id = accept(&app, &caller, body).await?;
    let job = app.wait(&caller, &id).await?;
    let (status, message) = match job.state {
        JobState::Completed => ("success", "Prediction completed successfully".to_string()),
        _ => ("error", failed(&job)),
    };
    let error = if status == "error" { message.clone() } else { String::new() };
    let body = json!({
        "status": status, "message": message, "predictionID": job.id,
        "output": job.output_url().unwrap_or_default(), "error": error,
    });
    Ok(reply::json(StatusCode::OK, &body))
}

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
    if !app.creates.admit(&caller.owner) {
        let message = format!("more than {CREATES_PER_MINUTE} predictions in a minute");
        return Err(Problem::Busy(message));
    }
    let order = Order { webhook, at_once: Some(AT_ONCE), ..Order::new(Api::Eachlabs, body) };
    let accepted = app.submit(caller, order).await;
    if accepted.is_err() {
        app.creates.take_back(&caller.owner);
    }
    accepted
}

/// The page lists an unknown model as 404, everything else that is wrong as 400.
fn check_model(body: &Value) -> Result<(), Problem> {
    match &body["model"] {
        Value::String(model) if model != "latentsync" => Err(Problem::NotFound("model")),
        Value::Null if body.is_object() => {
            Err(FieldError { field: "model".to_string(), problem: "is missing".to_string() }.into())
        }
        _ => Ok(()),
    }
}

/// eachlabs takes public HTTPS URLs only; one of this server's own files is as good.
fn check_url(app: &App, field: &str, url: &str) -> Result<(), Problem> {
    let refuse = |problem: &str| FieldError { field: field.to_string(), problem: problem.to_string() };
    let parsed = Url::parse(url).map_err(|_| refuse("must be a publicly reachable HTTPS URL"))?;
    if !matches!(parsed.scheme(), "http" | "https") {
        return Err(refuse("must be a publicly reachable HTTPS URL: data URIs and files are rejected").into());
    }
    if app.config.addresses == AddressPolicy::Any || own_id(url).is_some() {
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
        Cancelled::Done | Cancelled::Requested => {
            let body = json!({
                "status": "cancelled", "message": "Prediction canceled successfully", "predictionID": id,
            });
            Ok(reply::json(StatusCode::OK, &body))
        }
        Cancelled::AlreadyEnded => Err(Problem::Conflict("the prediction has already ended")),
        Cancelled::Unknown => Err(Problem::NotFound("prediction")),
    }
}

/// The log of all webhooks, the newest first.
async fn webhooks(State(app): State<App>, caller: Caller, query: reply::Query) -> Result<Response, Problem> {
    let limit = query.count("limit", 1..=LISTED_AT_MOST)?.unwrap_or(LISTED);
    let offset = query.count("offset", 0..=u32::MAX)?.unwrap_or(0);
    let list = app.blocking(move |app| {
        let deliveries = app.jobs.store.deliveries_of_owner(&caller.owner, Api::Eachlabs, limit, offset)?;
        let told = deliveries.iter().filter_map(|delivery| told(app, delivery).transpose());
        told.collect::<Result<Vec<Value>, Problem>>()
    });
    Ok(reply::json(StatusCode::OK, &json!({"webhooks": list.await?, "limit": limit, "offset": offset})))
}

/// A prediction's webhook, with every attempt to deliver it.
async fn webhook_of(
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
        let mut webhook = told(app, &delivery)?.ok_or_else(missing)?;
        let mut attempts: Vec<Value> = attempts.iter().map(told_attempt).collect();
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

/// A webhook as it was sent; nothing if its prediction has been forgotten meanwhile.
fn told(app: &Shared, delivery: &Delivery) -> Result<Option<Value>, Problem> {
    let Some(job) = app.jobs.store.get(&delivery.job)? else { return Ok(None) };
    let message = webhook(&job, &app.jobs.store.logs(&delivery.job)?);
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

fn told_attempt(attempt: &Attempt) -> Value {
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

/// Both published shapes of a prediction at once. The status words are those of the model's own page, and
/// `cancelled`, which only the other one has.
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
        "logs": joined(logs),
        "metrics": {"predict_time": job.run_seconds().unwrap_or(0.0), "cost": 0},
        "urls": {"get": url, "cancel": format!("{url}/cancel")},
    });
    if matches!(job.state, JobState::Failed | JobState::Cancelled) {
        body["message"] = failed(job).into();
        body["details"] = failed(job).into();
        body["error"] = failed(job).into();
    }
    body
}

fn joined(logs: &[LogLine]) -> String {
    logs.iter().map(|line| line.message.as_str()).collect::<Vec<_>>().join("\n")
}

fn failed(job: &JobRecord) -> String {
    match (&job.failure, job.state) {
        (Some(failure), _) => failure.message.clone(),
        (None, JobState::Cancelled) => "the prediction was cancelled".to_string(),
        (None, _) => String::new(),
    }
}

/// The message that ends a prediction: the model page's fields, and those of the general documents.
pub fn webhook(job: &JobRecord, logs: &[LogLine]) -> Message {
    let body = json!({
        "exec_id": job.id,
        "id": job.id,
        "status": if job.state == JobState::Completed { "succeeded" } else { "failed" },
        "output": job.output_url().unwrap_or_default(),
        "error": failed(job),
        "input": job.body["input"],
        "metrics": {"predict_time": job.run_seconds().unwrap_or(0.0), "cost": 0},
        "logs": joined(logs),
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
