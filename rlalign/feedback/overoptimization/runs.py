"""Curves of proxy, gold and KL of run folders: from their validations, their training samples, or best-of-n."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from rlalign.errors import UserError
from rlalign.feedback.overoptimization.fits import Form
from rlalign.storage.jsonl import read_metrics
from rlalign.typecheck import flatten
from rlalign.types import FloatArray

Source = Literal["held-out", "training", "best of n"]

# Settings that do not make runs a different group: the seed is what a group averages over.
_FREE = ("seed", "output", "resume", "allow_change", "save_every", "save_minutes", "keep", "trust_run", "device")
_OF_TRACKING = "tracking."
# Settings that decide best-of-n of the initial policy.
_OF_BASE = ("env", "policy", "model", "rollout", "on_bad_record")
_MOST_NAMED = 3  # settings in the name of a group


@dataclass(frozen=True)
class RunCurve:
    """Proxy, gold and KL of one run, minus the values of its initial policy.

    Attributes:
        folder: the run folder.
        group: name of the runs that differ in the seed alone.
        form: form of its fit.
        seed: of the run.
        source: held-out: the validations of the run; training: its training samples; best of n: its initial policy.
        place: step, or n, of each point.
        kl: nats per completion; for best of n the upper bound log n - (n - 1)/n.
        proxy, gold: rewards minus those of the initial policy.
        base: rewards of the initial policy, (proxy, gold).
    """

    folder: str
    group: str
    form: Form
    seed: int
    source: Source
    place: tuple[int, ...]
    kl: FloatArray
    proxy: FloatArray
    gold: FloatArray
    base: tuple[float, float]

    @property
    def d(self) -> FloatArray:
        """Square root of the KL. A sampled KL below 0, as of a policy that has hardly changed, counts as 0."""
        return np.sqrt(np.maximum(self.kl, 0.0))


def read_curves(
    folders: Sequence[Path], *, proxy: str = "reward", gold: str = "gold"
) -> tuple[list[RunCurve], list[str]]:
    """Return the curves of run folders, and a sentence about each run that gives none or another one than expected.

    A run gives the curve of its validations (`--evaluation.every`); without any, that of its training samples, whose
    KL is only measured with a KL term. `rlalign evaluate RUN --best-of N` adds best-of-n of its initial policy, once
    per seed.

    Args:
        folders: run folders, or folders that contain some, such as those of studies.
        proxy: the metric that was optimized; `reward` is the weighted sum of the components.
        gold: the metric that measures the true objective, a component of weight 0, as of `--reward NAME=0`.

    Raises:
        UserError: there is no run folder, or no run measures both metrics.
    """
    paths = list(run_folders(folders))
    curves: list[tuple[Mapping[str, Any], RunCurve]] = []
    notes: list[str] = []
    known: set[str] = set()
    for path in paths:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
        found = [_best_of_n(path, config, proxy, gold, notes)]
        if config["algorithm"] != "best_of_n":
            found.append(_of_training(path, config, proxy, gold, notes))
        known.update(_measured(path))
        curves += [(config, curve) for curve in found if curve is not None]
    if not curves:
        names = ", ".join(sorted(known)) or "none"
        detail = f" ({notes[0]})" if notes else ""
        raise UserError(
            f"expected runs that measure the metrics '{proxy}' and '{gold}' and their KL, got none{detail}; use "
            f"--proxy and --gold with metrics of the runs ({names}), and train with --reward NAME=0 to measure one"
        )
    return _named(_once_per_seed(curves)), notes


def run_folders(folders: Iterable[Path]) -> Iterable[Path]:
    """Yield the run folders among folders and in them, in order.

    Raises:
        UserError: a folder does not exist, or there is no run.
    """
    count = 0
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"expected a run folder, got '{folder}', which is none; use the --output of rlalign train")
        inside = [folder / "metrics.jsonl"] if _is_run(folder) else sorted(folder.rglob("metrics.jsonl"))
        for path in inside:
            if _is_run(path.parent):
                count += 1
                yield path.parent
    if not count:
        raise UserError("expected run folders, got none with config.json and metrics.jsonl; use runs/*")


def _is_run(folder: Path) -> bool:
    return (folder / "config.json").is_file() and (folder / "metrics.jsonl").is_file()


def _of_training(path: Path, config: Mapping[str, Any], proxy: str, gold: str, notes: list[str]) -> RunCurve | None:
    """Return the curve of a run's validations or training samples; None, with a note, if it has none."""
    rows = read_metrics(path)
    validated = [row for row in rows if row.get("eval/reward") is not None]
    if not validated:
        return _of_samples(path, config, rows, proxy, gold, notes)
    before = _before(path)
    names = [_found(name, validated[0], "eval/{}", "eval/reward/{}") for name in (proxy, gold)]
    bases = [_found(name, before, "{}", "reward/{}") for name in (proxy, gold)]
    if before is not None and None not in (*names, *bases):
        if config["evaluation"].get("patience"):
            notes.append(f"{path}: the initial policy was measured on test prompts, the others on validation prompts")
        base = (float(before[str(bases[0])]), float(before[str(bases[1])]))
        return _curve(path, config, "held-out", validated, "eval/kl", (str(names[0]), str(names[1])), base)
    if before is None:
        notes.append(f"{path}: no evaluation of the initial policy, as the run is not finished")
    else:
        missing = proxy if None in (names[0], bases[0]) else gold
        notes.append(f"{path}: does not measure '{missing}' on held-out prompts")
    return None


