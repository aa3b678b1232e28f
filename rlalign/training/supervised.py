"""Demonstrations for supervised updates: the reference trajectories of tasks as masked tokens.

The supervised update is theta -= alpha · grad L, with L the mean negative log-likelihood of the reference answers
(`Learner.supervised_update`). It is interleaved with the policy gradient every `supervised.align_interval` steps.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch

from rlalign.envs.data_check import too_long
from rlalign.envs.initial_context import place_of, task_at
from rlalign.envs.mdp import TextMDP
from rlalign.envs.vector_env import TokenVectorEnv
from rlalign.errors import RecordError, UserError
from rlalign.rollout.source import TokenRows
from rlalign.types import Task

_SEARCHED = 100  # training tasks that are searched for a reference answer before the policy is built


def has_reference(mdp: TextMDP) -> bool:
    """Return whether one of the first 100 training tasks has a reference trajectory."""
    size = mdp.source.size("train")
    for index in range(_SEARCHED if size is None else min(size, _SEARCHED)):
        try:
            if mdp.reference_turns(task_at(mdp.source, "train", index)):
                return True
        except RecordError:  # reported by the pass over the data, with its line
            continue
    return False


def no_reference(mdp: TextMDP) -> str:
    """Return the error message for tasks without a reference trajectory."""
    return f"{mdp.id}: expected tasks with an 'answer' column to imitate; use --supervised.align-interval 0"


def build_demonstrations(mdp: TextMDP, tasks: Sequence[Task]) -> TokenRows:
    """Return the reference trajectories of tasks, stepped through the environment without scoring.

    The actions are the tokens that a policy would have chosen.

    Raises:
        UserError: when a task has no reference trajectory (see `TextMDP.reference_turns`), or a turn of it is longer
            than `max_new` with its end.
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
                raise UserError(no_reference(mdp))
            if env.done[row]:
                continue
            # an episode that is longer than its reference repeats the last turn until it ends
            text = turns[min(turn, len(turns) - 1)]
            ids = [*mdp.tokenizer.encode(text), mdp.tokenizer.eos_id]
            if len(ids) > mdp.turn_limit(tasks[row]):  # cut, it would teach the policy not to end its turns
                raise RecordError(place_of(tasks[row]), too_long(mdp, len(ids)))
            tokens[row, : len(ids)] = ids
            lengths[row] = len(ids)
        env.step_tokens(tokens, lengths)
        turn += 1
    width = int(env.lengths.max())
    return TokenRows(
        torch.from_numpy(env.tokens[:, :width].copy()),
        torch.from_numpy(env.lengths.copy()),
        torch.from_numpy(env.action_mask[:, :width].copy()),
    )
