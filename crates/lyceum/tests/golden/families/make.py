"""Makes the tiny models of every family and records what they compute.

    pip install torch transformers==4.57.* peft safetensors numpy
    python make.py                  # writes beside itself
    python make.py FAMILY           # that one alone, without the variants

Per family: `config.json`, `model.safetensors` (random, bf16), `adapter_config.json` and
`adapter_model.safetensors` (made by peft, every linear), and `golden.safetensors`:
`input_ids` [2, t], `lens` [2], `logits` of the base and `peft.logits` with the adapter (rows of
the second, shorter sequence end to end after the first), `greedy` (the continuation of the first
five tokens), `loss` (the mean over all next tokens, with the adapter) and `grad.*`, its gradients.
`variants.json` and `variants.safetensors`: other configurations of the same weights, by
`family/variant`, with logits.
"""

import json
import pathlib
import sys
import warnings

import peft
import torch
import transformers
from safetensors.torch import load_file, save_file

warnings.filterwarnings("ignore")
HERE = pathlib.Path(__file__).parent
VOCAB, T, SHORT, NEW = 48, 22, 9, 12

LLAMA = dict(
    vocab_size=VOCAB, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
    bos_token_id=1, eos_token_id=None, pad_token_id=None,
)
GPT = dict(vocab_size=VOCAB, bos_token_id=1, eos_token_id=None)
FAMILIES = {
    "gpt_neo": dict(
        GPT, hidden_size=16, num_layers=2, num_heads=4, intermediate_size=24, window_size=5,
        max_position_embeddings=64, attention_types=[[["global", "local"], 1]],
    ),
    "gpt2": dict(GPT, n_embd=16, n_layer=2, n_head=4, n_inner=24, n_positions=64),
    "gpt_neox": dict(
        GPT, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
        rotary_pct=0.5, max_position_embeddings=64,
    ),
    "phi": dict(
        GPT, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        intermediate_size=24, partial_rotary_factor=0.5, max_position_embeddings=64,
    ),
    "phi3": dict(LLAMA, sliding_window=7),
    "llama": dict(LLAMA),
    "mistral": dict(LLAMA, sliding_window=6, head_dim=6),
    "qwen2": dict(LLAMA, use_sliding_window=True, sliding_window=5, max_window_layers=1),
    "qwen3": dict(LLAMA, head_dim=6),
    "starcoder2": dict(LLAMA, sliding_window=6),
    "gemma": dict(LLAMA, head_dim=6, num_key_value_heads=1, hidden_activation="gelu_pytorch_tanh"),
    "gemma2": dict(
        LLAMA, head_dim=6, query_pre_attn_scalar=9, sliding_window=5,
        final_logit_softcapping=3.0, attn_logit_softcapping=2.0,
    ),
}
RAMP = dict(rope_type="llama3", factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0,
            original_max_position_embeddings=16)
VARIANTS = {
    "llama/linear": dict(rope_scaling=dict(rope_type="linear", factor=4.0)),
    "llama/dynamic": dict(rope_scaling=dict(rope_type="dynamic", factor=4.0),
                          max_position_embeddings=12),
    "llama/llama3": dict(rope_scaling=RAMP),
    "llama/yarn": dict(rope_scaling=dict(rope_type="yarn", factor=4.0, beta_fast=8.0,
                                         original_max_position_embeddings=16)),
    "llama/theta": dict(rope_theta=500.0, rms_norm_eps=0.1),
    "phi3/longrope": dict(
        rope_scaling=dict(type="longrope", short_factor=[1.0, 1.5], long_factor=[2.0, 4.0]),
        original_max_position_embeddings=16, max_position_embeddings=64, sliding_window=None,
    ),
    "gpt2/inverse_layer": dict(scale_attn_by_inverse_layer_idx=True),
    "gpt2/unscaled": dict(scale_attn_weights=False, activation_function="relu"),
    "gpt_neox/sequential": dict(use_parallel_residual=False),
    "qwen3/windows": dict(layer_types=["sliding_attention", "full_attention"],
                          use_sliding_window=True, sliding_window=4),
    "mistral/whole": dict(sliding_window=None),
    "gemma2/uncapped": dict(attn_logit_softcapping=None, final_logit_softcapping=None),
}


def config_of(family, **changes):
    config = transformers.AutoConfig.for_model(family, **dict(FAMILIES[family], **changes))
    config._attn_implementation = "eager"
    return config


def build(config, weights=None):
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    if weights is not None:
        model.load_state_dict(weights)
    return model