def _of_samples(
    path: Path, config: Mapping[str, Any], rows: list[dict[str, Any]], proxy: str, gold: str, notes: list[str]
) -> RunCurve | None:
    """Return the curve of the training samples. Those of step 1 are of the initial policy."""
    first = rows[0] if rows else {}
    names = [_trained(name, first) for name in (proxy, gold)]
    if names[0] is None or names[1] is None:
        notes.append(f"{path}: does not measure '{proxy if names[0] is None else gold}'")
        return None
    if first.get("rollout/kl") is None:
        notes.append(f"{path}: measures no KL; train with --evaluation.every 5, or with a KL term")
        return None
    notes.append(f"{path}: no validations, so the figures are of training samples; use --evaluation.every 5")
    base = (float(first[names[0]]), float(first[names[1]]))
    return _curve(path, config, "training", rows[1:], "rollout/kl", (names[0], names[1]), base)


def _curve(
    path: Path, config: Mapping[str, Any], source: Source, rows: Sequence[Mapping[str, Any]], kl: str,
    names: tuple[str, str], base: tuple[float, float],
) -> RunCurve:  # fmt: skip
    # the samples of step k are of the policy after k - 1 steps; a validation follows the updates of its step
    shift = 1 if source == "training" else 0
    return RunCurve(
        folder=str(path),
        group=str(config["algorithm"]),
        form="rl",
        seed=int(config["seed"]),
        source=source,
        place=tuple(int(row["step"]) - shift for row in rows),
        kl=_column(rows, kl),
        proxy=_column(rows, names[0]) - base[0],
        gold=_column(rows, names[1]) - base[1],
        base=base,
    )


def _best_of_n(path: Path, config: Mapping[str, Any], proxy: str, gold: str, notes: list[str]) -> RunCurve | None:
    """Return best-of-n of a run's initial policy; None without a report of it."""
    split = config["evaluation"].get("split", "validation")
    files = [path / "report" / f"best-of-{name}.json" for name in (split, "test", "validation", "train")]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        return None
    data = json.loads(file.read_text(encoding="utf-8"))
    points = data["policies"]["initial"]["curve"]
    metrics = [point["metrics"] for point in points]
    names = [_found(name, metrics[0], "{}", "reward/{}") for name in (proxy, gold)]
    if names[0] is None or names[1] is None:
        notes.append(f"{file}: does not measure '{proxy if names[0] is None else gold}'")
        return None
    means = {name: np.array([_number(values[name]["mean"]) for values in metrics]) for name in (names[0], names[1])}
    proxies, golds = means[names[0]], means[names[1]]
    return RunCurve(
        folder=str(path),
        group="best of n by " + " + ".join(data["selector"]),
        form="best_of_n",
        seed=int(config["seed"]),
        source="best of n",
        place=tuple(int(point["n"]) for point in points[1:]),
        kl=np.array([float(point["kl_upper_bound"]) for point in points[1:]]),
        proxy=proxies[1:] - proxies[0],
        gold=golds[1:] - golds[0],
        base=(float(proxies[0]), float(golds[0])),
    )


