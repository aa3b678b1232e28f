"""The model that decodes, where that had better not be the one that trains.

A rollout runs the weights once per token, so it pays to prepare them once per rollout. A `LeanModel` does that for the
known families; of any other architecture that is trained in full in a low precision, a copy of the masters is rounded
to it. Everything else decodes with the model that trains.
"""

from __future__ import annotations

import copy
from typing import Any

import torch

from rlalign.policies.sampling.fast_decoder import LeanModel, is_lean
from rlalign.policies.scoring.backbone import Backbone


class Decoder:
    """What decodes for a model: its lean form where there is one, else a transformers model.

    Args:
        lm: the model that trains.
        backbone: its backbone.
        dtype: the compute dtype.
    """

    def __init__(self, lm: Any, backbone: Backbone, dtype: torch.dtype) -> None:
        self._source, self._plain, self._dtype = lm, backbone, dtype
        self._lm = lm
        self.lean = LeanModel(lm, dtype) if is_lean(lm) else None
        self._rounds = (
            any(p.requires_grad and "lora_" not in n for n, p in lm.named_parameters()) and dtype != torch.float32
        )
        self._seen: dict[str, int | None] = {"lean": None, "rounded": None}

    @property
    def backbone(self) -> Backbone | LeanModel:
        """What reads contexts and advances them."""
        return self._plain if self.lean is None else self.lean

    def catch_up(self) -> None:
        """Bring the backbone's weights up to date if the training ones have moved."""
        if self.lean is None:
            self._round()
        elif self._moved("lean"):
            self.lean.refresh()

    @property
    def lm(self) -> Any:
        """A transformers model of the same distribution, for `generate`."""
        self._round()
        return self._lm

    def refresh(self) -> None:
        """Derive the decoding weights from the training ones when they are next asked for."""
        self._seen = dict.fromkeys(self._seen)

    @torch.no_grad()
    def _round(self) -> None:
        if not self._rounds or not self._moved("rounded"):
            return
        if self._lm is self._source:
            self._lm = copy.deepcopy(self._source).to(self._dtype).requires_grad_(False)
            if self.lean is None:
                self._plain = Backbone(self._lm)
        for low, master in zip(self._lm.parameters(), self._source.parameters(), strict=True):
            low.copy_(master)

    def _moved(self, what: str) -> bool:
        """True once after an optimizer step, or any other change in place, and after `refresh`."""
        clock = sum(p._version for p in self._source.parameters() if p.requires_grad)
        old, self._seen[what] = self._seen[what], clock
        return bool(old != clock)
