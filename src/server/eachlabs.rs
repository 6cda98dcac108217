//! eachlabs' `latentsync`: predictions, created, polled, cancelled or waited for.

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::middleware::map_response;
use axum::response::Response;
use axum::routing::{get, post};
use serde::Deserialize;
use serde_json::{Value, json};
use url::Url;

use super::app::{App, Caller, Order};
use super::jobs::inputs::own_id;
use super::jobs::{Cancelled, Delivery, JobRecord, LogLine, State as JobState, Webhook};
use super::problem::{Problem, answer_with};
use super::reply::{self, iso_time};
use super::signing::hmac_hex;
use super::webhooks::Message;
use crate::input::AddressPolicy;
use crate::request::{Api, FieldError, Request};

/// Unfinished predictions of one key.
const AT_ONCE: usize = 10;
/// Predictions that one key may create in a minute.
pub const CREATES_PER_MINUTE: usize = 100;
/// Deliveries in a list.
const LISTED: u32 = 100;

pub fn router() -> Router<App> {
    Router::new()
        .route("/v1/prediction", post(create))
        .route("/v1/prediction/", post(create))
        .route("/v1/prediction/run", post(run))
        .route("/v1/prediction/{id}", get(show))
        .route("/v1/prediction/{id}/cancel", post(cancel))
        .route("/v1/webhooks", get(webhooks))
        .route("/v1/webhooks/{id}", get(webhooks_of))
        .layer(map_response(answer_with(words)))
}

/// Both of eachlabs' published shapes of an error.
fn words(problem: &Problem) -> Response {
    let (message, details) = match problem {
        Problem::Field(error) => ("Invalid input", error.to_string()),
        Problem::Body(error) => ("Invalid input", error.clone()),
        Problem::Unauthorised => ("Unauthorized", "missing or invalid X-API-Key".to_string()),
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
    let text = |name: &str| match &body[name] {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(text.clone())),
        _ => Err(FieldError { field: name.to_string(), problem: "must be a string".to_string() }),
    };
    let webhook = match (text("webhook_url")?, text("webhook_secret")?) {
        (Some(url), secret) if !url.is_empty() => Some(Webhook { url, secret }),
        _ => None,
    };
    if !app.creates.admit(&caller.owner) {
        let message = format!("more than {CREATES_PER_MINUTE} predictions in a minute");
        return Err(Problem::Busy(message));
    }
    let order = Order { api: Api::Eachlabs, body, webhook, at_once: Some(AT_ONCE) };
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

/// eachlabs takes public URLs only; one of this server's own files is as good.
fn check_url(app: &App, field: &str, url: &str) -> Result<(), Problem> {
    let refuse = |problem: &str| FieldError { field: field.to_string(), problem: problem.to_string() };
    let parsed = Url::parse(url).map_err(|_| refuse("must be a publicly reachable URL"))?;
    if !matches!(parsed.scheme(), "http" | "https") {
        return Err(refuse("must be a publicly reachable URL: data URIs and files are rejected").into());
    }
    let local = parsed.host_str().is_some_and(|host| host == "localhost" || host.ends_with(".localhost"));
    let refused = local || app.outbound.checked(url).is_err();
    if refused && app.config.addresses == AddressPolicy::PublicOnly && own_id(url).is_none() {
        return Err(refuse("must be a publicly reachable URL: localhost is rejected").into());
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
                "status": "cancelled", "message": "Prediction cancelled successfully", "predictionID": id,
            });
            Ok(reply::json(StatusCode::OK, &body))
        }
        Cancelled::AlreadyEnded => Err(Problem::Conflict("the prediction has already ended")),
        Cancelled::Unknown => Err(Problem::NotFound("prediction")),
    }
}

#[derive(Deserialize)]
struct ListQuery {
    limit: Option<u32>,
}

async fn webhooks(
    State(app): State<App>,
    caller: Caller,
    reply::Query(query): reply::Query<ListQuery>,
) -> Result<Response, Problem> {
    let limit = query.limit.unwrap_or(LISTED).min(LISTED);
    let owner = caller.owner;
    let list = app.blocking(move |app| Ok(app.jobs.store.deliveries_of_owner(&owner, limit)?)).await?;
    Ok(reply::json(StatusCode::OK, &json!({"webhooks": list.iter().map(delivery).collect::<Vec<_>>()})))
}

async fn webhooks_of(
    State(app): State<App>,
    caller: Caller,
    reply::Path(id): reply::Path<String>,
) -> Result<Response, Problem> {
    find(&app, &caller, &id).await?;
    let list = app.blocking(move |app| Ok(app.jobs.store.deliveries_of(&id)?)).await?;
    Ok(reply::json(StatusCode::OK, &json!({"webhooks": list.iter().map(delivery).collect::<Vec<_>>()})))
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
    let lines: Vec<&str> = logs.iter().map(|line| line.message.as_str()).collect();
    let mut body = json!({
        "id": job.id,
        "predictionID": job.id,
        "status": status,
        "input": job.body["input"],
        "output": job.output_url(),
        "logs": lines.join("\n"),
        "metrics": {"predict_time": job.run_seconds().unwrap_or(0.0), "cost": 0},
        "urls": {"get": url, "cancel": format!("{url}/cancel")},
        "created_at": iso_time(job.created_at),
    });
    if matches!(job.state, JobState::Failed | JobState::Cancelled) {
        body["message"] = failed(job).into();
        body["details"] = failed(job).into();
        body["error"] = failed(job).into();
    }
    body
}

fn failed(job: &JobRecord) -> String {
    match (&job.failure, job.state) {
        (Some(failure), _) => failure.message.clone(),
        (None, JobState::Cancelled) => "the prediction was cancelled".to_string(),
        (None, _) => String::new(),
    }
}

fn delivery(delivery: &Delivery) -> Value {
    let status = match (delivery.delivered_at, delivery.next_at) {
        (Some(_), _) => "succeeded",
        (None, Some(_)) => "pending",
        (None, None) => "failed",
    };
    json!({
        "execution_id": delivery.job,
        "webhook_url": delivery.url,
        "status": status,
        "attempts": delivery.attempts,
        "http_status": delivery.last_status,
        "error": delivery.last_error,
        "created_at": iso_time(delivery.created_at),
        "delivered_at": delivery.delivered_at.map(iso_time),
    })
}

/// The message that ends a prediction: the model page's fields, and those of the general documents.
pub fn webhook(job: &JobRecord) -> Message {
    let body = json!({
        "exec_id": job.id,
        "id": job.id,
        "status": if job.state == JobState::Completed { "succeeded" } else { "failed" },
        "output": job.output_url().unwrap_or_default(),
        "error": failed(job),
        "input": job.body["input"],
        "metrics": {"predict_time": job.run_seconds().unwrap_or(0.0), "cost": 0},
        "logs": "",
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
