"""The model that decodes, where that had better not be the one that trains.

A rollout runs the weights once per token, so it pays to prepare them once per rollout: adapters are added into the
weights they adapt (in float32 only: in bfloat16 the sum would round them away), and masters that are trained in float32
are rounded to the compute dtype. Everything else is shared with the model that trains, and nothing is merged back.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from rlalign.policies.backbone import Backbone
from rlalign.policies.lean import LeanBackbone, is_lean
from rlalign.policies.linear import Linear, LoraLinear


class Decoder:
    """A transformers model for decoding, derived from the one that trains; that model itself where there is no gain.

    Args:
        lm: the model that trains.
        backbone: its backbone.
        dtype: the compute dtype.
    """

    def __init__(self, lm: Any, backbone: Backbone, dtype: torch.dtype) -> None:
        self.lm, self.backbone = lm, backbone
        self._source, self._dtype = lm, dtype
        self._merged: list[tuple[LoraLinear, Linear]] = []
        self._moved_at: int | None = None
        adapted = any(isinstance(m, LoraLinear) for m in lm.modules())
        self._merges = adapted and dtype == torch.float32
        self._rounds = (
            any(p.requires_grad and "lora_" not in n for n, p in lm.named_parameters()) and dtype != torch.float32
        )

    @torch.no_grad()
    def refresh(self) -> None:
        """Derive the decoding weights from the training ones as they are now."""
        self._moved_at = self._clock()
        if self._merges:
            if not self._merged:
                self._make_merged()
            for lora, plain in self._merged:
                a, b, s = lora.lora_A["default"].weight, lora.lora_B["default"].weight, lora.scaling["default"]
                torch.addmm(lora.base_layer.weight, b, a, alpha=s, out=plain.weight)
        elif self._rounds:
            if self.lm is self._source:
                self.lm = copy.deepcopy(self._source).to(self._dtype).requires_grad_(False)
                self.backbone = Backbone(self.lm)
            for low, master in zip(self.lm.parameters(), self._source.parameters(), strict=True):
                low.copy_(master)

    def refresh_if_moved(self) -> None:
        """Refresh after an optimizer step, or any other change in place, that `refresh` has not seen."""
        if self._moved_at != self._clock():
            self.refresh()

    def _clock(self) -> int:
        return sum(p._version for p in self._source.parameters() if p.requires_grad)

    def _make_merged(self) -> None:
        shared: dict[int, Tensor] = {id(t): t for t in (*self._source.parameters(), *self._source.buffers())}
        twin = copy.deepcopy(self._source, shared)
        for name, module in list(twin.named_modules()):
            if isinstance(module, LoraLinear):
                base = module.base_layer
                plain = Linear(base.in_features, base.out_features, bias=False, device="meta")
                plain.weight = nn.Parameter(torch.empty_like(base.weight), requires_grad=False)
                plain.bias = base.bias
                twin.set_submodule(name, plain)
                self._merged.append((module, plain))
        self.lm, self.backbone = twin, LeanBackbone(twin) if is_lean(twin) else Backbone(twin)
