"""`rlalign reward-model train|evaluate`: reward models from preferences or ratings."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from rlalign.cli.subcommands import parse_subcommand
from rlalign.errors import UserError
from rlalign.escaping.terminal import print_text

if TYPE_CHECKING:
    from rlalign.feedback.statistics.estimate import Estimate
    from rlalign.reward_models.metrics import PairMetrics, RatingMetrics
    from rlalign.reward_models.policy_samples import SampleMetrics

SUBCOMMANDS = {
    "train": "train a reward model on votes, preferences or ratings",
    "evaluate": "measure a reward model on other data, and among the samples of a policy",
}


@dataclass(frozen=True)
class Train:
    """Train a reward model, measure it on held-out prompts, and write a folder for `rlalign train --reward ./rm`."""

    data: tyro.conf.Positional[str]
    """Store of a study, a file of preference data, a folder of `datasets`, or the name of a data set of the hub."""
    output: Path
    """New folder."""
    model: str = "smollm2"
    """smollm2, a folder or hub id of a causal model or sequence classifier, or linear (TF-IDF, seconds)."""
    objective: Literal["preferences", "ratings"] = "preferences"
    """preferences: Bradley-Terry on pairs; ratings: regression on the points of single completions."""
    form: Literal["auto", "text", "chat"] = "auto"
    """chat: rendered by the chat template; text: prompt and completion as one text; auto: chat for messages."""
    seeds: int = 1
    """Number of models; from two on they form an ensemble."""
    seed: int = 0
    """Seed of the first model and of the held-out groups."""
    epochs: int = 1
    """Passes over the data."""
    batch_size: int = 8
    """Pairs per step."""
    lr: float | None = None
    """Learning rate; None: 1e-4 with LoRA, 2e-5 for all weights."""
    lora_r: int = 0
    """Rank of the adapter, which is merged into the weights; 0: all weights are trained."""
    max_length: int = 1024
    """Tokens; longer pairs are left out and named."""
    center_coef: float = 0.01
    """Weight of (chosen + rejected)², which keeps scores around 0."""
    margin: bool = False
    """Subtract the margin of each pair in the loss."""
    majority: bool = False
    """Of a store: one pair per item by majority, in place of one per vote."""
    how: Literal["mean", "min", "penalised"] = "mean"
    """Combination of an ensemble: mean, min, or penalised, which is mean - coef · standard deviation."""
    coef: float = 1.0
    """Weight of the disagreement for penalised."""
    regularization: float = 1.0
    """Of a linear model: weight of the squared weights."""
    test: float = 0.2
    """Share of the rows that is held out, by groups of equal and nearly equal prompts."""
    flipped: tuple[float, ...] = ()
    """Also refit with these shares of flipped labels, as in --flipped 0.1 0.2."""
    format: str = "auto"
    """Format of a file, as in `rlalign feedback check`."""
    scale: str = ""
    """Scale of the ratings of a store; empty: the first one."""
    device: str = "auto"
    """Torch device; auto: a GPU if there is one."""
    force: bool = False
    """Replace a reward model in the folder."""


@dataclass(frozen=True)
class Evaluate:
    """Measure a reward model on preferences that it has not seen."""

    model: tyro.conf.Positional[Path]
    """Folder of the reward model, also one of TRL's RewardTrainer."""
    data: str
    """Store of a study, a file of preference data, a folder of `datasets`, or the name of a data set of the hub."""
    split: str = "all"
    """Rows of this split only, such as test."""
    subset: str = "subset"
    """Column by whose values accuracy is reported."""
    ratings: bool = False
    """The data are ratings of completions."""
    majority: bool = False
    """Of a store: one pair per item by majority, in place of one per vote."""
    format: str = "auto"
    """Format of a file, as in `rlalign feedback check`."""
    samples: Path | None = None
    """A .jsonl file of the samples of a policy: prompt, completions and optionally gold and cut. None: no
    samples."""
    run_folder: Path | None = None
    """Run folder whose policy is sampled on its held-out prompts; None: no samples."""
    gold: str = ""
    """Reward that decides which sample of the run is best; empty: only the variance is measured."""
    prompts: int = 50
    """Held-out prompts of the run."""
    k: int = 8
    """Samples per prompt."""
    seed: int = 0
    """Seed of the samples."""
    picture: Path | None = None
    """File for the reliability picture: .svg, .png or .pdf. None: no picture."""
    json: Path | None = None
    """File for all metrics as JSON; None: no file."""
    device: str = "auto"
    """Torch device; auto: a GPU if there is one."""
    trust_run: bool = False
    """Run code that the run folder names."""


