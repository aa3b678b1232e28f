"""Settings of adapters and bases: former names, refused combinations, and the fingerprint of earlier runs."""

import pytest

from rlalign.cli.arguments import settings_flags
from rlalign.config.overrides import apply
from rlalign.config.schema import TrainConfig
from rlalign.config.serialize import FORMAT, fingerprint, from_json, unsafe, update
from rlalign.errors import UserError
from rlalign.policies.options import AdapterOptions, PolicyOptions

FINGERPRINTS = ["428936bf988c0e0f", "a4a7cda4be86420e", "279c1570ea7029d3"]
"""Of the version before the group `model.adapter`, with lora_r None, 4 and 0."""


@pytest.mark.parametrize(
    ("stored", "adapter"),
    [
        ({"lora_r": None, "lora_alpha": 16}, AdapterOptions()),
        ({"lora_r": 0, "lora_alpha": 32}, AdapterOptions("none", alpha=32)),
        ({"lora_r": 4, "lora_alpha": 8}, AdapterOptions(r=4, alpha=8)),
        ({"adapter": {"kind": "dora", "r": 3}}, AdapterOptions("dora", r=3)),
    ],
)
def test_a_configuration_of_before_the_group_is_read(stored, adapter):
    assert from_json({"format": FORMAT, "model": stored}).model.adapter == adapter
    assert from_json({"model": stored}).model.adapter == adapter  # the first format


def test_former_names_of_python_and_files_are_those_of_today():
    config = update(TrainConfig(), {"model.lora_r": 4, "model.lora_alpha": 8})
    assert config.model.adapter == AdapterOptions(r=4, alpha=8)
    assert apply(TrainConfig(), {"model.lora_r": 0}).model.adapter.kind == "none"
    assert apply(TrainConfig(), {"lora_r": "2"}).model.adapter.r == 2


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--model.lora-r", "4", "--steps", "2"], ["--model.adapter.r", "4", "--steps", "2"]),
        (["--model.lora_r=0"], ["--model.adapter.kind", "none"]),
        (["--model.lora-alpha=8", "--model.lora-r=2"], ["--model.adapter.alpha", "8", "--model.adapter.r", "2"]),
    ],
)
def test_former_flags_are_those_of_today(words, expected):
    assert settings_flags(words) == expected


def test_the_fingerprint_of_lora_is_that_of_earlier_versions():
    assert [fingerprint(update(TrainConfig(), {"model.lora_r": r}))[:16] for r in (None, 4, 0)] == FINGERPRINTS
    same = update(TrainConfig(), {"model.adapter.kind": "lora", "model.adapter.r": 4})
    assert fingerprint(same)[:16] == FINGERPRINTS[1]
    for key, value in (
        ("model.adapter.kind", "dora"),
        ("model.adapter.alpha", 8),
        ("model.adapter.targets", "q_proj"),
        ("model.base", "nf4"),
    ):
        assert fingerprint(update(same, {key: value})) != fingerprint(same)


def test_another_number_of_steps_is_another_experiment_with_a_schedule_of_ranks():
    config = update(TrainConfig(), {"model.adapter.kind": "adalora"})
    assert unsafe("steps", config)
    assert fingerprint(update(config, {"steps": 7})) != fingerprint(config)
    assert not unsafe("steps", update(config, {"model.adapter.kind": "dora"}))


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: AdapterOptions("none", r=4), "adapter.r 4: expected a kind of adapter, got none"),
        (lambda: AdapterOptions(r=0), "--model.adapter.kind none to train every weight"),
        (lambda: AdapterOptions("dorra"), "unknown adapter.kind 'dorra'. Did you mean 'dora'"),
        (lambda: AdapterOptions(targets="q_proj,"), "expected names of layers"),
        (lambda: AdapterOptions("prefix", tokens=0), "adapter.tokens: expected at least 1"),
        (lambda: PolicyOptions(base="nf5"), "unknown base 'nf5'"),
        (lambda: PolicyOptions(base="nf4", adapter=AdapterOptions("none")), "expected an adapter over the quantized"),
        (lambda: PolicyOptions(adapter=AdapterOptions("prefix"), gradient_checkpointing=True), "checkpointed layers"),
        (lambda: PolicyOptions(adapter=AdapterOptions("prompt"), value="model"), "use --objective.value.kind head"),
    ],
)
def test_what_cannot_be_trained_is_refused(build, words):
    with pytest.raises(UserError, match=words):
        build()


def test_an_open_kind_is_resolved():
    assert AdapterOptions().resolved("lora") == AdapterOptions("lora", r=8)
    assert AdapterOptions().resolved("none") == AdapterOptions("none")
    assert AdapterOptions(r=2).resolved("none") == AdapterOptions("lora", r=2)
    assert AdapterOptions("ia3").resolved("lora") == AdapterOptions("ia3")
