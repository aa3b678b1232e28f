"""Measures on held-out pairs and labels, against plain forward passes of each completion."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import rlalign
from rlalign.config.defaults import default_config
from rlalign.config.instantiate import build_mdp, build_policy
from rlalign.config.schema import RecordedConfig
from rlalign.config.serialize import update
from rlalign.recorded import held_out
from rlalign.recorded.held_out import held_out_metrics, held_out_values
from rlalign.recorded.read import read_recorded

ROWS = [("ab>", "ba", "a"), ("cd>", "dc", "dd"), ("d>", "d", "ccc")]


@pytest.mark.parametrize("algorithm", ["dpo", "kto"])
def test_the_measures_are_those_of_plain_forward_passes(tmp_path, algorithm) -> None:
    path = tmp_path / "prefs.jsonl"
    rows = [dict(zip(("prompt", "chosen", "rejected"), row, strict=True)) for row in ROWS]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = update(default_config("reverse?max_length=2", "tiny", algorithm), {"model.hidden_size": 32})
    policy, mdp = build_policy(config, build_mdp(config))
    kind = "pairs" if algorithm == "dpo" else "labels"
    groups = read_recorded(str(path), kind, mdp, algorithm=algorithm, settings=RecordedConfig(held_out=0)).train
    initial = held_out_metrics(held_out_values(policy, groups, kind, config.objective))
    assert (initial["held_out/accuracy"], initial["held_out/margin"]) == (0.5, 0)  # a margin of 0 is half an agreement
    assert initial["held_out/loss"] == pytest.approx(0.693147, abs=1e-6)
    with torch.no_grad():
        for weight in policy.trainable().values():
            weight.mul_(1.5)
    implicit, nll = [], []
    for group in groups:
        for row in group:
            ids = torch.tensor([list(row.ids)])
            with torch.no_grad():
                now, before = (model(ids).logits.log_softmax(-1) for model in (policy.lm, policy.reference))
            steps = range(row.prompt_length - 1, ids.shape[1] - 1)
            logprobs = [float(now[0, t, ids[0, t + 1]]) for t in steps]
            implicit.append(
                0.1 * sum(p - float(before[0, t, ids[0, t + 1]]) for p, t in zip(logprobs, steps, strict=True))
            )
            if row.reward:
                nll.append(-sum(logprobs) / row.num_actions)
    chosen, rejected = implicit[::2], implicit[1::2]
    margins = [a - b for a, b in zip(chosen, rejected, strict=True)] if kind == "pairs" else [
        *chosen, *(-value for value in rejected)
    ]  # fmt: skip
    metrics = held_out_metrics(held_out_values(policy, groups, kind, config.objective))
    assert metrics["held_out/margin"] == pytest.approx(sum(margins) / len(margins), abs=1e-5)
    assert metrics["held_out/accuracy"] == pytest.approx(sum(m > 0 for m in margins) / len(margins))
    assert metrics["held_out/nll"] == pytest.approx(sum(nll) / len(nll), abs=1e-5)


@pytest.mark.parametrize("algorithm", ["ipo", "simpo"])
def test_implicit_rewards_are_those_of_the_loss(tmp_path, algorithm) -> None:
    path = tmp_path / "prefs.jsonl"
    rows = [dict(zip(("prompt", "chosen", "rejected"), row, strict=True)) for row in ROWS]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"data": str(path), "steps": 1, "rollout__prompts": len(ROWS), "recorded__held_out": 0.0, "quiet": True}
    run = rlalign.train(
        "reverse?max_length=2", "gru", algorithm, output=tmp_path / "run", model__hidden_size=16, **data
    )
    config = run.config
    policy, mdp = build_policy(config, build_mdp(config))
    groups = read_recorded(str(path), "pairs", mdp, algorithm=algorithm, settings=config.recorded).train
    metrics = held_out_metrics(held_out_values(policy, groups, "pairs", config.objective))
    for name in ("margin", "accuracy"):
        assert metrics[f"held_out/{name}"] == pytest.approx(run.metrics[f"preference/{name}"][0], abs=1e-5)


def test_forward_passes_are_small_and_their_size_changes_nothing(tmp_path, monkeypatch) -> None:
    path = tmp_path / "prefs.jsonl"
    rows = [dict(zip(("prompt", "chosen", "rejected"), row, strict=True)) for row in ROWS]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = default_config("reverse?max_length=2", "gru", "dpo")
    policy, mdp = build_policy(config, build_mdp(config))
    groups = read_recorded(str(path), "pairs", mdp, algorithm="dpo", settings=RecordedConfig(held_out=0)).train
    with torch.no_grad():
        for weight in policy.trainable().values():
            weight.mul_(1.5)  # no margin is 0, whose sign rounding would decide
    whole = held_out_values(policy, groups, "pairs", config.objective)
    sizes, score = [], policy.score
    monkeypatch.setattr(policy, "score", lambda tokens, *rest: sizes.append(tokens.numel()) or score(tokens, *rest))
    monkeypatch.setattr(held_out, "_TOKENS", 14)
    parts = held_out_values(policy, groups, "pairs", config.objective)
    assert len(sizes) > 1
    assert max(sizes) <= 14
    for name, values in whole.items():
        assert np.allclose(values, parts[name], atol=1e-5)
