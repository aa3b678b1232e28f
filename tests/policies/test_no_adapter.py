"""Adapters and quantized bases of policies that have no layers for them: refused by name and for a saved folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rlalign.config.defaults import default_config
from rlalign.config.instantiate import build_mdp, check_policy
from rlalign.config.serialize import update
from rlalign.errors import UserError
from rlalign.policies.factory import make_policy
from rlalign.policies.options import AdapterOptions, PolicyOptions
from rlalign.tokenizers import CharTokenizer

ADAPTERS: list[tuple[dict[str, Any], str]] = [
    ({"adapter": AdapterOptions("lora")}, "expected adapter.kind none, .* got LoRA of rank 8"),
    ({"adapter": AdapterOptions(r=2)}, "expected adapter.kind none, .* got LoRA of rank 2"),
    ({"adapter": AdapterOptions("prefix")}, "expected adapter.kind none, .* got prefix of 16 virtual tokens"),
    ({"base": "nf4"}, "expected base none, .* got nf4"),
]


@pytest.mark.parametrize("kind", ["gru", "tabular"])
@pytest.mark.parametrize(("options", "message"), ADAPTERS)
def test_a_policy_without_layers_for_adapters_refuses_them_also_when_it_was_saved(
    tmp_path: Path, kind: str, options: dict[str, Any], message: str
) -> None:
    tokenizer = CharTokenizer("ab")
    make_policy(kind, tokenizer=tokenizer).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=f"policy '{kind}': {message}"):
        make_policy(kind, tokenizer=tokenizer, options=PolicyOptions(**options))
    with pytest.raises(UserError, match=f"policy '{tmp_path}', a saved {kind}: {message}"):
        make_policy(str(tmp_path), tokenizer=tokenizer, options=PolicyOptions(**options))
    make_policy(str(tmp_path), tokenizer=tokenizer, options=PolicyOptions())


def test_the_check_of_a_configuration_refuses_an_adapter_of_a_saved_policy(tmp_path: Path) -> None:
    config = update(default_config("reverse", "gru"), {"model.hidden_size": 16})
    mdp = build_mdp(config)
    make_policy("gru", tokenizer=mdp.tokenizer).save_pretrained(tmp_path)
    check_policy(update(config, {"policy": str(tmp_path)}), mdp)
    with pytest.raises(UserError, match=r"a saved gru: expected adapter.kind none"):
        check_policy(update(config, {"policy": str(tmp_path), "model.adapter.kind": "lora"}), mdp)


def test_targets_that_the_model_does_not_have_are_refused_with_names_of_its_layers() -> None:
    options = PolicyOptions(adapter=AdapterOptions("lora", targets="nolayer"), hidden_size=16)
    with pytest.raises(UserError, match="all-linear, or some of q_proj, k_proj, v_proj, o_proj, gate_proj"):
        make_policy("tiny", tokenizer=CharTokenizer("ab"), options=options)
