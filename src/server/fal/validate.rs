//! fal's 422 errors: the ones of pydantic, which its applications are written with.

use serde_json::{Map, Value, json};

use crate::options::LoopMode;
use crate::request::FieldError;

/// A body as the model takes it: numbers in strings have become numbers. Otherwise every mistake in it.
pub fn input(body: Value) -> Result<Value, Vec<Value>> {
    let Value::Object(mut fields) = body else {
        let message = "Input should be a valid dictionary or object to extract fields from";
        return Err(vec![detail(&[], "model_attributes_type", message, &body, None)]);
    };
    // A field that is null counts as absent.
    fields.retain(|_, value| !value.is_null());
    let mut details = Vec::new();
    for name in ["video_url", "audio_url"] {
        match fields.get(name) {
            None => {
                let whole = Value::Object(fields.clone());
                details.push(detail(&[name], "missing", "Field required", &whole, None));
            }
            Some(Value::String(_)) => {}
            Some(other) => {
                details.push(detail(&[name], "string_type", "Input should be a valid string", other, None));
            }
        }
    }
    details.extend(guidance_scale(&mut fields));
    details.extend(seed(&mut fields));
    details.extend(loop_mode(&fields));
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

/// A seed: any integer from 0 up, and −1 for a random one, as in the original.
fn seed(fields: &mut Map<String, Value>) -> Option<Value> {
    const NAME: &str = "seed";
    let value = fields.get(NAME)?.clone();
    let number = match &value {
        Value::String(text) => match text.trim().parse::<i128>() {
            Ok(number) => number,
            Err(_) => {
                let message = "Input should be a valid integer, unable to parse string as an integer";
                return Some(detail(&[NAME], "int_parsing", message, &value, None));
            }
        },
        Value::Number(number) => {
            let whole = number.as_f64().filter(|number| number.fract() == 0.0 && number.abs() < 1e15);
            let exact = number.as_u64().map(i128::from).or(number.as_i64().map(i128::from));
            match exact.or(whole.map(|number| number as i128)) {
                Some(number) => number,
                None => {
                    let message = "Input should be a valid integer, got a number with a fractional part";
                    return Some(detail(&[NAME], "int_from_float", message, &value, None));
                }
            }
        }
        _ => return Some(detail(&[NAME], "int_type", "Input should be a valid integer", &value, None)),
    };
    if number == -1 {
        fields.remove(NAME);
        return None;
    }
    match u64::try_from(number) {
        Ok(number) => {
            fields.insert(NAME.to_string(), number.into());
            None
        }
        Err(_) => {
            let message = "Input should be greater than or equal to 0";
            Some(detail(&[NAME], "greater_than_equal", message, &value, Some(json!({"ge": 0}))))
        }
    }
}

fn loop_mode(fields: &Map<String, Value>) -> Option<Value> {
    const NAME: &str = "loop_mode";
    let value = fields.get(NAME)?;
    if value.as_str().is_some_and(|name| LoopMode::NAMES.contains(&name)) {
        return None;
    }
    let names: Vec<String> = LoopMode::NAMES.iter().map(|name| format!("'{name}'")).collect();
    let expected = names.join(" or ");
    let message = format!("Input should be {expected}");
    Some(detail(&[NAME], "literal_error", &message, value, Some(json!({"expected": expected}))))
}

/// A body that is no JSON at all.
pub fn not_json(problem: &str) -> Value {
    detail(&[], "json_invalid", "JSON decode error", &json!({}), Some(json!({"error": problem})))
}

/// An error that is found later than these.
pub fn of_field(error: &FieldError) -> Value {
    let location: Vec<&str> = error.field.split('.').filter(|part| !part.is_empty()).collect();
    detail(&location, "value_error", &error.to_string(), &Value::Null, None)
}

fn detail(location: &[&str], kind: &str, message: &str, input: &Value, context: Option<Value>) -> Value {
    let location: Vec<&str> = std::iter::once("body").chain(location.iter().copied()).collect();
    let mut detail = json!({
        "loc": location,
        "msg": message,
        "type": kind,
        "url": format!("https://docs.fal.ai/errors/#{kind}"),
        "input": input,
    });
    if let Some(context) = context {
        detail["ctx"] = context;
    }
    detail
}

#[cfg(test)]
mod tests {
    use super::*;

    const URLS: [&str; 2] = ["https://a/v.mp4", "https://a/a.wav"];

    fn with(name: &str, value: Value) -> Result<Value, Vec<Value>> {
        let mut body = json!({"video_url": URLS[0], "audio_url": URLS[1]});
        body[name] = value;
        input(body)
    }

    #[test]
    fn every_mistake_is_told_with_its_place_and_type() {
        let table = [
            ("video_url", json!(5), "string_type"),
            ("guidance_scale", json!(0.5), "greater_than_equal"),
            ("guidance_scale", json!(2.5), "less_than_equal"),
            ("guidance_scale", json!("much"), "float_parsing"),
            ("guidance_scale", json!("nan"), "float_parsing"),
            ("guidance_scale", json!([]), "float_type"),
            ("seed", json!(1.5), "int_from_float"),
            ("seed", json!("x"), "int_parsing"),
            ("seed", json!({}), "int_type"),
            ("seed", json!(-2), "greater_than_equal"),
            ("loop_mode", json!("bounce"), "literal_error"),
            ("loop_mode", json!(1), "literal_error"),
        ];
        for (name, value, kind) in table {
            let details = with(name, value.clone()).unwrap_err();
            assert_eq!(details.len(), 1, "{name} {value}");
            assert_eq!(details[0]["type"], kind, "{name} {value}");
            assert_eq!(details[0]["loc"], json!(["body", name]), "{name} {value}");
        }
        let missing = input(json!({})).unwrap_err();
        assert_eq!((missing.len(), &missing[0]["type"]), (2, &json!("missing")));
        assert_eq!(input(json!([])).unwrap_err()[0]["type"], "model_attributes_type");
    }

    #[test]
    fn what_pydantic_reads_is_read() {
        assert_eq!(with("guidance_scale", json!("1.5")).unwrap()["guidance_scale"], 1.5);
        assert_eq!(with("seed", json!("7")).unwrap()["seed"], 7);
        assert_eq!(with("seed", json!(7.0)).unwrap()["seed"], 7);
        assert_eq!(with("seed", json!(u64::MAX)).unwrap()["seed"], u64::MAX);
        assert_eq!(with("seed", json!(-1)).unwrap().get("seed"), None);
        assert_eq!(with("loop_mode", Value::Null).unwrap().get("loop_mode"), None);
        assert_eq!(with("anything", json!({"else": 1})).unwrap()["anything"], json!({"else": 1}));
    }
}
