"""The seeds' second update rule, theta -= alpha · grad L: reference answers as masked tokens for the learner."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rlalign.envs.mdp import TextMDP
from rlalign.errors import UserError
from rlalign.types import Task


@dataclass(frozen=True, slots=True)
class Demonstrations:
    """N prompts with answers and EOS: tokens int64 [N, L], lengths [N], action_mask bool [N, L] on the answers."""

    tokens: Tensor
    lengths: Tensor
    action_mask: Tensor


def demonstrations(mdp: TextMDP, tasks: Sequence[Task]) -> Demonstrations:
    """The tasks' `answer` columns in the layout that policies score.

    Raises UserError when a task has no answer or the environment has several turns.
    """
    if mdp.max_turns > 1:
        raise UserError(f"{mdp.id} has several turns: an `answer` column is no demonstration of them")
    rows: list[list[int]] = []
    starts: list[int] = []
    for task in tasks:
        answer = task.columns.get("answer")
        if not isinstance(answer, str):
            raise UserError(f"{mdp.id} has no `answer` column to learn from: leave out --supervised.align-interval")
        prompt = mdp.prompt_ids(task)
        # cut like a rollout would be: max_new tokens, EOS among them
        rows.append(prompt + [*mdp.tokenizer.encode(answer), mdp.tokenizer.eos_id][: mdp.max_new])
        starts.append(len(prompt))
    lengths = torch.tensor([len(row) for row in rows])
    tokens = torch.full((len(rows), int(lengths.max())), mdp.tokenizer.pad_id)
    for i, row in enumerate(rows):
        tokens[i, : len(row)] = torch.tensor(row)
    column = torch.arange(tokens.shape[1])
    mask = (column >= torch.tensor(starts)[:, None]) & (column < lengths[:, None])
    return Demonstrations(tokens, lengths, mask)
