"""Fixtures shared by the tests of the built-in environments."""

import pytest


@pytest.fixture
def score():
    """Return a function that scores completions of one task: (mdp, task, *completions) -> component -> values.

    The key "total" has the weighted sums.
    """

    def score_completions(mdp, task, *completions):
        n = len(completions)
        columns = {name: [value] * n for name, value in task.columns.items()}
        ids = [[*mdp.tokenizer.encode_prompt(""), *range(len(text.split()))] for text in completions]
        scores = mdp.reward.score("episode", [task.prompt] * n, list(completions), ids, **columns)
        components = {name.rpartition(":")[2]: values.tolist() for name, values in scores.components.items()}
        return {**components, "total": scores.total.tolist()}

    return score_completions
