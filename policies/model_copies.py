"""Copies of a model that share what does not train: the frozen reference, and the body of a value model."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from rlalign.policies.scoring.backbone import Backbone
from rlalign.policies.scoring.paths import Paths
from rlalign.policies.weight_dtype import cast_weights


def frozen_copy(lm: Any, dtype: torch.dtype) -> nn.Module:
    """Return a frozen model with copies of the trained parameters, in `dtype` if all train; the rest is shared."""
    # deepcopy takes an object from this memo instead of copying it
    memo = {id(p): p for p in lm.parameters() if not p.requires_grad}
    reference: nn.Module = copy.deepcopy(lm, memo)
    if not memo:
        cast_weights(reference, dtype)
    return reference.requires_grad_(False)


def second_backbone(lm: Any, paths: Paths) -> Backbone:
    """Return a backbone with a copy of each trained parameter.

    Frozen parameters are shared, and so is the language-model head, which the second backbone does not use.
    """
    head = lm.get_output_embeddings()
    frozen = [p for p in lm.parameters() if not p.requires_grad]
    memo = {id(shared): shared for shared in (head, *frozen, *lm.buffers())}
    return Backbone(copy.deepcopy(lm, memo), paths)
