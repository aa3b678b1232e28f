"""Sizes beyond this machine's memory: estimated from below, and refused with the numbers before any allocation."""

from __future__ import annotations

import math
import os
from pathlib import Path

from rlalign.config.defaults import from_scratch
from rlalign.config.schema import TrainConfig
from rlalign.envs.longest_prompt import is_known
from rlalign.envs.mdp import TextMDP
from rlalign.envs.mixture.parts import parts_of
from rlalign.errors import UserError

_BYTES_PER_TOKEN = 8  # the id alone, int64
_BYTES_PER_SEQUENCE = 1024  # episode, texts and rewards as Python objects
_BYTES_PER_WEIGHT = 16  # float32 weight, gradient and two moments of AdamW


def check_sizes(config: TrainConfig, mdp: TextMDP, *, early: bool = False) -> None:
    """Raise UserError if the rollouts, the evaluations or a policy from scratch need more memory than there is.

    Args:
        config: a validated configuration.
        mdp: its environment, which gives the longest context and the vocabulary.
        early: as for `check_sequences`.
    """
    rollout, evaluation = config.rollout, config.evaluation
    check_sequences(
        mdp,
        config.samples_per_step,
        f"rollout.prompts {rollout.prompts} × rollout.group_size {rollout.group_size}",
        "--rollout.prompts, --rollout.group-size or --rollout.max-new",
        early=early,
    )
    check_evaluation(mdp, evaluation.split, evaluation.prompts, evaluation.samples, early=early)
    if from_scratch(config.policy) and config.policy != "tabular":
        _check_weights(config, mdp.tokenizer.vocab_size)


def check_evaluation(mdp: TextMDP, split: str, prompts: int, samples: int, *, early: bool = False) -> None:
    """Raise UserError if the completions of an evaluation need more memory than there is.

    Args:
        mdp: the environment.
        split: of the prompts, of which there may be fewer than `prompts`.
        prompts: number of prompts.
        samples: completions per prompt.
        early: as for `check_sequences`.
    """
    sizes = [part.source.size(split) for part in parts_of(mdp).values()]  # type: ignore[arg-type]  # one of the three
    prompts = sum(prompts if size is None else min(prompts, size) for size in sizes)
    name = f"evaluation.prompts {prompts} × evaluation.samples {samples}"
    check_sequences(mdp, prompts * samples, name, "prompts or samples of the evaluation", early=early)


def check_sequences(mdp: TextMDP, count: int, name: str, settings: str, *, early: bool = False) -> None:
    """Raise UserError if `count` sequences of the environment need more memory than there is.

    Args:
        mdp: the environment.
        count: number of sequences.
        name: of the product that is `count`, for the message.
        settings: that make it smaller, for the message.
        early: leave out the prompts of data whose longest one is not known yet, which only a pass over the data tells.
    """
    length = mdp.max_generated if early and not is_known(mdp) else mdp.max_context
    needed = count * (_BYTES_PER_SEQUENCE + _BYTES_PER_TOKEN * length)
    if needed > memory_bytes():
        raise UserError(
            f"{name} = {count:,} sequences of up to {length:,} tokens need at least {_shown(needed)}, and this machine "
            f"has {_shown(memory_bytes())}; use fewer {settings}"
        )


def _check_weights(config: TrainConfig, vocabulary: int) -> None:
    width, layers = config.model.hidden_size, config.model.layers if config.policy == "tiny" else 1
    # a layer of tiny has 16 d² weights (attention 4, MLP of width 4 d with a gate 12), a GRU 6 d²
    weights = (16 if config.policy == "tiny" else 6) * layers * width**2 + 2 * vocabulary * width
    needed = weights * _BYTES_PER_WEIGHT
    if needed > memory_bytes():
        raise UserError(
            f"model.hidden_size {width} with {layers} layers is a policy of {weights:,} weights, which need at least "
            f"{_shown(needed)} with gradient and moments, and this machine has {_shown(memory_bytes())}; use a smaller "
            "--model.hidden-size or --model.layers"
        )


def memory_bytes(limit: Path = Path("/sys/fs/cgroup/memory.max")) -> float:
    """Return the memory of this machine or of its container; infinity if the system does not state it.

    Args:
        limit: cgroup file with the limit of the container in bytes, or `max`.
    """
    total = math.inf
    names = os.sysconf_names
    if "SC_PHYS_PAGES" in names and "SC_PAGE_SIZE" in names:
        total = float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    text = limit.read_text().strip() if limit.is_file() else "max"
    return total if text == "max" else min(total, float(text))


def _shown(count: float) -> str:
    """Return a number of bytes with three digits, as in 37.3 TiB."""
    for unit in ("GiB", "TiB", "PiB"):
        count /= 1024 if unit != "GiB" else 2**30
        if count < 1024:
            break
    return f"{count:,.3g} {unit}"
