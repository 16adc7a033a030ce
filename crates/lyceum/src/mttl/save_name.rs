//! The names under which MTTL saves auxiliary data: the MD5 of a configuration as Python prints it.

use md5::{Digest, Md5};
use serde_json::{Map, Value as Json};

use crate::error::{Error, Result};

/// `<class>-<md5>` for a configuration whose fields are in their own order, or the name it gives.
///
/// # Errors
/// [`Error::Invalid`] for a field that is no plain value.
pub(super) fn save_name(class: &str, config: &Map<String, Json>) -> Result<String> {
    if let Some(name) = config
        .get("name")
        .and_then(Json::as_str)
        .filter(|name| !name.is_empty())
    {
        return Ok(crate::name::Name::new(name)?.to_string());
    }
    let fields: Vec<String> = config.values().map(python).collect::<Result<_>>()?;
    let comma = if fields.len() == 1 { "," } else { "" };
    let text = format!("({}{comma})", fields.join(", "));
    let hash = crate::digest::hex(Md5::digest(text));
    Ok(format!("{class}-{hash}"))
}

/// A value as Python prints it; `None` counts as the empty string.
fn python(value: &Json) -> Result<String> {
    Ok(match value {
        Json::Null => "''".into(),
        Json::Bool(true) => "True".into(),
        Json::Bool(false) => "False".into(),
        Json::Number(n) => match n.as_i64() {
            Some(i) => i.to_string(),
            None => float(n.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(s)
            if s.chars()
                .all(|c| c.is_ascii_graphic() && !"'\\".contains(c)) =>
        {
            format!("'{s}'")
        }
        other => {
            return Err(Error::invalid(format!(
                "{other} in a configuration of MTTL's"
            )));
        }
    })
}

/// The shortest digits, in exponents as Python writes them.
fn float(x: f64) -> String {
    if x == 0.0 || (1e-4..1e16).contains(&x.abs()) {
        return format!("{x:?}");
    }
    let text = format!("{x:e}");
    match text.split_once('e') {
        Some((digits, exponent)) => {
            let (sign, size) = match exponent.strip_prefix('-') {
                Some(size) => ('-', size),
                None => ('+', exponent),
            };
            format!("{digits}e{sign}{size:0>2}")
        }
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn named(class: &str, config: &Json) -> String {
        save_name(class, config.as_object().unwrap()).unwrap()
    }

    #[test]
    fn names_are_those_of_the_reference() {
        let gates = |warmup| {
            json!({ "name": null, "n_steps": 50, "learning_rate": 1e-3, "warmup_ratio": warmup,
                    "micro_batch_size": 4, "batch_size": 4, "seed": 42 })
        };
        assert_eq!(
            named("p", &gates(0.0)),
            "p-dab0c51c605d7a2d64960c9edfe59f1d"
        );
        let arrow = json!({ "name": null, "ab_only": true, "scale": false,
                            "tie_params": "default", "tie_op": "concat" });
        assert_eq!(named("a", &arrow), "a-a8327e21d374166ceeb94c40d2e7676f");
        let svd = json!({ "name": null, "n_components": 64, "sparsity_threshold": 0.8 });
        assert_eq!(named("s", &svd), "s-9b2ba348e9019319e676b2bd339ecd1e");
        let wudi = json!({ "name": null, "iter": 300, "lr": 1e-5 });
        assert_eq!(named("w", &wudi), "w-81067c4472a42d6beb817d15170b9ba3");
        assert_eq!(named("x", &json!({ "name": "mine", "n": 1 })), "mine");
        assert!(save_name("x", json!({ "name": "../x" }).as_object().unwrap()).is_err());
    }
}
