"""Fixtures shared by the tests of environments."""

import numpy as np
import pytest

from rlalign.envs.vector_env import TokenVectorEnv


@pytest.fixture
def play():
    """Return a function that plays an episode: (mdp, task, *turns) -> total reward, text, whether it is over.

    EOS ends each turn that is shorter than the limit. The text is the prompt, then turns and replies in order.
    """

    def play_turns(mdp, task, *turns):
        env = TokenVectorEnv(mdp, 1)
        env.reset(seed=0, options={"tasks": [task]})
        total = 0.0
        for turn in turns:
            ids = [*mdp.tokenizer.encode(turn), mdp.tokenizer.eos_id][: mdp.max_new]
            total += float(env.step_tokens(np.array([ids]), np.array([len(ids)])).rewards.sum())
        return total, mdp.tokenizer.decode(env.contexts([0])[0]), bool(env.done[0])

    return play_turns
