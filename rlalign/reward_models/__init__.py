"""Reward models from preferences or ratings: trained, measured, and saved as folders that are rewards.

    data.py          pairs and ratings from stores and files, with their groups of prompts
    settings.py      settings of a training
    base_model.py    a causal model or a sequence classifier with one output and its own padding token
    transformer.py   training by TRL's RewardTrainer, or regression; merged in float32
    linear.py        Bradley-Terry or ridge regression on TF-IDF features
    train.py         `train_reward_model`: one folder, or an ensemble of several seeds
    metrics.py       accuracy, Brier score, log loss, calibration, correlations, with intervals by groups of prompts
    policy_samples.py  best-of-k accuracy and reward variance among the samples of a policy
    evaluate.py      `evaluate_reward_model`: all metrics of a folder on other data
    flipped.py       refits on flipped labels
    seen_prompts.py  digests of the prompts of the training
    picture.py       the reliability picture

The folders and their scores are in `rlalign.rewards.reward_model`, which rewards need without the training.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlalign.reward_models.evaluate import evaluate_reward_model
    from rlalign.reward_models.settings import Settings
    from rlalign.reward_models.train import train_reward_model
    from rlalign.rewards.reward_model.folder import load_scorer as load_reward_model

__all__ = ["Settings", "evaluate_reward_model", "load_reward_model", "train_reward_model"]
_PLACES = {
    "Settings": ("rlalign.reward_models.settings", "Settings"),
    "evaluate_reward_model": ("rlalign.reward_models.evaluate", "evaluate_reward_model"),
    "load_reward_model": ("rlalign.rewards.reward_model.folder", "load_scorer"),
    "train_reward_model": ("rlalign.reward_models.train", "train_reward_model"),
}


def __getattr__(name: str) -> Any:
    """Import a function when it is used: TRL and scikit-learn are heavy."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    module, attribute = _PLACES[name]
    return getattr(importlib.import_module(module), attribute)