ARGUMENTS: dict[str, Any] = {"train": Train, "evaluate": Evaluate}
"""The arguments of each subcommand."""


def run(args: Sequence[str]) -> int:
    """Run a subcommand; return its exit status."""
    parsed = parse_subcommand("reward-model", args, SUBCOMMANDS, ARGUMENTS)
    if parsed is None:
        return 0
    name, arguments = parsed
    return _train(arguments) if name == "train" else _evaluate(arguments)


def _train(arguments: Train) -> int:
    from rlalign.reward_models.settings import Settings
    from rlalign.reward_models.train import counts_of, train_reward_model

    settings = Settings(
        arguments.model, arguments.objective, arguments.form, arguments.seeds, arguments.seed, arguments.epochs,
        arguments.batch_size, arguments.lr, arguments.lora_r, arguments.max_length, arguments.center_coef,
        arguments.margin, arguments.regularization, arguments.how, arguments.coef, arguments.test, arguments.device,
    )  # fmt: skip
    if arguments.flipped and arguments.objective == "ratings":
        raise UserError("--flipped: expected preferences, whose sides can be exchanged, got ratings; leave it out")
    result = train_reward_model(
        arguments.data, arguments.output, settings, majority=arguments.majority, format=arguments.format,
        scale=arguments.scale, force=arguments.force, quiet=not sys.stderr.isatty(),
    )  # fmt: skip
    if result.left_out:
        print_text(f"left out: {counts_of(result.left_out)}")
    if result.too_long:
        shown = ", ".join(result.too_long[:5]) + (", ..." if len(result.too_long) > 5 else "")
        print_text(
            f"warning: {len(result.too_long)} rows have more than {result.manifest.max_length} tokens and were not "
            f"trained on: {shown}",
            to_stderr=True,
        )
    print_text(f"{result.folder}: {result.manifest.kind}, trained on {result.train} rows")
    print_text(f"on {result.held_out} held-out rows of other prompts:")
    _print_metrics(result.metrics)
    if arguments.flipped:
        _print_refits(arguments, settings)
    folder = result.folder if "/" in str(result.folder) else f"./{result.folder}"
    print_text(f"next: rlalign train --env ENV --reward {folder}")
    return 0


def _print_refits(arguments: Train, settings: Any) -> None:
    from rlalign.reward_models.data import divide, read_pairs
    from rlalign.reward_models.flipped import refit_flipped

    pairs = read_pairs(arguments.data, majority=arguments.majority, format=arguments.format).rows
    train, held_out = divide(pairs, test=settings.test, seed=settings.seed)
    for refit in refit_flipped(train, held_out, settings, arguments.flipped):
        print_text(f"  {'flipped ' + format(refit.share, '.0%'):22} accuracy {_shown(refit.accuracy)}")


