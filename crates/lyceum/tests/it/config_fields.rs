//! Fields of `config.json` that are read, refused, or known to change nothing.

use lyceum::backbone::config::Positions;
use lyceum::backbone::{Config, families};
use serde_json::{Value, json};

use crate::bases::changed;

fn parse(family: &str, changes: &Value) -> Result<Config, String> {
    let parsed = Config::parse(&changed(family, changes), "config.json");
    parsed.map_err(|e| e.to_string())
}

fn refusal(family: &str, changes: &Value) -> String {
    let parsed = parse(family, changes);
    parsed.map_or_else(|why| why, |_| panic!("{family} {changes} is read"))
}

fn turns(config: &Config) -> &lyceum::backbone::Rope {
    match &config.positions {
        Positions::Rotary(rope) => rope,
        Positions::Learned => panic!("no rotary positions"),
    }
}

#[test]
fn rope_scaling_takes_the_place_of_rope_parameters() {
    let plain = json!({ "rope_type": "default", "rope_theta": 500_000.0 });
    let linear = json!({ "rope_type": "linear", "factor": 4.0 });
    let whole = json!({ "rope_type": "linear", "factor": 4.0, "rope_theta": 500_000.0 });
    let read = |changes: Value| parse("llama", &changes);
    let want = read(json!({ "rope_theta": 500_000.0, "rope_scaling": linear })).unwrap();
    assert_eq!(want.notes.len(), 0);
    // All spellings of one thing.
    for same in [
        json!({ "rope_theta": 500_000.0, "rope_scaling": null, "rope_parameters": whole }),
        json!({ "rope_theta": 500_000.0, "rope_scaling": whole, "rope_parameters": whole }),
        json!({ "rope_theta": 500_000.0, "rope_scaling": {}, "rope_parameters": whole }),
        json!({ "rope_theta": 500_000.0,
                "rope_scaling": { "type": "linear", "rope_type": "linear", "factor": 4.0 } }),
        json!({ "rope_theta": 500_000.0,
                "rope_scaling": { "type": "linear", "finetuned": true, "factor": 4.0 } }),
    ] {
        assert_eq!(read(same).unwrap(), want);
    }
    // Contradictions that transformers settles are settled its way, and told.
    for (settled, name) in [
        (
            json!({ "rope_theta": 500_000.0, "rope_scaling": linear, "rope_parameters": plain }),
            "rope_parameters",
        ),
        (
            json!({ "rope_theta": 7.0, "rope_scaling": whole, "rope_parameters": plain }),
            "rope_theta",
        ),
        (
            json!({ "rope_theta": 7.0, "rope_scaling": null, "rope_parameters": whole }),
            "rope_theta",
        ),
        (
            json!({ "rope_theta": 500_000.0,
                    "rope_scaling": { "type": "dynamic", "rope_type": "linear", "factor": 4.0 } }),
            "rope_type",
        ),
    ] {
        let got = read(settled).unwrap();
        assert_eq!(turns(&got), turns(&want));
        assert!(
            got.notes.iter().any(|note| note.contains(name)),
            "{:?}",
            got.notes
        );
    }
    // One that would lose the base is refused, both named.
    let lost = json!({ "rope_theta": 10_000.0, "rope_scaling": linear, "rope_parameters": plain });
    let why = refusal("llama", &lost);
    for name in ["`rope_scaling`", "`rope_parameters`", "`rope_theta`"] {
        assert!(why.contains(name), "{why}");
    }
}

#[test]
fn the_original_length_is_found_where_transformers_finds_it() {
    let yarn = json!({ "rope_type": "yarn", "factor": 4.0 });
    let inside = json!({ "rope_type": "yarn", "factor": 4.0,
        "original_max_position_embeddings": 16 });
    let read = |changes: Value| parse("llama", &changes).unwrap();
    let want = read(json!({ "rope_scaling": inside }));
    let beside = read(json!({ "rope_scaling": yarn, "original_max_position_embeddings": 16 }));
    assert_eq!(turns(&beside), turns(&want));
    let both = read(json!({ "rope_scaling": {
        "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32,
        "mscale": 0.0, "mscale_all_dim": 1.0 }, "original_max_position_embeddings": 16 }));
    assert_eq!(turns(&both), turns(&want));
    assert!(both.notes[0].contains("original_max_position_embeddings"));
    // From the two lengths, where the factor is null.
    let derived =
        json!({ "rope_type": "yarn", "factor": null, "original_max_position_embeddings": 16 });
    assert_eq!(
        turns(&read(json!({ "rope_scaling": null }))).theta,
        10_000.0
    );
    assert_eq!(
        turns(&read(
            json!({ "rope_scaling": null, "rope_parameters": null })
        ))
        .dims,
        4
    );
    assert_eq!(
        turns(&read(json!({ "rope_scaling": derived }))),
        turns(&want)
    );
    // Phi-3 has one way of its own, whatever older files call it, and a length of its own.
    let long = |kind: &str| {
        json!({ "rope_scaling": { "type": kind, "short_factor": [1.0, 1.5],
        "long_factor": [2.0, 4.0] }, "original_max_position_embeddings": 16 })
    };
    let want = parse("phi3", &long("longrope")).unwrap();
    for kind in ["su", "yarn"] {
        assert_eq!(turns(&parse("phi3", &long(kind)).unwrap()), turns(&want));
    }
    let why = refusal(
        "phi3",
        &json!({ "rope_scaling": { "type": "linear", "factor": 2.0 } }),
    );
    assert!(why.contains("longrope"), "{why}");
}

