"""Rewards with state, and TRL's log callbacks: in this process and in a worker, with retries and evaluations."""

import random
import sys
import warnings
from types import SimpleNamespace

import cloudpickle
import numpy as np
import pytest

from rlalign.errors import RewardError, UserError
from rlalign.rewards import RewardFunction, compose
from rlalign.rewards.ensemble import ensemble
from rlalign.rewards.object_state import (
    as_plain,
    attributes_of,
    from_checkpoint,
    has_state_methods,
    owner_of,
    to_checkpoint,
)
from rlalign.rewards.references import unusable_tasks
from rlalign.storage import checkpoint
from rlalign.types import Task

TEXTS = ["aaa", "b"]


@pytest.fixture(autouse=True, scope="module")
def by_value():
    """Send the classes of this file to workers by value: they cannot import `tests`."""
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


class Running:
    """Counts the texts that it has scored; `fail_at` raises in the middle of a call."""

    def __init__(self, fail_at=None):
        self.count = 0
        self.fail_at = fail_at

    def __call__(self, completions, **columns):
        values = []
        for _ in completions:
            self.count += 1
            if self.count == self.fail_at:
                self.fail_at = None
                raise ValueError("once")
            values.append(float(self.count))
        return values

    def state_dict(self):
        return {"count": self.count, "seen": np.arange(self.count)}

    def load_state_dict(self, state):
        self.count = state["count"]
        assert len(state["seen"]) == self.count


class Forgetful:
    """Has state without the methods; the first call only caches."""

    def __init__(self, counts):
        self.cache = None
        self.counts = counts
        self.calls = 0

    def __call__(self, completions, **columns):
        self.cache = self.cache or "loaded"
        self.calls += self.counts
        return [0.0 for _ in completions]


def score(total):
    return total.score("episode", ["p"] * 2, TEXTS, [[1], [2]]).total.tolist()


@pytest.fixture(params=[None, 30.0], ids=["in-process", "worker"])
def running(request):
    with compose(RewardFunction("running", Running(), timeout_s=request.param)) as total:
        yield total


def test_state_continues_over_calls_and_through_a_checkpoint(running):
    assert (score(running), score(running)) == ([1.0, 2.0], [3.0, 4.0])
    state = running.state_dict()
    running.close()  # a worker that is started again gets the state with its first call
    assert score(running) == [5.0, 6.0]
    running.load_state_dict(state)
    assert score(running) == [5.0, 6.0]


def test_an_evaluation_begins_in_the_initial_state_and_does_not_change_training(running):
    assert score(running) == [1.0, 2.0]
    assert score(running.for_evaluation()) == [1.0, 2.0]
    evaluation = running.for_evaluation()
    assert (score(evaluation), score(evaluation)) == ([1.0, 2.0], [3.0, 4.0])
    assert score(running) == [3.0, 4.0]


def test_an_abandoned_step_restores_the_state_and_a_finished_one_keeps_it(running):
    running.begin_step(0)
    score(running)
    running.end_step()
    assert score(running) == [1.0, 2.0]
    running.begin_step(0)
    score(running)
    running.end_step({"running": 0.0})
    running.end_step()  # at the end of a run, without a step
    assert score(running) == [5.0, 6.0]


def test_a_failed_attempt_leaves_no_trace_in_the_state():
    item = RewardFunction("running", Running(fail_at=2), timeout_s=None)
    assert score(compose(item)) == [1.0, 2.0]


def test_members_of_an_ensemble_keep_their_state():
    members = [RewardFunction(name, Running(), timeout_s=None) for name in ("one", "two")]
    total = compose(ensemble(members))
    assert score(total) == [1.0, 2.0]
    state = total.state_dict()
    assert score(total.for_evaluation()) == [1.0, 2.0]
    assert score(total) == [3.0, 4.0]
    total.load_state_dict(state)
    assert score(total) == [3.0, 4.0]


def test_state_without_the_methods_warns_once_and_a_cache_does_not():
    with compose(RewardFunction("forgetful", Forgetful(counts=1), timeout_s=None)) as total:
        score(total)
        with pytest.warns(RuntimeWarning, match=r"'forgetful' changed the attributes .* add state_dict and load_state"):
            score(total)
    with compose(RewardFunction("cached", Forgetful(counts=0), timeout_s=None)) as total, warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(3):
            score(total)


def test_a_state_of_another_type_is_refused_before_the_run():
    class Bad(Running):
        def state_dict(self):
            return {"count": 0, "seen": {1, 2}}

    with pytest.raises(UserError, match=r"state_dict of reward 'bad': expected dicts, lists, .* got set"):
        compose(RewardFunction("bad", Bad()))


def test_states_survive_the_form_of_checkpoints():
    import torch

    state = as_plain({"a": np.array([[1.5, 2.0]], np.float32), 3: (1, None, "x"), "t": torch.ones(2)})
    restored = from_checkpoint(to_checkpoint(state))
    assert restored["a"].dtype == np.float32
    assert restored["a"].tolist() == [[1.5, 2.0]]
    assert restored[3] == (1, None, "x")
    assert restored["t"].tolist() == [1.0, 1.0]


def test_keys_and_tuples_of_a_state_survive_a_checkpoint_on_disk(tmp_path):
    generator = random.Random(3)
    state = as_plain({"seen": {np.int64(3): np.float64(1.5), None: 2}, "random": generator.getstate()})
    assert [type(key) for key in state["seen"]] == [int, type(None)]
    checkpoint.save(tmp_path, 1, {"reward": to_checkpoint(state)}, config_hash="")
    restored = from_checkpoint(checkpoint.load(checkpoint.latest(tmp_path))[0]["reward"])
    assert restored == state
    expected = generator.random()
    generator.setstate(restored["random"])
    assert generator.random() == expected


