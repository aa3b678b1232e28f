"""Settings of the training of a reward model."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from rlalign.errors import UserError
from rlalign.rewards.reward_model.ensemble import How, check_how
from rlalign.typecheck import check_range

LINEAR = "linear"
"""Name of the linear model, in place of the folder of a transformer."""
LORA_LEARNING_RATE = 1e-4
FULL_LEARNING_RATE = 2e-5


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of the training of a reward model.

    Attributes:
        model: "smollm2", a folder or a hub id of a causal model or a sequence classifier; "linear": TF-IDF features.
        objective: "preferences": Bradley-Terry on pairs; "ratings": regression on the points of single completions.
        form: "chat" or "text"; "auto": chat if the data has messages and the model a chat template.
        seeds: number of models; from two on they form an ensemble.
        seed: of the first model; the others have the next ones.
        epochs: passes over the data.
        batch_size: pairs (or ratings) per step.
        learning_rate: of AdamW; None: 1e-4 with LoRA, 2e-5 for all weights.
        lora_r: rank of the adapter, which is merged into the weights; 0: all weights are trained.
        max_length: tokens; longer pairs are left out and reported.
        center_coef: weight of (chosen + rejected)², which keeps scores around 0 (Eisenstein et al., arXiv 2312.09244).
        margin: subtract the margin of each pair in the loss (Touvron et al., arXiv 2307.09288).
        regularization: of a linear model, 1 / (2 variance of the prior) per weight.
        how: combination of an ensemble: mean, min or penalised.
        coef: weight of the disagreement for penalised.
        test: share of the data that is held out, by groups of prompts; not used if the data has splits.
        device: torch device; "auto": a GPU if there is one.
    """

    model: str = "smollm2"
    objective: Literal["preferences", "ratings"] = "preferences"
    form: Literal["auto", "text", "chat"] = "auto"
    seeds: int = 1
    seed: int = 0
    epochs: int = 1
    batch_size: int = 8
    learning_rate: float | None = None
    lora_r: int = 0
    max_length: int = 1024
    center_coef: float = 0.01
    margin: bool = False
    regularization: float = 1.0
    how: How = "mean"
    coef: float = 1.0
    test: float = 0.2
    device: str = "auto"

    def __post_init__(self) -> None:
        for name in ("seeds", "epochs", "batch_size"):
            check_range(name, getattr(self, name), least=1)
        check_range("seed", self.seed, least=0)
        check_range("lora_r", self.lora_r, least=0)
        check_range("max_length", self.max_length, least=8)
        check_range("center_coef", self.center_coef, least=0, below=math.inf)
        check_range("regularization", self.regularization, above=0, below=math.inf)
        check_range("coef", self.coef, least=0, below=math.inf)
        check_range("test", self.test, above=0, below=1)
        if self.learning_rate is not None:
            check_range("learning_rate", self.learning_rate, above=0, below=math.inf)
        check_how(self.how)
        if self.model == LINEAR and self.lora_r:
            raise UserError("lora_r: expected 0 for a linear model, which has no layers, got an adapter; leave it out")

    @property
    def rate(self) -> float:
        """The learning rate."""
        return self.learning_rate or (LORA_LEARNING_RATE if self.lora_r else FULL_LEARNING_RATE)
