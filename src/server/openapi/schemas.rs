//! What schemas are made of.

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

/// A URL of a host with a name. Addresses in figures are taken too; which of them, a pattern cannot say.
pub fn web_url(scheme: &str) -> Value {
    let label = "[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?";
    let pattern = format!(r"^{scheme}://({label}\.)+[A-Za-z]{{2,}}(:[1-9][0-9]{{0,3}})?([/?#][!-~]*)?$");
    json!({"type": "string", "pattern": pattern})
}

/// Where a message is to be sent; empty or `null` for nowhere.
pub fn webhook_url() -> Value {
    json!({
        "description": "a public address, unless the server was started with `--allow-local-urls`",
        "anyOf": [web_url("https?"), {"const": ""}, {"type": "null"}],
    })
}

/// The same in a query, where there is no `null`.
pub fn webhook_query() -> Value {
    json!({"anyOf": [web_url("https?"), {"const": ""}]})
}

/// Server-sent events, with `data` in each.
pub fn events(data: &str) -> Value {
    json!({"description": format!("server-sent events; the `data` of each is {data}")})
}

/// A whole number that becomes a seed.
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

/// An object with these fields; a `?` marks those that may be missing.
pub fn object<const N: usize>(fields: [(&str, Value); N]) -> Value {
    let required: Vec<&str> =
        fields.iter().map(|(name, _)| *name).filter(|name| !name.ends_with('?')).collect();
    let properties: Map<String, Value> = fields
        .iter()
        .map(|(name, schema)| (name.trim_end_matches('?').to_string(), schema.clone()))
        .collect();
    json!({"type": "object", "properties": properties, "required": required})
}