def test_keys_that_a_checkpoint_cannot_hold_are_refused_in_the_first_call():
    class Seen(Running):
        def state_dict(self):
            return {"count": self.count, "seen": {(1, 2): 3} if self.count else {}}

    total = compose(RewardFunction("seen", Seen(), timeout_s=None))
    with pytest.raises(UserError, match=r"expected keys that are texts, .* got the tuple \(1, 2\); use list\(d.items"):
        score(total)


def test_the_owner_of_state_is_an_object_and_not_a_function_or_module():
    running = Running()
    assert owner_of(running) is owner_of(running.__call__) is running
    assert owner_of(score) is owner_of(len) is owner_of(Running) is None
    assert attributes_of(running) != attributes_of(Running(fail_at=3))


def test_a_torch_module_is_a_fixed_model_unless_it_has_methods_of_its_own():
    from torch import nn

    class Model(nn.Module):
        def forward(self, completions, **columns):
            return [0.0] * len(completions)

    class Adaptive(Model):
        def state_dict(self, *args, **kwargs):
            return {"seen": 1}

        def load_state_dict(self, state, *args, **kwargs):
            pass

    assert (has_state_methods(Model()), has_state_methods(Adaptive()), has_state_methods(Running())) == (0, 1, 1)
    total = compose(RewardFunction("model", Model(), timeout_s=None))
    assert score(total) == [0.0, 0.0]
    assert total.state_dict() == {}


@pytest.mark.parametrize(
    "change",
    [
        lambda o: setattr(o, "number", 2),
        lambda o: o.names.append("b"),
        lambda o: o.table.update(a=2),
        lambda o: o.long.append(0),
        lambda o: o.inner.seen.add(3),
        lambda o: o.array.__setitem__(0, 5),
    ],
    ids=["number", "list", "dict", "long list", "set of another object", "array"],
)
def test_a_change_of_an_attribute_is_seen(change):
    owner = SimpleNamespace(number=1, names=["a"], table={"a": 1}, long=[0] * 99, inner=Running(), array=np.zeros(2))
    owner.inner.seen = {1}
    before = attributes_of(owner)
    assert attributes_of(owner) == before
    change(owner)
    assert attributes_of(owner) != before


# ---- TRL's callbacks ----


def by_name(completions, log_metric, log_extra):
    log_metric("longest", max(map(len, completions)))
    log_extra("sizes", [len(text) for text in completions])
    return [0.0] * len(completions)


def by_keyword(completions, **kwargs):
    kwargs["log_metric"]("longest", len(completions[0]))
    return [0.0] * len(completions)


def by_column(completions, **columns):
    assert set(columns) == {"prompts", "completion_ids"}
    return [0.0] * len(completions)


@pytest.mark.parametrize("timeout_s", [None, 30.0], ids=["in-process", "worker"])
def test_logged_metrics_are_means_of_a_step_and_columns_belong_to_samples(timeout_s):
    with compose([RewardFunction(f.__name__, f, timeout_s=timeout_s) for f in (by_name, by_keyword)]) as total:
        scores = total.score("episode", ["p"] * 2, TEXTS, [[1], [2]])
        total.score("episode", ["p"], ["z"], [[1]])
        assert scores.extra == {"sizes": [3, 1]}
        assert total.pop_logged() == {"by_name/log/longest": 2.0, "by_keyword/log/longest": 2.0}
        assert total.pop_logged() == {}


def test_members_of_an_ensemble_log_too():
    members = [RewardFunction(f.__name__, f, timeout_s=None) for f in (by_name, by_keyword)]
    total = compose(ensemble(members))
    assert total.score("episode", ["p"] * 2, TEXTS, [[1], [2]]).extra == {"sizes": [3, 1]}
    logged = {"ensemble/log/by_name/log/longest": 3.0, "ensemble/log/by_keyword/log/longest": 3.0}
    assert total.pop_logged() == logged


def test_a_function_that_does_not_ask_gets_no_callbacks():
    assert score(compose(RewardFunction("by_column", by_column, timeout_s=None))) == [0.0, 0.0]


def test_a_logged_column_needs_one_value_per_sample():
    def short(completions, log_extra):
        log_extra("sizes", [1])
        return [0.0] * len(completions)

    with pytest.raises(RewardError, match=r"expected 2 values for log_extra\('sizes'\), got 1"):
        score(compose(RewardFunction("short", short, timeout_s=None)))


@pytest.mark.parametrize("function", [by_name, by_keyword, Running()], ids=["log_metric", "keyword", "state"])
def test_the_pass_over_the_data_calls_such_functions_too(function):
    tasks = [Task("p", {"answer": "a"}), Task("q", {"answer": None})]
    with compose(RewardFunction("observed", function, timeout_s=None)) as total:
        assert unusable_tasks(total, tasks, lambda text: [1]) == {}
        if isinstance(function, Running):
            assert score(total) == [1.0, 2.0]


def test_the_pass_over_the_data_knows_the_columns_of_an_object():
    class Reads:
        def __call__(self, completions, answer):
            return [0.0] * len(completions)

    with compose(RewardFunction("reads", Reads(), timeout_s=None)) as total, pytest.raises(UserError, match="'answer'"):
        unusable_tasks(total, [Task("p", {"label": 1})], lambda text: [1])
