//! wavespeed's list of predictions, and their removal.

use axum::extract::State;
use axum::response::Response;
use chrono::{DateTime, NaiveDate, NaiveTime};
use serde_json::{Map, Value, json};

use super::{prediction, success};
use crate::request::{Api, FieldError, Fields};
use crate::server::app::{App, Caller};
use crate::server::jobs::clean::forget_job;
use crate::server::jobs::{Filter, JobRecord, State as JobState};
use crate::server::problem::Problem;
use crate::server::reply;

const BOTH: [Api; 2] = [Api::WavespeedLatentsync, Api::WavespeedLipsync];
/// Predictions on a page, unless there are to be more or fewer, and at most.
const PAGE: u64 = 10;
const PAGE_AT_MOST: u64 = 100;
/// Predictions that are removed at once.
const REMOVED_AT_MOST: usize = 100;

/// The list, with what to list in the query.
pub async fn list(app: State<App>, caller: Caller, query: reply::Query) -> Result<Response, Problem> {
    let mut wanted = Map::new();
    for name in ["model", "status", "created_after", "created_before"] {
        wanted.extend(query.get(name).map(|text| (name.to_string(), text.into())));
    }
    for name in ["page", "page_size"] {
        wanted.extend(query.count(name, 1..=u32::MAX)?.map(|number| (name.to_string(), number.into())));
    }
    search(app, caller, reply::Body(wanted.into())).await
}

/// The list, with what to list in the body.
pub async fn search(
    State(app): State<App>,
    caller: Caller,
    reply::Body(body): reply::Body,
) -> Result<Response, Problem> {
    let fields = Fields::new(&body)?;
    let page = fields.count("page", 1..=u64::from(u32::MAX))?.unwrap_or(1);
    let size = fields.count("page_size", 1..=PAGE_AT_MOST)?.unwrap_or(PAGE);
    let apis: Vec<Api> = match fields.string("model")? {
        None | Some("") => BOTH.to_vec(),
        Some(model) => BOTH.into_iter().filter(|&api| super::model(api) == model).collect(),
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
    let here = |job: JobRecord| JobRecord { base_url: base_url.clone(), ..job };
    let items: Vec<Value> = jobs.into_iter().map(here).map(|job| prediction(&job)).collect();
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
            Err(FieldError { field: fields.path("status"), problem: format!("must be one of {names}") })
        }
    }
}

/// A date or a time, in milliseconds since 1970.
fn time(fields: &Fields, name: &str) -> Result<Option<i64>, FieldError> {
    let Some(text) = fields.string(name)?.filter(|text| !text.is_empty()) else { return Ok(None) };
    let date = || text.parse::<NaiveDate>().ok().map(|date| date.and_time(NaiveTime::MIN).and_utc());
    let time = DateTime::parse_from_rfc3339(text).ok().map(|time| time.to_utc()).or_else(date);
    let problem = "must be a date, or a time as in 2023-04-01T12:34:56Z".to_string();
    match time {
        Some(time) => Ok(Some(time.timestamp_millis())),
        None => Err(FieldError { field: fields.path(name), problem }),
    }
}

/// Removes predictions that have ended, with their results. Others, and other people's, stay.
pub async fn delete(
    State(app): State<App>,
    caller: Caller,
    reply::Body(body): reply::Body,
) -> Result<Response, Problem> {
    let fields = Fields::new(&body)?;
    let wrong = |problem: String| FieldError { field: "ids".to_string(), problem };
    let ids = match fields.required("ids", fields.get("ids"))? {
        Value::Array(ids) => {
            ids.iter().map(|id| id.as_str().map(str::to_string)).collect::<Option<Vec<String>>>()
        }
        _ => None,
    };
    let ids = ids.ok_or_else(|| wrong("must be an array of strings".to_string()))?;
    if ids.len() > REMOVED_AT_MOST {
        return Err(wrong(format!("has more than {REMOVED_AT_MOST} entries")).into());
    }
    let removed = app.blocking(move |app| {
        let mut removed = 0;
        for id in ids {
            let own =
                app.jobs.store.get(&id)?.filter(|job| job.owner == caller.owner && BOTH.contains(&job.api));
            removed += u32::from(own.is_some_and(|job| job.state.is_final()) && forget_job(&app.jobs, &id));
        }
        Ok(removed)
    });
    Ok(success(&json!({"deleted_count": removed.await?})))
}
