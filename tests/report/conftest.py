"""A constructed study with every part that a report can show, and a browser to open reports in."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlalign.compare.results.schema import (
    BUDGETS,
    Aggregate,
    AlgorithmResult,
    Curve,
    EnvResult,
    Estimate,
    Failure,
    Manifest,
    Pair,
    Profile,
    Results,
    Sample,
    SettingDifference,
    Spread,
    ToThreshold,
    Tuning,
)  # fmt: skip

LEVELS = {"reinforce": 0.62, "rloo": 1.02, "grpo": 0.86, "ppo": 0.93, "trl:grpo": 0.84}
HOSTILE = "<script>document.title='broken'</script><img src=x onerror=alert(1)>&amp;\x00\u202e\"'"


def estimate(value: float, half: float = 0.08) -> Estimate:
    return Estimate(value, value - half, value + half, "Student's t")


def algorithm_result(rng: np.random.Generator, level: float, seeds: int, scale: float) -> AlgorithmResult:
    step = list(range(0, 201, 10))
    tops = level * scale + rng.normal(0, 0.09 * scale, seeds)
    curves = []
    for top in tops:  # a saturating curve per seed, with noise
        reward = [0.05 * scale + (top - 0.05 * scale) * (1 - np.exp(-i / 60)) + rng.normal(0, 0.02) for i in step]
        kl = [0.0, *(1.2 + 4 * level * (1 - np.exp(-i / 80)) + rng.normal(0, 0.1) for i in step[1:])]
        budget = [i * 128.0 for i in step]
        tokens = [b * 4.6 for b in budget]
        curves.append(Curve(step, budget, tokens, [float(i) for i in step], [i * 0.021 for i in step], reward, kl))
    final = [[float(t + rng.normal(0, 0.1)) for _ in range(16)] for t in tops]
    start = [[0.05 * scale] * 16 for _ in tops]
    tau = np.linspace(0, 1.3 * scale, 60)
    share = (tops[:, None] > tau).mean(0)
    mean = float(np.mean(tops))
    to = ToThreshold([6400.0] * seeds, [True] * (seeds - 1) + [False], 6400.0, estimate(6800.0, 900.0))
    return AlgorithmResult(
        final=final, start=start, failed=[False] * seeds, mean=estimate(mean), iqm=estimate(mean + 0.01),
        median=Estimate(mean - 0.01, mean - 0.13, mean + 0.1, "order statistics"), gain=estimate(mean - 0.05 * scale),
        spread=Spread(0.09, 0.04, 0.11), metrics={"kl": estimate(4.2, 0.3), "length": estimate(4.6, 0.1)},
        curves=curves, auc={b: estimate(mean * 0.7) for b in BUDGETS}, auc_seeds={b: [0.6] * seeds for b in BUDGETS},
        to_threshold=dict.fromkeys(BUDGETS, to),
        profile=Profile(tau.tolist(), *(v.clip(0, 1).tolist() for v in (share, share - 0.12, share + 0.12))),
        at_equal_kl=estimate(mean * 0.9),
    )  # fmt: skip


def environment(seed: int, algorithms: list[str], seeds: int, scale: float) -> EnvResult:
    """Return constructed results of one environment; `scale` stretches its rewards."""
    rng = np.random.default_rng(seed)
    results = {a: algorithm_result(rng, LEVELS[a], seeds, scale) for a in algorithms}
    pairs = []
    for i, a in enumerate(algorithms):
        for b in algorithms[i + 1 :]:
            d = (LEVELS[a] - LEVELS[b]) * scale
            clear = abs(d) > 0.12 * scale
            winner = (a if d > 0 else b) if clear else None
            pairs.append(
                Pair(
                    a, b, estimate(d, 0.1 * scale), 0.0004 if clear else 0.21, 0.004 if clear else 0.63,
                    estimate(0.5 + d / (2 * scale), 0.1), 0.13, winner, {}, estimate(d * 0.8, 0.12), {},
                    f"{a} − {b} in words",
                )
            )  # fmt: skip
    completions = {a: ("cba" if LEVELS[a] > 0.9 else "cbb") for a in algorithms}
    samples = [
        Sample("abc>", 0, "ddaa", completions, {a: LEVELS[a] for a in algorithms}),
        Sample(HOSTILE, 1, HOSTILE, dict.fromkeys(algorithms, HOSTILE), dict.fromkeys(algorithms)),
        Sample("dc>", 0, "", dict.fromkeys(algorithms, "cd " * 400), dict.fromkeys(algorithms, 0.5)),
    ]
    return EnvResult(
        200, 128, ["abc>"] * 64, "test", "held-out reward", 0.5 * scale, "half the way to the best algorithm's mean",
        3.0, (0.05, 1.2), results, pairs, samples,
    )  # fmt: skip


def make_study(seeds: int = 10) -> Results:
    """Return the constructed study of five algorithms on three environments."""
    names = list(LEVELS)
    envs = {
        "reverse": environment(0, names, seeds, 1.0),
        "sentiment": environment(1, names, seeds, 0.6),
        "copy-with-a-long-name": environment(2, names, seeds, 1.4),
    }
    overall = {a: estimate(LEVELS[a]) for a in names}
    aggregate = Aggregate(overall, overall, overall, {a: envs["reverse"].algorithms[a].profile for a in names})
    crashed = Failure("reverse", "grpo", 3, "cells/reverse/grpo/seed-3", f"FaultError: not finite {HOSTILE}")
    space = {"learner.lr": "log:1e-4:1e-2"}
    best = {"learner.lr": "0.003"}
    axes = ["ema", "leave_one_out", "group_mean", "value", "group_mean"]
    return Results(
        title="Five algorithms on three environments",
        verdict=[
            "On reverse, rloo ends above reinforce, grpo and trl:grpo: its held-out reward is higher by 0.16 to 0.40 "
            "(95 % CI, Holm-corrected p < 0.01).",
            "Between rloo and ppo no difference can be claimed.",
            "A true difference below 0.13 could have gone unseen.",
        ],
        warnings=["1 of 150 cells failed and is scored as the initial policy: reverse, grpo, seed 3"],
        algorithms=names,
        seeds=list(range(seeds)),
        environments=envs,
        aggregate=aggregate,
        differences=[
            SettingDifference("objective.baseline", True, dict(zip(names, axes, strict=True))),
            SettingDifference("learner.epochs", False, {a: "4" if a == "ppo" else "1" for a in names}),
        ],
        failures=[crashed],
        excluded=[replace(crashed, seed=4, reason="another budget: 100 steps, the others have 200")],
        tuning=[Tuning("reverse", a, 20, 6, 0, 1_000_000, space, best, 0.8, 0.35) for a in names],
        manifest=Manifest(
            "rlalign compare --algorithms reinforce,rloo,grpo,ppo,trl:grpo --envs reverse,sentiment --seeds 10 "
            "--output runs/cmp",
            "2026-01-01T12:00:00Z", "tiny", {"rlalign": "0.1.0", "torch": "2.13.0", "trl": "1.16.0"},
            {"cpu": "a processor", "cores": "2", "device": "cpu"}, "0123abcdef", "f" * 64, 5123.0,
        ),
    )  # fmt: skip


@pytest.fixture(scope="session")
def study() -> Results:
    return make_study()


@pytest.fixture(scope="session")
def study_of() -> Callable[[int], Results]:
    """Return a function: number of seeds -> the study."""
    return make_study


class Browser:
    """Headless Chromium over its debugging pipe: opens files, records events, evaluates scripts, takes screenshots."""

    def __init__(self, program: str, profile: Path) -> None:
        command, answers = os.pipe(), os.pipe()

        def wire() -> None:  # Chromium reads commands from descriptor 3 and answers on 4
            spare = os.dup(command[0]), os.dup(answers[1])
            os.dup2(spare[0], 3)
            os.dup2(spare[1], 4)

        flags = (
            "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
            "--disable-component-update --disable-sync --hide-scrollbars --remote-debugging-pipe"
        )
        self._process = subprocess.Popen(
            [program, *flags.split(), f"--user-data-dir={profile}", "about:blank"],
            preexec_fn=wire, pass_fds=(3, 4), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(command[0])
        os.close(answers[1])
        self._out, self._in = os.fdopen(command[1], "wb"), os.fdopen(answers[0], "rb")
        self._buffer, self._id, self.events = b"", 0, []  # type: ignore[var-annotated]  # events of all kinds
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.ask(f"{domain}.enable")

    def open(self, path: Path, *, width: int = 1440, height: int = 900, dark: bool = False) -> None:
        """Load a file and wait until it is loaded and painted."""
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[scheme])
        self.events.clear()
        self.ask("Page.navigate", url=path.as_uri())
        while not any(e["method"] == "Page.loadEventFired" for e in self.events):
            self._read()
        self.value("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def value(self, expression: str) -> Any:
        """Return the value of a JavaScript expression."""
        answer = self.ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        return answer["result"].get("value")

    def picture(self, path: Path) -> None:
        """Write the page as a PNG."""
        answer = self.ask("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(answer["data"]))

    def of(self, *methods: str) -> list[dict[str, Any]]:
        """Return the parameters of the events since the page was opened."""
        return [e["params"] for e in self.events if e["method"] in methods]

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        return self._ask(method, session=self._session, **params)

    def _ask(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        self._id += 1
        message = {"id": self._id, "method": method, "params": params} | ({"sessionId": session} if session else {})
        self._out.write(json.dumps(message).encode() + b"\0")
        self._out.flush()
        while (answer := self._read()).get("id") != self._id:
            pass
        assert "error" not in answer, answer
        return answer["result"]

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            more = os.read(self._in.fileno(), 1 << 16)
            if not more:
                raise AssertionError("the browser has exited")
            self._buffer += more
        line, _, self._buffer = self._buffer.partition(b"\0")
        message = json.loads(line)
        if "method" in message:
            self.events.append(message)
        return message

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()
        self._out.close()
        self._in.close()


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    opened = Browser(program, tmp_path_factory.mktemp("chromium"))
    yield opened
    opened.close()