#[test]
fn bookkeeping_never_stops_a_base_from_opening() {
    let fields = r#"{
        "_attn_implementation_autoset": true, "_flash_attn_2_enabled": false, "_num_labels": 1,
        "_commit_hash": "abc", "_anything_at_all": [1], "max_sequence_length": 2048,
        "custom_pipelines": { "text-generation": { "impl": "x.py" } }, "quantization_config": null,
        "use_flash_attn": false, "use_flash_attention_2": true, "attn_implementation": "sdpa",
        "num_labels": 2, "output_past": true, "tokenizer_name": null, "bos_token": "<s>",
        "pad_token": "<pad>", "torch_dtype": "bfloat16", "dtype": "bfloat16", "use_cache": false,
        "type_vocab_size": 16, "extra_embedding_dim": 4, "cls_token_id": 3, "model_name": "x",
        "name_or_path": "x", "transformers.js_config": {}, "dropout_p": 0.1,
        "transformers_weights": "x", "output_router_logits": false, "router_aux_loss_coef": 0.01,
        "eos_token_ids": [1], "unsloth_version": "1", "unsloth_fixed": true, "flm_version": "1",
        "addr_qk": 3, "q_proj_partition_spec": [], "axis_dims": [1], "backend": null, "bits": null,
        "max_new_tokens": 8, "min_p": 0.1, "cache_implementation": "hybrid", "is_causal": true,
        "use_bidirectional_attention": false, "pruned_heads": {}, "num_experts_per_tok": 0,
        "embedding_multiplier": 1.0, "use_qkv_bias": false, "attn_output_gate": true,
        "mlp_only_layers": [], "quantize_kv_cache": false, "pallas_runtime": false,
        "layer_types": null, "clip_qkv": null, "per_layer_config": {}, "some_null": null,
        "gradient_checkpointing": true, "auto_map": {}, "architectures": ["X"]
    }"#;
    let fields: Value = serde_json::from_str(fields).unwrap();
    for family in families() {
        let plain = parse(family, &json!({})).unwrap();
        for (name, value) in fields.as_object().unwrap() {
            // Those that the family itself reads are none of its bookkeeping.
            let got = match (family, name.as_str()) {
                ("qwen2" | "gemma2" | "qwen3", "layer_types") => continue,
                _ => parse(family, &json!({ name: value })),
            };
            assert_eq!(got.as_ref(), Ok(&plain), "{family} {name}");
        }
    }
}

#[test]
fn what_may_matter_is_refused_by_name() {
    let fields = json!({
        "mup_scale": 2.0, "clip_qkv": 8.0, "use_bidirectional_attention": true, "is_causal": false,
        "per_layer_config": { "0": {} }, "_sliding_window_pattern": 6, "no_rope_layers": [1, 0],
        "embedding_multiplier": 12.0, "residual_multiplier": 0.2, "attention_multiplier": 0.1,
        "logits_scaling": 8.0, "logit_scale": 0.0625, "oproj_bias": true, "norm_topk_prob": true,
        "num_local_experts": 8, "sliding_window_pattern": 6, "qkv_bias": true, "alibi": true,
        "rope_interleaved": true, "use_sliding_window": "yes",
    });
    for family in families() {
        for (name, value) in fields.as_object().unwrap() {
            if (family, name.as_str()) == ("qwen2", "qkv_bias") {
                continue;
            }
            let why = refusal(family, &json!({ name: value }));
            assert!(why.contains(&format!("`{name}`")), "{family}: {why}");
        }
    }
}

