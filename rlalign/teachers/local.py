"""A teacher in this process: a frozen policy of a folder, a hub id or a name."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from rlalign.config.defaults import from_scratch
from rlalign.errors import UserError
from rlalign.policies.base import Policy
from rlalign.policies.factory import load, make_policy, policy_kind, policy_path
from rlalign.types import Sampling, Tokenizer


class LocalTeacher:
    """A frozen policy that scores tokens and samples.

    Args:
        policy: its parameters lose their gradient.
        name: as in the configuration.
    """

    def __init__(self, policy: Policy, name: str) -> None:
        self.policy = policy.requires_grad_(False)
        self.name = name

    @torch.no_grad()
    def reference_logprobs(self, tokens: Tensor, lengths: Tensor, action_mask: Tensor, sampling: Sampling) -> Tensor:
        """Return float32 [N, L] log-probs of the masked tokens under the teacher; 0 off the mask."""
        return self.policy.score(tokens, lengths, action_mask, sampling).logprobs


def local_teacher(name: str, tokenizer: Tokenizer, device: torch.device, *, trust_remote_code: bool) -> LocalTeacher:
    """Load a teacher, in its own dtype and without gradient.

    Args:
        name: a model folder, a run folder, a hub id, or a name of `rlalign list policies`.
        tokenizer: of the policy, for a teacher whose folder has none.
        device: of the policy.
        trust_remote_code: run the code in the teacher's repository.

    Raises:
        UserError: there is no such teacher.
    """
    return LocalTeacher(_frozen(name, tokenizer, device, trust_remote_code=trust_remote_code), name)


def check_local_teacher(name: str, *, trust_remote_code: bool) -> None:
    """Raise UserError if a teacher does not exist or has no trained weights. No weight is loaded."""
    if from_scratch(name):
        raise UserError(
            f"teacher '{name}': expected a trained model, got a policy from scratch, whose weights are random; use a "
            "model folder, a run folder or a hub id"
        )
    path = policy_path(name)
    if policy_kind(path) == "pretrained":
        from rlalign.policies.options import PolicyOptions
        from rlalign.policies.pretrained import check_pretrained, frozen_adapter

        folder = Path(path).expanduser()
        options = PolicyOptions(adapter=frozen_adapter(folder), trust_remote_code=trust_remote_code)
        check_pretrained(str(folder) if folder.is_dir() else path, options)


def _frozen(name: str, tokenizer: Tokenizer, device: torch.device, *, trust_remote_code: bool) -> Policy:
    from rlalign.policies.pretrained import load_frozen, smollm2_folder

    path = policy_path(name)
    kind = policy_kind(path)
    folder = Path(path).expanduser()
    if kind == "smollm2":
        return load_frozen(str(smollm2_folder()), tokenizer, device)
    if kind == "pretrained":
        source = str(folder) if folder.is_dir() else path
        return load_frozen(source, tokenizer, device, trust_remote_code=trust_remote_code)
    if folder.is_dir():
        return load(folder, tokenizer=tokenizer, device=device)
    return make_policy(path, tokenizer=tokenizer, device=device, keep_reference=False)
