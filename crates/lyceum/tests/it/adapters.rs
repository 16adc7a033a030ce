//! Adapters as people have them: names that wrappers changed, tensors saved along, old and new
//! configurations, damaged files, and folders of many of which some are bad.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use lyceum::backbone::OwnTensors;
use lyceum::expert::Expert;
use lyceum::library::{Taking, contents, take_in};
use lyceum::merge::{Knobs, MergeSpec, merge};
use lyceum::mttl::Contents;
use lyceum::peft::{self, Beside, CARD, CONFIG, Imported, WEIGHTS, import, import_beside};
use serde_json::{Value, json};

use crate::{golden, made, mixed};

type Tensors = BTreeMap<String, Tensor>;

const PREFIX: &str = "base_model.model.";

fn plain() -> (Value, Tensors) {
    (
        golden::json(&format!("peft/plain/{CONFIG}")),
        golden::tensors(&format!("peft/plain/{WEIGHTS}")),
    )
}

fn write(dir: &Path, config: &Value, tensors: Tensors) {
    std::fs::create_dir_all(dir).unwrap();
    std::fs::write(dir.join(CONFIG), config.to_string()).unwrap();
    let tensors = tensors.into_iter().collect();
    candle_core::safetensors::save(&tensors, dir.join(WEIGHTS)).unwrap();
}

/// The adapter `plain` after `change`, in a folder of its own.
fn changed(change: impl FnOnce(&mut Value, &mut Tensors)) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let (mut config, mut tensors) = plain();
    change(&mut config, &mut tensors);
    write(dir.path(), &config, tensors);
    dir
}

fn renamed(name: impl Fn(&str) -> String) -> tempfile::TempDir {
    changed(|_, tensors| {
        let old = std::mem::take(tensors).into_iter();
        tensors.extend(old.map(|(key, tensor)| (name(&key), tensor)));
    })
}

/// With the base and its tensors beside.
fn beside(dir: &Path) -> Result<Imported, String> {
    let host = golden::base().host();
    let own = OwnTensors::open(&golden::path("gpt-neo-tiny")).unwrap();
    let base = Beside {
        host: Some(&host),
        tensors: Some(&own),
    };
    import_beside(dir, &golden::name("plain"), base).map_err(|e| e.chain())
}

fn alone(dir: &Path) -> Result<Expert, String> {
    import(dir, &golden::name("plain"), None).map_err(|e| e.chain())
}

fn fingerprint() -> String {
    let dir = golden::path("peft/plain");
    let expert = import(&dir, &golden::name("plain"), Some(&golden::base().host())).unwrap();
    expert.fingerprint().to_owned()
}

#[test]
fn prefixes_of_wrappers_and_adapters_names_change_nothing() {
    let want = fingerprint();
    let short = |key: &str| key.strip_prefix(PREFIX).unwrap().to_owned();
    let ways: [&dyn Fn(&str) -> String; 9] = [
        &|key| short(key),
        &|key| format!("module.{key}"),
        &|key| format!("_orig_mod.{key}"),
        &|key| format!("{PREFIX}_orig_mod.{}", short(key)),
        &|key| key.replace(".attn.", "._orig_mod.attn."),
        &|key| key.replace(".weight", ".default.weight"),
        &|key| key.replace(".weight", ".my-task_2.weight"),
        &|key| format!("_fsdp_wrapped_module.{key}").replace(".h.", "._fsdp_wrapped_module.h."),
        &|key| format!("module._orig_mod.{key}").replace(".weight", ".default.weight"),
    ];
    for (i, way) in ways.iter().enumerate() {
        let dir = renamed(way);
        let imported = beside(dir.path()).unwrap();
        assert_eq!(imported.expert.fingerprint(), want, "way {i}");
        assert!(imported.notes.is_empty(), "way {i}: {:?}", imported.notes);
        assert_eq!(alone(dir.path()).unwrap().fingerprint(), want, "way {i}");
    }
}

