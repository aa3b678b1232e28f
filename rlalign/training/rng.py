"""Random number generators of a run: one stream per purpose, all derived from one seed."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch


def task_seed(seed: int) -> int:
    """Return the seed of the order of tasks or of recorded data, for a run's seed."""
    return int(np.random.SeedSequence(seed).generate_state(4)[3])


class RngStreams:
    """The generators of a run; their states are part of a checkpoint.

    Attributes:
        sampler: draws tokens, on the policy's device.
        shuffle: permutes the rows of a rollout into minibatches.
        task_seed: seed of the order of tasks in rollouts.
        demonstration_seed: seed of the order of tasks in supervised updates.

    Args:
        seed: seed of the run.
        device: device of the sampler's generator.
    """

    def __init__(self, seed: int, device: torch.device) -> None:
        self.seed = seed
        self.device = device
        streams = [int(s) for s in np.random.SeedSequence(seed).generate_state(4)]
        # No code of this library draws from the global generators: seeding them is for the user's rewards and envs.
        seed_everything(streams[0])
        self.sampler = torch.Generator(device).manual_seed(streams[1])
        self.shuffle = torch.Generator().manual_seed(streams[2])
        self.task_seed = task_seed(seed)
        # An order of its own, so that turning demonstrations on does not change the prompts of the rollouts.
        self.demonstration_seed = self.task_seed + 1

    def episode_seed(self, step: int) -> int:
        """Return the seed of the environment's own randomness in a step."""
        return self._derive(step)

    def state_dict(self) -> dict[str, Any]:
        """Return the states of the run's generators and of the global ones."""
        own = {"sampler": self.sampler.get_state(), "shuffle": self.shuffle.get_state()}
        return {**global_state(), **own, "device": self.device.type}

    def load_state_dict(self, state: Mapping[str, Any], step: int) -> bool:
        """Restore what `state_dict` returned.

        Returns:
            False when the state is of another kind of device and the sampler was seeded from the run's seed and `step`.
        """
        same_device: bool = state["device"] == self.device.type
        if same_device:
            self.sampler.set_state(state["sampler"])
        else:  # generators of different devices draw different numbers from one state
            self.sampler.manual_seed(self._derive(step, 1))
        self.shuffle.set_state(state["shuffle"])
        set_global_state(state)
        return same_device

    def _derive(self, *path: int) -> int:
        return int(np.random.SeedSequence([self.seed, *path]).generate_state(1)[0])


def seed_everything(seed: int) -> None:
    """Seed the global generators of Python, NumPy and torch."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - user code may draw from the global generator
    torch.manual_seed(seed)


def global_state() -> dict[str, Any]:
    """Return the states of the global generators of Python, NumPy, torch and each CUDA device."""
    numpy_state = np.random.get_state(legacy=False)  # noqa: NPY002 - user code may draw from the global generator
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
    version, internal, gauss_next = state["python"]
    random.setstate((version, tuple(internal), gauss_next))  # JSON has no tuples, and setstate takes nothing else
    numpy_state = dict(state["numpy"])
    inner = numpy_state["state"]
    key = np.array(inner["key"], np.uint32)
    np.random.set_state({**numpy_state, "state": {"key": key, "pos": inner["pos"]}})  # noqa: NPY002 - as above
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(list(state["cuda"]))
