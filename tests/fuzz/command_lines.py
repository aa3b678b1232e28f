"""Command lines from a seed: each command with settings of every kind, sound, odd and absurd."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args, get_origin, get_type_hints

import numpy as np

from rlalign import cli
from rlalign.config.schema import TrainConfig

from .harness import Outcome, metrics_rows, run_command

_TEXTS = (
    "", " ", "abc", "[/b]", "[bold]", "\x1b[31m", "\r", "é", "你好", "\u202e", "=1+1", "-1", "--", "a b", "None",
    "true", "{}", "[]", "x" * 300, "\\[x^2\\]", ":smile:", "sub/dir", "a\nb", "\udc80", "%", "?", "&", "a?b=c", "@",
)  # fmt: skip
_NUMBERS = (
    "0", "1", "2", "3", "-1", "0.5", "1e-3", "1e308", "-1e308", "1e-320", "nan", "inf", "-inf", "1000000000",
    "9223372036854775808", "1e3", "0x10", "1_000", "٣", "1,5", " 2",
)  # fmt: skip
_NAMES = (
    "reverse", "gru", "grpo", "rloo", "tiny", "guess_number", "tabular", "length", "vader", "code", "decode", "none",
    "length?target=3", "length=0", "token_match=nan", "length<=0.5", "length=0@0:1@5", "regex?pattern=(",
    "mine.py:good", "mine.py:bad", "mine.py:missing", "mine.py", "absent.py:x", "os:getcwd", "data.jsonl",
    "empty.jsonl", "run", "list",
)  # fmt: skip
_FEW = ("0", "1", "2", "-1", "1.5", "abc", "nan", "")  # of steps: each of the others would train for hours
_SMALL = (
    "--env", "reverse", "--policy", "gru", "--steps", "1", "--rollout.prompts", "2", "--rollout.group-size", "2",
    "--evaluation.prompts", "2",
)  # fmt: skip
# A sound value of these starts a download, an upload, a device or a tracker.
_OUTSIDE = ("tracking.wandb", "tracking.mlflow", "tracking.push", "device", "resume", "output", "policy", "env", "data")

_FILES = {
    "mine.py": "def good(completions, **columns):\n    return [float(len(c)) for c in completions]\n\n"
    "def bad(completions, **columns):\n    raise ValueError('[/b]\\x1b[31m')\n",
    "data.jsonl": "".join(f'{{"prompt": "p{i}", "answer": "{i}"}}\n' for i in range(12)),
    "empty.jsonl": "",
    "study.toml": 'algorithms = ["grpo"]\nenvs = ["absent"]\n',
    "broken.toml": "steps = = 1\n",
}


def prepare(folder: Path) -> None:
    """Write the files that command lines name: a run, a broken run, data and functions."""
    for name, text in _FILES.items():
        (folder / name).write_text(text)
    outcome = run_command(["train", *_SMALL, "--output", "run"], folder)
    assert outcome.status == 0, outcome
    (folder / "list").mkdir()
    (folder / "list" / "config.json").write_text("[1]")


def generate(count: int, seed: int) -> list[list[str]]:
    """Return command lines."""
    rng = np.random.default_rng(seed)
    settings = {name: values for name, values in _sound_values(TrainConfig).items() if name not in _OUTSIDE}
    return [_words(rng, settings) for _ in range(count)]


def _sound_values(cls: type, prefix: str = "") -> dict[str, tuple[str, ...]]:
    """Return setting -> values of its type, most of which it accepts, of a dataclass of settings."""
    values: dict[str, tuple[str, ...]] = {}
    for name, hint in get_type_hints(cls).items():
        key = f"{prefix}{name}"
        if dataclasses.is_dataclass(hint):
            values |= _sound_values(hint, f"{key}.")  # type: ignore[arg-type]  # a dataclass
        elif get_origin(hint) is Literal:
            values[key] = get_args(hint)
        elif hint is bool:
            values[key] = ("True", "False")
        elif hint in (int, int | None):
            values[key] = ("1", "2", "3", "4")
        elif hint in (float, float | None):
            values[key] = ("0.1", "0.5", "0.9", "1.0", "2e-3")
        else:
            values[key] = ("none", "group_mean", "clip", "token_mean", "sequence_mean", "std", "decode", "auto")
    return values


def _words(rng: np.random.Generator, settings: Mapping[str, tuple[str, ...]]) -> list[str]:
    def pick(options: Sequence[str]) -> str:
        return str(options[int(rng.integers(len(options)))])

    def value(name: str = "") -> str:
        if name == "steps":
            return pick(_FEW)
        if name in settings and rng.integers(6):
            return pick(settings[name])
        kind = rng.integers(5)
        return pick(_NUMBERS) if kind < 3 else pick(_NAMES) if kind == 3 else pick(_TEXTS)

    def some(flags: Sequence[str], most: int = 2) -> list[str]:
        words = []
        for _ in range(rng.integers(most + 1)):
            flag = pick(flags)
            text = value(flag)
            form = rng.integers(24)
            if form < 4:
                words.append(f"--{flag}={text}")
            elif form == 4:
                words.append(f"--{flag}")
            else:
                words += [f"--{flag.replace('_', '-')}", text]
        return words

    command = pick(_COMMANDS)
    if command == "train":
        words = ["train", *_SMALL] if rng.integers(4) else ["train", "--env", value(), "--policy", "gru", *_SMALL[4:]]
        words += some(list(settings), 3)
        words += [] if rng.integers(3) else ["--reward", pick((*_NAMES, *_TEXTS))]
        return [*words, "--output", "new"]
    if command == "resume":
        return ["train", "--resume", pick(("run", "list", "absent", value())), *some(list(settings), 1)]
    run = "run" if rng.integers(3) else value()
    flags = {
        "evaluate": ("split", "prompts", "k", "folds", "baseline", "env", "json"),
        "generate": ("until", "max-tries", "column", "seed", "temperature"),
        "list": ("diff",),
        "check": ("episodes", "seed", "as"),
        "oracle": ("preset", "objective", "group-size", "horizon", "objective.scale", "objective.kl.coef"),
        "report": ("output",),
        "plot": ("output",),
        "compare": ("output", "threshold", "exclude-mixed", "seeds"),
        "tune": ("trials", "algorithm", "env", "search", "output"),
        "new": ("output",),
        "doctor": ("verbose",),
    }
    words = [command, *some(flags.get(command, ("x",)))]
    positional = {
        "evaluate": [run],
        "generate": [run, value()],
        "list": [pick(("envs", "rewards", "algorithms", "policies", "metrics", value()))],
        "check": [pick(("reverse", "length", "mine.py:good", value())), "--episodes", "2"],
        "report": [run],
        "plot": [run],
        # `compare` and `tune` start worker processes for sound arguments: here they get runs, or nothing to run.
        "compare": [pick(("run", "absent", "study.toml", "broken.toml")), run],
        "tune": ["--trials", pick(("0", "-1", "abc"))],
        "new": [pick(("env", "reward", value())), value()],
        "oracle": ["--preset", pick(("grpo", "rloo", value())), "--horizon", pick(("1", "2", "0", "-1", "abc"))],
    }
    return [words[0], *positional.get(command, []), *words[1:]]


_COMMANDS = ("train",) * 9 + ("resume", *cli.COMMANDS, "evaluate", "generate", "", "--help", "[/b]")


def check(words: list[str], folder: Path, limit_s: float = 60.0) -> Outcome:
    """Run one command line in a folder with the files of `prepare`, and return its outcome with all faults."""
    shutil.rmtree(folder / "new", ignore_errors=True)
    outcome = run_command(words, folder, limit_s)
    if outcome.status == 0 and "--help" not in words and not outcome.faults:
        outcome.faults += _missing_work(outcome, folder)
    return outcome


def _missing_work(outcome: Outcome, folder: Path) -> list[str]:
    """Return the fault of a success without its work."""
    words = outcome.words
    if not outcome.stdout.strip():
        return ["succeeds without output"]
    if words[0] == "train" and "--resume" not in words:
        steps = [int(words[i + 1]) for i, word in enumerate(words) if word == "--steps"][-1]
        rows = metrics_rows(folder / "new")
        if rows != steps:
            return [f"succeeds with {rows} of {steps} steps"]
    if words[0] in ("report", "plot") and not outcome.written:
        return ["succeeds without a file"]
    return []
