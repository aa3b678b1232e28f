"""What surrounds a trainer of TRL: a silent console, the model's special ids, a reference policy, and its removal."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

from rlalign.envs.mdp import TextMDP
from rlalign.policies.causal import CausalPolicy


def detach(policy: CausalPolicy) -> None:
    """Remove what TRL's trainers leave in a model: patched forwards and a copy of the adapter."""
    # TRL replaces the model's forward by one with a fused head, and accelerate wraps one in autocast.
    # Neither must become part of a saved or copied model.
    for model in (policy.lm, policy.model):
        for name in ("forward", "_original_forward"):
            model.__dict__.pop(name, None)
    if "ref" in getattr(policy.model, "peft_config", {}):
        policy.model.delete_adapter("ref")  # TRL's copy of the initial adapter
    policy.eval()


@contextlib.contextmanager
def stop_ids(lm: Any, mdp: TextMDP) -> Iterator[None]:
    """End the completions of transformers.generate at the environment's stop ids, and restore the model's special ids.

    TRL and the trainer of transformers also write the ids of their tokenizer into both configurations, which the policy
    folder would then contain in place of the model's own.
    """
    configs = (lm.config, lm.generation_config)
    keys = ("bos_token_id", "eos_token_id", "pad_token_id")
    own = [(config, key, getattr(config, key)) for config in configs for key in keys if hasattr(config, key)]
    lm.generation_config.eos_token_id = sorted(mdp.stop_ids)
    try:
        yield
    finally:
        for config, key, value in own:
            setattr(config, key, value)


@contextlib.contextmanager
def reference_on_disk(policy: CausalPolicy, folder: str, beta: float) -> Iterator[None]:
    """Save the initial model to `folder` for TRL's reference policy, and name the model after that folder meanwhile.

    TRL loads the reference by the model's name, and the name of a model in memory need not point to its weights.
    """
    if beta == 0.0 or policy.model is not policy.lm:  # TRL needs no reference, or disables the adapter to get it
        yield
        return
    name = policy.lm.config._name_or_path
    policy.lm.save_pretrained(folder)
    policy.lm.config._name_or_path = policy.lm.name_or_path = folder
    try:
        yield
    finally:
        policy.lm.config._name_or_path = policy.lm.name_or_path = name


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """Silence the log messages, progress bars and warnings of transformers and TRL."""
    from transformers.utils import logging

    level, shown = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # untyped in transformers
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # untyped in transformers
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]  # untyped in transformers
