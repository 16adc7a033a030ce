"""What transformers' configurations of every family hold when nothing is said, in all their fields.

    python defaults.py > one_version.json

`defaults.json` holds the output under transformers 4.57.6 and under 5.24.0, by version; torch is not
needed.
"""
import json

import transformers

NAMES = {
    "gemma": "Gemma", "gemma2": "Gemma2", "gpt2": "GPT2", "gpt_neo": "GPTNeo", "gpt_neox": "GPTNeoX",
    "llama": "Llama", "mistral": "Mistral", "phi": "Phi", "phi3": "Phi3", "qwen2": "Qwen2",
    "qwen3": "Qwen3", "starcoder2": "Starcoder2",
}
made = {family: getattr(transformers, name + "Config")() for family, name in NAMES.items()}
told = {family: json.loads(config.to_json_string(use_diff=False)) for family, config in made.items()}
print(json.dumps({transformers.__version__: told}, sort_keys=True))
