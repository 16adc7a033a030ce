"""Two processes that take turns at a step, and the comparison of what they compute."""

import json
import math
import os
import platform
import select
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

BENCH = Path(__file__).resolve().parent
ROOT = BENCH.parent
ASSETS = ROOT / "crates/lyceum-assets"
NUMBERS = ROOT / "docs/numbers.md"


class Failure(Exception):
    """A step without a figure: a side ended, ran out of time or computed something else."""


@dataclass
class Setup:
    """How both sides of every step are started."""

    binary: Path
    python: Path
    work: Path
    threads: int
    rounds: int
    commit: str
    full: bool = False
    # As both sides call it: cpu or cuda:N.
    device: str = "cpu"
    # Folders in which Lyceum's side finds CUDA's libraries.
    libraries: str = ""

    def environment(self):
        """The same threads for both; nothing that would choose another kernel for one."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith("OPENBLAS_")}
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")
        kept |= {name: str(self.threads) for name in names}
        kept |= {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "0"}
        kept["RUST_BACKTRACE"] = "0"
        return kept | ({"CUDA_VISIBLE_DEVICES": ""} if self.device == "cpu" else {})

    def our_environment(self):
        """That of Lyceum's side."""
        return self.environment() | ({"LD_LIBRARY_PATH": self.libraries} if self.libraries else {})

    def ours(self, step, *more):
        return [self.binary, step, "--work", self.work, "--device", self.device, *more]


class Side:
    """One process that takes turns. `deadline`, by the monotonic clock, ends its last."""

    def __init__(self, command, env, deadline):
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, env=env, text=True)
        self.name = " ".join(Path(word).name for word in command[:2])
        self.deadline = deadline

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()

    def answer(self):
        """One answer is one line, so that nothing waits in a buffer."""
        left = None if self.deadline is None else max(0, self.deadline - time.monotonic())
        if not select.select([self.process.stdout], [], [], left)[0]:
            raise Failure(f"`{self.name}` ran out of time")
        line = self.process.stdout.readline()
        if not line:
            raise Failure(f"`{self.name}` ended with {self.process.wait()}")
        return json.loads(line)

    def turn(self, variant):
        try:
            self.process.stdin.write(variant + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            # It has ended; the answer says how.
            pass
        return self.answer()

    def end(self):
        self.process.stdin.close()
        answer = self.answer()
        self.process.wait()
        return answer["peak"]


def distance(ours, theirs):
    """How far apart two lists are, as a share of how far the second spreads about its mean."""
    if len(ours) != len(theirs):
        return math.inf
    mean = statistics.fmean(theirs)
    apart = sum((a - b) ** 2 for a, b in zip(ours, theirs))
    spread = sum((b - mean) ** 2 for b in theirs)
    return math.sqrt(apart / spread) if apart and spread else 0.0 if not apart else math.inf


def agreement(name, step, checks):
    """By pair, how far both sides' values are apart."""
    found = {}
    for ours, theirs, most in step.compare:
        apart = distance(checks[ours], checks[theirs])
        found[f"{ours} | {theirs}"] = round(apart, 5)
        if not apart <= most:
            text = f"{ours} and {theirs} do not compute the same: {apart:.4f} > {most}"
            raise Failure(f"{name}: {text}")
    return found


def sides(step, setup, precision, deadline):
    """The processes of a step, by name; not yet started."""
    ours = setup.ours(step.ours, "--precision", precision, *["--full"] * setup.full)
    started = {"lyceum": (ours, setup.our_environment())}
    if step.theirs:
        script, *rest = step.theirs
        words = {"WORK": setup.work, "ASSETS": ASSETS, "FULL": "full" if setup.full else "-"}
        rest = [words.get(word, word) for word in rest]
        options = ["--precision", precision, "--device", setup.device]
        command = [setup.python, BENCH / "peers" / script, *rest, *options]
        started["peer"] = (command, setup.environment())
    return {side: Side(*how, deadline) for side, how in started.items()}


def measure(name, step, setup, precision, seconds=None):
    """Takes the turns of a step: one each to warm up, then `setup.rounds` each, or as many as half
    of `seconds` allows.

    Raises `Failure` when the sides disagree, one of them ends, or `seconds` are over.
    """
    started = time.monotonic()
    with ExitStack() as stack:
        deadline = None if seconds is None else started + seconds
        processes = sides(step, setup, precision, deadline)
        for process in processes.values():
            stack.enter_context(process)
        variants = [v for v in step.variants if v.split(" ", 1)[0] in processes]
        turns, checks = {v: [] for v in variants}, {v: [] for v in variants}
        for number in range(1 + setup.rounds):
            if seconds and number > 1 and time.monotonic() > started + seconds / 2:
                break
            for v in variants:
                side, variant = v.split(" ", 1)
                turn = processes[side].turn(variant)
                checks[v] += turn["check"]
                if number > 0:
                    turns[v].append(turn["amount"] / turn["seconds"])
                    print(f"{name}: {v}: {turns[v][-1]:.6g}/s", file=sys.stderr)
        peaks = {side: process.end() for side, process in processes.items()}
    return {
        "rates": turns,
        "agreement": agreement(name, step, checks),
        "peak": peaks,
        "threads": setup.threads,
        "full": setup.full,
        "commit": setup.commit,
    }


def prepare(setup, steps, seconds=None):
    """Makes the files of the work folder that `steps` need and that are not there yet."""
    env, python = setup.environment(), setup.python
    setup.work.mkdir(parents=True, exist_ok=True)
    make = [python, BENCH / "peers/make.py", setup.work, BENCH]
    deadline = None if seconds is None else time.monotonic() + seconds

    def run(command, env):
        left = None if deadline is None else deadline - time.monotonic()
        try:
            subprocess.run(command, check=True, env=env, timeout=left)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            raise Failure(f"the work folder cannot be made: {error}") from error

    if not (setup.work / "equal.jsonl").exists():
        run([*make, "neo"], env)
    if "llama" in steps and not (setup.work / "llama-1b/tokenizer.json").exists():
        run([*make, "llama"], env)
    # The embedded base and its tokenizer may have changed since the folder was made.
    tokenizer = (ASSETS / "base/tokenizer.json").read_bytes()
    (setup.work / "neo/tokenizer.json").write_bytes(tokenizer)
    run(setup.ours("prepare"), setup.our_environment())


def text(*command):
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


def commit():
    return text("git", "-C", ROOT, "rev-parse", "--short", "HEAD")


def machine(python):
    """The processor and the peers' versions."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    fields = dict(map(str.strip, line.split(":", 1)) for line in lines if ":" in line)
    flags = set(fields.get("flags", "").split())
    wanted = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
    names = ("torch", "transformers", "peft")
    code = f"import importlib.metadata as m, json; print(json.dumps({{n: m.version(n) for n in {names}}}))"
    return {
        "processor": fields.get("model name", "").strip() or platform.processor(),
        "family": " ".join(fields.get(k, "?") for k in ("cpu family", "model")),
        "flags": [flag for flag in wanted if flag in flags],
        "cores": os.cpu_count(),
        "versions": json.loads(text(python, "-c", code) or "{}"),
    }