@torch.no_grad()
def randomise(model, family):
    """Weights that make every part count: wide matrices, norms and biases off their start."""
    seed = torch.Generator().manual_seed(sum(map(ord, family)))
    for name, p in model.named_parameters():
        noise = torch.randn(p.shape, generator=seed)
        if p.ndim == 2:
            table = any(part in name for part in ("embed", "wte", "wpe"))
            p.copy_(noise * (0.7 if table else 1.5 * max(p.shape) ** -0.5))
        elif name.endswith("bias"):
            p.copy_(noise * 0.3)
        else:
            p.copy_(noise * 0.2 + (0.0 if family.startswith("gemma") else 1.0))
        p.copy_(p.to(torch.bfloat16).float())


@torch.no_grad()
def ragged(model, ids):
    """Logits of both sequences, each alone, end to end."""
    rows = [model(ids[:1]).logits[0], model(ids[1:, :SHORT]).logits[0]]
    return torch.cat(rows).float().contiguous()


@torch.no_grad()
def greedy(model, prompt):
    out, cache, ids = [], None, prompt
    for _ in range(NEW):
        step = model(ids, past_key_values=cache, use_cache=True)
        cache = step.past_key_values
        ids = step.logits[:, -1:].argmax(-1)
        out.append(ids[0, 0].item())
    return torch.tensor(out)


def linears(model):
    kinds = (torch.nn.Linear, transformers.pytorch_utils.Conv1D)
    head = ("lm_head", "embed_out")
    return [n for n, m in model.named_modules() if isinstance(m, kinds) and n not in head]


def adapt(model, family):
    lora = peft.LoraConfig(
        r=2, lora_alpha=3, target_modules=linears(model), task_type="CAUSAL_LM",
        fan_in_fan_out=family == "gpt2",
    )
    adapted = peft.get_peft_model(model, lora)
    seed = torch.Generator().manual_seed(7)
    for name, p in adapted.named_parameters():
        if "lora_" in name:
            p.data.copy_(torch.randn(p.shape, generator=seed) * 0.3)
    return adapted


def family_golden(family, ids):
    folder = HERE / family
    folder.mkdir(exist_ok=True)
    config = config_of(family)
    model = build(config)
    randomise(model, family)
    config.save_pretrained(folder)
    # What save_pretrained says about the machine's own choices is no part of the model.
    said = json.loads((folder / "config.json").read_text())
    said.pop("dtype", None)
    (folder / "config.json").write_text(json.dumps(said, indent=1, sort_keys=True) + "\n")
    weights = {k: v.clone() for k, v in model.state_dict().items()}
    tied = config.tie_word_embeddings
    skip = ("lm_head.weight", "embed_out.weight") if tied else ()
    kept = {k: v.to(torch.bfloat16).contiguous() for k, v in weights.items()
            if k not in skip and v.is_floating_point() and not k.endswith(("inv_freq", "masked_bias"))
            and v.ndim <= 2}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    golden = {
        "input_ids": ids, "lens": torch.tensor([T, SHORT]), "logits": ragged(model, ids),
        "greedy": greedy(model, ids[:1, :5]),
    }
    adapted = adapt(model, family)
    golden["peft.logits"] = ragged(adapted, ids)
    losses = []
    for row in (ids[:1], ids[1:, :SHORT]):
        logits = adapted(row).logits[0, :-1]
        losses.append(torch.nn.functional.cross_entropy(logits, row[0, 1:], reduction="none"))
    loss = torch.cat(losses).mean()
    loss.backward()
    golden["loss"] = loss.detach().reshape(1)
    for name, p in adapted.named_parameters():
        if "lora_" in name:
            key = name.removeprefix("base_model.model.").replace(".default.weight", "")
            golden[f"grad.{key}"] = p.grad.contiguous()
    adapted.peft_config["default"].base_model_name_or_path = family
    adapted.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    said = json.loads((folder / "adapter_config.json").read_text())
    said["target_modules"] = sorted(said["target_modules"])
    (folder / "adapter_config.json").write_text(json.dumps(said, indent=1, sort_keys=True) + "\n")
    save_file(golden, folder / "golden.safetensors")
    return weights


def main():
    torch.manual_seed(0)
    ids = torch.randint(0, VOCAB, (2, T), generator=torch.Generator().manual_seed(3))
    weights = {family: family_golden(family, ids) for family in sys.argv[1:] or FAMILIES}
    if sys.argv[1:]:
        return
    said, logits = {}, {}
    for name, changes in VARIANTS.items():
        family = name.split("/")[0]
        config = config_of(family, **changes)
        logits[name] = ragged(build(config, weights[family]), ids)
        text = config.to_diff_dict()
        text.pop("dtype", None)
        said[name] = text
    (HERE / "variants.json").write_text(json.dumps(said, indent=1, sort_keys=True) + "\n")
    save_file(logits, HERE / "variants.safetensors")
    for path in sorted(HERE.rglob("*.safetensors")):
        print(f"{path.stat().st_size:8} {path.relative_to(HERE)}")


main()
