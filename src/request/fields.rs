//! Reading typed fields out of a JSON object, with errors that name the field.

use std::ops::RangeInclusive;
use std::str::FromStr;

use serde_json::Value;

use super::Object;
use crate::options::InvalidOption;

/// The problem of a body with fields of JoggAI's API and of fal's.
pub(super) const AMBIGUOUS_API: &str = "is JoggAI's, but `guidance_scale`, `loop_mode` and `seed` are fal's";

/// What is wrong with a request, and where. `field` is a dotted path, empty for the body as a whole.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{problem}", if field.is_empty() { "the body ".to_string() } else { format!("`{field}` ") })]
pub struct FieldError {
    pub field: String,
    pub problem: String,
}

impl FieldError {
    pub fn new(field: &str, problem: &str) -> Self {
        Self { field: field.to_string(), problem: problem.to_string() }
    }

    /// Whether the fields are those of more than one API, so that the caller must name it.
    pub fn is_ambiguous_api(&self) -> bool {
        self.problem == AMBIGUOUS_API
    }

    pub(crate) fn wrong_type(field: &str, expected: &str, got: &Value) -> Self {
        Self::new(field, &format!("must be {expected}, not {}", describe(got)))
    }
}

/// A seed: any whole number, modulo 2⁶⁴ as PyTorch takes it; −1 asks for a random one, as in the original.
pub(crate) fn seed(number: i128) -> Option<u64> {
    (number != -1).then_some(number as u64)
}

/// A whole number, however it is written; what does not fit becomes the nearest that does.
pub(crate) fn whole(value: &Value) -> Option<i128> {
    let rounded = value.as_f64().filter(|number| number.fract() == 0.0);
    let exact = value.as_u64().map(i128::from).or(value.as_i64().map(i128::from));
    exact.or(rounded.map(|number| number as i128))
}

/// A value as an error quotes it: short, so that a body full of nonsense stays readable.
fn describe(value: &Value) -> String {
    let text = value.to_string();
    match value {
        Value::Array(_) => "an array".to_string(),
        Value::Object(_) => "an object".to_string(),
        _ if text.chars().count() > 60 => format!("{}…", text.chars().take(60).collect::<String>()),
        _ => text,
    }
}

/// A JSON object and where it sits in the body. A field that is `null` counts as absent, as it does with
/// every one of the vendors' own clients; fields that nobody asks for are no error.
pub(crate) struct Fields<'a> {
    path: String,
    object: &'a Object,
}

impl<'a> Fields<'a> {
    pub fn new(body: &'a Value) -> Result<Self, FieldError> {
        Self::at("", body)
    }

    /// The object at `path`.
    pub fn at(path: &str, value: &'a Value) -> Result<Self, FieldError> {
        match value {
            Value::Object(object) => Ok(Self { path: path.to_string(), object }),
            other => Err(FieldError::wrong_type(path, "an object", other)),
        }
    }

    pub fn path(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_string() } else { format!("{}.{name}", self.path) }
    }

    pub fn get(&self, name: &str) -> Option<&'a Value> {
        self.object.get(name).filter(|value| !value.is_null())
    }

    pub fn object(&self, name: &str) -> Result<Option<Fields<'a>>, FieldError> {
        self.get(name).map(|value| Fields::at(&self.path(name), value)).transpose()
    }

    pub fn required<T>(&self, name: &str, value: Option<T>) -> Result<T, FieldError> {
        value.ok_or_else(|| FieldError::new(&self.path(name), "is missing"))
    }

    pub fn string(&self, name: &str) -> Result<Option<&'a str>, FieldError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(FieldError::wrong_type(&self.path(name), "a string", other)),
        }
    }

    /// Yes or no; absent is no.
    #[cfg(feature = "server")]
    pub fn flag(&self, name: &str) -> Result<bool, FieldError> {
        match self.get(name) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(other) => Err(FieldError::wrong_type(&self.path(name), "true or false", other)),
        }
    }

    /// A whole number within a range; one beyond all measure counts as the largest there is.
    #[cfg(feature = "server")]
    pub fn count(&self, name: &str, range: RangeInclusive<u64>) -> Result<Option<u64>, FieldError> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        let number = whole(value);
        let number = number.map(|number| u64::try_from(number.clamp(-1, i128::from(u64::MAX))));
        match number {
            Some(Ok(number)) if range.contains(&number) => Ok(Some(number)),
            _ => {
                let expected = match *range.end() {
                    u64::MAX => format!("a whole number from {} up", range.start()),
                    end => format!("a whole number from {} to {end}", range.start()),
                };
                Err(FieldError::wrong_type(&self.path(name), &expected, value))
            }
        }
    }

    /// A required URL or path.
    pub fn url(&self, name: &str) -> Result<String, FieldError> {
        let text = self.required(name, self.string(name)?)?;
        if text.trim().is_empty() {
            return Err(FieldError::new(&self.path(name), "is empty"));
        }
        Ok(text.to_string())
    }

    pub fn number(&self, name: &str, range: RangeInclusive<f64>) -> Result<Option<f64>, FieldError> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        let number =
            value.as_f64().ok_or_else(|| FieldError::wrong_type(&self.path(name), "a number", value))?;
        if !range.contains(&number) {
            let problem = format!("is {value}: it must be between {} and {}", range.start(), range.end());
            return Err(FieldError::new(&self.path(name), &problem));
        }
        Ok(Some(number))
    }

    /// A seed, see [`seed`].
    pub fn seed(&self, name: &str) -> Result<Option<u64>, FieldError> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        let number =
            whole(value).ok_or_else(|| FieldError::wrong_type(&self.path(name), "a whole number", value))?;
        Ok(seed(number))
    }

    /// One of a vendor's words for a mode.
    pub fn name<T: FromStr<Err = InvalidOption>>(
        &self,
        name: &str,
        names: &[&str],
    ) -> Result<Option<T>, FieldError> {
        let Some(text) = self.string(name)? else {
            return Ok(None);
        };
        text.parse().map(Some).map_err(|_| {
            FieldError::new(&self.path(name), &format!("is `{text}`: it must be one of {}", names.join(", ")))
        })
    }

    /// Those of `names` that are present, for fields that this engine cannot act upon.
    pub fn present(&self, names: &[&str]) -> Vec<String> {
        names.iter().filter(|name| self.get(name).is_some()).map(|name| self.path(name)).collect()
    }
}
