//! Descriptions of well-known checkpoints have the parameters their authors publish.

use lyceum::backbone::Config;
use serde_json::{Value, json};

/// A configuration as it stands on the hub, and the number of parameters.
fn known() -> Vec<(&'static str, u64, Value)> {
    let llama = |d: u32, inner: u32, layers: u32, heads: u32, kv: u32, vocab: u32| {
        json!({
            "vocab_size": vocab, "hidden_size": d, "intermediate_size": inner,
            "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": kv,
            "max_position_embeddings": 32768, "torch_dtype": "bfloat16", "use_cache": true,
            "initializer_range": 0.02, "attention_dropout": 0.0, "bos_token_id": 1,
            "eos_token_id": 2, "transformers_version": "4.40.0",
        })
    };
    let with = |mut config: Value, more: Value| {
        let (Some(all), Value::Object(more)) = (config.as_object_mut(), more) else {
            return config;
        };
        all.extend(more);
        config
    };
    let ramp = json!({ "factor": 8.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192, "rope_type": "llama3" });
    vec![
        (
            "gpt2",
            124_439_808,
            json!({
            "model_type": "gpt2", "activation_function": "gelu_new", "n_ctx": 1024, "n_embd": 768,
            "n_head": 12, "n_layer": 12, "n_positions": 1024, "vocab_size": 50257,
            "attn_pdrop": 0.1, "summary_type": "cls_index", "task_specific_params": {} }),
        ),
        (
            "gpt-neo-125m",
            125_198_592,
            json!({
            "model_type": "gpt_neo", "vocab_size": 50257, "hidden_size": 768, "num_layers": 12,
            "num_heads": 12, "max_position_embeddings": 2048, "window_size": 256,
            "attention_types": [[["global", "local"], 6]], "intermediate_size": null }),
        ),
        (
            "pythia-160m",
            162_322_944,
            json!({
            "model_type": "gpt_neox", "hidden_act": "gelu", "hidden_size": 768,
            "intermediate_size": 3072, "layer_norm_eps": 1e-5, "max_position_embeddings": 2048,
            "num_attention_heads": 12, "num_hidden_layers": 12, "rotary_emb_base": 10000,
            "rotary_pct": 0.25, "tie_word_embeddings": false, "use_parallel_residual": true,
            "vocab_size": 50304 }),
        ),
        (
            "phi-2",
            2_779_683_840,
            json!({
            "model_type": "phi", "hidden_act": "gelu_new", "hidden_size": 2560,
            "intermediate_size": 10240, "max_position_embeddings": 2048,
            "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 32,
            "partial_rotary_factor": 0.4, "qk_layernorm": false, "rope_scaling": null,
            "rope_theta": 10000.0, "tie_word_embeddings": false, "vocab_size": 51200,
            "resid_pdrop": 0.1 }),
        ),
        (
            "Phi-3-mini-4k-instruct",
            3_821_079_552,
            with(
                llama(3072, 8192, 32, 32, 32, 32064),
                json!({
            "model_type": "phi3", "attention_bias": false, "auto_map": {}, "sliding_window": 2047,
            "original_max_position_embeddings": 4096, "rms_norm_eps": 1e-5 }),
            ),
        ),
        (
            "Mistral-7B-v0.1",
            7_241_732_096,
            with(
                llama(4096, 14336, 32, 32, 8, 32000),
                json!({
            "model_type": "mistral", "sliding_window": 4096, "rms_norm_eps": 1e-5 }),
            ),
        ),
        (
            "Llama-3.1-8B",
            8_030_261_248,
            with(
                llama(4096, 14336, 32, 32, 8, 128_256),
                json!({
            "model_type": "llama", "rope_theta": 500_000.0, "rope_scaling": ramp,
            "mlp_bias": false, "attention_bias": false, "pretraining_tp": 1 }),
            ),
        ),
        (
            "Qwen2.5-0.5B",
            494_032_768,
            with(
                llama(896, 4864, 24, 14, 2, 151_936),
                json!({
            "model_type": "qwen2", "tie_word_embeddings": true, "use_mrope": false,
            "max_window_layers": 24, "sliding_window": 32768, "use_sliding_window": false }),
            ),
        ),
        (
            "Qwen3-0.6B",
            596_049_920,
            with(
                llama(1024, 3072, 28, 16, 8, 151_936),
                json!({
            "model_type": "qwen3", "head_dim": 128, "tie_word_embeddings": true,
            "attention_bias": false, "sliding_window": null, "max_window_layers": 28 }),
            ),
        ),
        (
            "starcoder2-3b",
            3_030_371_328,
            with(
                llama(3072, 12288, 30, 24, 2, 49_152),
                json!({
            "model_type": "starcoder2", "embedding_dropout": 0.1, "residual_dropout": 0.1,
            "hidden_act": "gelu_pytorch_tanh", "mlp_type": "default", "norm_epsilon": 1e-5,
            "norm_type": "layer_norm", "sliding_window": 4096, "use_bias": true }),
            ),
        ),
        (
            "gemma-2b",
            2_506_172_416,
            with(
                llama(2048, 16384, 18, 8, 1, 256_000),
                json!({
            "model_type": "gemma", "head_dim": 256, "hidden_act": "gelu_pytorch_tanh" }),
            ),
        ),
        (
            "gemma-2-2b",
            2_614_341_888,
            with(
                llama(2304, 9216, 26, 8, 4, 256_000),
                json!({
            "model_type": "gemma2", "head_dim": 256, "hidden_act": "gelu_pytorch_tanh",
            "hidden_activation": "gelu_pytorch_tanh", "cache_implementation": "hybrid",
            "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0,
            "query_pre_attn_scalar": 256, "sliding_window": 4096 }),
            ),
        ),
    ]
}

#[test]
fn known_checkpoints_have_their_published_sizes() {
    for (name, parameters, config) in known() {
        let config = Config::parse(config.to_string().as_bytes(), name).unwrap();
        let sizes = config.tensors().into_iter();
        let all: usize = sizes
            .map(|(_, shape)| shape.iter().product::<usize>())
            .sum();
        assert_eq!(all as u64, parameters, "{name}");
    }
}