def _before(path: Path) -> dict[str, float] | None:
    """Return the metrics of the initial policy, means over prompts; None for a run that is not finished."""
    file = path / "report" / "evaluation.json"
    if not file.is_file():
        return None
    prompts = json.loads(file.read_text(encoding="utf-8"))["prompts"]["before"]
    values = {name: np.array([_number(value) for value in column]) for name, column in prompts.items()}
    return {name: float(np.nanmean(column)) for name, column in values.items() if np.isfinite(column).any()}


def _found(name: str, metrics: Mapping[str, Any] | None, *patterns: str) -> str | None:
    """Return the key of a metric, which has the name of a component or, if that is in use, reward/NAME."""
    keys = [pattern.format(name) for pattern in patterns]
    return next((key for key in keys if metrics and metrics.get(key) is not None), None)


def _trained(name: str, row: Mapping[str, Any]) -> str | None:
    """Return the key of a metric of the training samples."""
    patterns = ("reward/mean",) if name == "reward" else ("reward/{}", "reward/{}_component", "rollout/{}")
    return _found(name, row, *patterns)


def _measured(path: Path) -> set[str]:
    """Return the names of the metrics that a run measured on held-out prompts, or in training."""
    rows = read_metrics(path)
    held_out = {key.removeprefix("eval/") for row in rows for key in row if key.startswith("eval/")}
    return held_out or {key.removeprefix("reward/") for row in rows for key in row if key.startswith("reward/")}


def _column(rows: Sequence[Mapping[str, Any]], name: str) -> FloatArray:
    return np.array([_number(row.get(name)) for row in rows])


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def _once_per_seed(
    curves: Sequence[tuple[Mapping[str, Any], RunCurve]],
) -> list[tuple[dict[str, Any], RunCurve]]:
    """Return the settings that make groups with their curves; best-of-n of one initial policy once.

    Runs of several algorithms at one seed have the same initial policy, which must not count as several seeds.
    """
    kept: dict[str, tuple[dict[str, Any], RunCurve]] = {}
    for config, curve in curves:
        if curve.form == "best_of_n":
            settings = flatten({name: config[name] for name in _OF_BASE if name in config})
            settings.pop("rollout.prompts", None)
            settings.pop("rollout.group_size", None)
            key = json.dumps([curve.group, settings, curve.seed], sort_keys=True, default=str)
        else:
            settings = {k: v for k, v in flatten(config).items() if k not in _FREE and not k.startswith(_OF_TRACKING)}
            key = curve.folder
        kept.setdefault(key, (settings, curve))
    return list(kept.values())


def _named(curves: Sequence[tuple[dict[str, Any], RunCurve]]) -> list[RunCurve]:
    """Return the curves with the names of their groups: the algorithm, and the settings in which its groups differ."""
    named = []
    for settings, curve in curves:
        others = [s for s, c in curves if c.group == curve.group]
        keys = [key for key in settings if any(other.get(key) != settings[key] for other in others)]
        parts = [f"{key.split('.')[-1]} {settings[key]}" for key in keys[:_MOST_NAMED]]
        parts += [f"and {len(keys) - _MOST_NAMED} settings more"] if len(keys) > _MOST_NAMED else []
        named.append(replace(curve, group=f"{curve.group} ({', '.join(parts)})" if parts else curve.group))
    return named
