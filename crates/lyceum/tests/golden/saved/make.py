"""Makes older checkpoints of two tiny models of `../families`, as torch and transformers wrote them.

    pip install torch transformers==4.57.* safetensors
    python make.py

`llama/`: shards of `torch.save` in bf16 with their index. `gpt2/`: one file in the form before the
zip (torch below 1.6) in f32, without the head's wrapper, with the masks such files carry, one matrix
kept turned and one in f64.
"""

import pathlib

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

HERE = pathlib.Path(__file__).parent
FAMILIES = HERE / "../families"

model = AutoModelForCausalLM.from_pretrained(FAMILIES / "llama", dtype=torch.bfloat16)
model.save_pretrained(HERE / "llama", safe_serialization=False, max_shard_size="8KB")
for name in ("config.json", "generation_config.json"):
    (HERE / "llama" / name).unlink(missing_ok=True)

state = {}
for name, values in load_file(FAMILIES / "gpt2/model.safetensors").items():
    name, values = name.removeprefix("transformer."), values.float()
    if name == "h.0.mlp.c_fc.weight":
        values = values.t().contiguous().t()
    if name == "h.1.mlp.c_proj.weight":
        values = values.double()
    state[name] = values
for i in range(2):
    state[f"h.{i}.attn.bias"] = torch.ones(32, 32, dtype=torch.uint8).tril().view(1, 1, 32, 32)
    state[f"h.{i}.attn.masked_bias"] = torch.tensor(-1e4)
(HERE / "gpt2").mkdir(exist_ok=True)
torch.save(state, HERE / "gpt2/pytorch_model.bin", _use_new_zipfile_serialization=False)
