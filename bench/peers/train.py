"""LoRA training steps by PEFT in bf16: on equal rows, or on real tasks padded to the longest."""

import statistics

import torch
from peft import PeftModel

from turns import OPTIONS, base, ids, padded, serve, target_losses


def main(work, data):
    given = ids(work)
    size = 8 if data == "equal" else given["batch"]
    rows = given[data]
    batches = [rows[i : i + size] for i in range(0, len(rows), size)]
    name = "neo-words" if data == "equal" else "neo"
    model = PeftModel.from_pretrained(
        base(f"{work}/{name}"),
        f"{work}/adapters/e000",
        is_trainable=True,
        autocast_adapter_dtype=False,
    ).train()
    weights = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(weights, lr=1e-3, weight_decay=0.0)

    def turn():
        seen, count = [], 0
        for batch in batches:
            tokens, mask, labels = padded(batch)
            mask = None if bool(mask.all()) else mask
            out = model(input_ids=tokens, attention_mask=mask, labels=labels, use_cache=False)
            out.loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            seen.append((out.logits.detach(), labels))
            count += sum(len(row["ids"]) for row in batch)
        # `out.loss` is rounded to bf16, too coarse to compare.
        return count, lambda: [statistics.fmean(target_losses(*logits)) for logits in seen]

    serve({"step": turn})


if __name__ == "__main__":
    main(*OPTIONS.words)
