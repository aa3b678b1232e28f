"""The reward for code that passes tests: permission, marks, and the systems that cannot isolate a program."""

import math

import pytest

from rlalign.errors import UserError
from rlalign.registry import REWARDS
from rlalign.rewards.builtin import code as module
from rlalign.rewards.sandbox.isolation import UnavailableError

TESTS = ["assert x == 1", "assert y == 2"]


def marks(*programs, tests=TESTS, **parameters):
    return REWARDS.get("code")(completions=programs, answer=[tests] * len(programs), allow=True, **parameters)


def test_marks_are_shares_of_passed_tests():
    fenced = "```python\nx = 1\ny = 2\n```"
    assert marks("x = 1", fenced, "raise SystemExit", "not python", "") == [0.5, 1.0, 0, 0, 0]
    assert marks("x = 1", tests=[]) == [None]


def test_it_is_off_by_default():
    with pytest.raises(UserError, match="code\\?allow=true"):
        REWARDS.get("code")(completions=["x = 1"], answer=["assert x"])


def test_a_system_without_isolation_is_refused_with_the_reason(monkeypatch):
    def refuse(*_):
        raise UnavailableError("Landlock: Function not implemented")

    monkeypatch.setattr(module, "count_passed", refuse)
    with pytest.raises(UserError, match=r"expected a system that can isolate.*got Landlock: Function.*; use Linux"):
        marks("x = 1")


def test_a_killed_supervisor_is_a_failed_sample_and_no_zero(monkeypatch):
    monkeypatch.setattr(module, "count_passed", lambda *_: None)
    assert math.isnan(marks("x = 1")[0])


def test_a_batch_of_endless_programs_ends_before_the_timeout_of_the_reward(monkeypatch):
    clock = [0.0]

    def endless(code, tests, limits):
        clock[0] += limits.seconds + 5
        return 0

    monkeypatch.setattr(module, "count_passed", endless)
    monkeypatch.setattr(module, "monotonic", lambda: clock[0])
    monkeypatch.setattr(module, "_parallel", lambda: 1)
    values = marks(*["while True: pass"] * 100)
    assert 0 < sum(math.isnan(value) for value in values) < 60
    assert clock[0] < REWARDS.get("code").timeout_s - 60
    assert values[0] == 0


def test_programs_run_on_all_processors(monkeypatch):
    for count, parallel in ((None, 2), (1, 2), (16, 16)):
        monkeypatch.setattr(module.os, "cpu_count", lambda count=count: count)
        assert module._parallel() == parallel