#[test]
fn layers_of_a_wrapped_or_headless_base_are_found_beside_the_base() {
    let want = fingerprint();
    for (before, after) in [
        ("transformer.", "language_model.transformer."),
        ("transformer.", "model.language_model."),
        ("transformer.", ""),
    ] {
        let dir = renamed(|key| key.replace(before, after));
        let imported = beside(dir.path()).unwrap();
        assert_eq!(imported.expert.fingerprint(), want, "{after}");
        assert!(
            imported.notes[0].contains("taken for the base's"),
            "{after}"
        );
        assert!(
            imported
                .expert
                .loras
                .keys()
                .all(|site| imported.expert.card.lora.adapts(site))
        );
        // Alone it keeps the names it has.
        assert_ne!(alone(dir.path()).unwrap().fingerprint(), want);
    }
    // Targets that are a regular expression over the adapter's own paths.
    let dir = changed(|config, tensors| {
        config["target_modules"] = json!(r"language_model\..*\.(q|v)_proj");
        let old = std::mem::take(tensors).into_iter();
        let name = |key: String| key.replace("transformer.", "language_model.transformer.");
        tensors.extend(old.map(|(key, tensor)| (name(key), tensor)));
    });
    assert_eq!(beside(dir.path()).unwrap().expert.fingerprint(), want);
    // Another tower is no layer of the base.
    let dir = renamed(|key| key.replace("transformer.", "vision_tower."));
    let error = beside(dir.path()).unwrap_err();
    assert!(
        error.contains("layer of the base `vision_tower.h.0"),
        "{error}"
    );
}

#[test]
fn several_adapters_in_one_file_are_refused() {
    let dir = changed(|_, tensors| {
        let old = std::mem::take(tensors);
        for (key, tensor) in old {
            for name in ["default", "other"] {
                tensors.insert(
                    key.replace(".weight", &format!(".{name}.weight")),
                    tensor.clone(),
                );
            }
        }
    });
    let error = beside(dir.path()).unwrap_err();
    assert!(error.contains("there twice"), "{error}");
    // Also where they adapt other layers.
    let dir = renamed(|key| match key.contains("h.0") {
        true => key.replace(".weight", ".first.weight"),
        false => key.replace(".weight", ".second.weight"),
    });
    for error in [
        beside(dir.path()).unwrap_err(),
        alone(dir.path()).unwrap_err(),
    ] {
        assert!(
            error.contains("several adapters (first, second)"),
            "{error}"
        );
    }
}

/// The base's token embedding, which is its head too.
fn embedding() -> Tensor {
    golden::tensors("gpt-neo-tiny/model.safetensors")["transformer.wte.weight"]
        .to_dtype(DType::F32)
        .unwrap()
}

#[test]
fn tensors_saved_along_are_dropped_where_they_are_the_bases_own() {
    let want = fingerprint();
    for (key, listed) in [
        ("transformer.wte.weight", None),
        ("lm_head.weight", None),
        ("lm_head.modules_to_save.weight", Some("lm_head")),
        ("lm_head.modules_to_save.default.weight", Some("lm_head")),
        ("transformer.wte.weight", Some("wte")),
    ] {
        for dtype in [DType::F32, DType::BF16, DType::F16] {
            let dir = changed(|config, tensors| {
                if let Some(module) = listed {
                    config["modules_to_save"] = json!([module]);
                }
                let copy = embedding().to_dtype(dtype).unwrap();
                tensors.insert(format!("{PREFIX}{key}"), copy);
            });
            let imported = beside(dir.path()).unwrap();
            assert_eq!(imported.expert.fingerprint(), want, "{key}");
            let note = imported.notes.join(" ");
            assert!(
                note.contains(key) && note.contains("the base's own: left out"),
                "{note}"
            );
            let error = alone(dir.path()).unwrap_err();
            assert!(
                error.contains(key) && error.contains("with its base"),
                "{error}"
            );
        }
    }
}

