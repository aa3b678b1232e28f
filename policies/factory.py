"""Construction of policies and samplers from names. No function here imports torch before it builds something."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlalign.errors import UnknownNameError, UserError, did_you_mean
from rlalign.policies.model_files import is_missing_folder
from rlalign.policies.options import PolicyOptions
from rlalign.registry import POLICIES

if TYPE_CHECKING:
    import torch

    from rlalign.policies.base import Policy
    from rlalign.policies.sampling.sampler import Sampler
    from rlalign.types import Tokenizer

__all__ = ["PolicyOptions", "load", "make_policy", "make_sampler", "policy_kind"]

_SAMPLERS = ("decode", "generate")


def make_policy(
    name: str,
    *,
    tokenizer: Tokenizer | None = None,
    options: PolicyOptions | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
    keep_reference: bool = True,
) -> Policy:
    """Build the initial policy of a registry name, a local folder or a hub id.

    A policy from scratch draws its weights from the seed. A pretrained model gets LoRA adapters of rank 8 by default.

    Args:
        name: `smollm2`, `tiny`, `gru`, ...; or a folder that transformers or this library wrote; or a hub id.
            `rlalign list policies` has the names.
        tokenizer: for policies from scratch and for folders without a tokenizer; a pretrained model has its own.
        options: adapters, precision, values, sizes; the defaults of `PolicyOptions` if None.
        seed: of all random numbers drawn for the initial weights.
        device: device of the parameters.
        keep_reference: keep the data that `reference_logprobs` needs.

    Raises:
        UserError: no such policy exists.
        UnknownNameError: the name resembles a name of the registry.

    Example:
        >>> from rlalign.tokenizers import CharTokenizer
        >>> policy = make_policy("gru", tokenizer=CharTokenizer("abc"), options=PolicyOptions(hidden_size=32), seed=0)
        >>> sum(p.numel() for p in policy.trainable().values())
        6661
    """
    import torch

    from rlalign.policies.device import on_device

    with on_device(torch.device(device)):
        return _make_policy(name, tokenizer, options, seed, device, keep_reference)


def _make_policy(
    name: str,
    tokenizer: Tokenizer | None,
    options: PolicyOptions | None,
    seed: int,
    device: torch.device | str,
    keep_reference: bool,
) -> Policy:
    name = policy_path(name)
    kind = policy_kind(name)
    folder = Path(name).expanduser()
    if not folder.is_dir() and kind != "pretrained":
        arguments = {
            "tokenizer": tokenizer, "options": options, "seed": seed, "device": device,
            "keep_reference": keep_reference,
        }  # fmt: skip
        return _built_by(POLICIES.get(name), name, arguments)
    from rlalign.policies.gru import load_gru
    from rlalign.policies.pretrained import pretrained
    from rlalign.policies.tabular import load_tabular

    if kind == "gru":
        return load_gru(folder, tokenizer=tokenizer, options=options, device=device, keep_reference=keep_reference)
    if kind == "tabular":
        return load_tabular(folder, tokenizer=tokenizer, options=options, device=device)
    source = str(folder) if folder.is_dir() else name
    return pretrained(
        source, tokenizer=tokenizer, options=options, seed=seed, device=device, keep_reference=keep_reference
    )


def _built_by(function: Any, name: str, arguments: Mapping[str, Any]) -> Policy:
    """Return the policy that a function builds.

    Raises:
        UserError: the function does not take the arguments, or returns something else.
    """
    from rlalign.policies.base import Policy

    fix = f"use a function f({', '.join(arguments)}) that returns a Policy, or a name of rlalign list policies"
    try:
        inspect.signature(function).bind(**arguments)
    except TypeError as error:
        raise UserError(
            f"policy '{name}': expected a function that builds a policy, got one with {error}; {fix}"
        ) from error
    except ValueError:  # a function without a signature is tried
        pass
    policy = function(**arguments)
    if not isinstance(policy, Policy):
        raise UserError(f"policy '{name}': expected a Policy, got {type(policy).__name__}; {fix}")
    return policy


def policy_path(name: str) -> str:
    """Return the policy folder of a run folder, `runs/a/policy` for `runs/a`; any other name as it is."""
    folder = Path(name).expanduser()
    run_policy = folder / "policy"
    is_run = (folder / "config.json").is_file() and not (folder / "policy.json").is_file()
    return str(run_policy) if is_run and (run_policy / "policy.json").is_file() else name


def policy_kind(name: str) -> str:
    """Return the kind of policy that a name refers to, without building it.

    Args:
        name: as for `make_policy`.

    Returns:
        A name or spec of the registry as it is; gru, tabular or pretrained for a folder; pretrained for a hub id, whose
        existence is not checked.

    Raises:
        UserError: the name cannot be any of these.
        UnknownNameError: the name resembles a name of the registry.
    """
    folder = Path(policy_path(name)).expanduser()
    if folder.is_dir():
        from rlalign.policies.saved import read_card

        kind = str((read_card(folder) or {}).get("kind"))
        return kind if kind in ("gru", "tabular") else "pretrained"
    if name in POLICIES or ":" in name:
        POLICIES.get(name)
        return name
    if is_missing_folder(name):
        raise UserError(f"no folder '{name}'; check the path of the policy")
    if "/" not in name and difflib.get_close_matches(name, list(POLICIES), cutoff=0.6):
        raise UnknownNameError("policy", name, POLICIES)
    return "pretrained"


def load(folder: Path | str, *, tokenizer: Tokenizer | None = None, device: torch.device | str = "cpu") -> Policy:
    """Load a policy that `save_pretrained` wrote: adapters merged, with its values, without a reference.

    Args:
        folder: the policy folder.
        tokenizer: needed only if the policy's tokenizer belongs neither to transformers nor to this library.
        device: device of the parameters.

    Raises:
        UserError: the folder does not exist, or its tokenizer must be passed.

    Example:
        >>> import tempfile
        >>> from rlalign.tokenizers import CharTokenizer
        >>> policy = make_policy("gru", tokenizer=CharTokenizer("abc"))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     policy.save_pretrained(Path(folder))
        ...     loaded = load(folder)
        >>> loaded.has_reference, loaded.tokenizer.decode([2, 3, 4])
        (False, 'abc')
    """
    import torch

    from rlalign.policies.device import on_device
    from rlalign.policies.gru import load_gru
    from rlalign.policies.pretrained import load_causal
    from rlalign.policies.saved import read_card
    from rlalign.policies.tabular import load_tabular

    folder = Path(policy_path(str(folder)))
    if not folder.is_dir():
        raise UserError(f"no policy folder '{folder}'; use a folder that save_pretrained wrote")
    kind = (read_card(folder) or {}).get("kind")
    with on_device(torch.device(device)):
        if kind == "gru":
            return load_gru(folder, tokenizer=tokenizer, device=device)
        if kind == "tabular":
            return load_tabular(folder, tokenizer=tokenizer, device=device)
        return load_causal(folder, tokenizer=tokenizer, device=device)


def make_sampler(name: str, policy: Policy) -> Sampler:
    """Build a sampler of a policy.

    Args:
        name: "decode", the decode loop of this library, or "generate", transformers.generate.
        policy: the policy to draw from.

    Raises:
        UserError: the name is unknown, or transformers.generate cannot run the policy.

    Example:
        >>> import torch
        >>> from rlalign.tokenizers import CharTokenizer
        >>> from rlalign.types import Sampling
        >>> tokenizer = CharTokenizer("abc")
        >>> sampler = make_sampler("decode", make_policy("gru", tokenizer=tokenizer))
        >>> samples = sampler.sample(
        ...     [tokenizer.encode_prompt("ab")] * 4,
        ...     max_new=5,
        ...     stop_ids=frozenset({tokenizer.eos_id}),
        ...     sampling=Sampling(),
        ...     generator=torch.Generator().manual_seed(0),
        ... )
        >>> samples.lengths.tolist()
        [5, 3, 5, 2]
    """
    if name not in _SAMPLERS:
        raise UserError(f"unknown sampler '{name}'.{did_you_mean(name, _SAMPLERS)}")
    if name == "generate":
        from rlalign.policies.sampling.transformers_generate import GenerateSampler

        return GenerateSampler(policy)
    from rlalign.policies.sampling.decode_loop import DecodeSampler

    return DecodeSampler(policy)
