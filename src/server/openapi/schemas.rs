//! Builders of JSON schemas.

use serde_json::{Map, Value, json};

pub fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

pub fn string() -> Value {
    json!({"type": "string"})
}

pub fn integer() -> Value {
    json!({"type": "integer"})
}

pub fn number() -> Value {
    json!({"type": "number"})
}

pub fn binary() -> Value {
    json!({"type": "string", "format": "binary"})
}

/// A string that is not blank.
pub fn text() -> Value {
    json!({"type": "string", "pattern": "\\S"})
}

/// A URL with a host name. URLs with IP addresses are accepted too, but a pattern cannot express which of them.
pub fn web_url(scheme: &str) -> Value {
    let label = "[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?";
    let pattern = format!(r"^{scheme}://({label}\.)+[A-Za-z]{{2,}}(:[1-9][0-9]{{0,3}})?([/?#][!-~]*)?$");
    json!({"type": "string", "pattern": pattern})
}

/// The URL of a webhook; empty or `null` for none.
pub fn webhook_url() -> Value {
    json!({
        "description": "a public address, unless the server was started with `--allow-local-urls`",
        "anyOf": [web_url("https?"), {"const": ""}, {"type": "null"}],
    })
}

/// [`webhook_url`] as a query parameter, which cannot be `null`.
pub fn webhook_query() -> Value {
    json!({"anyOf": [web_url("https?"), {"const": ""}]})
}

/// Server-sent events whose `data` is described by `data`.
pub fn events(data: &str) -> Value {
    json!({"description": format!("server-sent events; the `data` of each is {data}")})
}

/// An integer that is a seed.
pub fn seed(kinds: &[&str]) -> Value {
    json!({"description": "-1 asks for a random one", "type": kinds})
}

pub fn list_of(items: Value) -> Value {
    json!({"type": "array", "items": items})
}

pub fn one_of(names: &[&str]) -> Value {
    json!({"type": "string", "enum": names})
}

/// One of the names, or `null` for the default.
pub fn optional(names: &[&str]) -> Value {
    let names: Vec<Value> = names.iter().map(|&name| name.into()).chain([Value::Null]).collect();
    json!({"type": ["string", "null"], "enum": names})
}

pub fn or_null(kind: &str) -> Value {
    json!({"type": [kind, "null"]})
}

/// The union of objects that have different keys.
pub fn merged<const N: usize>(objects: [Value; N]) -> Value {
    let fields = objects.into_iter().filter_map(|object| match object {
        Value::Object(fields) => Some(fields),
        _ => None,
    });
    fields.flatten().collect::<Map<_, _>>().into()
}

/// An object with these fields; a `?` at the end of a name marks an optional one.
pub fn object<const N: usize>(fields: [(&str, Value); N]) -> Value {
    let required: Vec<&str> =
        fields.iter().map(|(name, _)| *name).filter(|name| !name.ends_with('?')).collect();
    let properties: Map<String, Value> = fields
        .iter()
        .map(|(name, schema)| (name.trim_end_matches('?').to_string(), schema.clone()))
        .collect();
    json!({"type": "object", "properties": properties, "required": required})
}
