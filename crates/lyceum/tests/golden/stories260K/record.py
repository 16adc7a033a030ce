"""Tells the stories of stories260K with numpy alone, following llama2.c's run.c step by step in
f32 (greedy, temperature 0), and records the token ids: `stories.json`.

    python record.py
"""

import json
import pathlib
import struct

import numpy as np

HERE = pathlib.Path(__file__).parent
f32 = np.float32


def read_model():
    raw = (HERE / "stories260K.bin").read_bytes()
    dim, hidden, layers, heads, kv_heads, vocab, longest = struct.unpack("7i", raw[:28])
    assert vocab > 0, "the classifier is shared with the embedding"
    size, at = dim // heads, 28
    model = dict(dim=dim, heads=heads, kv_heads=kv_heads, layers=layers, longest=longest)

    def take(name, *shape):
        nonlocal at
        count = int(np.prod(shape))
        model[name] = np.frombuffer(raw, f32, count, at).reshape(shape)
        at += 4 * count

    take("tokens", vocab, dim)
    take("norm1", layers, dim)
    take("wq", layers, heads * size, dim)
    take("wk", layers, kv_heads * size, dim)
    take("wv", layers, kv_heads * size, dim)
    take("wo", layers, dim, heads * size)
    take("norm2", layers, dim)
    take("w1", layers, hidden, dim)
    take("w2", layers, dim, hidden)
    take("w3", layers, hidden, dim)
    take("norm", dim)
    return model


def read_pieces():
    raw, at, pieces = (HERE / "tok512.bin").read_bytes(), 4, []
    while at < len(raw):
        score, n = struct.unpack_from("fi", raw, at)
        pieces.append((raw[at + 8 : at + 8 + n], score))
        at += 8 + n
    return pieces


def encode(text, pieces):
    """Characters (or their bytes), then the best-scoring pair is joined until none is left."""
    ids = {piece: i for i, (piece, _) in reversed(list(enumerate(pieces)))}
    tokens = []
    for c in " " + text:
        raw = c.encode()
        tokens += [ids[raw]] if raw in ids else [byte + 3 for byte in raw]
    while True:
        best = None
        for i in range(len(tokens) - 1):
            joined = ids.get(pieces[tokens[i]][0] + pieces[tokens[i + 1]][0])
            if joined is not None and (best is None or pieces[joined][1] > best[0]):
                best = (pieces[joined][1], joined, i)
        if best is None:
            return [1] + tokens
        tokens[best[2] : best[2] + 2] = [best[1]]


def norm(x, weight):
    return weight * (x * f32(1.0 / np.sqrt(f32((x * x).mean() + f32(1e-5)))))


def turn(x, position, size):
    x = x.reshape(-1, size // 2, 2)
    angle = position / 10000.0 ** (np.arange(0, size, 2, dtype=f32) / f32(size))
    c, s = np.cos(angle).astype(f32), np.sin(angle).astype(f32)
    return np.stack([x[..., 0] * c - x[..., 1] * s, x[..., 0] * s + x[..., 1] * c], -1).ravel()


def step(m, cache, token, position):
    size, group = m["dim"] // m["heads"], m["heads"] // m["kv_heads"]
    x = m["tokens"][token].copy()
    for l in range(m["layers"]):
        h = norm(x, m["norm1"][l])
        q = turn(m["wq"][l] @ h, position, size).reshape(-1, size)
        cache[l][0].append(turn(m["wk"][l] @ h, position, size).reshape(-1, size))
        cache[l][1].append((m["wv"][l] @ h).reshape(-1, size))
        k, v = np.stack(cache[l][0]), np.stack(cache[l][1])  # [t, kv_heads, size]
        seen = np.empty_like(q)
        for head in range(m["heads"]):
            scores = k[:, head // group] @ q[head] / f32(np.sqrt(size))
            weights = np.exp(scores - scores.max())
            seen[head] = (weights / weights.sum()) @ v[:, head // group]
        x = x + m["wo"][l] @ seen.ravel()
        h = norm(x, m["norm2"][l])
        gate = m["w1"][l] @ h
        x = x + m["w2"][l] @ (gate / (f32(1) + np.exp(-gate)) * (m["w3"][l] @ h))
    return m["tokens"] @ norm(x, m["norm"])


def tell(m, prompt, most):
    cache = [([], []) for _ in range(m["layers"])]
    tokens, story, gaps = list(prompt), [], []
    for position in range(most):
        logits = step(m, cache, tokens[position], position)
        if position + 1 < len(prompt):
            continue
        first, second = np.sort(logits)[-1:-3:-1]
        gaps.append(first - second)
        tokens.append(int(logits.argmax()))
        if tokens[-1] == 1:
            break
        story.append(tokens[-1])
    return story, min(gaps)


def main():
    m, pieces = read_model(), read_pieces()
    out = []
    for text in ("", "Once upon a time", "Lily's café had 7 ducks, and"):
        prompt = encode(text, pieces) if text else [1]
        story, gap = tell(m, prompt, 256)
        told = b"".join(pieces[i][0] for i in story).decode(errors="replace")
        print(f"{text!r}: {len(story)} tokens, smallest lead {gap:.5f}\n{told}\n")
        out.append(dict(text=text, prompt=prompt, story=story, told=told))
    (HERE / "stories.json").write_text(json.dumps(out) + "\n")


main()
