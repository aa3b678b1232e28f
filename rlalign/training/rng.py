"""Every source of chance in a run, each with a stream of its own, drawn from one seed."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch


class RngStreams:
    """The generators of a run; their states are part of a checkpoint.

    Args:
        seed: of the run.
        device: where the sampler draws.
    """

    def __init__(self, seed: int, device: torch.device) -> None:
        self.seed, self.device = seed, device
        streams = [int(s) for s in np.random.SeedSequence(seed).generate_state(4)]
        seed_everything(streams[0])  # ours have generators of their own; this is for the user's code
        self.sampler = torch.Generator(device).manual_seed(streams[1])
        self.shuffle = torch.Generator().manual_seed(streams[2])
        self.tasks = streams[3]
        # demonstrations have an order of their own, so that turning them on leaves the rollouts' prompts as they were
        self.answers = streams[3] + 1

    def episodes(self, step: int) -> int:
        """Seed of the environment's replies in a step."""
        return self._of(step)

    def state_dict(self) -> dict[str, Any]:
        """The states of our generators and of the global ones."""
        own = {"sampler": self.sampler.get_state(), "shuffle": self.shuffle.get_state()}
        return {**global_state(), **own, "device": self.device.type}

    def load_state_dict(self, state: Mapping[str, Any], step: int) -> bool:
        """Go on from `state_dict()`; False when the sampler had to be seeded anew, since it drew on another device."""
        same: bool = state["device"] == self.device.type
        if same:
            self.sampler.set_state(state["sampler"])
        else:  # each kind of device draws differently from one state
            self.sampler.manual_seed(self._of(step, 1))
        self.shuffle.set_state(state["shuffle"])
        set_global_state(state)
        return same

    def _of(self, *path: int) -> int:
        return int(np.random.SeedSequence([self.seed, *path]).generate_state(1)[0])


def seed_everything(seed: int) -> None:
    """Seed the global generators of Python, numpy and torch."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - the global one is what a user's code may call
    torch.manual_seed(seed)


def global_state() -> dict[str, Any]:
    """States of Python's, numpy's, torch's and every CUDA device's global generator."""
    numpy_state = np.random.get_state(legacy=False)  # noqa: NPY002 - the one that a user may draw from
    assert isinstance(numpy_state, dict)
    inner = numpy_state["state"]
    return {
        "python": [list(x) if isinstance(x, tuple) else x for x in random.getstate()],
        "numpy": {**numpy_state, "state": {"key": inner["key"].tolist(), "pos": inner["pos"]}},
        "torch": torch.get_rng_state(),
        "cuda": list(torch.cuda.get_rng_state_all()) if torch.cuda.is_available() else [],
    }


def set_global_state(state: Mapping[str, Any]) -> None:
    """Restore what `global_state` returned."""
    a, b, c = state["python"]
    random.setstate((a, tuple(b), c))
    numpy_state = dict(state["numpy"])
    inner = numpy_state["state"]
    key = np.array(inner["key"], np.uint32)
    np.random.set_state({**numpy_state, "state": {"key": key, "pos": inner["pos"]}})  # noqa: NPY002 - as above
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(list(state["cuda"]))
