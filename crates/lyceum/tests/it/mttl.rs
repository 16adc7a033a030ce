//! MTTL's library reads bit for bit, goes back and forth without loss, and nothing hostile in a
//! file of torch's or a folder of MTTL's panics or is believed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use lyceum::expert::Expert;
use lyceum::library::Library;
use lyceum::store::Put;
use lyceum::{Hint, Name, mttl};
use lyceum_formats::torch::{self, Stored, Value};

pub(crate) fn golden(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(path)
}

fn tensor(stored: &Stored<'_>) -> Tensor {
    let values = stored.to_f32().unwrap();
    Tensor::from_vec(values, stored.shape(), &Device::Cpu).unwrap()
}

fn bits(tensor: &Tensor) -> Vec<u32> {
    let flat = tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    flat.into_iter().map(f32::to_bits).collect()
}

#[test]
fn the_golden_library_reads_whole_and_its_prototypes_are_the_recorded_ones() {
    let contents = mttl::read(&golden("mttl-library")).unwrap();
    assert_eq!(contents.notes, Vec::<String>::new());
    let names: Vec<&str> = contents
        .experts
        .iter()
        .map(|e| e.card.name.as_str())
        .collect();
    assert_eq!(names, ["color_of", "is_greater", "last_word", "who_has"]);
    assert!(contents.removed.is_empty());
    // Per expert: Arrow, PhatGOOSE, the SVD embedding.
    assert_eq!(contents.artifacts.len(), 12);
    for expert in &contents.experts {
        assert_eq!(expert.loras.len(), 12);
        assert_eq!(expert.card.tasks, std::slice::from_ref(&expert.card.name));
        assert!(
            expert
                .loras
                .values()
                .all(|l| l.rank() == 4 && l.scale == 0.25)
        );
        let bytes = std::fs::read(golden(&format!("mttl-library/{}.ckpt", expert.card.name)));
        let bytes = bytes.unwrap();
        let raw: BTreeMap<String, Tensor> = torch::stored(&bytes)
            .unwrap()
            .into_iter()
            .map(|(name, stored)| (name, tensor(&stored)))
            .collect();
        assert_eq!(raw.len(), 24);
        for (site, lora) in &expert.loras {
            let (a, b) = (
                &raw[&format!("{site}.lora_a")],
                &raw[&format!("{site}.lora_b")],
            );
            assert_eq!(a.dims(), [64, 4]);
            assert_eq!(bits(&lora.a), bits(&a.t().unwrap().contiguous().unwrap()));
            assert_eq!(bits(&lora.b), bits(&b.t().unwrap().contiguous().unwrap()));
        }
    }
    let path = golden("arrow_prototypes.safetensors");
    let recorded = candle_core::safetensors::load(path, &Device::Cpu).unwrap();
    let mut seen = 0;
    for artifact in contents
        .artifacts
        .iter()
        .filter(|a| a.kind.as_str() == "arrow")
    {
        for (site, vector) in &artifact.vectors {
            let want = recorded[&format!("{}.{site}", artifact.expert)]
                .to_vec1::<f32>()
                .unwrap();
            let got = vector.to_vec1::<f32>().unwrap();
            let dot: f32 = want.iter().zip(&got).map(|(x, y)| x * y).sum();
            assert!(dot.abs() >= 0.99999, "{site}: {dot}");
            seen += 1;
        }
    }
    assert_eq!(seen, 48);
}

#[test]
fn there_and_back_loses_nothing_and_a_folder_of_mttls_is_for_reading_only() {
    let folder = golden("mttl-library");
    let library = Library::open(folder.to_str().unwrap()).unwrap();
    let name = Name::new("who_has").unwrap();
    let hints = library.remove(&name).unwrap_err().hints();
    assert!(matches!(hints[..], [Hint::Import { .. }]), "{hints:?}");
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("mttl");
    assert_eq!(library.export_mttl(&out).unwrap(), Vec::<String>::new());
    let files = |dir: &Path| -> Vec<String> {
        let names = dir
            .read_dir()
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    };
    assert_eq!(files(&out), files(&folder));
    let again = mttl::read(&out).unwrap();
    for expert in &again.experts {
        let first = library.expert(&expert.card.name).unwrap();
        assert_eq!(expert.card.weights, first.card.weights);
        assert_eq!(expert.card.lora, first.card.lora);
        // What MTTL recorded is still there, its order of the layers too.
        assert_eq!(expert.card.origin, first.card.origin);
    }
    for artifact in &again.artifacts {
        let first = library
            .artifact_of(&artifact.kind, &artifact.expert)
            .unwrap()
            .unwrap();
        assert_eq!(first.spec, artifact.spec);
        for (site, vector) in &artifact.vectors {
            assert_eq!(bits(vector), bits(&first.vectors[site]));
        }
    }
    assert!(
        library.export_mttl(&out).is_err(),
        "a folder that is not empty"
    );
}

