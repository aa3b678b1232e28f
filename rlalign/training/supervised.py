"""The seeds' second update rule, theta -= alpha · grad L: reference answers as masked tokens for the learner."""

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
    """N played episodes: tokens int64 [N, L], lengths [N], action_mask bool [N, L] on what a policy would say."""

    tokens: Tensor
    lengths: Tensor
    action_mask: Tensor


def demonstrations(mdp: TextMDP, tasks: Sequence[Task]) -> Demonstrations:
    """The tasks' gold turns (see `TextMDP.reference_turns`), played in the environment, unscored.

    Raises UserError when none are known.
    """
    said = [mdp.reference_turns(task) for task in tasks]
    unscored = copy.copy(mdp)
    unscored.reward = None
    env = TokenVectorEnv(unscored, len(tasks))
    env.reset(seed=0, options={"tasks": list(tasks)})
    turn = 0
    while not env.done.all():
        tokens, lengths = np.zeros((len(tasks), mdp.max_new), np.int64), np.zeros(len(tasks), np.int64)
        for row, gold in enumerate(said):
            if not gold:
                raise UserError(f"{mdp.id} has no `answer` column to learn from: leave out --supervised.align-interval")
            if env.done[row]:
                continue
            ids = [*mdp.tokenizer.encode(gold[min(turn, len(gold) - 1)]), mdp.tokenizer.eos_id][: mdp.max_new]
            tokens[row, : len(ids)], lengths[row] = ids, len(ids)
        env.step_tokens(tokens, lengths)
        turn += 1
    width = int(env.lengths.max())
    return Demonstrations(
        torch.from_numpy(env.tokens[:, :width].copy()),
        torch.from_numpy(env.lengths.copy()),
        torch.from_numpy(env.action_mask[:, :width].copy()),
    )
