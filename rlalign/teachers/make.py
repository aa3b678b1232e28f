"""The teacher of a run, checked against its policy before the first step."""

from __future__ import annotations

from rlalign.algorithms import algorithm as find_algorithm
from rlalign.config.schema import TrainConfig
from rlalign.envs.mdp import TextMDP
from rlalign.errors import UserError
from rlalign.policies.base import Policy
from rlalign.policies.memory import loading
from rlalign.rewards.reward_model.function import is_url
from rlalign.teachers.endpoint import EndpointTeacher
from rlalign.teachers.local import LocalTeacher, local_teacher
from rlalign.teachers.vocabulary import check_same_vocabulary

Teacher = LocalTeacher | EndpointTeacher
"""A `rlalign.policies.base.ReferenceScorer`; a local one also samples."""


def make_teacher(config: TrainConfig, policy: Policy, mdp: TextMDP) -> Teacher | None:
    """Return the teacher of a configuration, loaded and frozen; None if its algorithm has none.

    Args:
        config: checked by `check_teacher`.
        policy: the initial policy, whose vocabulary and device the teacher must have.
        mdp: the environment, bound to the policy's tokenizer; it gives the longest context.

    Raises:
        UserError: the teacher cannot be loaded, its vocabulary is another one, or the contexts are too long for it.
        FaultError: it does not fit into memory, or a server does not answer.
    """
    name = config.teacher
    if not find_algorithm(config.algorithm).teacher or not name:
        return None
    if is_url(name):
        endpoint = EndpointTeacher(name)
        endpoint.check(policy.tokenizer, _probe(mdp))
        return endpoint
    fix = "a smaller teacher, --model.adapter.kind lora if all weights are trained, or the URL of a server"
    with loading(f"the teacher '{name}' is loaded on {policy.device} beside the policy", fix):
        trusted = config.model.trust_remote_code
        teacher = local_teacher(name, policy.tokenizer, policy.device, trust_remote_code=trusted)
    check_same_vocabulary(policy.tokenizer, teacher.policy.tokenizer, name)
    positions = teacher.policy.max_positions
    needed = min(mdp.max_context, policy.max_positions or mdp.max_context)
    if positions is not None and positions < needed:
        raise UserError(
            f"teacher '{name}': expected a model that reads {needed} tokens, got one that reads {positions}; "
            "use a smaller --rollout.max-new or --rollout.max-prompt, or another teacher"
        )
    return teacher


def _probe(mdp: TextMDP) -> list[int]:
    """Return the ids of a prompt, of two tokens or more."""
    ids = list(mdp.prompt_ids(mdp.source.get("train", 0)))
    return ids if len(ids) > 1 else [*ids, *ids, mdp.tokenizer.eos_id][:2]
