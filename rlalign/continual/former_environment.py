"""The environment of a former run with its rewards, for the policy of the run that continues it."""

from __future__ import annotations

from pathlib import Path

from rlalign.checks.data_pass import checked_mdp
from rlalign.config.instantiate import bind, build_mdp
from rlalign.config.schema import TrainConfig
from rlalign.continual.former_shares import steps_done, with_former_shares
from rlalign.envs.mdp import TextMDP
from rlalign.errors import UserError
from rlalign.escaping.console import PlainConsole
from rlalign.policies.base import Policy
from rlalign.storage.trust import check_trust


def former_mdp(folder: Path, config: TrainConfig, policy: Policy, console: PlainConsole, *, trust: bool) -> TextMDP:
    """Return the environment of a former run, bound to a policy and its tokenizer.

    A mixture has the shares that its environments had in the steps that the former run did.

    Args:
        folder: of the former run.
        config: its configuration.
        policy: of the run that continues it.
        console: prints a warning for each file of it that differs from the one that the former run read.
        trust: the user trusts the folder (`--trust-run`).

    Raises:
        UserError: the configuration names a Python object, or code of a folder that is not trusted.
    """
    for change in check_trust(folder, config, trust=trust):
        if not change.role.startswith(("policy ", "hub ")):
            console.warn(f"changed since '{folder}' was trained: {change}")
    try:
        mdp = bind(build_mdp(config), policy, config.rollout.chat_template)
    except UserError as error:
        raise UserError(f"the environment of '{folder}': {error}") from error
    if config.on_bad_record == "drop":
        mdp = checked_mdp(config, mdp, policy)
    return with_former_shares(mdp, config, steps_done(folder, config))
