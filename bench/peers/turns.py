"""Turns: a line in, a measurement out, as `bench/src/turns.rs` does for Lyceum."""

import json
import os
import resource
import sys
import time

import torch
from transformers import AutoModelForCausalLM


DTYPE = {"bf16": torch.bfloat16, "f32": torch.float32}[os.environ.get("BENCH_PRECISION", "bf16")]


def base(path):
    """A causal model in the precision asked for, as transformers loads it."""
    return AutoModelForCausalLM.from_pretrained(path, dtype=DTYPE).eval()


def ids(work):
    with open(f"{work}/ids.json") as file:
        return json.load(file)


def padded(rows, pad=0):
    """Ids, mask and labels `[b, longest]`; -100 where there is no target."""
    longest = max(len(row["ids"]) for row in rows)
    tokens, mask, labels = [], [], []
    for row in rows:
        own, more = row["ids"], longest - len(row["ids"])
        tokens.append(own + [pad] * more)
        mask.append([1] * len(own) + [0] * more)
        labels.append([-100] * row["from"] + own[row["from"] :] + [-100] * more)
    return torch.tensor(tokens), torch.tensor(mask), torch.tensor(labels)


def target_losses(logits, labels):
    """The cross-entropy of every target, in order."""
    logits, labels = logits[:, :-1], labels[:, 1:]
    at = labels != -100
    losses = torch.nn.functional.cross_entropy(logits[at].float(), labels[at], reduction="none")
    return losses.tolist()


def serve(variants):
    """`variants`: name -> function that does the work and returns (amount, values to compare);
    the values may be a function, which is not timed."""
    assert torch.backends.mkldnn.is_available()
    for line in sys.stdin:
        turn = variants[line.strip()]
        started = time.perf_counter()
        amount, check = turn()
        seconds = time.perf_counter() - started
        check = check() if callable(check) else check
        print(json.dumps({"seconds": seconds, "amount": amount, "check": check}), flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"peak": peak}), flush=True)
