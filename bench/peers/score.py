"""Multiple choice by transformers: every option a row that repeats its question, padded."""

import torch

from turns import OPTIONS, base, ids, padded, serve

BATCH = 16


def main(work, assets, full):
    questions = ids(work)["questions"]
    sizes = {"neo": 32, "embedded": len(questions) if full == "full" else 512}
    models = {"neo": base(f"{work}/neo"), "embedded": base(f"{assets}/base")}

    @torch.inference_mode()
    def score(model, questions):
        sums = []
        for i in range(0, len(questions), BATCH):
            rows = [option for question in questions[i : i + BATCH] for option in question]
            tokens, mask, labels = padded(rows)
            logits = model(input_ids=tokens, attention_mask=mask, use_cache=False).logits
            labels = labels[:, 1:]
            log_probs = torch.log_softmax(logits[:, :-1].float(), dim=-1)
            own = log_probs.gather(-1, labels.clamp(min=0)[..., None])[..., 0]
            sums += (own * (labels != -100)).sum(-1).tolist()
        return len(questions), sums

    def turn(name):
        return lambda: score(models[name], questions[: sizes[name]])

    serve({name: turn(name) for name in models})


if __name__ == "__main__":
    main(*OPTIONS.words)
