"""Turns: a line in, a measurement out, as `bench/src/turns.rs` does for Lyceum."""

import argparse
import json
import resource
import sys
import time

import torch
from transformers import AutoModelForCausalLM


DTYPES = {"bf16": torch.bfloat16, "f32": torch.float32}


def options():
    """The options that all peers share, and the words of one."""
    parser = argparse.ArgumentParser()
    parser.add_argument("words", nargs="*")
    parser.add_argument("--precision", choices=DTYPES, default="bf16")
    parser.add_argument("--device", default="cpu")
    return parser.parse_args()


OPTIONS = options()
DEVICE = torch.device(OPTIONS.device)


def base(path):
    """A causal model in the precision and on the device asked for, as transformers loads it."""
    dtype = DTYPES[OPTIONS.precision]
    return AutoModelForCausalLM.from_pretrained(path, dtype=dtype).to(DEVICE).eval()


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
    return [torch.tensor(rows, device=DEVICE) for rows in (tokens, mask, labels)]


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
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - started
        check = check() if callable(check) else check
        print(json.dumps({"seconds": seconds, "amount": amount, "check": check}), flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"peak": peak}), flush=True)
