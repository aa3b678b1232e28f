"""From votes to policies on Preference-v0, whose gold reward is known: what each kind of noise in the votes costs.

    python benchmarks/preference_road.py                                  # all cells; about an hour on one core
    python benchmarks/preference_road.py --seeds 1 --kinds temperature    # a trial
    python benchmarks/preference_road_page.py                             # the tables of the page

A cell is a kind of noise, a number of votes and a seed. Finished cells are stored in
benchmarks/results/preference_road.json, and the same command continues with the others. Each cell takes the road of a
user: `rlalign feedback sample` from the initial policy, `simulate` (three people vote through the JSON interface of the
server), `rlalign reward-model train`, `export`, and `rlalign train` with PPO, RLOO, GRPO, `trl:dpo` and `best_of_n`.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from machine import RESULTS, merge

from rlalign.cli import main as rlalign
from rlalign.envs.builtin.reward_hacking.preference import _words, gold_of
from rlalign.envs.registration import make_mdp
from rlalign.feedback.overoptimization import read_curves
from rlalign.reward_models.data import Pair, divide, read_pairs
from rlalign.reward_models.settings import Settings
from rlalign.rewards.reward_model.folder import load_scorer
from rlalign.rewards.reward_model.manifest import read_manifest
from rlalign.rewards.text import text_of

NAME = "preference_road"
ENV = "rlalign/Preference-v0"
GOLD = "rlalign.envs.builtin.reward_hacking.preference:gold"
LITTLE = {"--noise": 0.05, "--side": 0.0, "--length": 0.0}
"""Of all kinds: a temperature that is small beside the differences of gold between two samples, about 0.3."""
KINDS: dict[str, dict[str, float]] = {
    "flips": {**LITTLE, "--flips": 0.15},
    "temperature": {**LITTLE, "--noise": 0.25},
    "careless": {**LITTLE, "--careless": 1},
    "biases": {**LITTLE, "--side": 0.2, "--length": 1.0},
    "tastes": {**LITTLE, "--own": 0.08},
}
VOTES = 500
SIZES = {"temperature": (125, 500, 2000)}
"""Kind of noise -> numbers of votes; the others have `VOTES`."""
PEOPLE = 3
BEST_OF = 16
STEPS, FREE_STEPS, DPO_STEPS = 30, 24, 40
KL = 0.1
EVALUATION = ("--evaluation.prompts", "32", "--evaluation.samples", "4")
RL = ("ppo", "rloo", "grpo")


def cells(kinds: Sequence[str], seeds: int) -> list[dict[str, Any]]:
    """Return the keys of all cells, seed by seed, so that an interrupted study has all kinds."""
    return [
        {"kind": kind, "votes": votes, "seed": seed}
        for seed in range(seeds)
        for kind in kinds
        for votes in SIZES.get(kind, (VOTES,))
    ]


def measure(key: dict[str, Any], scratch: Path) -> dict[str, Any]:
    """Return the figures of a cell.

    Args:
        key: kind, votes and seed.
        scratch: folder of the initial policies, which the cells of a seed share.
    """
    start = time.process_time()
    seed = str(key["seed"])
    base = scratch / f"base-{seed}"
    if not base.is_dir():
        train(base, seed, "best_of_n", "--evaluation.best-of", "2", "--reward", GOLD)
    folder = scratch / "cell"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    store = collect(folder, base, key)
    run("reward-model", "train", store, "--model", "linear", "--output", folder / "rm", "--seed", seed)
    result = {**key, **accuracies(store, folder / "rm", key["seed"])}
    if key["votes"] == VOTES:
        small = write_model(folder / "small", key["seed"])
        options = ("--epochs", 6, "--batch-size", 16, "--lr", 3e-3, "--seed", seed)
        run("reward-model", "train", store, "--model", small, "--output", folder / "tiny-rm", *options)
        result["transformer"] = accuracies(store, folder / "tiny-rm", key["seed"])["accuracy"]
    run("feedback", "export", store, "--output", folder / "prefs.jsonl")
    reward = ("--reward", folder / "rm", "--reward", f"{GOLD}=0")
    policies: dict[str, tuple[Any, ...]] = {
        "best_of_n": ("best_of_n", *reward, "--evaluation.best-of", BEST_OF),
        "dpo": ("trl:dpo", *reward, "--data", folder / "prefs.jsonl", "--steps", DPO_STEPS),
        "rloo": ("rloo", *reward, "--steps", STEPS, "--objective.kl.coef", KL),
    }
    if key["votes"] == VOTES:
        policies |= {
            name: (name, *reward, "--steps", STEPS, "--objective.kl.coef", KL) for name in RL if name not in policies
        }
        policies["free"] = (
            "rloo", *reward, "--steps", FREE_STEPS, "--objective.kl.coef", 0, "--evaluation.every", 2,
        )  # fmt: skip
    result["policies"] = {}
    for name, arguments in policies.items():
        train(folder / name, seed, *arguments)
        result["policies"][name] = figures(folder / name, curve=name == "free")
    result["cpu_seconds"] = round(time.process_time() - start)
    return result


def collect(folder: Path, base: Path, key: dict[str, Any]) -> Path:
    """Sample pairs of the initial policy, let simulated people vote, and return the store."""
    source = make_mdp(ENV).source
    prompts = [source.get("train", i).prompt for i in range(source.size("train"))]
    (folder / "prompts.jsonl").write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))
    # k samples of a prompt make k (k - 1) / 2 pairs; more pairs than votes, so that each vote is on another pair
    samples = math.ceil((1 + math.sqrt(1 + 8 * key["votes"] / len(prompts))) / 2) + 1
    (folder / "study.toml").write_text(
        f'name = "Which note is better?"\npolicies = ["{os.path.relpath(base, folder)}"]\nprompts = "prompts.jsonl"\n'
        f"votes_per_item = 1\nseed = {key['seed']}\n[sampling]\nsamples = {samples}\n"
    )
    store = folder / "study.db"
    run("feedback", "sample", folder / "study.toml")
    noise = [str(part) for option in KINDS[key["kind"]].items() for part in option]
    run(
        "feedback", "simulate", store, "--people", PEOPLE, "--votes", round(key["votes"] / PEOPLE), "--reward", GOLD,
        "--seed", key["seed"], *noise,
    )  # fmt: skip
    return store


def write_model(folder: Path, seed: int) -> Path:
    """Write a causal transformer of random weights whose tokens are the words of the notes; return its folder."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = ["<pad>", "<eos>", "<unk>", *make_mdp(ENV).default_tokenizer().words]
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    ).save_pretrained(folder)
    torch.manual_seed(seed)
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(words),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=64,
            pad_token_id=0,
            eos_token_id=1,
            bos_token_id=None,
            tie_word_embeddings=True,
        )
    ).save_pretrained(folder)
    return folder


