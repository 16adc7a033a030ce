//! The metadata file that MTTL writes beside an expert's weights (`<expert>.meta`), in all four
//! generations.

use serde_json::{Map, Value as Json};

use crate::name::Name;
use crate::torch::Value;

/// The fields read from it.
#[derive(Debug, Clone)]
pub(super) struct Meta {
    pub(super) deleted: bool,
    pub(super) model: String,
    pub(super) tasks: Vec<Name>,
    pub(super) rank: usize,
    pub(super) alpha: f64,
    pub(super) tie_params: Option<String>,
    /// Everything the file says, for `origin` and for writing it again.
    pub(super) origin: Json,
}

type Why<T> = Result<T, String>;

/// A value as JSON. Numbers that JSON lacks become text.
pub(super) fn json(value: &Value<'_>) -> Why<Json> {
    Ok(match value {
        Value::None => Json::Null,
        Value::Bool(b) => (*b).into(),
        Value::Int(i) => (*i).into(),
        Value::Float(x) if x.is_finite() => (*x).into(),
        Value::Float(x) => x.to_string().into(),
        Value::Text(text) => text.to_string().into(),
        Value::List(items) | Value::Tuple(items) => {
            Json::Array(items.iter().map(json).collect::<Why<_>>()?)
        }
        Value::Dict(pairs) => {
            let mut map = Map::new();
            for (key, value) in pairs {
                let name = match key {
                    Value::Text(text) => text.to_string(),
                    other => json(other)?.to_string(),
                };
                if map.insert(name, json(value)?).is_some() {
                    return Err(format!("the key {key:?} is there twice"));
                }
            }
            Json::Object(map)
        }
        Value::Tensor(_) => return Err("a tensor among the settings".into()),
    })
}

fn text<'j>(map: &'j Json, key: &str) -> Option<&'j str> {
    map.get(key).and_then(Json::as_str)
}

/// Reads the metadata of the expert whose files are called `name`.
pub(super) fn read(value: &Value<'_>, name: &Name) -> Why<Meta> {
    let whole = json(value)?;
    let said = text(&whole, "expert_name").ok_or("it holds no `expert_name`")?;
    if said != name.as_str() {
        return Err(format!(
            "its file is called `{name}`, its `expert_name` is `{said}`"
        ));
    }
    let config = whole.get("expert_config").unwrap_or(&Json::Null);
    let parsed;
    let (generation, config, training) = if config.get("class_name").is_some() {
        (
            3,
            config,
            whole.get("training_config").unwrap_or(&Json::Null),
        )
    } else if config.get("__model_modifier__").is_some() {
        (
            2,
            config,
            whole.get("training_config").unwrap_or(&Json::Null),
        )
    } else if config.get("model_modifier").is_some() {
        (1, config, config)
    } else if let Some(text) = config.as_str() {
        parsed = serde_json::from_str(text)
            .map_err(|e| format!("its `expert_config` is not JSON: {e}"))?;
        (0, &parsed, &parsed)
    } else {
        return Err("its `expert_config` is of an unknown generation".into());
    };
    modifier(config, generation)?;
    // Generation 0 keeps what later ones have at the top under `expert_info`.
    let top = |key| text(&whole, key).or_else(|| text(whole.get("expert_info")?, key));
    let model = top("expert_model").or_else(|| text(training, "model"));
    let task = top("expert_task_name").or_else(|| text(training, "finetune_task_name"));
    let rank = config.get("lora_rank").and_then(Json::as_u64).unwrap_or(4);
    let alpha = config
        .get("lora_alpha")
        .and_then(Json::as_f64)
        .unwrap_or(16.0);
    let tasks = task.unwrap_or_default().split(',').map(str::trim);
    let tasks = tasks.filter(|task| !task.is_empty()).map(Name::new);
    Ok(Meta {
        deleted: whole.get("expert_deleted").and_then(Json::as_bool) == Some(true),
        model: model.unwrap_or("unknown").to_owned(),
        tasks: tasks.collect::<Result<_, _>>().map_err(|e| e.to_string())?,
        rank: usize::try_from(rank).map_err(|_| "its rank is too large")?,
        alpha,
        tie_params: text(config, "tie_params").map(ToOwned::to_owned),
        origin: serde_json::json!({ "mttl": { "generation": generation, "metadata": whole } }),
    })
}

/// Only LoRA can be read.
fn modifier(config: &Json, generation: u8) -> Why<()> {
    let key = [
        "model_modifier",
        "model_modifier",
        "__model_modifier__",
        "class_name",
    ];
    let name = text(config, key[usize::from(generation)]).unwrap_or("none");
    let lora = ["lora", "mttl.models.modifiers.lora.LoRAConfig"].contains(&name);
    match lora {
        true => Ok(()),
        false => Err(format!(
            "its modifier is `{name}`; only `lora` experts can be read"
        )),
    }
}
