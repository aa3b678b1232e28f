"""Comparison of forms: episodes of several turns, and the measurement of speed."""

import json

import numpy as np
import pytest
import torch

import rlalign
from rlalign.evaluation.evaluate import Evaluation
from rlalign.export import compare_forms as module
from rlalign.export import engine as engine_module
from rlalign.export.comparison_files import draw, write_markdown
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


def test_a_token_that_the_policy_never_draws_makes_the_kl_infinite(tmp_path):
    kl = np.array([[0.1, np.inf], [0.2, 0.3], [0.1, 0.1]])
    metrics = {"reward": np.ones((3, 2)), "length": np.ones((3, 2)), "teacher_kl": kl, "teacher_kl_token": kl / 2}
    row = module._evaluated(Evaluation(metrics, ["a"] * 3, [["", ""]] * 3))
    assert row["kl"]["mean"] is None  # and not the mean of the other prompts
    row |= {"fidelity": {"kl": 0.1}, "bytes": 1e6, "memory": 1e6, "speed": {"1": 1.0, "64": 2.0}}
    results = {"forms": {"policy": {"metrics": {"reward": {"mean": 1.0}}}, "hf": row}}
    assert (
        "infinite: 1 completion that the policy never gives" in write_markdown(results, tmp_path / "a.md").read_text()
    )


def test_a_machine_that_can_make_no_form_has_a_table_of_reasons(tmp_path):
    results = {"forms": {"policy": {"metrics": {"reward": {"mean": 1.0}}}, "hf-int4": {"unavailable": "no mslk"}}}
    assert "- hf-int4: not measured: no mslk" in write_markdown(results, tmp_path / "a.md").read_text()
    assert draw(results, tmp_path / "a.png").stat().st_size > 0


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
