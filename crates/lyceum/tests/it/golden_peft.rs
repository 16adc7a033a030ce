//! Adapters made by PEFT give PEFT's logits, and those that cannot be honoured are refused by
//! name.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use lyceum::backbone::Precision;
use lyceum::expert::Expert;
use lyceum::mix::{Mixing, SeqLens};
use lyceum::model::Model;
use lyceum::name::Site;
use lyceum::peft::{CONFIG, WEIGHTS, import};
use lyceum::route::Router;
use lyceum::store::Put;
use serde_json::{Value, json};

use crate::golden;

const ADAPTERS: [&str; 4] = ["plain", "rslora_patterns", "regex_target", "all_linear"];

fn taken(adapter: &str) -> Expert {
    let dir = golden::path("peft").join(adapter);
    import(&dir, &golden::name(adapter), Some(&golden::base().host())).unwrap()
}

/// The logits `[t, v]` of the recorded rows under one expert.
fn logits(expert: &Expert, rows: &[Vec<i64>]) -> Tensor {
    let library = golden::empty_library();
    library.add(expert, Put::New).unwrap();
    let spec = Router::oracle();
    let model = Model::routed(golden::base(), &library, &spec, Mixing::Outputs).unwrap();
    let tokens: Vec<u32> = rows.iter().flatten().map(|&id| id as u32).collect();
    let lens: Vec<usize> = rows.iter().map(Vec::len).collect();
    let tasks = vec![expert.card.name.clone(); rows.len()];
    model.logits(&tokens, &SeqLens::new(&lens), &tasks).unwrap()
}

#[test]
fn logits_of_peft_adapters_equal_the_reference() {
    let said = golden::tensors("peft/logits.safetensors");
    let rows = said["input_ids"].to_vec2::<i64>().unwrap();
    for adapter in ADAPTERS {
        let want = said[&format!("logits.{adapter}")].flatten_to(1).unwrap();
        let expert = taken(adapter);
        let apart = golden::apart(&logits(&expert, &rows), &want);
        assert!(apart <= 2e-4, "{adapter}: logits are {apart} apart");
        // The adapter does something, so the comparison means something.
        let base = said["logits.base"].flatten_to(1).unwrap();
        assert!(
            golden::apart(&want, &base) > 1e-2,
            "{adapter} changes nothing"
        );
    }
}

#[test]
fn dora_and_bias_adapters_are_refused_by_name() {
    for (adapter, field) in [("dora_to_reject", "use_dora"), ("bias_to_reject", "bias")] {
        let dir = golden::path("peft").join(adapter);
        let error = chain(&import(&dir, &golden::name("x"), None).unwrap_err());
        assert!(error.contains(&format!("`{field}`")), "{adapter}: {error}");
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text += &format!(": {error}");
        source = error.source();
    }
    text
}

/// A copy of the adapter `plain` whose files have been tampered with.
fn with(
    config: impl FnOnce(&mut Value),
    weights: impl FnOnce(&mut BTreeMap<String, Tensor>),
) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut fields = golden::json(&format!("peft/plain/{CONFIG}"));
    config(&mut fields);
    std::fs::write(dir.path().join(CONFIG), fields.to_string()).unwrap();
    let mut tensors = golden::tensors(&format!("peft/plain/{WEIGHTS}"));
    weights(&mut tensors);
    let tensors = tensors.into_iter().collect();
    candle_core::safetensors::save(&tensors, dir.path().join(WEIGHTS)).unwrap();
    dir
}

fn refused(dir: &Path) -> String {
    let host = golden::base().host();
    chain(&import(dir, &golden::name("x"), Some(&host)).unwrap_err())
}