#[test]
fn tensors_saved_along_that_were_trained_are_refused() {
    let error = |config: &Value, key: &str, tensor: Tensor| {
        let dir = changed(|fields, tensors| {
            fields["modules_to_save"] = config.clone();
            tensors.insert(format!("{PREFIX}{key}"), tensor);
        });
        beside(dir.path()).unwrap_err()
    };
    let none = json!(null);
    let mut values = embedding().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    values[7] += 0.5;
    let other = Tensor::from_vec(values, embedding().dims2().unwrap(), &Device::Cpu).unwrap();
    let said = error(&none, "lm_head.weight", other);
    assert!(
        said.contains("1 of") && said.contains("merge_and_unload"),
        "{said}"
    );
    let longer = Tensor::cat(&[&embedding(), &embedding().narrow(0, 0, 1).unwrap()], 0).unwrap();
    let said = error(&none, "transformer.wte.weight", longer);
    assert!(said.contains("vocabulary was resized"), "{said}");
    let head = Tensor::zeros((2, 64), DType::F32, &Device::Cpu).unwrap();
    let said = error(&json!(["score"]), "score.weight", head);
    assert!(said.contains("no `score.weight`"), "{said}");
    // Named and not there.
    let said = error(
        &json!(["wte", "lm_head"]),
        "transformer.wte.weight",
        embedding(),
    );
    assert!(said.contains("`lm_head` in `modules_to_save`"), "{said}");
}

#[test]
fn adapters_of_head_and_embedding_are_refused_with_and_without_the_base() {
    let zeros = |n, m| Tensor::zeros((n, m), DType::F32, &Device::Cpu).unwrap();
    for (keys, why) in [
        (
            ["lm_head.lora_A.weight", "lm_head.lora_B.weight"],
            "adapts the head",
        ),
        (
            [
                "transformer.wte.lora_embedding_A",
                "transformer.wte.lora_embedding_B",
            ],
            "adapts an embedding",
        ),
    ] {
        let dir = changed(|_, tensors| {
            for key in keys {
                tensors.insert(format!("{PREFIX}{key}"), zeros(4, 64));
            }
        });
        for error in [
            beside(dir.path()).unwrap_err(),
            alone(dir.path()).unwrap_err(),
        ] {
            assert!(
                error.contains(why) && error.contains("target_modules"),
                "{error}"
            );
            assert!(
                error.contains(keys[0]) && error.contains(WEIGHTS),
                "{error}"
            );
        }
    }
}

/// Fields that PEFT 0.4 to 0.21 writes beside those of `plain`, with the values of an adapter that
/// is trained in no special way; and other trainers' bookkeeping.
const IDLE: &str = r#"{
    "auto_mapping": { "base_model_class": "LlamaForCausalLM", "unsloth_fixed": true },
    "peft_version": "0.19.1", "_note": "mine", "revision": "main", "task_type": "CAUSAL_LM",
    "alora_invocation_tokens": null, "arrow_config": null, "corda_config": null,
    "ensure_weight_tying": true, "eva_config": { "rho": 2.0 }, "exclude_modules": null,
    "init_lora_weights": "eva", "inference_mode": false, "fan_in_fan_out": true,
    "kasa_config": null, "layer_replication": null, "layers_pattern": null,
    "layers_to_transform": null, "loftq_config": {}, "lora_bias": false, "lora_dropout": 0.1,
    "lora_dtype": "bfloat16", "lora_ga_config": null, "lorap_emb_lr": 1e-06,
    "lorap_lr_ratio": null, "megatron_config": null, "megatron_core": "megatron.core",
    "merge_weights": true, "enable_lora": null, "modules_to_save": [], "monteclora_config": null,
    "qalora_group_size": 16, "runtime_config": { "ephemeral_gpu_offload": true },
    "target_parameters": null, "trainable_token_indices": null, "use_bdlora": null,
    "use_dora": false, "use_qalora": false, "velora_config": null
}"#;

