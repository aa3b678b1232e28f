"""A short run of SmolLM2 with each kind of adapter over each kind of base: size, memory, time and reward.

`adapters.py --smollm2` measures and stores them.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from rlalign.policies.factory import make_policy
from rlalign.policies.options import AdapterOptions, PolicyOptions

RUN = {"env": "rlalign/Sentiment-v0", "steps": 24}
"""The first run of README.md."""


class Clock:
    """Callback that notes the processor time at the end of each step: other work on the machine does not change it."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step(self, state: Any, metrics: Any) -> None:
        """Note the end of a step."""
        self.ends.append(time.process_time())

    def steps(self) -> list[float]:
        """Return the processor seconds of each step but the first."""
        return [end - start for start, end in pairwise(self.ends)]


def smollm2(kind: str, base: str, folder: Path) -> dict[str, Any]:
    """Return size, memory, time and reward of a run of SmolLM2.

    Args:
        kind: of the adapter; none trains every weight.
        base: none, nf4 or int8.
        folder: of the run.
    """
    import resource

    import rlalign

    settings: dict[str, Any] = {"model__adapter__kind": kind, "model__base": base}
    if kind in ("ia3", "prefix", "prompt", "adalora"):
        settings["learner__lr"] = 1e-2  # parameters of order 1, or small singular vectors
    elif kind == "none":
        settings["learner__lr"] = 1e-5
    clock = Clock()
    settings["callbacks"] = [clock]
    run = rlalign.train(RUN["env"], "smollm2", steps=RUN["steps"], output=str(folder), quiet=True, **settings)
    assert run.comparison is not None
    reward = run.comparison.differences["reward"]
    policy = make_policy(
        "smollm2",
        options=PolicyOptions(adapter=AdapterOptions(kind), base=base),  # type: ignore[arg-type]
    )
    stored: dict[int, int] = {p.data_ptr(): p.numel() * p.element_size() for p in policy.parameters()}
    return {
        "kind": kind,
        "base": base,
        "lr": settings.get("learner__lr", 1e-3),
        "steps": RUN["steps"],
        "trained": sum(p.numel() for p in policy.trainable().values()),
        "weights_mib": sum(stored.values()) / 2**20,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10,
        "processor_seconds_per_step": statistics.median(clock.steps()),
        "reward_before": run.comparison.before.mean("reward"),
        "reward_after": run.comparison.after.mean("reward"),
        "difference": [reward.mean, reward.low, reward.high],
    }


def smollm2_in_process(kind: str, base: str) -> dict[str, Any]:
    """Return `smollm2` of a process of its own, whose peak of memory is that of this cell alone."""
    with tempfile.TemporaryDirectory() as folder:
        call = f"adapter_costs.smollm2({kind!r}, {base!r}, pathlib.Path({folder!r}) / 'run')"
        code = f"import json, pathlib, adapter_costs; print(json.dumps({call}))"
        command = [sys.executable, "-c", code]
        out = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parent).stdout
    result: dict[str, Any] = json.loads(out.splitlines()[-1])
    return result