#[test]
fn fields_that_change_the_output_are_refused_by_name() {
    let fields = [
        ("peft_type", json!("LOHA")),
        ("bias", json!("all")),
        ("lora_bias", json!(true)),
        ("use_dora", json!(true)),
        ("modules_to_save", json!(["lm_head"])),
        ("layer_replication", json!([[0, 4], [2, 5]])),
        ("trainable_token_indices", json!([1])),
        (
            "megatron_config",
            json!({ "tensor_model_parallel_size": 2 }),
        ),
        ("alora_invocation_tokens", json!([1, 2])),
        ("kasa_config", json!({ "beta": 1e-4 })),
        ("init_lora_weights", json!("pissa_niter_4")),
        ("init_lora_weights", json!("olora")),
        ("init_lora_weights", json!("loftq")),
        ("init_lora_weights", json!("corda")),
        ("init_lora_weights", json!("something_new")),
        ("something_new", json!(true)),
        ("r", json!(0)),
        ("lora_alpha", json!("8")),
        ("target_modules", json!("(q_proj")),
        ("rank_pattern", json!({ "q_proj": 3 })),
        ("target_modules", json!(null)),
    ];
    for (field, value) in fields {
        let dir = with(|config| config[field] = value.clone(), |_| ());
        let error = refused(dir.path());
        let named = match field {
            "rank_pattern" => error.contains("has rank 4"),
            field => error.contains(&format!("`{field}`")),
        };
        assert!(named, "{field} = {value}: {error}");
    }
}

#[test]
fn an_adapter_that_does_not_fit_exactly_is_refused() {
    let a = "base_model.model.transformer.h.0.attn.attention.q_proj.lora_A.weight";
    let b = a.replace("lora_A", "lora_B");
    let zeros = |shape: (usize, usize)| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
    type Tamper<'a> = Box<dyn FnOnce(&mut BTreeMap<String, Tensor>) + 'a>;
    let cases: Vec<(&str, Tamper<'_>)> = vec![
        ("no adapter", Box::new(|t| t.clear())),
        (
            "has a lora_B but no lora_A",
            Box::new(|t| drop(t.remove(a))),
        ),
        (
            "is missing",
            Box::new(|t| drop((t.remove(a), t.remove(&b)))),
        ),
        (
            "is a bias",
            Box::new(|t| drop(t.insert(a.replace("weight", "bias"), zeros((1, 1))))),
        ),
        (
            "embedding",
            Box::new(|t| drop(t.insert("wte.lora_embedding_A".into(), zeros((4, 9))))),
        ),
        (
            "DoRA",
            Box::new(|t| drop(t.insert("q.lora_magnitude_vector".into(), zeros((1, 4))))),
        ),
        (
            "is there twice",
            Box::new(|t| {
                let again = t[a].clone();
                t.insert(a.replace(".weight", ".default.weight"), again);
            }),
        ),
        (
            "layer of the base",
            Box::new(|t| {
                for half in [a, &b] {
                    let moved = t.remove(half).unwrap();
                    t.insert(half.replace("h.0", "h.9"), moved);
                }
            }),
        ),
        (
            "the base has",
            Box::new(|t| drop(t.insert(a.into(), zeros((4, 63))))),
        ),
        (
            "rank",
            Box::new(|t| drop(t.insert(a.into(), zeros((3, 64))))),
        ),
    ];
    for (want, tamper) in cases {
        let dir = with(|_| (), tamper);
        let error = refused(dir.path());
        assert!(error.contains(want), "{want}: {error}");
    }
    let dir = with(|c| c["target_modules"] = json!(["q_proj"]), |_| ());
    let error = refused(dir.path());
    assert!(error.contains("does not target"), "{error}");
    let dir = with(
        |c| c["target_modules"] = json!(["q_proj", "v_proj", "o_proj"]),
        |_| (),
    );
    let error = refused(dir.path());
    assert!(error.contains("targets `o_proj`"), "{error}");
    // A layer that exists and is targeted but is not in the file.
    let dir = with(|c| c["target_modules"] = json!("all-linear"), |_| ());
    let error = refused(dir.path());
    assert!(
        error.contains("24 layers") && error.contains("has 8"),
        "{error}"
    );
}

#[test]
fn old_weights_and_missing_files_say_what_to_do() {
    let dir = with(|_| (), |_| ());
    std::fs::rename(
        dir.path().join(WEIGHTS),
        dir.path().join("adapter_model.bin"),
    )
    .unwrap();
    let error = refused(dir.path());
    assert!(error.contains("adapter_model.bin"), "{error}");
    let error = refused(tempfile::tempdir().unwrap().path());
    assert!(error.contains(CONFIG), "{error}");
}

