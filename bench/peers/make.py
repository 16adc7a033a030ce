"""Writes what both sides read: bases with random weights, LoRA adapters, rows of equal length.

    make.py WORK BENCH neo|llama

Everything is drawn from fixed seeds. `WORK/neo-words` and `WORK/neo` are one model under two
tokenizers: words that stand for ids, so that rows have an exact length, and the embedded base's.
"""

import json
import os
import shutil
import sys

import torch
from peft import LoraConfig
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM

EOS = "<|endoftext|>"
WORDS = 50256
ADAPTERS = 100
RANK = 4


def words():
    tokenizer = Tokenizer(models.WordLevel({f"w{i}": i for i in range(WORDS)}, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens([EOS])
    return tokenizer


def base(path, config):
    torch.manual_seed(1)
    config = AutoConfig.from_pretrained(config)
    with torch.no_grad():
        torch.set_default_dtype(torch.bfloat16)
        model = AutoModelForCausalLM.from_config(config)
        torch.set_default_dtype(torch.float32)
        # The first values of norms and biases are 1 and 0: nothing would notice them missing.
        for name, value in model.named_parameters():
            if value.dim() == 1:
                value.add_(0.02 * torch.randn_like(value))
    model.save_pretrained(path)
    words().save(f"{path}/tokenizer.json")


def adapter(path, config, seed):
    torch.manual_seed(seed)
    width = config["hidden_size"]
    tensors = {}
    for layer in range(config["num_layers"]):
        for site in ("q_proj", "k_proj", "v_proj"):
            name = f"base_model.model.transformer.h.{layer}.attn.attention.{site}"
            tensors[f"{name}.lora_A.weight"] = torch.randn(RANK, width) / width**0.5
            tensors[f"{name}.lora_B.weight"] = torch.randn(width, RANK) * 0.02
    os.makedirs(path)
    save_file(tensors, f"{path}/adapter_model.safetensors", {"format": "pt"})
    LoraConfig(
        r=RANK,
        lora_alpha=RANK,
        target_modules=["q_proj", "k_proj", "v_proj"],
        task_type="CAUSAL_LM",
        inference_mode=True,
    ).save_pretrained(path)


def rows(path, count=8, source=224, target=31):
    """Rows of 256 tokens, of which the last 32 (one of them the end of text) are targets."""
    draw = torch.Generator().manual_seed(3)
    with open(path, "w") as out:
        for i in range(count):
            ids = torch.randint(WORDS, (source + target,), generator=draw).tolist()
            text = [f"w{i}" for i in ids]
            row = {
                "source": " ".join(text[:source]),
                "target": " ".join(text[source:]),
                "task_name": f"e{i:03}",
                "split": "train",
            }
            out.write(json.dumps(row) + "\n")


def llama(work, bench):
    base(f"{work}/llama-1b", f"{bench}/configs/llama-1b.json")


def neo(work, bench):
    path = f"{bench}/configs/gpt-neo-125M.json"
    base(f"{work}/neo-words", path)
    shutil.copytree(f"{work}/neo-words", f"{work}/neo", copy_function=os.link)
    # `bench/run` puts the embedded base's there.
    os.remove(f"{work}/neo/tokenizer.json")
    with open(path) as file:
        config = json.load(file)
    for i in range(ADAPTERS):
        adapter(f"{work}/adapters/e{i:03}", config, 100 + i)
    rows(f"{work}/equal.jsonl")


if __name__ == "__main__":
    work, bench, model = sys.argv[1:]
    {"neo": neo, "llama": llama}[model](work, bench)
