"""The checks of a policy: each path through its model against plain forward passes of each row alone."""

from __future__ import annotations

from typing import Any

from rlalign.checks.invariant import CheckResult
from rlalign.envs.registration import make_mdp
from rlalign.errors import UserError
from rlalign.policies.factory import PolicyOptions, make_policy, policy_kind
from rlalign.policies.options import AdapterOptions

_ENVIRONMENT = "reverse"
"""Environment whose tokenizer a policy without one of its own gets."""


def check_policy(name: str) -> list[CheckResult]:
    """Prove the paths of a policy with LoRA adapters and with full fine-tuning; see `rlalign.policies.path_check`.

    Args:
        name: a folder, a hub id or a name of `rlalign list policies`.

    Returns:
        A result for each path that is taken, with its differences, and for each faster one the reason against it. A
        policy that is refused has one result, which has not passed.

    Raises:
        UserError: no such policy exists.

    Example:
        >>> all(result.passed for result in check_policy("tiny"))
        True
    """
    if policy_kind(name) in ("gru", "tabular"):
        return [CheckResult("paths", True, "this kind of policy has one way to score and one to decode")]
    results = []
    for kind, rank in (("LoRA", 8), ("full fine-tuning", 0)):
        options = PolicyOptions(adapter=AdapterOptions.lora(rank))
        try:
            policy: Any = make_policy(name, tokenizer=make_mdp(_ENVIRONMENT).tokenizer, options=options)
        except UserError as error:
            results.append(CheckResult(kind, False, str(error)))
            continue
        for trial in policy.path_verdict.trials:
            detail = f"not used: {trial.reason}" if trial.reason else trial.differences
            results.append(CheckResult(f"{kind}: {trial.path}", True, detail))
    return results