#[test]
fn half_precision_and_default_names_are_read_alike() {
    let host = golden::base().host();
    let name = golden::name("plain");
    let whole = taken("plain");
    for dtype in [DType::F16, DType::BF16] {
        let halved = |t: &Tensor| t.to_dtype(dtype).unwrap();
        let dir = with(
            |_| (),
            |tensors| {
                let old = std::mem::take(tensors);
                let renamed = old
                    .into_iter()
                    .map(|(name, t)| (name.replace(".weight", ".default.weight"), halved(&t)));
                tensors.extend(renamed);
            },
        );
        let expert = import(dir.path(), &name, Some(&host)).unwrap();
        for (site, lora) in &expert.loras {
            let want = halved(&whole.loras[site].a).to_dtype(DType::F32).unwrap();
            assert_eq!(golden::apart(&lora.a, &want), 0.0);
        }
    }
}

#[test]
fn layers_and_exclusions_choose_as_in_peft() {
    let only = |keep: fn(&str) -> bool| {
        move |tensors: &mut BTreeMap<String, Tensor>| tensors.retain(|name, _| keep(name))
    };
    let host = golden::base().host();
    let name = golden::name("x");
    let sites = |dir: &Path| -> Vec<String> {
        let expert = import(dir, &name, Some(&host)).unwrap();
        // What is said about the layers is said exactly: no other layer of the base is meant.
        for site in host.sites.keys() {
            let adapted = expert.loras.contains_key(site);
            assert_eq!(expert.card.lora.adapts(site), adapted, "{site}");
        }
        expert.loras.keys().map(Site::to_string).collect()
    };
    for (field, value) in [
        ("layers_pattern", json!("h")),
        ("layers_pattern", json!(null)),
    ] {
        let dir = with(
            |config| {
                config["layers_to_transform"] = json!([1, 3]);
                config[field] = value.clone();
            },
            only(|name| name.contains("h.1.") || name.contains("h.3.")),
        );
        assert_eq!(sites(dir.path()).len(), 4);
    }
    let dir = with(
        |config| config["exclude_modules"] = json!(".*h\\.[0-2]\\..*"),
        only(|name| name.contains("h.3.")),
    );
    assert_eq!(sites(dir.path()).len(), 2);
    let dir = with(
        |config| config["exclude_modules"] = json!(["v_proj"]),
        only(|name| name.contains("q_proj")),
    );
    assert_eq!(sites(dir.path()).len(), 4);
    let dir = with(|config| config["layers_to_transform"] = json!(1), |_| ());
    assert!(refused(dir.path()).contains("does not target"));
}

#[test]
fn an_imported_expert_is_kept_bit_equal_with_its_ranks_and_scales() {
    for adapter in ADAPTERS {
        let expert = taken(adapter);
        let dir = tempfile::tempdir().unwrap();
        let uri = dir.path().join("lib");
        let library = lyceum::library::Library::create(uri.to_str().unwrap()).unwrap();
        library.add(&expert, Put::New).unwrap();
        let back = library.expert(&expert.card.name).unwrap();
        assert_eq!(back.card, expert.card);
        // The folder is a PEFT adapter itself: importing it gives the same expert.
        let folder = uri.join("experts").join(adapter);
        let host = golden::base().host();
        let again = import(&folder, &expert.card.name, Some(&host)).unwrap();
        assert_eq!(again.fingerprint(), expert.fingerprint(), "{adapter}");
        assert_eq!(again.card.lora, expert.card.lora, "{adapter}");
    }
    let lora = taken("rslora_patterns").card.lora;
    assert_eq!(
        lora.rank_pattern,
        BTreeMap::from([("c_fc".into(), 3), ("k_proj".into(), 2)])
    );
    assert_eq!(lora.alpha_pattern, BTreeMap::from([("v_proj".into(), 4.0)]));
}

#[test]
fn without_its_base_an_adapter_is_routed_where_all_its_sites_fit() {
    let dir = golden::path("peft/plain");
    let expert = import(&dir, &golden::name("plain"), None).unwrap();
    assert_eq!(expert.card.base_name, "gpt-neo-tiny");
    assert_eq!(expert.card.base, None);
    let library = golden::empty_library();
    library.add(&expert, Put::New).unwrap();
    let spec = Router::uniform();
    let route = |base| Model::routed(base, &library, &spec, Mixing::Outputs);
    assert!(route(golden::base()).is_ok());
    let other = std::sync::Arc::new(crate::shipped::base(Precision::F32));
    let error = route(other).unwrap_err().to_string();
    assert!(
        error.contains("fits the base `embedded` at 0 of its"),
        "{error}"
    );
}