#[test]
fn bookkeeping_of_every_version_is_accepted() {
    let want = fingerprint();
    let idle: serde_json::Map<String, Value> = serde_json::from_str(IDLE).unwrap();
    let dir = changed(|config, _| config.as_object_mut().unwrap().extend(idle.clone()));
    assert_eq!(beside(dir.path()).unwrap().expert.fingerprint(), want);
    for (field, value) in [
        ("enable_lora", json!([true, false, true])),
        ("target_parameters", json!(["mlp.experts.gate_up_proj"])),
        ("use_bdlora", json!({ "nblocks": 2 })),
        ("a_field_of_tomorrow", json!(1)),
    ] {
        let dir = changed(|config, _| config[field] = value.clone());
        let error = beside(dir.path()).unwrap_err();
        assert!(error.contains(&format!("`{field}`")), "{error}");
    }
    // What is absent has PEFT's default, what is null has none.
    let dir = changed(|config, tensors| {
        let config = config.as_object_mut().unwrap();
        config.remove("r");
        config.remove("lora_alpha");
        for (key, tensor) in tensors.iter_mut() {
            let axis = usize::from(key.contains("lora_B"));
            *tensor = tensor.pad_with_zeros(axis, 0, 4).unwrap();
        }
    });
    let expert = beside(dir.path()).unwrap().expert;
    assert!(
        expert
            .loras
            .values()
            .all(|lora| (lora.rank(), lora.scale) == (8, 1.0))
    );
    for field in ["r", "lora_alpha"] {
        let dir = changed(|config, _| config[field] = Value::Null);
        let error = beside(dir.path()).unwrap_err();
        assert!(error.contains(&format!("`{field}` must be")), "{error}");
    }
}

#[test]
fn files_that_are_damaged_are_named_in_our_words() {
    const KEY: &str = "base_model.model.transformer.h.0.attn.attention.q_proj.lora_A.weight";
    let empty = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
    for shape in [&[0][..], &[0, 64], &[4, 0]] {
        let dir = changed(|_, tensors| drop(tensors.insert(KEY.into(), empty(shape))));
        for error in [
            beside(dir.path()).unwrap_err(),
            alone(dir.path()).unwrap_err(),
        ] {
            let all = [
                WEIGHTS,
                KEY,
                "ZeRO-3",
                "stage3_gather_16bit_weights_on_model_save",
            ];
            assert!(all.iter().all(|part| error.contains(part)), "{error}");
        }
    }
    let dir = changed(|_, tensors| drop(tensors.insert(KEY.into(), empty(&[4, 8, 8]))));
    let error = beside(dir.path()).unwrap_err();
    assert!(error.contains("A is [4, 8, 8]"), "{error}");
    // Doubles are read.
    let dir = changed(|_, tensors| {
        tensors
            .values_mut()
            .for_each(|t| *t = t.to_dtype(DType::F64).unwrap());
    });
    assert_eq!(
        beside(dir.path()).unwrap().expert.fingerprint(),
        fingerprint()
    );
    // Files that are not themselves.
    let whole = std::fs::read(dir.path().join(WEIGHTS)).unwrap();
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n";
    let cut = &whole[..whole.len() - 100];
    let wanted = format!("of {}", whole.len());
    for (bytes, why) in [
        (&pointer[..], "git lfs pull"),
        (cut, wanted.as_str()),
        (&whole[..100], "its header alone needs"),
        (b"", "it is empty"),
        (b"<!DOCTYPE html>", "a web page"),
    ] {
        std::fs::write(dir.path().join(WEIGHTS), bytes).unwrap();
        let error = beside(dir.path()).unwrap_err();
        assert!(error.contains(why) && error.contains(WEIGHTS), "{error}");
    }
    std::fs::remove_file(dir.path().join(WEIGHTS)).unwrap();
    std::fs::write(dir.path().join("adapter_model.bin"), pointer).unwrap();
    let error = beside(dir.path()).unwrap_err();
    assert!(
        error.contains("adapter_model.bin") && error.contains("git lfs pull"),
        "{error}"
    );
    // The configuration too.
    let config = plain().0.to_string();
    for (bytes, why) in [
        (
            &config.as_bytes()[..config.len() - 9],
            "ends in the middle (line 1, column",
        ),
        (&pointer[..], "git lfs pull"),
        (b"[1]", "no object"),
        (b"{'r': 8}", "not JSON (line 1, column 2)"),
        (b"\xff\xfe{\0}\0", "UTF-16"),
    ] {
        std::fs::write(dir.path().join(CONFIG), bytes).unwrap();
        let error = beside(dir.path()).unwrap_err();
        assert!(error.contains(why) && error.contains(CONFIG), "{error}");
    }
    let (config, tensors) = plain();
    write(dir.path(), &config, tensors);
    std::fs::write(dir.path().join(CONFIG), format!("\u{feff}{config}")).unwrap();
    assert_eq!(
        beside(dir.path()).unwrap().expert.fingerprint(),
        fingerprint()
    );
}

