"""Losses of 8 x 256 tokens: transformers' base, PEFT with one adapter, PEFT's Arrow."""

import torch
from peft import PeftModel

from arrow import arrow
from turns import OPTIONS, base, ids, padded, serve, target_losses


def main(work):
    tokens, _, labels = padded(ids(work)["equal"])
    alone = base(f"{work}/neo-words")
    one = PeftModel.from_pretrained(
        base(f"{work}/neo-words"), f"{work}/adapters/e000", autocast_adapter_dtype=False
    ).eval()

    def forward(model):
        @torch.inference_mode()
        def turn():
            out = model(input_ids=tokens, labels=labels, use_cache=False)
            return tokens.numel(), lambda: target_losses(out.logits, labels)

        return turn

    @torch.inference_mode()
    def lean():
        """The head at the targets only, which transformers does not do by itself."""
        hidden = alone.transformer(input_ids=tokens, use_cache=False)[0]
        at = labels[:, 1:] != -100
        logits = alone.lm_head(hidden[:, :-1][at]).float()
        losses = torch.nn.functional.cross_entropy(logits, labels[:, 1:][at], reduction="none")
        return tokens.numel(), losses.tolist()

    routed = arrow(work)
    serve(
        {
            "base": forward(alone),
            "base-lean": lean,
            "one": forward(one),
            "arrow": forward(routed),
        }
    )


if __name__ == "__main__":
    main(*OPTIONS.words)
