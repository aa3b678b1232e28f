"""rlalign: reinforcement learning from feedback for language models, on a real Gymnasium MDP.

    import rlalign

    @rlalign.reward("brevity")
    def brevity(completions, **columns):
        return [-len(c) / 100 for c in completions]

    run = rlalign.train(env="rlalign/Sentiment-v0", algorithm="rloo", rewards=["vader", "brevity=0.5"])

Importing this package registers the environments with Gymnasium and imports neither torch nor transformers.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from rlalign.envs.mdp import TextMDP
from rlalign.envs.registration import env, make_env, make_mdp, make_vec, register_env, register_gymnasium
from rlalign.rewards.function import reward
from rlalign.types import Task

if TYPE_CHECKING:
    from rlalign.algorithms import register_algorithm
    from rlalign.api import evaluate, train
    from rlalign.config.schema import TrainConfig
    from rlalign.objective.spec import Objective
    from rlalign.run import Run
    from rlalign.training.callbacks import Callback, EvaluationView, StepView

__version__ = "0.1.0"

# Names that need torch, loaded when they are first used.
_LAZY = {
    "train": "rlalign.api",
    "evaluate": "rlalign.api",
    "Run": "rlalign.run",
    "TrainConfig": "rlalign.config.schema",
    "Objective": "rlalign.objective.spec",
    "register_algorithm": "rlalign.algorithms",
    "Callback": "rlalign.training.callbacks",
    "EvaluationView": "rlalign.training.callbacks",
    "StepView": "rlalign.training.callbacks",
}

__all__ = [
    "Callback",
    "EvaluationView",
    "Objective",
    "Run",
    "StepView",
    "Task",
    "TextMDP",
    "TrainConfig",
    "__version__",
    "env",
    "evaluate",
    "make_env",
    "make_mdp",
    "make_vec",
    "register_algorithm",
    "register_env",
    "reward",
    "train",
]

register_gymnasium()


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'rlalign' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
