"""The model that decodes, if it differs from the model that trains, and its weights.

A rollout reads the weights once per token, so preparing them once per rollout saves time. `FastDecoder` does that for
the supported families. For full fine-tuning of any other architecture in a low precision, a copy of the master weights
is rounded to it. In all other cases the model that trains decodes.
"""

from __future__ import annotations

import copy
from typing import Any, Literal

import torch

from rlalign.policies.adapter_kinds.names import is_adapter_parameter
from rlalign.policies.sampling.fast_decoder import FastDecoder, is_supported
from rlalign.policies.sampling.library_decoder import LibraryDecoder
from rlalign.policies.scoring.backbone import Backbone
from rlalign.policies.weight_dtype import cast_weights


class DecodingWeights:
    """The decoder of a model: the optimized one if it supports the model, else a transformers model.

    Args:
        lm: the model that trains.
        backbone: its backbone.
        dtype: the compute dtype.

    Attributes:
        fast_decoder: the optimized decoder; None if it does not support the model or the path names another one.
    """

    def __init__(self, lm: Any, backbone: Backbone, dtype: torch.dtype) -> None:
        self._training_lm = lm
        self._decoding_lm = lm
        self._library = LibraryDecoder(backbone)
        self._dtype = dtype
        optimized = backbone.paths.decoding == "optimized" and backbone.virtual is None and is_supported(lm)
        self.fast_decoder = FastDecoder(lm, dtype) if optimized else None
        full = any(p.requires_grad and not is_adapter_parameter(name) for name, p in lm.named_parameters())
        self._needs_rounding = full and dtype != torch.float32
        # version of the training weights that each of the two was derived from; None: not derived, or invalidated
        self._versions: dict[str, int | None] = {"fast": None, "rounded": None}

    @property
    def decoder(self) -> LibraryDecoder | FastDecoder:
        """The decoder that reads contexts and advances them."""
        return self._library if self.fast_decoder is None else self.fast_decoder

    @property
    def lm(self) -> Any:
        """A transformers model of the same distribution, with the current weights, for `generate`."""
        try:
            self._round()
        except BaseException:
            self.invalidate()
            raise
        return self._decoding_lm

    def update(self) -> None:
        """Derive the weights of `decoder` from the training weights again if those have changed."""
        try:
            if self.fast_decoder is None:
                self._round()
            elif self._changed("fast"):
                self.fast_decoder.refresh()
        except BaseException:  # memory ran out halfway: a retry must not read the old weights of the rest
            self.invalidate()
            raise

    def invalidate(self) -> None:
        """Derive the decoding weights again at their next use."""
        self._versions = dict.fromkeys(self._versions)

    @torch.no_grad()
    def _round(self) -> None:
        """Copy the master weights to the model of low precision if they have changed."""
        if not self._needs_rounding or not self._changed("rounded"):
            return
        if self._decoding_lm is self._training_lm:
            self._decoding_lm = copy.deepcopy(self._training_lm).requires_grad_(False)
            cast_weights(self._decoding_lm, self._dtype)
            if self.fast_decoder is None:
                old = self._library.backbone
                self._library = LibraryDecoder(Backbone(self._decoding_lm, old.paths, old.virtual))
        for rounded, master in zip(self._decoding_lm.parameters(), self._training_lm.parameters(), strict=True):
            rounded.copy_(master)

    def _changed(self, key: Literal["fast", "rounded"]) -> bool:
        """Return True once after each optimizer step or other change in place, and after `invalidate`."""
        version = sum(p._version for p in self._training_lm.parameters() if p.requires_grad)
        previous, self._versions[key] = self._versions[key], version
        return bool(previous != version)