fn taken(source: &Path, name: Option<&str>) -> Result<Contents, String> {
    let host = golden::base().host();
    let taking = Taking {
        base: Beside {
            host: Some(&host),
            tensors: None,
        },
        name: name.map(golden::name),
        session: lyceum::store::Session::isolated(),
    };
    contents(source, &taking).map_err(|e| e.chain())
}

fn names(contents: &Contents) -> Vec<&str> {
    { contents.experts.iter() }
        .map(|e| e.card.name.as_str())
        .collect()
}

/// The reason for refusing the folder of `contents` that ends in `end`.
fn why(contents: &Contents, end: &str) -> String {
    let found = contents
        .refused
        .iter()
        .find(|refused| refused.what.ends_with(end));
    found.map_or_else(
        || panic!("{end}: {:?}", contents.refused),
        |refused| refused.why.chain(),
    )
}

#[test]
fn a_bad_one_of_many_does_not_keep_the_others_out() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let (config, tensors) = plain();
    for name in [
        "good",
        "better",
        "my adapter",
        "dora",
        "cut",
        "models--a--lora",
        "models--b--lora",
    ] {
        let place = match name.starts_with("models") {
            true => at(name).join("snapshots/1"),
            false => at(name),
        };
        write(&place, &config, tensors.clone());
    }
    let mut dora = config.clone();
    dora["use_dora"] = json!(true);
    write(&at("dora"), &dora, tensors.clone());
    let whole = std::fs::read(at("cut").join(WEIGHTS)).unwrap();
    std::fs::write(at("cut").join(WEIGHTS), &whole[..999]).unwrap();
    std::fs::create_dir_all(at("weights-only")).unwrap();
    std::fs::write(at("weights-only").join(WEIGHTS), &whole).unwrap();
    std::fs::create_dir_all(at("nothing")).unwrap();
    write(&at(".ipynb_checkpoints"), &config, tensors.clone());
    let mut taken = taken(dir.path(), None).unwrap();
    assert_eq!(names(&taken), ["better", "good"]);
    assert_eq!(taken.refused.len(), 6);
    assert!(why(&taken, "my adapter").contains("is not a name"));
    assert!(why(&taken, "dora").contains("`use_dora`"));
    assert!(why(&taken, "cut").contains("downloaded whole"));
    assert!(why(&taken, "weights-only").contains(CONFIG));
    for (one, other) in [("a", "b"), ("b", "a")] {
        let why = why(&taken, &format!("models--{one}--lora/snapshots/1"));
        assert!(why.contains(&format!("models--{other}--lora")), "{why}");
        assert!(why.contains("`lora` too"), "{why}");
    }
    // Where another expert has the name of one, the other still comes in.
    let library = made::library(&[mixed::experts().remove(0)]);
    library
        .rename(&golden::name("a"), &golden::name("good"))
        .unwrap();
    take_in(&mut taken, &library).unwrap();
    assert_eq!(names(&taken), ["better"]);
    assert!(
        why(&taken, "`good`").contains("another expert"),
        "{:?}",
        taken.refused
    );
    assert_eq!(library.names().unwrap().len(), 2);
    // The same weights under another card are told from another expert.
    let mut again = contents(&at("better"), &Taking::default()).unwrap();
    take_in(&mut again, &library).unwrap();
    assert!(again.experts.is_empty());
    assert!(
        why(&again, "`better`").contains("these weights"),
        "{:?}",
        again.refused
    );
}

