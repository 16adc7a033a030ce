"""A Llama of 1.2 billion parameters in transformers: losses of 2 x 256 tokens, decoding."""

import torch

from turns import OPTIONS, base, ids, padded, serve, target_losses

NEW = 32


def main(work):
    rows = ids(work)["equal"][:2]
    tokens, _, labels = padded(rows)
    prompt = tokens[:1, :16]
    model = base(f"{work}/llama-1b")

    @torch.inference_mode()
    def forward():
        out = model(input_ids=tokens, labels=labels, use_cache=False)
        return tokens.numel(), lambda: target_losses(out.logits, labels)

    @torch.inference_mode()
    def decode():
        out = model.generate(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=NEW,
            min_new_tokens=NEW,
            do_sample=False,
            pad_token_id=0,
        )
        return out.shape[1] - prompt.shape[1], []

    serve({"forward": forward, "decode": decode})


if __name__ == "__main__":
    main(*OPTIONS.words)
