"""Comparison of forms: episodes of several turns, and the measurement of speed."""

import json

import pytest
import torch

import rlalign
from rlalign.export import compare_forms as module
from rlalign.export import engine as engine_module
from rlalign.export.engine import Engine
from rlalign.export.source import open_source

SMALL = {
    "steps": 1, "rollout__prompts": 2, "rollout__group_size": 2, "evaluation__prompts": 4, "evaluation__samples": 2,
    "quiet": True,
}  # fmt: skip


def test_a_game_of_several_turns_is_compared(tmp_path, monkeypatch):
    pytest.importorskip("xllamacpp")
    run = rlalign.train("guess_number", "tiny", output=tmp_path / "run", **SMALL)
    contexts = []

    class Recorded(Engine):
        def __init__(self, *args, **kwargs):
            contexts.append(kwargs["context"])
            super().__init__(*args, **kwargs)

    monkeypatch.setattr(module, "Engine", Recorded)
    results = run.compare_forms(prompts=4, samples=2, forms=["gguf-f32"])
    row = results["forms"]["gguf-f32"]
    assert set(row["metrics"]) == {"reward", "won", "turns"}
    assert row["metrics"]["turns"]["mean"] > 1
    # k1 over the tokens of every turn, whose contexts hold messages of the environment: each log-ratio is rounding
    assert abs(row["kl"]["mean"]) < 5e-3
    source = open_source(run.folder, run.config)
    # room for one episode, not for the positions of the model: 64 rows of SmolLM2's would take 12 GB
    assert max(contexts) < source.mdp.max_context + 64 < source.policy.max_positions
    assert results["settings"]["threads"] == torch.get_num_threads()


def test_figures_of_other_threads_are_not_read_back(tmp_path):
    settings = {"prompts": 4, "threads": 2}
    (tmp_path / "report").mkdir()
    stored = {"settings": settings, "forms": {"policy": {}}}
    (tmp_path / "report" / module.RESULTS).write_text(json.dumps(stored))
    assert module._stored(tmp_path, settings) == stored
    assert module._stored(tmp_path, {**settings, "threads": 1})["forms"] == {}


def test_speed_is_the_median_without_the_first_call(monkeypatch):
    seconds = iter([100.0, 1.0, 5.0, 2.0])
    clock = [0.0]
    counts = []

    def ask(request):
        counts.append(request["count"])
        clock[0] += next(seconds)
        return {}

    engine = object.__new__(Engine)
    engine._ask = ask
    monkeypatch.setattr(engine_module.time, "perf_counter", lambda: clock[0])
    assert engine.speed([1], rows=4, count=10, repeats=3) == 4 * 10 / 2
    assert counts == [2, 10, 10, 10]
