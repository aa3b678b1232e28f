"""The metadata of a card, which the Hub reads: written and validated by huggingface_hub, without a network."""

from __future__ import annotations

import math
from typing import Any

from rlalign.algorithms import algorithm as find_algorithm
from rlalign.config.schema import OBJECT, TrainConfig
from rlalign.publish.facts import Facts

_TASK = "text-generation"


def metadata_of(facts: Facts, name: str) -> Any:
    """Return the `ModelCardData` of a run: license, base model, library, tags, data sets, results.

    Args:
        facts: of the run.
        name: of the model, for its results.
    """
    from huggingface_hub import EvalResult, ModelCardData

    config = facts.config
    causal = facts.kind == "causal"
    reward = facts.evaluation["metrics"].get("reward", {})
    results = None
    if isinstance(reward.get("after"), float | int) and math.isfinite(reward["after"]) and facts.weights != {"": 0.0}:
        results = [
            EvalResult(
                task_type=_TASK,
                dataset_type=_slug(env_name(config)),
                dataset_name=env_name(config),
                dataset_split=_split(config),
                metric_type="reward",
                metric_name="mean reward on held-out prompts",
                metric_value=round(float(reward["after"]), 6),
            )
        ]
    tags = ["rlalign", "reinforcement-learning", _slug(config.algorithm), _slug(env_name(config))]
    return ModelCardData(
        license=facts.base.license or None,
        base_model=facts.base.name or None,
        library_name="transformers" if causal else "rlalign",
        pipeline_tag=_TASK if causal else None,
        tags=[tag for tag in tags if tag],
        datasets=_hub_datasets(config) or None,
        eval_results=results,
        model_name=name if results else None,
    )


def env_name(config: TrainConfig) -> str:
    """Return the name of the environment without arguments, folders and the mark of a Python object."""
    name = config.env.removeprefix(OBJECT).partition("?")[0]
    if name.startswith("rlalign/") or name.startswith("hf:"):
        return name
    if config.data and find_algorithm(config.algorithm).data:
        name = config.data
    return name.rpartition("/")[2]


def _split(config: TrainConfig) -> str:
    return "test" if config.evaluation.patience else config.evaluation.split


def _hub_datasets(config: TrainConfig) -> list[str]:
    names = [config.env.partition("?")[0], config.data or ""]
    return [name.removeprefix("hf:") for name in names if name.startswith("hf:")]


def _slug(text: str) -> str:
    """Return a text in the characters that tags of the Hub have."""
    words = "".join(c if c.isascii() and c.isalnum() else "-" for c in text.lower()).split("-")
    return "-".join(word for word in words if word)[:60]
