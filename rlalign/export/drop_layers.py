"""Removal of whole decoder layers, chosen by what each costs on held-out tokens.

Layers are removed one by one. At each step every remaining layer is left out in turn, and the one whose absence gives
the smallest mean KL(policy ‖ pruned) is removed (greedy; compare Men et al. 2024, arXiv:2403.03853, and Gromov et al.
2024, arXiv:2403.17887, who rank layers by similarity instead). The prompts are of the validation split, so that the
cost on test prompts, which is reported, is not that of the choice.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rlalign.errors import UserError
from rlalign.export.fidelity import Fidelity, Probe, make_probe, model_logprobs
from rlalign.export.hf_writer import copy_companions
from rlalign.export.source import Source
from rlalign.policies.device import hidden_progress_bars
from rlalign.policies.model_digests import write_digests
from rlalign.types import Split

AUTO_KL = 0.1
"""Nats per token. `--drop-layers auto` removes layers while the KL on the validation prompts is at most this."""
_PROMPTS = 8
_MAX_NEW = 32
"""Validation prompts, and tokens per completion, that choose the layers."""


@dataclass(frozen=True, slots=True)
class Dropped:
    """The layers that were removed.

    Attributes:
        layers: their numbers in the policy, counted from 0, in the order of removal.
        kl: mean KL(policy ‖ pruned) after each removal, nats per token on validation prompts.
        of: number of layers of the policy.
    """

    layers: tuple[int, ...]
    kl: tuple[float, ...]
    of: int

    def __str__(self) -> str:
        numbers = ", ".join(map(str, self.layers))
        return f"{len(self.layers)} of {self.of} layers removed ({numbers})"


def parse_count(text: str) -> int | None:
    """Return the number of layers to remove; None for auto.

    Raises:
        UserError: the text is neither auto nor a number of 1 or more.
    """
    if text == "auto":
        return None
    if text.isdecimal() and int(text) >= 1:
        return int(text)
    raise UserError(f"--drop-layers: expected auto or a number of 1 or more, got '{text}'; use auto, or 1")


@torch.no_grad()
def choose_layers(model: Any, probe: Probe, count: int | None) -> Dropped:
    """Remove layers from a model, in place, and return which.

    Args:
        model: a float32 transformers model on the CPU, with the weights of the policy.
        probe: validation tokens and the policy's log-probs.
        count: number of layers; None: as many as `AUTO_KL` allows.

    Raises:
        UserError: the model has no list of decoder layers, or too few.
    """
    parent, name = _layers(model)
    layers: list[nn.Module] = list(getattr(parent, name))
    numbers = list(range(len(layers)))
    if count is not None and count >= len(layers):
        most = len(layers) - 1
        choices = f"auto or a number from 1 to {most}" if most else "a policy of two layers or more"
        raise UserError(
            f"--drop-layers: expected {choices}, since the policy has {len(layers)}, got {count}; "
            + (f"use auto, or at most {most}" if most else "leave it out")
        )
    removed: list[int] = []
    costs: list[float] = []
    while len(layers) > 1 and (count is None or len(removed) < count):
        kl = []
        for i in range(len(layers)):
            setattr(parent, name, nn.ModuleList(layers[:i] + layers[i + 1 :]))
            kl.append(probe.compare(model_logprobs(model, probe.rows, probe.positions)).kl)
        best = min(range(len(kl)), key=kl.__getitem__)
        if count is None and not kl[best] <= AUTO_KL:
            break
        layers.pop(best)
        removed.append(numbers.pop(best))
        costs.append(kl[best])
    setattr(parent, name, nn.ModuleList(layers))
    if not removed:
        raise UserError(
            f"--drop-layers auto: expected a layer whose removal costs at most {AUTO_KL} nats per token, got "
            f"{min(kl):.2g} for the cheapest; use --drop-layers 1 to remove it"
        )
    return Dropped(tuple(removed), tuple(costs), len(numbers) + len(removed))


def write_pruned(source: Path, folder: Path, removed: tuple[int, ...]) -> None:
    """Write a transformers folder without some layers, in its stored dtype.

    Args:
        source: the folder with all layers.
        folder: the folder to write, which exists.
        removed: numbers of the layers to leave out.
    """
    from transformers import AutoModelForCausalLM

    with hidden_progress_bars():
        model: Any = AutoModelForCausalLM.from_pretrained(source, use_safetensors=True)
        parent, name = _layers(model)
        kept = [i for i in range(len(getattr(parent, name))) if i not in removed]
        setattr(parent, name, nn.ModuleList(getattr(parent, name)[i] for i in kept))
        config = model.config
        if getattr(config, "layer_types", None):
            config.layer_types = [config.layer_types[i] for i in kept]
        config.num_hidden_layers = len(kept)
        model.save_pretrained(folder)
    copy_companions(source, folder)
    write_digests(folder)


def write_without_layers(source: Source, folder: Path, count: int | None) -> Dropped:
    """Write the policy of a run without whole layers to a folder, and return the layers that were removed.

    Args:
        source: the run.
        folder: the folder to write, which exists.
        count: number of layers; None: as many as `AUTO_KL` allows.
    """
    from transformers import AutoModelForCausalLM

    split: Split = "validation" if source.has_tasks("validation") else "train"
    contexts = source.contexts(source.tasks(split, _PROMPTS))
    probe = make_probe(source.policy, contexts, max_new=_MAX_NEW, seed=source.config.seed)
    with hidden_progress_bars():
        model = AutoModelForCausalLM.from_pretrained(source.folder, dtype=torch.float32, use_safetensors=True)
    dropped = choose_layers(model, probe, count)
    del model
    write_pruned(source.folder, folder, dropped.layers)
    return dropped


def pruned_probe(probe: Probe, folder: Path) -> tuple[Probe, Fidelity]:
    """Return a probe with the log-probs of a pruned folder, and the distance of these from the policy's."""
    from transformers import AutoModelForCausalLM

    with hidden_progress_bars():
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    pruned = probe.with_model(model)
    return pruned, probe.compare(pruned.logprobs)


def _layers(model: Any) -> tuple[Any, str]:
    """Return the module that holds the decoder layers, and the name of their list."""
    for path, name in (("model", "layers"), ("transformer", "h")):
        parent = getattr(model, path, None)
        if isinstance(getattr(parent, name, None), nn.ModuleList):
            return parent, name
    raise UserError(
        f"--drop-layers: expected a model whose layers are in model.layers or transformer.h, got {type(model).__name__}"
    )
