"""`train_reward_model`: a folder with one reward model, or with an ensemble of several seeds."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from rlalign.errors import FaultError, UserError
from rlalign.reward_models.data import Pair, Rating, divide, read_pairs, read_ratings
from rlalign.reward_models.metrics import PairMetrics, RatingMetrics, pair_metrics, rating_metrics
from rlalign.reward_models.seen_prompts import write_prompts
from rlalign.reward_models.settings import LINEAR, Settings
from rlalign.rewards.reward_model.ensemble import EnsembleScorer
from rlalign.rewards.reward_model.folder import load_scorer
from rlalign.rewards.reward_model.manifest import FILE, Manifest
from rlalign.rewards.reward_model.probes import PROBES

_PACKAGES = ("rlalign", "torch", "transformers", "trl", "peft", "scikit-learn", "numpy")


@dataclass(frozen=True)
class Result:
    """A trained reward model and its accuracy.

    Attributes:
        folder: of the model.
        manifest: its description.
        metrics: on the rows that were held out.
        train: number of rows in training.
        held_out: number of rows that were held out.
        too_long: places of the rows that were left out because they have too many tokens.
        left_out: further reasons -> number of rows.
        losses: losses of the first model.
    """

    folder: Path
    manifest: Manifest
    metrics: PairMetrics | RatingMetrics
    train: int
    held_out: int
    too_long: Sequence[str]
    left_out: dict[str, int]
    losses: Sequence[float]


def train_reward_model(
    data: str | Path | Sequence[Pair] | Sequence[Rating],
    output: str | Path,
    settings: Settings | None = None,
    *,
    majority: bool = False,
    format: str = "auto",
    scale: str = "",
    force: bool = False,
    quiet: bool = True,
) -> Result:
    """Train a reward model on preferences or ratings, and write its folder.

    Groups of equal and nearly equal prompts are held out, or the split "test" of the data, and the model is measured
    on them. The folder appears when it is complete.

    Args:
        data: store of a study, file or data set, or pairs or ratings.
        output: the new folder.
        settings: of the training; None: the defaults.
        majority: of a store, one pair per item by majority instead of one per vote.
        format: of a file of preference data; "auto": recognized.
        scale: of the ratings of a store; empty: the first one.
        force: replace a reward model in the folder.
        quiet: show no progress.

    Raises:
        UserError: the data, the model or the folder cannot be used.
        FaultError: the folder cannot be written.
    """
    settings = settings or Settings()
    target = Path(output).expanduser()
    _check_output(target, force=force)
    rows, left_out = _rows(data, settings, majority=majority, format=format, scale=scale)
    train, held_out = divide(rows, test=settings.test, seed=settings.seed)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # on the same disk, hence the rename is atomic
        scratch = Path(tempfile.mkdtemp(prefix=".tmp-rm-", dir=target.parent))
    except OSError as error:
        raise FaultError(f"'{target.parent}' cannot be written ({error.strerror}); use another folder") from error
    try:
        scratch.chmod(0o755)  # mkdtemp makes a folder that others cannot read
        losses, too_long = _train_into(scratch, train, settings, quiet=quiet)
        scorer, manifest = load_scorer(scratch, _device(settings))
        assert manifest is not None  # it was written just now
        metrics = _measured(scorer, manifest, held_out)
        write_prompts(scratch, train)
        facts = {
            **manifest.training, "train": len(train), "held_out": len(held_out), "too_long": len(too_long),
            "metrics": _summary(metrics),
        }  # fmt: skip
        manifest = replace(manifest, training=facts)
        manifest.write(scratch)
        _publish(scratch, target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return Result(target, manifest, metrics, len(train), len(held_out), too_long, left_out, losses)


def _rows(data: Any, settings: Settings, *, majority: bool, format: str, scale: str) -> tuple[Any, dict[str, int]]:
    if not isinstance(data, str | Path):
        return list(data), {}
    if settings.objective == "ratings":
        ratings = read_ratings(data, scale=scale)
        return ratings.rows, dict(ratings.left_out)
    pairs = read_pairs(data, majority=majority, format=format)
    return pairs.rows, dict(pairs.left_out)


def _check_output(target: Path, *, force: bool) -> None:
    if not target.exists():
        return
    if not target.is_dir():
        raise UserError(f"--output '{target}': expected a new folder, got a file; use another path")
    if any(target.iterdir()) and not (force and (target / FILE).is_file()):
        known = "a reward model; use --force to replace it" if (target / FILE).is_file() else "other files; use another"
        raise UserError(f"--output '{target}': expected a new folder, got one with {known}")


def _publish(scratch: Path, target: Path) -> None:
    try:
        if target.is_dir():
            shutil.rmtree(target)
        scratch.rename(target)
    except OSError as error:
        raise FaultError(f"'{target}' cannot be written ({error.strerror}); use another folder") from error


def _train_into(
    folder: Path, train: Sequence[Any], settings: Settings, *, quiet: bool
) -> tuple[Sequence[float], list[str]]:
    """Train one model or an ensemble into a folder; return the losses of the first one, and the rows too long."""
    if settings.seeds == 1:
        return _train_one(folder, train, settings, settings.seed, quiet=quiet)
    names = [f"member-{i}" for i in range(settings.seeds)]
    losses: Sequence[float] = ()
    too_long: list[str] = []
    for i, name in enumerate(names):
        (folder / name).mkdir()
        member_losses, too_long = _train_one(folder / name, train, settings, settings.seed + i, quiet=quiet)
        losses = losses or member_losses
    members = [load_scorer(folder / name, _device(settings)) for name in names]
    described = [manifest for _, manifest in members if manifest is not None]
    scorer = EnsembleScorer([s for s, _ in members], [m.center for m in described], settings.how, settings.coef)
    probes = tuple(map(float, scorer.scores(PROBES)))
    first = described[0]
    Manifest(
        "ensemble", first.form, first.objective, probes, 0.0, float(np.mean([m.spread for m in described])),
        members=tuple(names), how=settings.how, coef=settings.coef, rating_mean=first.rating_mean,
        rating_spread=first.rating_spread, max_length=first.max_length, versions=_versions(),
        training=_facts(settings),
    ).write(folder)  # fmt: skip
    return losses, too_long


def _train_one(
    folder: Path, train: Sequence[Any], settings: Settings, seed: int, *, quiet: bool
) -> tuple[Sequence[float], list[str]]:
    losses: Sequence[float] = ()
    too_long: list[str] = []
    if settings.model == LINEAR:
        from rlalign.reward_models.linear import train_linear

        scorer, manifest = train_linear(train, settings, seed, resample=settings.seeds > 1)
        scorer.save(folder)
    else:
        from rlalign.reward_models.transformer import train_transformer

        trained = train_transformer(train, settings, folder, seed, quiet=quiet)
        manifest = trained.manifest
        losses = trained.losses
        too_long = list(trained.too_long)
    replace(manifest, versions=_versions(), training=_facts(settings)).write(folder)
    return losses, too_long


def _facts(settings: Settings) -> dict[str, Any]:
    return {"settings": asdict(settings)}


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # an uninstalled checkout
            continue
    return found


def _measured(scorer: Any, manifest: Manifest, held_out: Sequence[Any]) -> PairMetrics | RatingMetrics:
    if manifest.objective == "ratings" and all(isinstance(row, Rating) for row in held_out):
        scores = scorer.scores([row.sample for row in held_out])
        return rating_metrics(held_out, manifest.rating_mean + manifest.rating_spread * scores)
    chosen = scorer.scores([pair.chosen for pair in held_out])
    return pair_metrics(held_out, chosen, scorer.scores([pair.rejected for pair in held_out]))


def _summary(metrics: PairMetrics | RatingMetrics) -> dict[str, Any]:
    """Return the main metrics for reward_model.json."""
    content = metrics.to_json()
    if isinstance(metrics, RatingMetrics):
        return content
    short = {name: content[name] for name in ("pairs", "groups", "ties", "length_correlation", "longer_wins")}
    for name in ("accuracy", "brier", "log_loss", "slope"):
        short[name] = {key: content[name][key] for key in ("value", "low", "high")}
    return short


def _device(settings: Settings) -> str:
    if settings.model == LINEAR:
        return "cpu"
    from rlalign.reward_models.transformer import _device as chosen

    return chosen(settings.device)


def counts_of(left_out: dict[str, int]) -> str:
    """Return reasons with their numbers as a text."""
    return ", ".join(f"{count} x {reason}" for reason, count in sorted(Counter(left_out).items()))
