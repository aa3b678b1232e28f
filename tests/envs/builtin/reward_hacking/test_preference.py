"""Tests of Preference: the learned proxy within and beyond its training data."""

import numpy as np
import pytest

from rlalign.envs.builtin.reward_hacking import preference
from rlalign.envs.registration import make_mdp
from rlalign.errors import UserError


def test_proxy_is_accurate_on_its_data_and_wrong_beyond() -> None:
    weights, accuracy = preference.fit(1000, 0)
    assert accuracy == make_mdp("preference").proxy_accuracy > 0.7  # random choices would give 0.5 ± 0.016
    assert np.array_equal(weights, preference.fit.__wrapped__(1000, 0)[0])
    assert not np.array_equal(weights, preference.fit(1000, 1)[0])
    best = max(preference._GOOD, key=lambda word: preference.proxy([word])[0])
    repetitions = [" ".join([best] * n) for n in (1, 4, 8, 16)]
    assert sorted(preference.proxy(repetitions)) == preference.proxy(repetitions)
    assert sorted(preference.gold(repetitions), reverse=True) == preference.gold(repetitions)
    assert preference.gold(["clear kind useful honest", "clear kind useful rude", ""]) == pytest.approx([1, 0.65, 0])
    with pytest.raises(UserError, match="at least 10"):
        make_mdp("preference", pairs=3)