#[test]
fn a_single_adapter_can_be_given_a_name() {
    let dir = tempfile::tempdir().unwrap();
    let (config, tensors) = plain();
    let bad = dir.path().join("my adapter");
    write(&bad, &config, tensors.clone());
    let unnamed = taken(&bad, None).unwrap();
    assert!(unnamed.experts.is_empty() && unnamed.refused[0].nameable);
    for source in [&bad, &dir.path().to_owned()] {
        assert_eq!(names(&taken(source, Some("qa")).unwrap()), ["qa"]);
    }
    write(&dir.path().join("other"), &config, tensors);
    let error = taken(dir.path(), Some("qa")).unwrap_err();
    assert!(error.contains("2 adapters"), "{error}");
    let error = taken(&bad.join(WEIGHTS), None).unwrap_err();
    assert!(error.contains("name the folder"), "{error}");
    let error = taken(&golden::path("mttl-library"), Some("qa")).unwrap_err();
    assert!(error.contains("library of MTTL's"), "{error}");
}

#[test]
fn a_link_and_a_checkpoint_inside_are_said() {
    let dir = tempfile::tempdir().unwrap();
    let (config, tensors) = plain();
    let run = dir.path().join("run");
    write(&run, &config, tensors.clone());
    write(&run.join("checkpoint-10"), &config, tensors);
    #[cfg(unix)]
    std::os::unix::fs::symlink(&run, dir.path().join("latest")).unwrap();
    let taken = taken(dir.path(), None).unwrap();
    assert_eq!(names(&taken), ["run"]);
    assert!(taken.refused.is_empty());
    let notes = taken.notes.join("\n");
    assert!(notes.contains("left out: checkpoint-10"), "{notes}");
    #[cfg(unix)]
    assert!(notes.contains("taken once"), "{notes}");
}

#[test]
fn a_bad_expert_of_mttls_does_not_keep_the_others_out() {
    let dir = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(golden::path("mttl-library")).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
    }
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n";
    std::fs::write(dir.path().join("who_has.ckpt"), pointer).unwrap();
    let mut taken = taken(dir.path(), None).unwrap();
    assert_eq!(names(&taken), ["color_of", "is_greater", "last_word"]);
    assert_eq!(taken.refused.len(), 1);
    assert!(taken.refused[0].what.contains("`who_has`"));
    assert!(taken.refused[0].why.chain().contains("git lfs pull"));
    let library = golden::empty_library();
    take_in(&mut taken, &library).unwrap();
    assert_eq!(library.names().unwrap().len(), 3);
    // Read as a library it is whole or an error.
    let error = lyceum::library::Library::open(dir.path().to_str().unwrap()).unwrap_err();
    assert!(error.chain().contains("who_has"), "{}", error.chain());
}

#[test]
fn our_own_card_is_kept_with_the_weights_it_was_written_for() {
    let spec = MergeSpec::new("cat", Knobs::default()).unwrap();
    let merged = merge(&mixed::experts(), &spec, &golden::name("all")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    for (file, bytes) in peft::encode(&merged).unwrap() {
        std::fs::write(dir.path().join(file), bytes).unwrap();
    }
    let host = golden::base().host();
    for host in [None, Some(&host)] {
        let back = import(dir.path(), &golden::name("other"), host).unwrap();
        assert!(back.card.is_merge());
        assert_eq!(back.card.tasks, merged.card.tasks);
        assert_eq!(back.card.base, merged.card.base);
        assert_eq!(back.card.name, golden::name("other"));
    }
    // A card of other weights says nothing of these.
    let (config, tensors) = plain();
    write(dir.path(), &config, tensors);
    assert!(dir.path().join(CARD).is_file());
    let imported = beside(dir.path()).unwrap();
    assert!(!imported.expert.card.is_merge());
    assert!(
        imported.notes[0].contains("not used"),
        "{:?}",
        imported.notes
    );
}
