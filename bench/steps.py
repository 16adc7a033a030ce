"""The steps: which processes take turns at what, and what is put beside what."""

from dataclasses import dataclass, field


@dataclass
class Step:
    """`lyceum VARIANT` and `peer VARIANT` take turns in this order. `compare`: (ours, theirs, how
    far apart their values may be, as a share of their spread)."""

    ours: str
    theirs: list | None
    variants: list
    compare: list = field(default_factory=list)
    # Whether it is taken in every precision.
    rounded: bool = True


@dataclass
class Way:
    """A row of the table: one figure over another. `over` may be of Lyceum itself."""

    what: str
    step: str
    figure: str
    over: str | None
    unit: str = "tokens/s"
    # The figure is divided by this.
    scale: float = 1.0
    # The ratio promised.
    bar: float | None = None


PRECISIONS = ["bf16", "f32"]

SHAPES = ["2048x768x768", "2048x768x3072", "2048x3072x768", "256x768x50257"]
PRODUCTS = [f"{kind} {shape}" for kind in ("bf16", "f32") for shape in SHAPES + ["row"]]


def both(variants):
    return [f"{side} {v}" for v in variants for side in ("lyceum", "peer")]


STEPS = {
    "products": Step("products", ["products.py"], both(PRODUCTS + ["copy", "read"]), rounded=False),
    "forward": Step(
        "forward",
        ["forward.py", "WORK"],
        [
            *both(["base"]),
            "peer base-lean",
            "lyceum oracle",
            "peer one",
            "lyceum uniform",
            *both(["arrow"]),
            "lyceum phatgoose",
            "lyceum arrow-100",
        ],
        [
            ("lyceum base", "peer base", 0.1),
            ("lyceum base", "peer base-lean", 0.1),
            # Two directions may be almost equally near a token: bf16 then decides either way.
            ("lyceum arrow", "peer arrow", 0.2),
        ],
    ),
    "train": Step(
        "train", ["train.py", "WORK", "equal"], both(["step"]), [("lyceum step", "peer step", 0.1)]
    ),
    "ragged": Step(
        "ragged", ["train.py", "WORK", "ragged"], both(["step"]), [("lyceum step", "peer step", 0.1)]
    ),
    "together": Step(
        "together",
        None,
        ["lyceum together", "lyceum alone"],
        [("lyceum together", "lyceum alone", 0.001)],
        rounded=False,
    ),
    "score": Step(
        "score",
        ["score.py", "WORK", "ASSETS", "FULL"],
        [*both(["neo", "embedded"]), "lyceum neo-arrow"],
        [("lyceum neo", "peer neo", 0.1), ("lyceum embedded", "peer embedded", 0.1)],
    ),
    "generate": Step("generate", ["generate.py", "WORK"], both(["base", "arrow"])),
    "llama": Step(
        "llama",
        ["llama.py", "WORK"],
        both(["forward", "decode"]),
        [("lyceum forward", "peer forward", 0.1)],
    ),
}

GIGA = 1e9


def product(name):
    kind, shape = name.split()
    if shape == "row":
        what = f"{kind}, one row, 8192 x 8192"
        return Way(what, "products", f"lyceum {name}", f"peer {name}", "GB/s", GIGA)
    bar = 1.0 if kind == "bf16" else None
    what = f"{kind}, {shape.replace('x', ' x ')}"
    return Way(what, "products", f"lyceum {name}", f"peer {name}", "GFLOP/s", GIGA, bar)


def ways(precision):
    """The sections of one precision; the bars are those of bf16."""

    def way(what, step, ours, theirs, unit="tokens/s", bar=None):
        bar = bar if precision == "bf16" else None
        return Way(what, f"{step} {precision}", ours, theirs, unit, bar=bar)

    def forward(what, ours, theirs, bar):
        return way(what, "forward", f"lyceum {ours}", theirs, bar=bar)

    new, asked = "new tokens/s", "questions/s"
    return {
        f"Forward, 8 x 256 tokens, 1/8 of them targets, GPT-Neo-125M, {precision}": [
            forward("base : transformers", "base", "peer base", 2.2),
            forward("base : transformers, head at the targets only", "base", "peer base-lean", None),
            forward("oracle, 10 experts : PEFT, one adapter for all", "oracle", "peer one", 2.2),
            forward("Arrow top-2 of 10 : PEFT's Arrow", "arrow", "peer arrow", 2.2),
            forward("PhatGOOSE top-2 of 10 : PEFT's Arrow", "phatgoose", "peer arrow", 2.2),
            forward("oracle : own base", "oracle", "lyceum base", 0.92),
            forward("uniform of 10 : own base", "uniform", "lyceum base", 0.92),
            forward("Arrow top-2 of 10 : own base", "arrow", "lyceum base", 0.92),
            forward("PhatGOOSE top-2 of 10 : own base", "phatgoose", "lyceum base", 0.92),
            forward("Arrow top-2 of 100 : own base", "arrow-100", "lyceum base", 0.75),
        ],
        f"LoRA training step, GPT-Neo-125M, {precision}": [
            way("8 x 256 tokens : PEFT", "train", "lyceum step", "peer step", bar=2.8),
            way("real tasks, 16 rows, tokens of data : PEFT", "ragged", "lyceum step", "peer step", bar=4),
        ],
        f"ARC-Easy, a padded transformers loop that repeats the question per option, {precision}": [
            way("embedded base", "score", "lyceum embedded", "peer embedded", asked, 5),
            way("GPT-Neo-125M", "score", "lyceum neo", "peer neo", asked, 5),
            way(
                "GPT-Neo-125M, Arrow top-2 of 10 : its base in transformers",
                "score",
                "lyceum neo-arrow",
                "peer neo",
                asked,
            ),
        ],
        f"Greedy generation, 8 prompts of 200 tokens, 64 new ones each, GPT-Neo-125M, {precision}": [
            way("base : transformers", "generate", "lyceum base", "peer base", new),
            way("Arrow : transformers' base", "generate", "lyceum arrow", "peer base", new, 2),
            way("Arrow : PEFT's Arrow", "generate", "lyceum arrow", "peer arrow", new, 3),
        ],
        f"Llama of 1.2 billion parameters, {precision}": [
            way("forward, 2 x 256 tokens : transformers", "llama", "lyceum forward", "peer forward"),
            way("decoding one prompt : transformers", "llama", "lyceum decode", "peer decode"),
        ],
    }


WAYS = {
    **{title: rows for precision in PRECISIONS for title, rows in ways(precision).items()},
    "Ten experts on the embedded base, f32": [
        Way("one pass : one after another", "together", "lyceum together", "lyceum alone", bar=1.3),
    ],
    "Matrix products : torch": [product(name) for name in PRODUCTS],
    "Memory": [
        Way("copy, read and written : torch", "products", "lyceum copy", "peer copy", "GB/s", GIGA),
        Way("read : torch", "products", "lyceum read", "peer read", "GB/s", GIGA),
        Way("bf16 row : own copy", "products", "lyceum bf16 row", "lyceum copy", "GB/s", GIGA, 0.9),
    ],
}
