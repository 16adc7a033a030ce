//! The defaults of every family, compared with transformers'.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::Config;
use super::defaults::{Absent, Null};
use super::family::defaults;

/// All fields of every family as transformers has them when nothing is said, by version.
fn told() -> BTreeMap<String, BTreeMap<String, Value>> {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = std::fs::read(root.join("tests/golden/families/defaults.json")).unwrap();
    serde_json::from_slice(&read).unwrap()
}

fn parse(config: &Value) -> Result<Config, String> {
    let parsed = Config::parse(config.to_string().as_bytes(), "config.json");
    parsed.map_err(|e| e.to_string())
}

fn with(config: &Value, field: &str, value: Option<Value>) -> Value {
    let mut config = config.clone();
    let fields = config.as_object_mut().unwrap();
    fields.remove(field);
    if let Some(value) = value {
        fields.insert(field.into(), value);
    }
    config
}

#[test]
fn every_row_is_what_transformers_says() {
    let all = told();
    for (family, rows) in defaults() {
        let (old, new) = (&all["4.57.6"][family], &all["5.24.0"][family]);
        for row in rows
            .iter()
            .filter(|row| !matches!(row.absent, Absent::None))
        {
            let field = row.field;
            let places = [&new[field], &new["rope_parameters"][field], &old[field]];
            // Qwen's window is off unless it is switched on.
            let off = family.starts_with("qwen") && field == "sliding_window";
            let want = places.into_iter().find(|value| !value.is_null());
            let same = |want: &Value| match want.as_f64() {
                Some(x) => row.absent.value().as_f64() == Some(x),
                None => *want == row.absent.value(),
            };
            assert!(off || want.is_some_and(same), "{family} {field}: {want:?}");
        }
    }
}

#[test]
fn leaving_fields_out_is_writing_what_transformers_takes() {
    for (version, families) in told() {
        for (family, rows) in defaults() {
            let whole = &families[family];
            let config = parse(whole).unwrap();
            assert_eq!(config.notes, [""; 0], "{family} {version}");
            // All of them at once, and one at a time.
            let bare = json!({ "model_type": family, "vocab_size": config.vocab_size });
            assert_eq!(parse(&bare).unwrap(), config, "{family} {version}");
            for row in rows {
                let left = parse(&with(whole, row.field, None)).unwrap();
                assert_eq!(left, config, "{family} {version} {}", row.field);
            }
        }
    }
}

#[test]
fn null_is_none_where_transformers_means_none_and_refused_elsewhere() {
    for (family, rows) in defaults() {
        let mut whole = told()["5.24.0"][family].clone();
        if family.starts_with("qwen") {
            // What says how windows lie is read where they are switched on.
            whole = with(&whole, "use_sliding_window", Some(json!(true)));
            whole = with(&whole, "layer_types", None);
        }
        let config = parse(&whole).unwrap();
        for row in rows {
            let nulled = parse(&with(&whole, row.field, Some(Value::Null)));
            let case = format!("{family} {}: {nulled:?}", row.field);
            match (row.null, nulled) {
                (Null::Refused, nulled) => {
                    assert!(nulled.unwrap_err().contains(row.field), "{case}");
                }
                (Null::Absent, nulled) => assert_eq!(nulled.unwrap(), config, "{case}"),
                // Gemma 2's layers slide whatever the window says, so there must be one.
                (Null::None, Err(why)) => assert!(why.contains("sliding_window"), "{case}"),
                (Null::None, Ok(_)) => {}
            }
        }
    }
    let gemma = |cap: Option<Value>| {
        let whole = &told()["5.24.0"]["gemma2"];
        parse(&with(whole, "attn_logit_softcapping", cap)).unwrap()
    };
    assert_eq!(gemma(None).attention.soft_cap, Some(50.0));
    assert_eq!(gemma(Some(Value::Null)).attention.soft_cap, None);
    let mistral = |window: Option<Value>| {
        let whole = &told()["5.24.0"]["mistral"];
        parse(&with(whole, "sliding_window", window))
            .unwrap()
            .layers[0]
            .window
    };
    assert_eq!(mistral(None), Some(4096));
    assert_eq!(mistral(Some(Value::Null)), None);
}
