"""Greedy generation, 8 prompts of 200 tokens and 64 new ones: transformers, PEFT's Arrow."""

import torch

from arrow import arrow
from turns import DEVICE, OPTIONS, base, ids, serve

NEW = 64


def main(work):
    prompts = torch.tensor(ids(work)["prompts"], device=DEVICE)
    models = {"base": base(f"{work}/neo-words"), "arrow": arrow(work)}

    @torch.inference_mode()
    def generate(model):
        out = model.generate(
            input_ids=prompts,
            attention_mask=torch.ones_like(prompts),
            max_new_tokens=NEW,
            min_new_tokens=NEW,
            do_sample=False,
            pad_token_id=0,
        )
        assert out.shape[1] == prompts.shape[1] + NEW
        return out[:, prompts.shape[1] :].numel(), []

    def turn(name):
        return lambda: generate(models[name])

    serve({name: turn(name) for name in models})


if __name__ == "__main__":
    main(*OPTIONS.words)