#[test]
fn what_changes_nothing_on_a_condition_is_told() {
    let told = |family: &str, changes: Value, name: &str| {
        let plain = parse(family, &json!({})).unwrap();
        let got = parse(family, &changes).unwrap();
        assert_eq!(
            (&got.layers, &got.positions),
            (&plain.layers, &plain.positions)
        );
        let told = got.notes.iter().any(|note| note.contains(name));
        assert!(told, "{family} {changes}: {:?}", got.notes);
    };
    told("llama", json!({ "sliding_window": 4096 }), "sliding_window");
    told("gemma", json!({ "sliding_window": 4096 }), "sliding_window");
    told("gpt2", json!({ "n_ctx": 32 }), "n_ctx");
    told("gemma2", json!({ "hidden_act": "gelu" }), "hidden_act");
    told(
        "gemma",
        json!({ "hidden_activation": "gelu" }),
        "hidden_activation",
    );
    // Gemma's field is taken at its word, as in transformers 5; what it meant once is told.
    let exact = parse(
        "gemma",
        &json!({ "hidden_act": "gelu", "hidden_activation": null }),
    );
    assert!(exact.unwrap().notes[0].contains("gelu_pytorch_tanh"));
    for (family, changes) in [
        ("qwen2", json!({ "qkv_bias": true })),
        (
            "llama",
            json!({ "use_parallel_residual": false, "qk_layernorm": false }),
        ),
        (
            "llama",
            json!({ "use_sliding_window": false, "max_window_layers": 3 }),
        ),
        (
            "gpt2",
            json!({ "hidden_size": 16, "num_attention_heads": 4, "num_hidden_layers": 2 }),
        ),
        (
            "gpt_neox",
            json!({ "num_key_value_heads": 2, "head_dim": 8 }),
        ),
        (
            "mistral",
            json!({ "layer_types": ["sliding_attention", "sliding_attention"] }),
        ),
    ] {
        let got = parse(family, &changes).unwrap();
        assert_eq!(
            got,
            parse(family, &json!({})).unwrap(),
            "{family} {changes}"
        );
    }
    // Two fields that mean the same and disagree are both named.
    for (family, changes, names) in [
        (
            "gpt2",
            json!({ "hidden_size": 32 }),
            ["`n_embd`", "`hidden_size`"],
        ),
        (
            "gpt_neox",
            json!({ "rope_theta": 5.0 }),
            ["`rotary_emb_base`", "`rope_theta`"],
        ),
        (
            "gpt_neox",
            json!({ "partial_rotary_factor": 1.0 }),
            ["`rotary_pct`", "`partial_rotary_factor`"],
        ),
        (
            "gpt_neox",
            json!({ "head_dim": 4 }),
            ["`head_dim`", "`hidden_size"],
        ),
        (
            "mistral",
            json!({ "use_sliding_window": false }),
            ["`use_sliding_window`", "`sliding_window`"],
        ),
        (
            "mistral",
            json!({ "layer_types": ["full_attention", "full_attention"] }),
            ["`layer_types`", "`sliding_window`"],
        ),
        (
            "gpt_neo",
            json!({ "attention_layers": ["local", "global"] }),
            ["`attention_layers`", "`attention_types`"],
        ),
    ] {
        let why = refusal(family, &changes);
        assert!(
            names.iter().all(|name| why.contains(name)),
            "{family}: {why}"
        );
    }
}

#[test]
fn a_file_that_says_nothing_or_something_else_is_told_apart() {
    let read = |text: &str| match Config::parse(text.as_bytes(), "config.json") {
        Ok(_) => String::new(),
        Err(e) => e.to_string(),
    };
    for (text, why) in [
        (r#"{"model_type":"llama"}"#, "nothing else"),
        (
            r#"{"model_type":"llama","transformers_version":"4.40.0"}"#,
            "nothing else",
        ),
        (
            r#"{"peft_type":"LORA","base_model_name_or_path":"a/b","r":8}"#,
            "`a/b`",
        ),
        (
            r#"{"architectures":["LlamaForCausalLM"],"hidden_size":8}"#,
            "LlamaForCausalLM",
        ),
        (
            "{\"model_type\":\"llama\",\n\"hidden_size\": 4096.5}",
            "`hidden_size` is 4096.5",
        ),
        (
            r#"{"model_type":"llama","hidden_size":"64"}"#,
            "a whole number",
        ),
        (
            r#"{"model_type":"llama","attention_bias":1}"#,
            "true or false",
        ),
        (
            r#"{"model_type":"llama","hidden_size":64,"rope_scaling":3}"#,
            "`rope_scaling`",
        ),
        ("{\"model_type\":\"llama\",\n", "ends in the middle (line 2"),
        ("{\"model_type\" = 1}", "is not JSON (line 1"),
        ("", "is empty"),
        (
            "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n",
            "Git LFS",
        ),
        ("<!DOCTYPE html><html></html>", "web page"),
        ("[]", "not a JSON object"),
    ] {
        let said = read(text);
        assert!(said.contains(why), "{text}: {said}");
        for raw in ["expected value", "invalid type", "EOF while", "at line"] {
            assert!(!said.contains(raw), "{text}: {said}");
        }
    }
    let marked = [b"\xef\xbb\xbf".to_vec(), changed("llama", &json!({}))].concat();
    Config::parse(&marked, "config.json").unwrap();
}
