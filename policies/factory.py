"""Policies: what speaks. Nothing here imports torch until a policy is made."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import TYPE_CHECKING

from rlalign.errors import UnknownNameError, UserError
from rlalign.policies.options import PolicyOptions
from rlalign.registry import POLICIES

if TYPE_CHECKING:
    import torch

    from rlalign.policies.base import Policy, Sampler
    from rlalign.types import Tokenizer

__all__ = ["PolicyOptions", "load", "make_policy", "make_sampler", "policy_kind"]


def make_policy(
    name: str,
    *,
    tokenizer: Tokenizer | None = None,
    options: PolicyOptions | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
    keep_reference: bool = True,
) -> Policy:
    """The policy of a registry name, a local folder or a hub id, at its start.

    Args:
        name: `smollm2`, `tiny`, `gru`, ...; or a folder that transformers or this library wrote; or a hub id.
        tokenizer: for policies from scratch, and folders without a tokenizer; a pretrained model brings its own.
        options: adapters, precision, values, sizes.
        seed: of everything that is drawn to make it.
        device: where to put it.
        keep_reference: keep what `reference_logprobs` needs.

    Raises UserError when there is no such policy, UnknownNameError when the name is nearly one of the registry's.
    """
    kind, folder = policy_kind(name), Path(name).expanduser()
    if not folder.is_dir() and kind != "pretrained":
        made: Policy = POLICIES.get(name)(
            tokenizer=tokenizer, options=options, seed=seed, device=device, keep_reference=keep_reference
        )
        return made
    from rlalign.policies.gru import load_gru
    from rlalign.policies.pretrained import pretrained
    from rlalign.policies.tabular import load_tabular

    if kind == "gru":
        return load_gru(folder, tokenizer=tokenizer, options=options, device=device, keep_reference=keep_reference)
    if kind == "tabular":
        return load_tabular(folder, tokenizer=tokenizer, device=device)
    where = str(folder) if folder.is_dir() else name
    return pretrained(
        where, tokenizer=tokenizer, options=options, seed=seed, device=device, keep_reference=keep_reference
    )


def policy_kind(name: str) -> str:
    """What a name names, without making it: a name or spec of the registry; or gru, tabular, pretrained for a folder.

    Raises UserError for what cannot be any of them. A hub id is taken at its word.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        from rlalign.policies.saved import card_of

        kind = str((card_of(folder) or {}).get("kind"))
        return kind if kind in ("gru", "tabular") else "pretrained"
    if name in POLICIES or ":" in name:
        POLICIES.get(name)
        return name
    if name.startswith((".", "/", "~")) or name.count("/") > 1:  # a hub id is org/name
        raise UserError(f"no folder '{name}': check the path of the policy")
    if "/" not in name and difflib.get_close_matches(name, list(POLICIES), cutoff=0.6):
        raise UnknownNameError("policy", name, POLICIES)
    return "pretrained"


def load(folder: Path | str, *, tokenizer: Tokenizer | None = None, device: torch.device | str = "cpu") -> Policy:
    """The policy that `save_pretrained` wrote: adapters merged, its value included, without a reference.

    `tokenizer` is needed only where the policy spoke one that neither transformers nor this library provides.
    """
    from rlalign.policies.gru import load_gru
    from rlalign.policies.pretrained import load_causal
    from rlalign.policies.saved import card_of
    from rlalign.policies.tabular import load_tabular

    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"no policy folder '{folder}'")
    kind = (card_of(folder) or {}).get("kind")
    if kind == "gru":
        return load_gru(folder, tokenizer=tokenizer, device=device)
    if kind == "tabular":
        return load_tabular(folder, tokenizer=tokenizer, device=device)
    return load_causal(folder, tokenizer=tokenizer, device=device)


def make_sampler(name: str, policy: Policy) -> Sampler:
    """The sampler of a name over a policy: "decode", our loop, or "generate", transformers.generate."""
    from rlalign.policies.sampling.sampler import make_sampler as make

    return make(name, policy)
