//! Writing a library as a folder that MTTL opens.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use candle_core::Tensor;
use serde_json::{Map, Value as Json, json};

use super::derived::{WHOLE, stretch};
use super::save_name::save_name;
use crate::artifact::Artifact;
use crate::error::{Context, Error, Result};
use crate::expert::Expert;
use crate::lora::Lora;
use crate::name::{Name, Site};
use crate::torch::{self, Stored, Value};

/// Writes `experts` and what MTTL can use of their `artifacts` to the folder `out`, which must be
/// empty or absent. Returns what was left out, and why.
///
/// ```no_run
/// use std::path::Path;
/// use lyceum::library::Library;
///
/// let experts = Library::open("experts")?.experts()?;
/// for note in lyceum::mttl::write(&experts, &[], Path::new("mttl-library"))? {
///     println!("{note}");
/// }
/// # Ok::<(), lyceum::Error>(())
/// ```
///
/// # Errors
/// When an expert cannot be said in MTTL's terms (one rank and alpha for all its layers, no dot
/// in its name), or the folder cannot be written.
pub fn write(experts: &[Expert], artifacts: &[Artifact], out: &Path) -> Result<Vec<String>> {
    if out
        .read_dir()
        .is_ok_and(|mut entries| entries.next().is_some())
    {
        let name = out.display().to_string();
        return Err(Error::Exists {
            kind: "folder",
            name,
        });
    }
    let mut files = Vec::new();
    let mut notes = Vec::new();
    let mut rows = String::new();
    if uneven(experts) {
        let text = "the experts differ in rank or scale, and MTTL gives all experts of a router the \
                    scale of the first without saying so";
        notes.push(text.to_owned());
    }
    for expert in experts {
        let name = &expert.card.name;
        let context = || format!("expert `{name}` as MTTL's");
        let metadata = metadata(expert).context(context)?;
        let dataset = metadata["training_config"].get("dataset");
        let dataset = dataset.and_then(Json::as_str).unwrap_or_default();
        let task = metadata["expert_task_name"].as_str().unwrap_or("None");
        rows += &format!(
            "| {name} | {} | {dataset}/{task} | lora |\n",
            expert.card.base_name
        );
        files.push((format!("{name}.ckpt"), torch::save(&weights(expert)?)?));
        files.push((format!("{name}.meta"), torch::save(&value(&metadata))?));
        for artifact in artifacts.iter().filter(|artifact| artifact.expert == *name) {
            match derived(expert, artifact).context(context)? {
                Some(derived) => files.extend(derived),
                None => notes.push(format!(
                    "the {} artifact of `{name}` has no counterpart in MTTL: left out",
                    artifact.kind
                )),
            }
        }
    }
    let n = experts.len();
    let readme = format!(
        "Number of experts present in the library: {n}\n\n| Expert Name | Base Model | Trained on \
         | Adapter Type |\n| --- | --- | --- | --- |\n{rows}Last updated on: {}\n\n",
        now()
    );
    for (file, bytes) in files {
        crate::file::write(&out.join(file), &bytes)?;
    }
    crate::file::write(&out.join("README.md"), readme.as_bytes())?;
    Ok(notes)
}

/// Returns `true` if the adapters of `experts` differ in rank or scale.
fn uneven(experts: &[Expert]) -> bool {
    let part = |lora: &Lora| (lora.rank(), lora.scale);
    let mut parts = experts.iter().flat_map(|e| e.loras.values()).map(part);
    parts
        .next()
        .is_some_and(|first| parts.any(|other| other != first))
}

/// The time in UTC, as the reference writes it.
fn now() -> String {
    let seconds = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_secs());
    let (mut day, second) = (seconds / 86_400, seconds % 86_400);
    let leap = |y: u64| y.is_multiple_of(4) && (!y.is_multiple_of(100) || y.is_multiple_of(400));
    let mut year = 1970;
    while day >= 365 + u64::from(leap(year)) {
        day -= 365 + u64::from(leap(year));
        year += 1;
    }
    let february = 28 + u64::from(leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30] {
        if day < length {
            break;
        }
        day -= length;
        month += 1;
    }
    let (day, hour, minute) = (day + 1, second / 3600, second / 60 % 60);
    format!(
        "{year}-{month:02}-{day:02} {hour:02}:{minute:02}:{:02}",
        second % 60
    )
}

fn text(text: impl Into<String>) -> Value<'static> {
    Value::Text(text.into().into())
}

