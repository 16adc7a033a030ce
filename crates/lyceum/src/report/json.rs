//! JSON that people can read: indented, but a list of numbers or words in one line.

use serde::Serialize;
use serde_json::Value;

use crate::error::{Error, Result};

/// `value` as indented JSON in which a list of plain values is one line.
///
/// # Errors
/// When it has no JSON form.
pub fn pretty<T: Serialize>(value: &T) -> Result<String> {
    let value = serde_json::to_value(value).map_err(|e| Error::format("JSON", e))?;
    let mut out = String::new();
    write(&mut out, &value, 0);
    Ok(out)
}

fn write(out: &mut String, value: &Value, depth: usize) {
    let nested = |value: &Value| value.is_array() || value.is_object();
    match value {
        Value::Array(items) if items.iter().any(nested) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                line(out, i, depth + 1);
                write(out, item, depth + 1);
            }
            line(out, 0, depth);
            out.push(']');
        }
        Value::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                *out += if i > 0 { ", " } else { "" };
                *out += &item.to_string();
            }
            out.push(']');
        }
        Value::Object(map) if !map.is_empty() => {
            out.push('{');
            for (i, (key, item)) in map.iter().enumerate() {
                line(out, i, depth + 1);
                *out += &Value::from(key.as_str()).to_string();
                *out += ": ";
                write(out, item, depth + 1);
            }
            line(out, 0, depth);
            out.push('}');
        }
        plain => *out += &plain.to_string(),
    }
}

fn line(out: &mut String, before: usize, depth: usize) {
    *out += if before > 0 { ",\n" } else { "\n" };
    for _ in 0..depth {
        *out += "  ";
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn lists_of_plain_values_are_one_line_and_nothing_changes() {
        let value =
            json!({"a": [1, 2.5, 1e-30, "x\"y"], "b": [[1], []], "c": {}, "d": null, "é": 0.1});
        let text = pretty(&value).unwrap();
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), value);
        assert!(
            text.contains("\"a\": [1, 2.5, 1e-30, \"x\\\"y\"],\n"),
            "{text}"
        );
        assert!(text.contains("\n    [1],\n    []\n  ],"), "{text}");
    }
}
