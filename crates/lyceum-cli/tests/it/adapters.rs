//! Importing adapters and merging them, as a user does.

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use lyceum::library::Library;
use lyceum::rng::Rng;
use serde_json::{Value, json};

use crate::command::Sandbox;

const SITES: [&str; 2] = ["h.0.attn.attention.q_proj", "h.1.attn.attention.q_proj"];

/// A PEFT adapter of rank 2 and alpha 4 for the tiny base, drawn from `seed`.
fn adapter(dir: &Path, seed: u64, change: impl FnOnce(&mut Value)) {
    let mut config = json!({
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": "tiny",
        "r": 2, "lora_alpha": 4, "bias": "none", "target_modules": ["q_proj"],
    });
    change(&mut config);
    let mut tensors = Vec::new();
    for site in SITES {
        for (half, shape) in [("A", (2, 16)), ("B", (16, 2))] {
            let key = format!("base_model.model.transformer.{site}.lora_{half}.weight");
            let values = Rng::named(seed, &key).normal(32, 0.3);
            tensors.push((key, Tensor::from_vec(values, shape, &Device::Cpu).unwrap()));
        }
    }
    std::fs::create_dir_all(dir).unwrap();
    std::fs::write(dir.join("adapter_config.json"), config.to_string()).unwrap();
    let tensors = tensors.into_iter().collect();
    candle_core::safetensors::save(&tensors, dir.join("adapter_model.safetensors")).unwrap();
}

/// The updates of expert `name` of `library`, all sites one below the other, in f64.
fn updates(place: &Sandbox, library: &str, name: &str) -> Tensor {
    let library = Library::open(place.path(library).to_str().unwrap()).unwrap();
    let expert = library.expert(&lyceum::Name::new(name).unwrap()).unwrap();
    let wide = |t: &Tensor| t.to_dtype(DType::F64).unwrap();
    let update = |l: &lyceum::lora::Lora| wide(&l.b).matmul(&wide(&l.a)).unwrap() * l.scale;
    let all: Vec<Tensor> = expert.loras.values().map(|l| update(l).unwrap()).collect();
    Tensor::cat(&all, 0).unwrap()
}

fn size(t: &Tensor) -> f64 {
    let square = t.sqr().unwrap().sum_all().unwrap();
    square.to_scalar::<f64>().unwrap().sqrt()
}

#[test]
fn task_arithmetic_is_what_it_says() {
    let place = Sandbox::new();
    adapter(&place.path("adapters/a"), 1, |_| ());
    adapter(&place.path("adapters/b"), 2, |_| ());
    let told = place.json("import adapters lib --base base");
    assert_eq!(told["refused"], json!([]));
    let (a, b) = (updates(&place, "lib", "a"), updates(&place, "lib", "b"));
    for (i, (weights, x, y)) in [
        ("a=-1", -1.0, 0.0),
        ("a=2", 2.0, 0.0),
        ("a=0.5", 0.5, 0.0),
        ("a=1,b=-1", 1.0, -1.0),
        ("a=0.5,b=-0.5", 0.5, -0.5),
        ("a=1,b=0", 1.0, 0.0),
        ("a=1e30,b=1e30", 1e30, 1e30),
    ]
    .into_iter()
    .enumerate()
    {
        let want = ((&a * x).unwrap() + (&b * y).unwrap()).unwrap();
        let experts = if weights.contains('b') { "a,b" } else { "a" };
        for method in ["linear", "cat"] {
            let name = format!("{method}{i}");
            let merge = format!("merge lib --method {method} --experts {experts}");
            place.ok(&format!("{merge} --weights {weights} --name {name}"));
            let got = updates(&place, "lib", &name);
            let off = size(&(got - &want).unwrap()) / size(&want);
            assert!(off < 1e-6, "{method} {weights}: {off}");
        }
    }
    for weights in ["a=-1", "a=1,b=-1", "a=0.5,b=-0.5", "a=0"] {
        let experts = if weights.contains('b') { "a,b" } else { "a" };
        let merge = format!("merge lib --method factor-linear --experts {experts}");
        let why = place.complaint(&format!("{merge} --weights {weights} --name x"));
        assert!(why.contains("factor-linear"), "{why}");
    }
}

#[test]
fn a_bad_adapter_of_many_is_listed_and_the_others_come_in() {
    let place = Sandbox::new();
    adapter(&place.path("adapters/good"), 1, |_| ());
    adapter(&place.path("adapters/my adapter"), 2, |_| ());
    adapter(&place.path("adapters/dora"), 3, |config| {
        config["use_dora"] = json!(true)
    });
    let output = place.output("import adapters lib --base base --format json");
    assert_eq!(output.status.code(), Some(1));
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(told["experts"][0]["expert"], "good");
    let refused = told["refused"].as_array().unwrap();
    assert_eq!(refused.len(), 2);
    assert!(
        refused[0]["why"].as_str().unwrap().contains("`use_dora`"),
        "{told}"
    );
    assert!(
        refused[1]["why"].as_str().unwrap().contains("--name"),
        "{told}"
    );
    let output = place.output("import adapters lib --base base");
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.contains("left out: the PEFT adapter") && text.contains("; 2 left out"),
        "{text}"
    );
    assert_eq!(place.json("list lib").as_array().unwrap().len(), 1);
    // Alone it can have a name; of many it cannot, nor where nothing is left.
    let mut command = place.command("import --name mine");
    let output = command
        .arg("adapters/my adapter")
        .arg("lib")
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(place.json("list lib").as_array().unwrap().len(), 2);
    let why = place.complaint("import adapters lib --name mine");
    assert!(why.contains("3 adapters"), "{why}");
    let why = place.complaint("import adapters/dora lib");
    assert!(
        why.contains("nothing could be imported") && why.contains("`use_dora`"),
        "{why}"
    );
    let mut command = place.command("import");
    let output = command
        .arg("adapters/my adapter")
        .arg("lib")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let why = String::from_utf8(output.stderr).unwrap();
    assert!(
        why.contains("is not a name") && why.contains("--name"),
        "{why}"
    );
    assert!(!place.path("none").exists());
    let why = place.complaint("import adapters/good none --name .x");
    assert!(why.contains("is not a name"), "{why}");
}

#[test]
fn a_saved_head_needs_the_base_to_be_told_from_a_trained_one() {
    let place = Sandbox::new();
    let dir = place.path("adapter");
    adapter(&dir, 1, |_| ());
    let path = dir.join("adapter_model.safetensors");
    let mut tensors = candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
    let base = place.path("base/model.safetensors");
    let base = candle_core::safetensors::load(base, &Device::Cpu).unwrap();
    let head = base["transformer.wte.weight"].clone();
    tensors.insert("base_model.model.lm_head.weight".into(), head);
    candle_core::safetensors::save(&tensors, &path).unwrap();
    let why = place.complaint("import adapter lib");
    assert!(
        why.contains("lm_head.weight") && why.contains("with its base"),
        "{why}"
    );
    let told = place.json("import adapter lib --base base");
    let warnings = told["warnings"].to_string();
    assert!(warnings.contains("the base's own: left out"), "{warnings}");
    assert_eq!(told["experts"][0]["sites"], 2);
}