/// JSON as a value of Python's.
fn value(json: &Json) -> Value<'static> {
    match json {
        Json::Null => Value::None,
        Json::Bool(b) => Value::Bool(*b),
        Json::Number(n) => match n.as_i64() {
            Some(i) => Value::Int(i),
            None => Value::Float(n.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(s) => text(s),
        Json::Array(items) => Value::List(items.iter().map(value).collect()),
        Json::Object(map) => Value::Dict(map.iter().map(|(k, v)| (text(k), value(v))).collect()),
    }
}

/// Layers in the order of their numbers, not of their digits.
fn in_order(sites: impl Iterator<Item = Site>) -> Vec<Site> {
    let mut sites: Vec<Site> = sites.collect();
    let part = |p: &str| (p.parse::<u64>().unwrap_or(u64::MAX), p.to_owned());
    sites.sort_by_cached_key(|site| site.as_str().split('.').map(part).collect::<Vec<_>>());
    sites
}

fn stored(tensor: &Tensor, shape: &[usize], numpy: bool) -> Result<Value<'static>> {
    let values = tensor.flatten_all()?.to_vec1::<f32>()?;
    Ok(Value::Tensor(Box::new(match numpy {
        true => Stored::ndarray(shape, &values),
        false => Stored::tensor(shape, &values),
    })))
}

fn weights(expert: &Expert) -> Result<Value<'static>> {
    let mut pairs = Vec::new();
    for site in in_order(expert.loras.keys().cloned()) {
        let lora = &expert.loras[&site];
        for (half, factor) in [("a", &lora.a), ("b", &lora.b)] {
            let transposed = factor.t()?.contiguous()?;
            let tensor = stored(&transposed, transposed.dims(), false)?;
            pairs.push((text(format!("{site}.lora_{half}")), tensor));
        }
    }
    Ok(Value::Dict(pairs))
}

/// The rank and alpha of all adapters, which MTTL keeps once.
fn rank_and_alpha(expert: &Expert) -> Result<(usize, f64)> {
    let mut parts = expert.loras.values().map(|lora| (lora.rank(), lora.scale));
    let first = parts
        .next()
        .ok_or_else(|| Error::invalid("it adapts nothing"))?;
    if parts.any(|part| part != first) {
        return Err(Error::invalid(
            "its layers differ in rank or scale, and MTTL keeps one of each for all",
        ));
    }
    let (rank, scale) = first;
    let said = expert.card.lora.alpha;
    let plain = said / rank as f64 == scale;
    Ok((rank, if plain { said } else { scale * rank as f64 }))
}

/// MTTL's `modify_modules` and `modify_layers`: regular expressions for the adapted modules, and
/// for the layers within them.
fn modified(expert: &Expert, before: &Json) -> (String, String) {
    let names: BTreeSet<&str> = expert.loras.keys().map(Site::last).collect();
    let text = |field: &str| before[field].as_str().map(str::to_owned);
    if let (Some(modules), Some(layers)) = (text("modify_modules"), text("modify_layers"))
        && layers.split('|').collect::<BTreeSet<_>>() == names
    {
        return (modules, layers);
    }
    if expert
        .card
        .lora
        .targets
        .iter()
        .all(|t| names.contains(t.as_str()))
    {
        let names: Vec<&str> = names.into_iter().collect();
        return (".*".into(), names.join("|"));
    }
    // Only some layers of these names: without a second expression the first is of whole paths.
    let paths = expert
        .loras
        .keys()
        .map(|site| site.as_str().replace('.', r"\."));
    (paths.collect::<Vec<_>>().join("|"), String::new())
}

/// The third, current generation; what an older file said of the training is kept.
fn metadata(expert: &Expert) -> Result<Json> {
    let card = &expert.card;
    if card.name.as_str().contains('.') {
        return Err(Error::invalid(
            "MTTL's names must not contain a dot; rename it first",
        ));
    }
    let (rank, alpha) = rank_and_alpha(expert)?;
    let tasks: Vec<&str> = card.tasks.iter().map(Name::as_str).collect();
    let task = (!tasks.is_empty()).then(|| tasks.join(","));
    let old = &card.origin["mttl"]["metadata"];
    let (modules, layers) = modified(expert, &old["expert_config"]);
    let training = match old
        .get("training_config")
        .or_else(|| old.get("expert_config"))
    {
        Some(Json::Object(map)) => Json::Object(map.clone()),
        Some(Json::String(text)) => serde_json::from_str(text).unwrap_or(Json::Null),
        _ => json!({
            "model": card.base_name, "class_name": "mttl.arguments.ExpertConfig",
            "dataset": "", "finetune_task_name": task, "model_modifier": "lora",
            "lora_rank": rank, "lora_alpha": alpha, "modify_modules": modules,
            "modify_layers": layers,
        }),
    };
    Ok(json!({
        "expert_name": card.name,
        "class_name": "mttl.models.library.expert_library.MetadataEntry",
        "expert_task_name": task,
        "parent_node": old.get("parent_node").unwrap_or(&Json::Null),
        "expert_config": {
            "modify_modules": modules,
            "class_name": "mttl.models.modifiers.lora.LoRAConfig",
            "modify_layers": layers,
            "tie_params": null,
            "lora_rank": rank,
            "lora_alpha": alpha,
            "lora_dropout": 0.0,
            "lora_init_b_random": false,
        },
        "training_config": training,
        "expert_model": card.base_name,
        "expert_deleted": false,
    }))
}

type Files = Vec<(String, Vec<u8>)>;

