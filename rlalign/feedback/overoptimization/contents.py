"""The figures of over-optimization as JSON values, their sentences, and the two files of the report."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from rlalign.errors import UserError
from rlalign.feedback.overoptimization.fits import SeedFit, band, fit_seeds, predict
from rlalign.feedback.overoptimization.page import render
from rlalign.feedback.overoptimization.runs import RunCurve, read_curves
from rlalign.storage.atomic import write_atomic
from rlalign.storage.jsonl import nullable

FORMAT = 1
_LINE_POINTS = 41  # of a fitted line
_FEW_SEEDS = 5
_GOOD_FIT = 0.5  # share of the variance below which the text warns of the form


@dataclass(frozen=True, slots=True)
class Overoptimization:
    """The files of a report.

    Attributes:
        page: the HTML page.
        data: the JSON file.
        verdict: a sentence per group of runs.
        notes: runs that gave no curve, and limits.
    """

    page: Path
    data: Path
    verdict: tuple[str, ...]
    notes: tuple[str, ...]


def write_overoptimization(
    folders: Sequence[Path], path: Path, *, proxy: str = "reward", gold: str = "gold", seed: int = 0
) -> Overoptimization:
    """Fit proxy and gold against the KL of runs, and write a page and the JSON file beside it.

    Args:
        folders: run folders, or folders that contain some.
        path: of the page; the JSON file has the same name with .json.
        proxy, gold: names of metrics, see `read_curves`.
        seed: of the bootstrap.

    Raises:
        UserError: no run measures both metrics and its KL.
    """
    curves, notes = read_curves(folders, proxy=proxy, gold=gold)
    content = nullable(contents(curves, proxy=proxy, gold=gold, notes=notes, seed=seed))
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
    data = write_atomic(path.with_suffix(".json"), text + "\n")
    return Overoptimization(
        write_atomic(path, render(json.loads(text))), data, tuple(content["verdict"]), tuple(content["notes"])
    )


def contents(
    curves: Sequence[RunCurve], *, proxy: str, gold: str, notes: Sequence[str] = (), seed: int = 0
) -> dict[str, Any]:
    """Return the content of the JSON file.

    Args:
        curves: of all runs.
        proxy, gold: names of the metrics.
        notes: about runs without a curve.
        seed: of the bootstrap.
    """
    groups: dict[str, list[RunCurve]] = {}
    for curve in curves:
        groups.setdefault(curve.group, []).append(curve)
    notes = list(notes)
    parts = [_group(name, members, seed, notes) for name, members in groups.items()]
    few = min(len(part["runs"]) for part in parts)
    if few < _FEW_SEEDS:
        notes.append(
            f"The smallest group has {few} seed{'s' if few > 1 else ''}. "
            + ("One seed has no interval." if few < 2 else "Intervals from fewer than five seeds are too narrow.")
        )
    return {
        "format": FORMAT,
        "version": metadata.version("rlalign"),
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "proxy": proxy,
        "gold": gold,
        "verdict": [part["sentence"] for part in parts],
        "notes": notes,
        "groups": parts,
    }


def _group(name: str, members: Sequence[RunCurve], seed: int, notes: list[str]) -> dict[str, Any]:
    part: dict[str, Any] = {
        "name": name,
        "form": members[0].form,
        "source": members[0].source,
        "runs": [
            {
                "folder": curve.folder,
                "seed": curve.seed,
                "base": {"proxy": curve.base[0], "gold": curve.base[1]},
                "points": [
                    {"place": place, "kl": float(kl), "d": float(d), "proxy": float(proxy), "gold": float(gold)}
                    for place, kl, d, proxy, gold in zip(
                        curve.place, curve.kl, curve.d, curve.proxy, curve.gold, strict=True
                    )
                ],
            }
            for curve in members
        ],
    }
    try:
        fits = {
            reward: fit_seeds(members[0].form, [(curve.d, getattr(curve, reward)) for curve in members], seed=seed)
            for reward in ("proxy", "gold")
        }
    except UserError as error:
        notes.append(f"{name}: no fit: {error}")
        return {**part, "fits": None, "sentence": f"{name}: too few points for a fit."}
    highest = max(float(np.nanmax(curve.d)) for curve in members)
    part["measured"] = {reward: _largest_measured(members, reward) for reward in fits}
    part["range"] = {"d": highest, "kl": highest**2}
    part["fits"] = {reward: _fit(result, highest) for reward, result in fits.items()}
    part["sentence"] = sentence(name, fits["proxy"], fits["gold"], highest)
    for reward, result in fits.items():
        if not result.fit.r2 >= _GOOD_FIT:
            notes.append(
                f"{name}: the form explains {100 * max(result.fit.r2, 0.0):.0f} % of the variance of {reward}: do not "
                "read a turning point from it"
            )
    return part


def _largest_measured(members: Sequence[RunCurve], reward: str) -> dict[str, float]:
    """Return the KL of the evaluation with the largest reward: median, least and largest over the seeds.

    It needs no form, but the largest of many noisy values is often at a KL that is not the best one.
    """
    kls = []
    for curve in members:
        values = np.where(np.isfinite(curve.kl), getattr(curve, reward), math.nan)
        if np.isfinite(values).any():
            kls.append(float(curve.kl[int(np.nanargmax(values))]))
    return {"value": float(np.median(kls)), "low": min(kls), "high": max(kls)}


def _fit(result: SeedFit, highest: float) -> dict[str, Any]:
    fit, turn = result.fit, result.turn
    d = np.linspace(0.0, highest, _LINE_POINTS)
    low, high = band(result, d)
    return {
        "alpha": {"value": fit.alpha, "low": result.alpha[0], "high": result.alpha[1]},
        "beta": {"value": fit.beta, "low": result.beta[0], "high": result.beta[1]},
        "r2": fit.r2,
        "points": fit.points,
        "turn": {
            "outcome": turn.outcome,
            "d": {"value": turn.d, "low": turn.low, "high": turn.high},
            "kl": {"value": turn.d**2, "low": turn.low**2, "high": turn.high**2},
            "share_in_range": turn.share,
        },
        "line": {
            "d": d.tolist(),
            "value": predict(fit.form, fit.alpha, fit.beta, d).tolist(),
            "low": low.tolist(),
            "high": high.tolist(),
        },
    }


def sentence(name: str, proxy: SeedFit, gold: SeedFit, highest: float) -> str:
    """Return what a group of runs shows, in one sentence.

    A turn is claimed if more than 97.5 % of the resampled sets of seeds turn in range.

    Args:
        name: of the group.
        proxy, gold: fits.
        highest: largest square root of the KL that was measured.
    """
    turn = gold.turn
    until = f"up to a KL of {highest**2:.3g} nats"
    if turn.outcome == "did not turn in range":
        return f"{name}: gold did not turn in range ({until})."
    if turn.outcome == "fell from the start":
        return f"{name}: gold fell from the start ({until})."
    where = f"{turn.d**2:.3g} nats"
    if math.isnan(turn.low):
        claim = f"gold is largest at a KL of {where} by the fit to one seed, without an interval"
    elif math.isinf(turn.high):
        claim = (
            f"no turning point of gold can be claimed: the fit is largest at a KL of {where}, and "
            f"{100 * turn.share:.0f} % of the resampled fits turn {until}"
        )
    else:
        interval = f"95 % CI [{turn.low**2:.3g}, {turn.high**2:.3g}]"
        claim = f"gold is largest at a KL of {where} ({interval}) and falls beyond it"
    rises = proxy.turn.d > turn.d * 1.05 and proxy.turn.outcome != "fell from the start"
    return f"{name}: {claim}{'; the proxy still rises there' if rises else ''}."
