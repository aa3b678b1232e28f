"""`evaluate_reward_model`: all metrics of a reward model on data that it was not trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlalign.errors import UserError
from rlalign.reward_models.data import Pair, Rating, read_pairs, read_ratings
from rlalign.reward_models.metrics import PairMetrics, RatingMetrics, pair_metrics, rating_metrics
from rlalign.reward_models.policy_samples import SampleMetrics, read_samples, sample_metrics, sample_run
from rlalign.reward_models.seen_prompts import count_seen
from rlalign.rewards.reward_model.folder import load_scorer
from rlalign.rewards.reward_model.manifest import FILE


@dataclass(frozen=True)
class Evaluation:
    """Metrics of a reward model.

    Attributes:
        model: folder of the model.
        metrics: on pairs or ratings.
        samples: among the samples of a policy; None: not measured.
        seen: number of rows whose prompt was in training; None: unknown, as for a model of RewardTrainer.
    """

    model: str
    metrics: PairMetrics | RatingMetrics
    samples: SampleMetrics | None = None
    seen: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the metrics as JSON values; NaN is None."""
        samples = None if self.samples is None else self.samples.to_json()
        return {"model": self.model, "seen": self.seen, "metrics": self.metrics.to_json(), "samples": samples}


def evaluate_reward_model(
    model: str | Path,
    data: str | Path | Sequence[Pair],
    *,
    majority: bool = False,
    format: str = "auto",
    split: str = "all",
    subset: str = "subset",
    ratings: bool = False,
    samples: str | Path | None = None,
    run: str | Path | None = None,
    gold: str = "",
    prompts: int = 50,
    k: int = 8,
    seed: int = 0,
    device: str = "auto",
    trust_run: bool = False,
) -> Evaluation:
    """Measure a reward model on preferences (or ratings) and, if given, among the samples of a policy.

    Args:
        model: folder of a reward model, also one that TRL's RewardTrainer saved.
        data: store of a study, file or data set, or pairs.
        majority: of a store, one pair per item by majority instead of one per vote.
        format: of a file of preference data; "auto": recognized.
        split: rows of this split only, such as test; "all": all rows.
        subset: column by whose values accuracy is reported.
        ratings: the data are ratings of completions.
        samples: file of the samples of a policy (see `rlalign.reward_models.policy_samples.read_samples`).
        run: run folder whose policy is sampled.
        gold: spec of the reward that decides which sample of the run is best; empty: only the variance is measured.
        prompts: held-out prompts of the run.
        k: samples per prompt.
        seed: of the samples.
        device: torch device; "auto": a GPU if there is one.
        trust_run: run code that the run folder names.

    Raises:
        UserError: the model, the data or the run cannot be used.
    """
    if samples is not None and run is not None:
        raise UserError("expected samples or run, got both; use one of them")
    scorer, manifest = load_scorer(model, _device(device, Path(model).expanduser()))
    if ratings:
        if manifest is None or manifest.objective != "ratings":
            raise UserError(f"'{model}': expected a model of ratings, got one of preferences; use data of preferences")
        rows: Sequence[Rating] = _of_split(read_ratings(data).rows, split)  # type: ignore[arg-type]
        seen = count_seen(Path(model).expanduser(), rows)
        values = scorer.scores([row.sample for row in rows])
        metrics: PairMetrics | RatingMetrics = rating_metrics(
            rows, manifest.rating_mean + manifest.rating_spread * values
        )
    else:
        pairs = read_pairs(data, majority=majority, format=format).rows if isinstance(data, str | Path) else data
        pairs = _of_split(pairs, split)
        seen = count_seen(Path(model).expanduser(), pairs)
        chosen, rejected = (scorer.scores([getattr(p, side) for p in pairs]) for side in ("chosen", "rejected"))
        metrics = pair_metrics(pairs, chosen, rejected, subset=subset)
    among = None
    if samples is not None:
        among = sample_metrics(read_samples(Path(samples), scorer))
    elif run is not None:
        folder = str(Path(model).expanduser().resolve())
        among = sample_metrics(
            sample_run(Path(run), folder, gold=gold, prompts=prompts, k=k, seed=seed, trust_run=trust_run)
        )
    return Evaluation(str(model), metrics, among, seen)


def _of_split(rows: Sequence[Any], split: str) -> Sequence[Any]:
    chosen = [row for row in rows if split in ("all", row.split)]
    if not chosen:
        known = ", ".join(sorted({row.split or "none" for row in rows}))
        raise UserError(f"split: expected one of the data's, got '{split}'; use all, or one of {known}")
    return chosen


def _device(name: str, model: Path) -> str:
    """Return the device of a model; torch is imported only for a model that needs it."""
    if name != "auto":
        return name
    if not model.is_dir() or ((model / FILE).is_file() and (model / "features.json").is_file()):
        return "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
