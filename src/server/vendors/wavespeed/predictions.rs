//! wavespeed's list of predictions, and their deletion.

use axum::extract::State;
use axum::response::Response;
use chrono::{DateTime, NaiveDate, NaiveTime};
use serde_json::{Map, Value, json};

use super::{APIS, prediction, success};
use crate::request::{Api, FieldError, Fields};
use crate::server::app::{App, Caller};
use crate::server::jobs::clean::delete_job;
use crate::server::jobs::{Filter, State as JobState};
use crate::server::problem::Problem;
use crate::server::reply;

/// Default and maximum length of a page.
const DEFAULT_PAGE: u64 = 10;
const MAX_PAGE: u64 = 100;
/// Predictions that one request deletes.
const MAX_DELETED: usize = 100;

/// The list, filtered by the query.
pub async fn list(app: State<App>, caller: Caller, query: reply::Query) -> Result<Response, Problem> {
    let mut filter = Map::new();
    for name in ["model", "status", "created_after", "created_before"] {
        filter.extend(query.get(name).map(|text| (name.to_string(), text.into())));
    }
    for name in ["page", "page_size"] {
        filter.extend(query.count(name, 1..=u32::MAX)?.map(|number| (name.to_string(), number.into())));
    }
    search(app, caller, reply::Body(filter.into())).await
}

/// The list, filtered by the body.
pub async fn search(
    State(app): State<App>,
    caller: Caller,
    reply::Body(body): reply::Body,
) -> Result<Response, Problem> {
    let fields = Fields::new(&body)?;
    let page = fields.count("page", 1..=u64::from(u32::MAX))?.unwrap_or(1);
    let size = fields.count("page_size", 1..=MAX_PAGE)?.unwrap_or(DEFAULT_PAGE);
    let apis: Vec<Api> = match fields.string("model")? {
        None | Some("") => APIS.to_vec(),
        Some(model) => APIS.into_iter().filter(|&api| super::model(api) == model).collect(),
    };
    let states = states(&fields)?;
    let created =
        (time(&fields, "created_after")?.unwrap_or(0), time(&fields, "created_before")?.unwrap_or(i64::MAX));
    let Caller { owner, base_url } = caller;
    let found = app.blocking(move |app| {
        let offset = u32::try_from((page - 1) * size).unwrap_or(u32::MAX);
        let filter =
            Filter { owner: &owner, apis: &apis, states: &states, created, limit: size as u32, offset };
        Ok(app.jobs.store.page(&filter)?)
    });
    let (total, jobs) = found.await?;
    let items: Vec<Value> = jobs.into_iter().map(|job| prediction(&job.with_base_url(&base_url))).collect();
    Ok(success(&json!({"page": page, "page_size": size, "total": total, "items": items})))
}

fn states(fields: &Fields) -> Result<Vec<JobState>, FieldError> {
    let all = [
        ("created", JobState::Queued),
        ("processing", JobState::Running),
        ("completed", JobState::Completed),
        ("failed", JobState::Failed),
        ("cancelled", JobState::Cancelled),
    ];
    let wanted = fields.string("status")?.filter(|status| !status.is_empty());
    let found: Vec<JobState> = all
        .iter()
        .filter(|(name, _)| wanted.is_none_or(|wanted| wanted == *name))
        .map(|(_, state)| *state)
        .collect();
    match found.is_empty() {
        false => Ok(found),
        true => {
            let names = all.map(|(name, _)| name).join(", ");
            Err(FieldError::new(&fields.path("status"), &format!("must be one of {names}")))
        }
    }
}

/// A date or a time, in milliseconds since 1970.
fn time(fields: &Fields, name: &str) -> Result<Option<i64>, FieldError> {
    let Some(text) = fields.string(name)?.filter(|text| !text.is_empty()) else { return Ok(None) };
    let date = || text.parse::<NaiveDate>().ok().map(|date| date.and_time(NaiveTime::MIN).and_utc());
    let time = DateTime::parse_from_rfc3339(text).ok().map(|time| time.to_utc()).or_else(date);
    let problem = "must be a date, or a time as in 2023-04-01T12:34:56Z";
    match time {
        Some(time) => Ok(Some(time.timestamp_millis())),
        None => Err(FieldError::new(&fields.path(name), problem)),
    }
}

/// Deletes the caller's predictions that have ended, with their results. Identifiers of others are ignored.
pub async fn delete(
    State(app): State<App>,
    caller: Caller,
    reply::Body(body): reply::Body,
) -> Result<Response, Problem> {
    let fields = Fields::new(&body)?;
    let ids = match fields.required("ids", fields.get("ids"))? {
        Value::Array(ids) => {
            ids.iter().map(|id| id.as_str().map(str::to_string)).collect::<Option<Vec<String>>>()
        }
        _ => None,
    };
    let ids = ids.ok_or_else(|| FieldError::new("ids", "must be an array of strings"))?;
    if ids.len() > MAX_DELETED {
        return Err(FieldError::new("ids", &format!("has more than {MAX_DELETED} entries")).into());
    }
    let deleted = app.blocking(move |app| {
        let mut deleted = 0;
        for id in ids {
            let own =
                app.jobs.store.get(&id)?.filter(|job| job.owner == caller.owner && APIS.contains(&job.api));
            deleted += u32::from(own.is_some_and(|job| job.state.is_final()) && delete_job(&app.jobs, &id));
        }
        Ok(deleted)
    });
    Ok(success(&json!({"deleted_count": deleted.await?})))
}