/// An artifact as MTTL's auxiliary data; `None` for a kind it does not know.
fn derived(expert: &Expert, artifact: &Artifact) -> Result<Option<Files>> {
    let name = &expert.card.name;
    let config = artifact.spec.get("mttl").and_then(Json::as_object).cloned();
    Ok(Some(match artifact.kind.as_str() {
        kind @ ("arrow" | "arrow-scaled") => {
            let config = config.unwrap_or_else(arrow_config);
            arrow(expert, artifact, &config, kind == "arrow")?
        }
        "phatgoose" => {
            let config = config.map_or_else(|| gates_config(&artifact.spec["how"]), Ok)?;
            let key = |site: &Site| format!("{site}.selector.{name}.v");
            let stem = save_name("phatgoosetransformconfig", &config)?;
            vec![file(
                name,
                &stem,
                each(artifact, key, &[1], true)?,
                &config,
            )?]
        }
        "svd-embedding" => {
            let (Some(config), Some(whole)) = (config, artifact.vectors.get(WHOLE)) else {
                return Ok(None);
            };
            let stem = save_name("svdembeddingtransformconfig", &config)?;
            let whole = stored(whole, whole.dims(), true)?;
            vec![file(name, &stem, whole, &config)?]
        }
        "hidden-state" => {
            let Some(config) = config else {
                return Ok(None);
            };
            let stem = save_name("hiddenstatecomputerconfig", &config)?;
            let vectors = each(artifact, Site::to_string, &[], false)?;
            vec![file(name, &stem, vectors, &config)?]
        }
        _ => return Ok(None),
    }))
}

/// Arrow's prototypes as MTTL's: how far the adapter stretches along them, and they themselves;
/// with `vectors` once more, as numpy's arrays.
fn arrow(
    expert: &Expert,
    artifact: &Artifact,
    config: &Map<String, Json>,
    vectors: bool,
) -> Result<Files> {
    let name = &expert.card.name;
    let stem = save_name("arrowtransformconfig", config)?;
    let mut values = Vec::new();
    for site in in_order(artifact.vectors.keys().cloned()) {
        let lora = expert.loras.get(&site);
        let lora = lora.ok_or_else(|| Error::not_found("site", site.as_str(), []))?;
        let stretch = stretch(lora, &artifact.vectors[&site])?;
        values.push((text(site.to_string()), Value::Float(stretch)));
    }
    let protos = each(artifact, Site::to_string, &[], false)?;
    let mut files = vec![
        file(
            name,
            &format!("{stem}_eigvals"),
            Value::Dict(values),
            config,
        )?,
        file(name, &format!("{stem}_protos"), protos, config)?,
    ];
    if vectors {
        let vectors = each(artifact, Site::to_string, &[], true)?;
        files.push(file(name, &format!("{stem}_vectors"), vectors, config)?);
    }
    Ok(files)
}

/// One file of auxiliary data: the data, and the settings they were made with.
fn file(
    name: &Name,
    data_type: &str,
    data: Value<'static>,
    config: &Map<String, Json>,
) -> Result<(String, Vec<u8>)> {
    let config = value(&Json::Object(config.clone()));
    let whole = Value::Dict(vec![(text("data"), data), (text("config"), config)]);
    Ok((format!("{name}.{data_type}.bin"), torch::save(&whole)?))
}

/// The vectors of all sites under their keys, with the axes `rows` before their own.
fn each(
    artifact: &Artifact,
    key: impl Fn(&Site) -> String,
    rows: &[usize],
    numpy: bool,
) -> Result<Value<'static>> {
    let mut pairs = Vec::new();
    for site in in_order(artifact.vectors.keys().cloned()) {
        let vector = &artifact.vectors[&site];
        let shape = [rows, vector.dims()].concat();
        pairs.push((text(key(&site)), stored(vector, &shape, numpy)?));
    }
    Ok(Value::Dict(pairs))
}

/// MTTL's settings of Arrow's prototypes.
fn arrow_config() -> Map<String, Json> {
    fields(&[
        ("name", Json::Null),
        ("ab_only", json!(true)),
        ("scale", json!(false)),
        ("tie_params", json!("default")),
        ("tie_op", json!("concat")),
    ])
}

fn fields(pairs: &[(&str, Json)]) -> Map<String, Json> {
    pairs
        .iter()
        .map(|(key, value)| ((*key).to_owned(), value.clone()))
        .collect()
}

/// MTTL's settings of gates trained here.
fn gates_config(how: &Json) -> Result<Map<String, Json>> {
    let get = |key: &str| {
        let found = how.get(key).cloned();
        found
            .ok_or_else(|| Error::invalid(format!("the phatgoose artifact does not say its {key}")))
    };
    Ok(fields(&[
        ("name", Json::Null),
        ("n_steps", get("steps")?),
        ("learning_rate", get("lr")?),
        ("warmup_ratio", get("warmup")?),
        ("micro_batch_size", get("batch")?),
        ("batch_size", get("batch")?),
        ("seed", get("seed")?),
    ]))
}