def _evaluate(arguments: Evaluate) -> int:
    from rlalign.reward_models.evaluate import evaluate_reward_model
    from rlalign.reward_models.metrics import PairMetrics
    from rlalign.reward_models.picture import draw_reliability
    from rlalign.storage.atomic import write_atomic

    if arguments.gold and arguments.run_folder is None:
        raise UserError(
            "--gold: expected --run-folder, whose samples it judges; samples of a file have the column gold"
        )
    result = evaluate_reward_model(
        arguments.model, arguments.data, majority=arguments.majority, format=arguments.format, split=arguments.split,
        subset=arguments.subset, ratings=arguments.ratings, samples=arguments.samples, run=arguments.run_folder,
        gold=arguments.gold, prompts=arguments.prompts, k=arguments.k, seed=arguments.seed, device=arguments.device,
        trust_run=arguments.trust_run,
    )  # fmt: skip
    if result.seen:
        print_text(
            f"warning: {result.seen} rows have a prompt on which the model was trained, so their accuracy is not that "
            "on other prompts; use --split test, or other data",
            to_stderr=True,
        )
    _print_metrics(result.metrics)
    if result.samples is not None:
        _print_samples(result.samples)
    if arguments.json is not None:
        write_atomic(arguments.json, json.dumps(result.to_json(), indent=1, ensure_ascii=False) + "\n")
    if arguments.picture is not None:
        if not isinstance(result.metrics, PairMetrics):
            raise UserError("--picture: expected preferences, got ratings, which have no probabilities; leave it out")
        print_text(f"picture: {draw_reliability(result.metrics.reliability, arguments.picture)}")
    return 0


def _print_metrics(metrics: PairMetrics | RatingMetrics) -> None:
    from rlalign.reward_models.metrics import PairMetrics

    if not isinstance(metrics, PairMetrics):
        _print("error", f"{metrics.rmse:.3g} points (root mean square); of the mean alone {metrics.baseline:.3g}")
        _print("correlation", f"{metrics.correlation:.3f}")
        _print("order within prompts", f"{metrics.accuracy:.3f}")
        return
    _print("accuracy", f"{_shown(metrics.accuracy)}, {metrics.pairs} pairs, {metrics.groups} groups of prompts")
    if metrics.accuracy.low <= 0.5:
        print_text(
            "warning: the interval of the accuracy includes 0.5, so that the model may order pairs no better than "
            "chance; collect more preferences before a policy is trained on it",
            to_stderr=True,
        )
    _print("equal scores", f"{metrics.ties:.1%} of the pairs, which count as wrong")
    _print("Brier score", f"{_shown(metrics.brier)}; 0.25 if nothing is known")
    _print("log loss", f"{_shown(metrics.log_loss)}; 0.693 if nothing is known")
    _print("calibration slope", f"{_shown(metrics.slope)}; 1 is calibrated, below 1 overconfident")
    _print(
        "length correlation",
        f"{metrics.length_correlation:.3f}; the longer side was chosen in {metrics.longer_wins:.0%}",
    )
    if metrics.position_gap == metrics.position_gap:  # not NaN
        _print(
            "position correlation",
            f"{metrics.position_correlation:.3f}; gap of the accuracies {metrics.position_gap:+.3f}",
        )
    for title, parts in (
        ("annotator", metrics.by_annotator), ("margin", metrics.by_margin), ("subset", metrics.by_subset),
    ):  # fmt: skip
        for name, estimate in parts.items():
            _print(f"{title} {name}", f"{_shown(estimate)}, {estimate.votes} pairs")


def _print_samples(metrics: SampleMetrics) -> None:
    _print("samples", f"{metrics.prompts} prompts, {metrics.k:.3g} samples each")
    _print("reward variance", f"{metrics.variance:.4g} within prompts, {metrics.share_within:.0%} of all")
    _print("flat prompts", f"{metrics.flat:.0%} of the prompts, whose samples all score equally")
    if metrics.best_of_k is not None and metrics.gold_gain is not None:
        _print("best of k", f"{_shown(metrics.best_of_k)}; of a random sample {metrics.chance:.3f}")
        _print("gold gain", f"{_shown(metrics.gold_gain)} over a random sample")


def _print(name: str, text: str) -> None:
    print_text(f"  {name:22} {text}")


def _shown(estimate: Estimate) -> str:
    if estimate.low != estimate.low:  # NaN: one group of prompts
        return f"{estimate.value:.3f} (no interval)"
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"
