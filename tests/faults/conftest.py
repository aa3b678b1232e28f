"""Faults that several tests inject."""

from collections.abc import Callable, Container

import pytest

from rlalign.training import learner


@pytest.fixture
def poison_losses(monkeypatch: pytest.MonkeyPatch) -> Callable[[Container[int]], None]:
    """Return a function that makes the policy loss NaN at the calls with the given numbers, from 1."""

    def poison(calls: Container[int]) -> None:
        real, count = learner.policy_loss, 0

        def poisoned(objective, batch, state, **settings):
            nonlocal count
            count += 1
            loss = real(objective, batch, state, **settings)
            factor = float("nan") if count in calls else 1.0
            return type(loss)(loss.total * factor, loss.count, loss.metrics, loss.maxima)

        monkeypatch.setattr(learner, "policy_loss", poisoned)

    return poison
