"""Products with frozen matrices by torch (oneDNN for bf16)."""

import torch

from turns import serve

SHAPES = [(2048, 768, 768), (2048, 768, 3072), (2048, 3072, 768), (256, 768, 50257)]
ONE = (8192, 8192)
COPIED = 1 << 28
# Long turns: OpenMP's threads wait for some milliseconds after a turn, on the other side's cores.
REPEATS = 40


def product(shape, dtype, bandwidth=False):
    rows, inner, columns = shape
    draw = torch.Generator().manual_seed(1)
    x = torch.rand(rows, inner, generator=draw).to(dtype)
    weight = torch.rand(columns, inner, generator=draw).to(dtype)

    @torch.inference_mode()
    def turn():
        for _ in range(REPEATS):
            torch.nn.functional.linear(x, weight)
        if bandwidth:
            return REPEATS * weight.numel() * weight.element_size(), []
        return 2 * REPEATS * rows * inner * columns, []

    return turn


def main():
    variants = {}
    for name, dtype in (("bf16", torch.bfloat16), ("f32", torch.float32)):
        for shape in SHAPES:
            variants[f"{name} {'x'.join(map(str, shape))}"] = product(shape, dtype)
        variants[f"{name} row"] = product((1, *ONE), dtype, bandwidth=True)
    source = torch.ones(COPIED // 8, dtype=torch.int64)
    to = torch.zeros_like(source)

    def copy():
        to.copy_(source)
        return 2 * COPIED, []

    def read():
        assert int(source.sum()) == COPIED // 8
        return COPIED, []

    serve(variants | {"copy": copy, "read": read})


if __name__ == "__main__":
    main()
