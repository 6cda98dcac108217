//! fal's 422 errors: those of pydantic, which validates the inputs of fal's applications.

use serde_json::{Map, Value, json};

use super::application::Application;
use crate::options::{LoopMode, SyncMode};
use crate::request::{Api, FieldError, integer, seed as seed_of};

/// Characters of an invalid value that the response repeats.
const MAX_ECHO: usize = 200;

/// The validated body, with numbers in strings converted to numbers; or the details of every mistake.
pub fn input(application: Application, body: Value) -> Result<Value, Vec<Value>> {
    let Value::Object(mut fields) = body else {
        let message = "Input should be a valid dictionary or object to extract fields from";
        return Err(vec![detail(&[], "model_attributes_type", message, &body, None)]);
    };
    // Only these two may be null, which counts as absent.
    fields.retain(|name, value| !(value.is_null() && matches!(name.as_str(), "seed" | "loop_mode")));
    let mut details = Vec::new();
    for name in ["video_url", "audio_url"] {
        match fields.get(name) {
            None => {
                let input = Value::Object(fields.clone());
                details.push(detail(&[name], "missing", "Field required", &input, None));
            }
            Some(Value::String(_)) => {}
            Some(other) => {
                details.push(detail(&[name], "string_type", "Input should be a valid string", other, None));
            }
        }
    }
    if application.api == Api::FalLipsync {
        details.extend(literal(&fields, "model", application.models));
        details.extend(literal(&fields, "sync_mode", SyncMode::NAMES));
    } else {
        details.extend(guidance_scale(&mut fields));
        details.extend(seed(&mut fields));
        details.extend(literal(&fields, "loop_mode", LoopMode::NAMES));
    }
    if details.is_empty() { Ok(Value::Object(fields)) } else { Err(details) }
}

fn guidance_scale(fields: &mut Map<String, Value>) -> Option<Value> {
    const NAME: &str = "guidance_scale";
    let value = fields.get(NAME)?.clone();
    let number = match &value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => match text.trim().parse::<f64>().ok().filter(|number| number.is_finite()) {
            None => {
                let message = "Input should be a valid number, unable to parse string as a number";
                return Some(detail(&[NAME], "float_parsing", message, &value, None));
            }
            number => number,
        },
        _ => None,
    };
    let Some(number) = number else {
        return Some(detail(&[NAME], "float_type", "Input should be a valid number", &value, None));
    };
    if number < 1.0 {
        let message = "Input should be greater than or equal to 1";
        return Some(detail(&[NAME], "greater_than_equal", message, &value, Some(json!({"ge": 1.0}))));
    }
    if number > 2.0 {
        let message = "Input should be less than or equal to 2";
        return Some(detail(&[NAME], "less_than_equal", message, &value, Some(json!({"le": 2.0}))));
    }
    fields.insert(NAME.to_string(), number.into());
    None
}

/// Accepts any integer and replaces it by the seed that the job uses.
fn seed(fields: &mut Map<String, Value>) -> Option<Value> {
    const NAME: &str = "seed";
    let value = fields.get(NAME)?.clone();
    let number = match &value {
        Value::String(text) => text.trim().parse::<i128>().map_err(|_| {
            ("int_parsing", "Input should be a valid integer, unable to parse string as an integer")
        }),
        Value::Number(_) => integer(&value).ok_or((
            "int_from_float",
            "Input should be a valid integer, got a number with a fractional part",
        )),
        _ => Err(("int_type", "Input should be a valid integer")),
    };
    match number.map(seed_of) {
        Ok(Some(seed)) => fields.insert(NAME.to_string(), seed.into()),
        Ok(None) => fields.remove(NAME),
        Err((kind, message)) => return Some(detail(&[NAME], kind, message, &value, None)),
    };
    None
}

/// Checks that a field is one of `words`. If there are none, the application has no such field and ignores
/// it.
fn literal(fields: &Map<String, Value>, name: &str, words: &[&str]) -> Option<Value> {
    let value = fields.get(name)?;
    if words.is_empty() || value.as_str().is_some_and(|text| words.contains(&text)) {
        return None;
    }
    let words: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
    let expected = match words.split_last() {
        Some((last, others)) if !others.is_empty() => format!("{} or {last}", others.join(", ")),
        _ => words.join(""),
    };
    let message = format!("Input should be {expected}");
    Some(detail(&[name], "literal_error", &message, value, Some(json!({"expected": expected}))))
}

/// The detail of a body that is not JSON.
pub fn not_json(problem: &str) -> Value {
    detail(&[], "json_invalid", "JSON decode error", &json!({}), Some(json!({"error": problem})))
}

