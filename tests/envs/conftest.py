"""What several of the tests of environments need."""

import numpy as np
import pytest

from rlalign.envs.vector_env import TokenVectorEnv


@pytest.fixture
def play():
    """Play an episode: (mdp, task, *turns) -> total reward, its text, whether it is over.

    Each turn is ended by EOS where there is room for it. The text is the prompt, then turns and replies as they came.
    """

    def played(mdp, task, *turns):
        env = TokenVectorEnv(mdp, 1)
        env.reset(seed=0, options={"tasks": [task]})
        total = 0.0
        for turn in turns:
            ids = [*mdp.tokenizer.encode(turn), mdp.tokenizer.eos_id][: mdp.max_new]
            total += float(env.step_tokens(np.array([ids]), np.array([len(ids)])).rewards.sum())
        return total, mdp.tokenizer.decode(env.contexts([0])[0]), bool(env.done[0])

    return played
