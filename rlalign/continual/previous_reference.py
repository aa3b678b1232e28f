"""The reference policy of a former run, for a KL that stays anchored where the former run's was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from rlalign.algorithms import algorithm
from rlalign.config.schema import TrainConfig
from rlalign.continual.chain import Link, with_parent_found
from rlalign.errors import UserError
from rlalign.policies.base import Policy
from rlalign.policies.factory import make_policy, policy_kind
from rlalign.policies.memory import loading
from rlalign.policies.options import AdapterOptions, PolicyOptions
from rlalign.storage.identity import changes, identity_of
from rlalign.storage.newest import stored_identity
from rlalign.storage.run_folder import read_config
from rlalign.storage.trust import check_trust
from rlalign.teachers.local import LocalTeacher, local_teacher
from rlalign.teachers.vocabulary import have_same_tokens
from rlalign.types import Tokenizer


def reference_run(links: Sequence[Link]) -> tuple[Path, TrainConfig]:
    """Return the former run whose initial policy is the reference policy of the newest one, and its configuration.

    The reference policy of a run with continual.anchor new is its initial policy. That of a run with previous is the
    reference policy of its own parent; of a run with both it is the older one of the two.

    Args:
        links: the chain of the run that continues, its parent first; at least one link.

    Raises:
        UserError: a run of the chain is missing, its config.json is not the recorded one, or its reference policy was a
            teacher.
    """
    for link in links:
        if link.path is None or link.config_changed:
            raise UserError(
                f"continual.anchor: expected the chain of runs as it was recorded, got another one: "
                f"{'; '.join(link.problems)}; restore it, or use --continual.anchor new"
            )
        config = read_config(link.path)
        if algorithm(config.algorithm).teacher:
            raise UserError(
                f"continual.anchor: expected a former run whose reference policy is its initial policy, got "
                f"'{link.path}' with {config.algorithm}, whose reference policy is its teacher; use --continual.anchor "
                "new"
            )
        if config.continual.anchor == "new":
            return link.path, config
    raise UserError(
        f"continual.anchor: expected the run that '{links[-1].path}' continues in its chain, got none; use "
        "--continual.anchor new"
    )


def previous_reference(links: Sequence[Link], policy: Policy, *, trust: bool) -> LocalTeacher:
    """Return the reference policy of the newest former run, frozen, without gradient.

    It is built as that run built it: from its configuration and its seed.

    Args:
        links: the chain of the run that continues, its parent first; at least one link.
        policy: of that run, whose device and vocabulary it must have.
        trust: the user trusts the folders of the chain (`--trust-run`).

    Raises:
        UserError: the chain is not as recorded, the initial policy has changed or has another vocabulary.
        FaultError: it does not fit into memory.
    """
    folder, config = reference_run(links)
    config = with_parent_found(config, folder)
    check_trust(folder, config, trust=trust)
    _check_initial_policy(folder, config)
    if difference := difference_of_start(config.model):
        raise UserError(
            f"continual.anchor: expected a former run whose initial policy is '{config.policy}' itself, got one with "
            f"{difference}; use --continual.anchor new"
        )
    fix = "--continual.anchor new, or --model.adapter.kind lora if all weights are trained"
    with loading(f"the initial policy of '{folder}' is loaded on {policy.device} beside the policy", fix):
        reference = initial_policy(config, policy.tokenizer, policy.device, trust=trust)
    if not have_same_tokens(policy.tokenizer, reference.policy.tokenizer):
        raise UserError(
            f"continual.anchor: expected a reference policy with the policy's vocabulary, got that of '{folder}' with "
            "another one; use --continual.anchor new"
        )
    return reference


def difference_of_start(model: PolicyOptions) -> str:
    """Return in what the initial policy of a run differs from the model that it names; empty: in nothing."""
    if model.adapter.is_virtual:
        return f"a drawn {model.adapter.kind}"
    return "" if model.base == "none" else f"weights in {model.base}"


def initial_policy(config: TrainConfig, tokenizer: Tokenizer, device: torch.device, *, trust: bool) -> LocalTeacher:
    """Return the initial policy of a run, frozen.

    Args:
        config: of the run.
        tokenizer: of its policy, for one from scratch or a folder without a tokenizer.
        device: of the parameters.
        trust: run the code in the repository of its policy if the run did.

    Raises:
        UserError: the files of that policy are gone.
    """
    trusted = config.model.trust_remote_code and trust
    # virtual tokens and quantized weights are those that the run built; nothing else changes the policy at its start
    options = replace(config.model, trust_remote_code=trusted)
    if not difference_of_start(config.model):
        kind = policy_kind(config.policy)
        if kind in ("pretrained", "smollm2") or Path(config.policy).expanduser().is_dir():
            return local_teacher(config.policy, tokenizer, device, trust_remote_code=trusted)
        options = replace(options, adapter=AdapterOptions("none"), value="none")
    built = make_policy(
        config.policy,
        tokenizer=tokenizer,
        options=options,
        seed=config.seed,
        device=device,
        keep_reference=False,
    )
    return LocalTeacher(built, config.policy)


def _check_initial_policy(folder: Path, config: TrainConfig) -> None:
    """Raise UserError if the files of a run's initial policy are not those that the run started with."""

    def of_policy(identity: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
        return {role: entry for role, entry in identity.items() if role.startswith(("policy ", "hub "))}

    changed = changes(of_policy(stored_identity(folder)), of_policy(identity_of(config)))
    if changed:
        raise UserError(
            f"continual.anchor: expected the initial policy of '{folder}' as it was, got another one: {changed[0]}; "
            "restore it, or use --continual.anchor new"
        )
