"""The trained policy of a run, its environment and its held-out tasks: the starting point of every export."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlalign.checks.data_pass import checked_mdp
from rlalign.config.instantiate import bind, build_mdp, build_policy
from rlalign.config.schema import TrainConfig
from rlalign.envs.mdp import TextMDP
from rlalign.errors import UserError
from rlalign.evaluation.evaluate import held_out
from rlalign.evaluation.evaluate_run import restore_trained
from rlalign.policies.causal import CausalPolicy
from rlalign.policies.device import resolve_device
from rlalign.policies.factory import load, policy_kind
from rlalign.policies.model_digests import check_digests
from rlalign.policies.model_files import ModelFiles, read_headers
from rlalign.storage.newest import stored
from rlalign.types import Prompt, Split, Task


@dataclass(frozen=True)
class Source:
    """A run whose policy is exported.

    Attributes:
        run: the run folder.
        folder: its `policy/`, merged weights in transformers' format.
        config: its configuration.
        policy: the live policy: the initial policy with the trained weights of the checkpoint, adapters not merged.
        mdp: its environment, bound to the policy.
        is_live: False if the run has no checkpoint and `policy` was loaded from `folder`.
    """

    run: Path
    folder: Path
    config: TrainConfig
    policy: CausalPolicy
    mdp: TextMDP
    is_live: bool

    def tasks(self, split: Split, count: int) -> list[Task]:
        """Return held-out tasks with different prompts, at most `count`."""
        return held_out(self.mdp, split, count)

    def prompts(self, tasks: list[Task]) -> list[Prompt]:
        """Return the prompts of tasks as the policy reads them: texts, or messages for the chat template."""
        return [self.mdp.policy_prompt(task) for task in tasks]

    def has_tasks(self, split: Split) -> bool:
        """Return True if a split has tasks."""
        return self.mdp.source.size(split) != 0

    def contexts(self, tasks: list[Task]) -> list[list[int]]:
        """Return the token ids of the prompts of tasks."""
        return [self.mdp.prompt_ids(task) for task in tasks]


def policy_folder(run: Path) -> Path:
    """Return `policy/` of a run whose policy can be exported.

    Raises:
        UserError: the run has written no policy yet, or one that is no causal language model of transformers.
    """
    folder = run / "policy"
    if not folder.is_dir():
        raise UserError(f"'{run}' has no policy yet; finish it with rlalign train --resume {run}")
    kind = policy_kind(str(folder))
    if kind != "pretrained":
        raise UserError(
            f"'{run}': expected a causal language model, which other engines load, got a policy of kind {kind}; train "
            "with --policy tiny, smollm2 or a folder"
        )
    files = ModelFiles(str(folder))
    content = files.read_json("config.json")
    if content is None and files.read_json("adapter_config.json") is not None:
        raise UserError(
            f"'{folder}': expected weights that stand alone, got virtual tokens (prefix or prompt), which cannot be "
            "merged into weights and which llama.cpp does not load; use policy/ with peft: it is a peft adapter, "
            "verified when it was saved"
        )
    if content is None:
        raise UserError(
            f"'{folder}': expected merged weights with a config.json, got none; use rlalign train --resume {run}"
        )
    read_headers(files.weight_files(), str(folder))  # names a file that is missing or cut
    check_digests(files)
    if "auto_map" in content:
        raise UserError(
            f"'{folder}': expected a model of transformers' own classes, got one with code of its own, which "
            "a fresh process does not run; load policy/ with trust_remote_code=True"
        )
    return folder


def model_type(folder: Path) -> str:
    """Return the family of a model folder, in transformers' names."""
    return str((ModelFiles(str(folder)).read_json("config.json") or {}).get("model_type"))


def open_source(run: Path, config: TrainConfig, *, env: TextMDP | None = None, rewards: Any = None) -> Source:
    """Return the live policy of a run with its environment.

    Args:
        run: the run folder.
        config: its configuration.
        env, rewards: objects that the run was trained with and that no name rebuilds.

    Raises:
        UserError: the policy cannot be exported, or the environment cannot be built.
    """
    folder = policy_folder(run)
    mdp = build_mdp(config, env=env, rewards=rewards)
    is_live = bool(stored(run / "checkpoints"))
    if is_live:
        policy, mdp = build_policy(config, mdp)
        restore_trained(policy, run)
    else:
        policy = load(folder, tokenizer=mdp.tokenizer, device=resolve_device(config.device))
        mdp = bind(mdp, policy, config.rollout.chat_template)
    if config.on_bad_record == "drop":
        mdp = checked_mdp(config, mdp, policy)
    assert isinstance(policy, CausalPolicy)  # of `policy_folder`
    return Source(run, folder, config, policy, mdp, is_live)
