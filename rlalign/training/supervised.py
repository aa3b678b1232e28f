"""Demonstrations for supervised updates: the reference trajectories of tasks as masked tokens.

The supervised update is theta -= alpha · grad L, with L the mean negative log-likelihood of the reference answers
(`Learner.supervised_update`). It is interleaved with the policy gradient every `supervised.align_interval` steps.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rlalign.envs.mdp import TextMDP
from rlalign.envs.vector_env import TokenVectorEnv
from rlalign.errors import UserError
from rlalign.types import Task


@dataclass(frozen=True, slots=True)
class Demonstrations:
    """N reference trajectories.

    Attributes:
        tokens: int64 [N, L], right-padded.
        lengths: int64 [N].
        action_mask: bool [N, L], true on the tokens that a policy would have chosen.
    """

    tokens: Tensor
    lengths: Tensor
    action_mask: Tensor


def build_demonstrations(mdp: TextMDP, tasks: Sequence[Task]) -> Demonstrations:
    """Return the reference trajectories of tasks, stepped through the environment without scoring.

    Raises:
        UserError: when a task has no reference trajectory (see `TextMDP.reference_turns`).
    """
    references = [mdp.reference_turns(task) for task in tasks]
    unscored = copy.copy(mdp)
    unscored.reward = None
    env = TokenVectorEnv(unscored, len(tasks))
    env.reset(seed=0, options={"tasks": list(tasks)})
    turn = 0
    while not env.done.all():
        tokens = np.zeros((len(tasks), mdp.max_new), np.int64)
        lengths = np.zeros(len(tasks), np.int64)
        for row, turns in enumerate(references):
            if not turns:
                raise UserError(
                    f"{mdp.id}: expected tasks with an 'answer' column to imitate; use --supervised.align-interval 0"
                )
            if env.done[row]:
                continue
            # an episode that is longer than its reference repeats the last turn until it ends
            text = turns[min(turn, len(turns) - 1)]
            ids = [*mdp.tokenizer.encode(text), mdp.tokenizer.eos_id][: mdp.max_new]
            tokens[row, : len(ids)] = ids
            lengths[row] = len(ids)
        env.step_tokens(tokens, lengths)
        turn += 1
    width = int(env.lengths.max())
    return Demonstrations(
        torch.from_numpy(env.tokens[:, :width].copy()),
        torch.from_numpy(env.lengths.copy()),
        torch.from_numpy(env.action_mask[:, :width].copy()),
    )