/// The detail of an error that is found after this validation. The field of a query parameter is
/// `query.NAME`, that of a header `header.NAME`.
pub fn of_field(error: &FieldError, body: &Value) -> Value {
    let location: Vec<&str> = error.field.split('.').filter(|part| !part.is_empty()).collect();
    let input = location.iter().try_fold(body, |value, part| value.get(part)).map_or(Value::Null, short);
    detail(&location, "value_error", &error.to_string(), &input, None)
}

/// A value as a response repeats it: long strings, such as data URIs, are cut.
fn short(value: &Value) -> Value {
    match value.as_str().map(|text| (text, text.char_indices().nth(MAX_ECHO))) {
        Some((text, Some((end, _)))) => format!("{}…", &text[..end]).into(),
        _ => value.clone(),
    }
}

fn detail(location: &[&str], kind: &str, message: &str, input: &Value, context: Option<Value>) -> Value {
    let elsewhere = matches!(location.first(), Some(&("query" | "header")));
    let place = if elsewhere { None } else { Some("body") };
    json!({
        "loc": place.into_iter().chain(location.iter().copied()).collect::<Vec<_>>(),
        "msg": message,
        "type": kind,
        "url": format!("https://docs.fal.ai/errors/#{kind}"),
        "ctx": context.unwrap_or_else(|| json!({})),
        "input": input,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LATENTSYNC: Application = Application { api: Api::Fal, models: &[], stream: false };
    const URLS: [&str; 2] = ["https://a/v.mp4", "https://a/a.wav"];

    fn with(name: &str, value: Value) -> Result<Value, Vec<Value>> {
        let mut body = json!({"video_url": URLS[0], "audio_url": URLS[1]});
        body[name] = value;
        input(LATENTSYNC, body)
    }

    #[test]
    fn every_mistake_has_its_location_and_type() {
        let table = [
            ("video_url", json!(5), "string_type"),
            ("audio_url", Value::Null, "string_type"),
            ("guidance_scale", Value::Null, "float_type"),
            ("guidance_scale", json!(0.5), "greater_than_equal"),
            ("guidance_scale", json!(2.5), "less_than_equal"),
            ("guidance_scale", json!("much"), "float_parsing"),
            ("guidance_scale", json!("nan"), "float_parsing"),
            ("guidance_scale", json!([]), "float_type"),
            ("seed", json!(1.5), "int_from_float"),
            ("seed", json!("x"), "int_parsing"),
            ("seed", json!({}), "int_type"),
            ("loop_mode", json!("bounce"), "literal_error"),
            ("loop_mode", json!(1), "literal_error"),
        ];
        for (name, value, kind) in table {
            let details = with(name, value.clone()).unwrap_err();
            assert_eq!(details.len(), 1, "{name} {value}");
            assert_eq!(details[0]["type"], kind, "{name} {value}");
            assert_eq!(details[0]["loc"], json!(["body", name]), "{name} {value}");
        }
        let missing = input(LATENTSYNC, json!({})).unwrap_err();
        assert_eq!((missing.len(), &missing[0]["type"]), (2, &json!("missing")));
        assert_eq!(input(LATENTSYNC, json!([])).unwrap_err()[0]["type"], "model_attributes_type");
    }

    #[test]
    fn a_later_error_has_its_location_and_a_short_input() {
        let error = |field: &str| FieldError::new(field, "is wrong");
        let body = json!({"video_url": format!("data:{}", "é".repeat(1000))});
        let detail = of_field(&error("video_url"), &body);
        assert_eq!((&detail["loc"], &detail["ctx"]), (&json!(["body", "video_url"]), &json!({})));
        assert_eq!(detail["input"].as_str().unwrap().chars().count(), MAX_ECHO + 1);
        assert_eq!(of_field(&error("query.fal_webhook"), &body)["loc"], json!(["query", "fal_webhook"]));
    }

    #[test]
    fn values_that_pydantic_accepts_are_accepted() {
        assert_eq!(with("guidance_scale", json!("1.5")).unwrap()["guidance_scale"], 1.5);
        assert_eq!(with("seed", json!("7")).unwrap()["seed"], 7);
        assert_eq!(with("seed", json!(7.0)).unwrap()["seed"], 7);
        assert_eq!(with("seed", json!(u64::MAX)).unwrap()["seed"], u64::MAX);
        assert_eq!(with("seed", json!(-1)).unwrap().get("seed"), None);
        assert_eq!(with("seed", json!(-2)).unwrap()["seed"], u64::MAX - 1);
        assert_eq!(with("seed", json!(1u64 << 60)).unwrap()["seed"], 1u64 << 60);
        assert_eq!(with("loop_mode", Value::Null).unwrap().get("loop_mode"), None);
        assert_eq!(with("sync_mode", json!("not fal's")).unwrap()["sync_mode"], "not fal's");
        assert_eq!(with("anything", json!({"else": 1})).unwrap()["anything"], json!({"else": 1}));
    }
}
