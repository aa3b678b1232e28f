"""The metadata of a card, which the Hub reads: written and validated by huggingface_hub, without a network."""

from __future__ import annotations

import math
from typing import Any

from rlalign.algorithms import algorithm as find_algorithm
from rlalign.config.schema import OBJECT, TrainConfig
from rlalign.envs.mixture.spec import map_envs
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
    envs = dict.fromkeys(map(_slug, _env_names(config)))
    tags = ["rlalign", "reinforcement-learning", _slug(config.algorithm), *envs]
    return ModelCardData(
        license=facts.base.license or None,
        base_model=facts.base.name or None,
        # a folder of virtual tokens is an adapter alone, which peft loads over its base
        library_name=("peft" if facts.adapter == "." else "transformers") if causal else "rlalign",
        pipeline_tag=_TASK if causal else None,
        tags=[tag for tag in tags if tag],
        datasets=_hub_datasets(config) or None,
        eval_results=results,
        model_name=name if results else None,
    )


def env_name(config: TrainConfig) -> str:
    """Return the name of the environment without arguments, folders and the mark of a Python object.

    Several environments are joined by ` + `, each without its weight or step.
    """
    return " + ".join(_env_names(config))


def _env_names(config: TrainConfig) -> list[str]:
    specs = _env_specs(config)
    if len(specs) == 1 and config.data and find_algorithm(config.algorithm).data and not _is_global(specs[0]):
        specs = [config.data]
    return [name if _is_global(name) else name.rpartition("/")[2] for name in specs]


def _env_specs(config: TrainConfig) -> list[str]:
    """Return the specs of the environments without arguments; those of a mixture as often as it names them."""
    specs: list[str] = []

    def collect(spec: str) -> str:
        specs.append(spec.removeprefix(OBJECT).partition("?")[0])
        return spec

    map_envs(config.env, collect)
    return specs


def _is_global(name: str) -> bool:
    return name.startswith(("rlalign/", "hf:"))


def _split(config: TrainConfig) -> str:
    return "test" if config.evaluation.patience else config.evaluation.split


def _hub_datasets(config: TrainConfig) -> list[str]:
    names = dict.fromkeys([*_env_specs(config), config.data or ""])
    return [name.removeprefix("hf:") for name in names if name.startswith("hf:")]


def _slug(text: str) -> str:
    """Return a text in the characters that tags of the Hub have."""
    words = "".join(c if c.isascii() and c.isalnum() else "-" for c in text.lower()).split("-")
    return "-".join(word for word in words if word)[:60]