def accuracies(store: Path, model: Path, seed: int) -> dict[str, Any]:
    """Return the held-out accuracy of the reward model and that of gold on the same votes; equal scores count half.

    `agreement` is the share of the held-out pairs with different gold that the model orders as gold does.
    """
    pairs = list(read_pairs(store).rows)
    _, held_out = divide(pairs, test=Settings().test, seed=seed)
    scorer, _ = load_scorer(model)
    gold = [_gold(pair) for pair in held_out]
    scores = scorer.scores([p.chosen for p in held_out]) - scorer.scores([p.rejected for p in held_out])
    clear = [(s, g) for s, g in zip(scores, gold, strict=True) if g]
    training = read_manifest(model).training
    assert training["held_out"] == len(held_out)
    return {
        "pairs": len(pairs),
        "held_out": len(held_out),
        "accuracy": _share(list(scores)),
        "gold_accuracy": _share(gold),
        "agreement": _share([s * g for s, g in clear]),
    }


def _gold(pair: Pair) -> float:
    chosen, rejected = (gold_of(_words(text_of(side.completion))) for side in (pair.chosen, pair.rejected))
    return round(chosen - rejected, 6)


def _share(differences: Sequence[float]) -> float:
    return sum(0.5 if d == 0 else float(d > 0) for d in differences) / len(differences)


def figures(folder: Path, *, curve: bool) -> dict[str, Any]:
    """Return proxy, gold and KL before and after a run on the held-out prompts; and, if asked for, along it."""
    metrics = json.loads((folder / "report" / "evaluation.json").read_text())["metrics"]
    result: dict[str, Any] = {
        name: [round(metrics[metric][side], 4) for side in ("before", "after")]
        for name, metric in (("proxy", "reward"), ("gold", "gold"), ("kl", "kl"))
        if metric in metrics
    }
    if curve:
        (found,), _ = read_curves([folder])
        rows = zip(found.place, found.kl, found.proxy, found.gold, strict=True)
        result["points"] = [[place, *(round(float(value), 4) for value in row)] for place, *row in rows]
    return result


def train(folder: Path, seed: str, algorithm: str, *arguments: Any) -> None:
    """Train a tiny transformer from scratch; the same seed has the same initial weights for each algorithm."""
    run(
        "train", "--env", ENV, "--policy", "tiny", "--algorithm", algorithm, "--seed", seed, "--output", folder,
        *EVALUATION, *arguments,
    )  # fmt: skip


def run(*arguments: Any) -> None:
    """Run a command of rlalign in this process, which has paid for the imports.

    Raises:
        SystemExit: the command failed; its output is printed.
    """
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        status = rlalign([str(argument) for argument in arguments])
    if status:
        raise SystemExit(f"rlalign {' '.join(map(str, arguments))}: {status}\n{output.getvalue()}")


def stored() -> list[dict[str, Any]]:
    """Return the finished cells."""
    path = RESULTS / f"{NAME}.json"
    return list(json.loads(path.read_text())["cells"]) if path.is_file() else []


def main() -> None:
    """Measure the cells that are not stored."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    arguments = parser.parse_args()
    done = {(cell["kind"], cell["votes"], cell["seed"]) for cell in stored()}
    with tempfile.TemporaryDirectory() as scratch:
        for key in cells(arguments.kinds, arguments.seeds):
            if tuple(key.values()) not in done:
                cell = measure(key, Path(scratch))
                merge(NAME, [cell], key=tuple(key))
                print(json.dumps({k: v for k, v in cell.items() if k != "policies"}), flush=True)


if __name__ == "__main__":
    main()