#[test]
fn an_expert_of_some_layers_names_them_and_mixed_scales_are_told() {
    let mut experts = mttl::read(&golden("mttl-library")).unwrap().experts;
    let mut some = experts.swap_remove(0);
    some.loras.retain(|site, _| site.as_str().contains(".2."));
    some.card.lora.targets = some.loras.keys().map(ToString::to_string).collect();
    some.card.origin = serde_json::Value::Null;
    let dir = tempfile::tempdir().unwrap();
    let config = |experts: &[Expert], name: &str| -> (Vec<String>, Vec<String>) {
        let out = dir.path().join(name);
        let library = Library::create(dir.path().join(format!("{name}-l")).to_str().unwrap());
        let library = library.unwrap();
        for expert in experts {
            library.add(expert, Put::New).unwrap();
        }
        let notes = library.export_mttl(&out).unwrap();
        let bytes = std::fs::read(out.join("color_of.meta")).unwrap();
        let meta = torch::load(&bytes).unwrap();
        let config = meta.get("expert_config").unwrap();
        let text = |key| config.get(key).unwrap().text().unwrap().to_owned();
        (vec![text("modify_modules"), text("modify_layers")], notes)
    };
    let some = Expert::new(some.card, some.loras).unwrap();
    let path = |layer| format!(r"transformer\.h\.2\.attn\.attention\.{layer}_proj");
    let paths = ["k", "q", "v"].map(path).join("|");
    let (fields, notes) = config(std::slice::from_ref(&some), "some");
    assert_eq!((fields, notes), (vec![paths, String::new()], vec![]));
    // All layers of these names; and another expert with another alpha.
    let mut whole = experts.swap_remove(0);
    whole.card.name = some.card.name.clone();
    whole.card.origin = serde_json::Value::Null;
    let mut other = experts.swap_remove(0);
    other.card.lora.alpha = 2.0;
    other.loras.values_mut().for_each(|lora| lora.scale = 0.5);
    let other = Expert::new(other.card, other.loras).unwrap();
    let (fields, notes) = config(&[whole, other], "whole");
    assert_eq!(fields, [".*", "k_proj|q_proj|v_proj"]);
    assert!(notes[0].contains("scale of the first"), "{notes:?}");
}

pub(crate) fn copy() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for entry in golden("mttl-library").read_dir().unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
    }
    dir
}

#[test]
fn an_expert_that_cannot_be_read_is_an_error_naming_it() {
    let dir = copy();
    std::fs::remove_file(dir.path().join("last_word.ckpt")).unwrap();
    let error = mttl::read(dir.path()).unwrap_err().to_string();
    assert!(error.contains("last_word"), "{error}");
    let dir = copy();
    std::fs::write(dir.path().join("is_greater.meta"), b"PK\x03\x04 not a zip").unwrap();
    let error = mttl::read(dir.path()).unwrap_err().to_string();
    assert!(error.contains("is_greater"), "{error}");
    // Another expert's weights under this name: its prototypes no longer fit them.
    let dir = copy();
    let path = |file: &str| dir.path().join(file);
    std::fs::copy(path("who_has.ckpt"), path("color_of.ckpt")).unwrap();
    let contents = mttl::read(dir.path()).unwrap();
    let notes = contents.notes.join("\n");
    assert!(notes.contains("older than the expert's weights"), "{notes}");
}

pub(crate) fn text(text: &str) -> Value<'static> {
    Value::Text(text.to_owned().into())
}

fn meta(pairs: Vec<(&str, Value<'static>)>) -> Vec<u8> {
    let pairs = pairs
        .into_iter()
        .map(|(key, value)| (text(key), value))
        .collect();
    torch::save(&Value::Dict(pairs)).unwrap()
}

#[test]
fn older_generations_and_deleted_experts_are_read() {
    let old = |extra: &[(&str, Value<'static>)]| {
        let mut pairs = vec![
            ("lora_rank", Value::Int(4)),
            ("lora_alpha", Value::Float(1.0)),
            ("model", text("gpt-neo-tiny")),
            ("finetune_task_name", text("a,b")),
        ];
        pairs.extend(extra.iter().cloned());
        Value::Dict(pairs.into_iter().map(|(k, v)| (text(k), v)).collect())
    };
    let json = r#"{"model_modifier":"lora","lora_rank":4,"lora_alpha":1.0,"model":"m"}"#;
    let generations = [
        (
            "expert_config",
            old(&[("__model_modifier__", text("lora"))]),
        ),
        ("expert_config", old(&[("model_modifier", text("lora"))])),
        ("expert_config", text(json)),
    ];
    for (key, config) in generations {
        let dir = copy();
        let bytes = meta(vec![
            ("expert_name", text("who_has")),
            (key, config),
            ("expert_task_name", text("x, y")),
            ("expert_deleted", Value::Bool(true)),
        ]);
        std::fs::write(dir.path().join("who_has.meta"), bytes).unwrap();
        let contents = mttl::read(dir.path()).unwrap();
        assert_eq!(contents.experts.len(), 3);
        let expert = &contents.removed[0];
        assert_eq!(
            expert.card.tasks,
            [Name::new("x").unwrap(), Name::new("y").unwrap()]
        );
        assert_eq!((expert.card.lora.rank, expert.card.lora.alpha), (4, 1.0));
    }
    let dir = copy();
    let config = old(&[("model_modifier", text("ia3"))]);
    let bytes = meta(vec![
        ("expert_name", text("who_has")),
        ("expert_config", config),
    ]);
    std::fs::write(dir.path().join("who_has.meta"), bytes).unwrap();
    let error = mttl::read(dir.path()).unwrap_err();
    assert!(error.chain().contains("ia3"), "{error}");
}

#[test]
fn names_cannot_leave_the_folder() {
    let dir = copy();
    let bytes = meta(vec![
        ("expert_name", text("../../evil")),
        ("expert_config", Value::None),
    ]);
    std::fs::write(dir.path().join("who_has.meta"), bytes).unwrap();
    let error = mttl::read(dir.path()).unwrap_err().chain();
    assert!(error.contains("`expert_name` is `../../evil`"), "{error}");
}
