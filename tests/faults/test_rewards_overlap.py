"""While rewards in processes of their own score a rollout, the models look at it; nothing else changes."""

import json
import os
import signal
import threading
from typing import ClassVar

import numpy as np
import pytest

import rlalign
from rlalign.envs.registration import make_mdp
from rlalign.envs.vector_env import TokenVectorEnv
from rlalign.errors import RewardError
from rlalign.rewards.guard import InWorker
from rlalign.rewards.weighted_sum import RewardSum
from rlalign.training.learner import Learner
from rlalign.training.stop_request import StopRequest
from rlalign.types import Scores

KL = {"objective__kl__where": "loss", "objective__kl__coef": 0.1}
SMALL = {"steps": 2, "rollout__prompts": 2, "rollout__group_size": 4, "evaluation__prompts": 3, "quiet": True}


def train(folder, function, **described):
    made = rlalign.reward("mine", **{"timeout_s": 20, "retries": 0, **described})(function)
    return rlalign.train("reverse", "tiny", "grpo", rewards=[made], output=folder, **KL, **SMALL)


def lengths(completions, **columns):
    return [float(len(c)) for c in completions]


def test_a_reward_that_waits_for_the_reference_gets_it(tmp_path, monkeypatch):
    """The reward of each step ends only when the look at the models has begun: one after the other is a time-out."""
    pipe = str(tmp_path / "pipe")
    os.mkfifo(pipe)
    ours = os.open(pipe, os.O_RDWR)  # neither side waits for the other to open it
    look = Learner.look

    def announced(self, *layout):
        os.write(ours, b"x")
        return look(self, *layout)

    def waits(completions, **columns):
        if len(completions) == 8:  # those of a step, not of an evaluation
            with open(pipe, "rb", buffering=0) as theirs:
                theirs.read(1)
        return [float(len(c)) for c in completions]

    monkeypatch.setattr(Learner, "look", announced)
    run = train(tmp_path / "run", waits)
    os.close(ours)
    assert run.metrics["step"] == [1, 2]
    assert run.metrics["rollout/kl"][0] is not None


def test_the_order_changes_no_bit(tmp_path, monkeypatch):
    def lines(name):
        train(tmp_path / name, lengths)
        rows = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        return [{k: v for k, v in row.items() if not k.startswith("time")} for row in rows]

    together = lines("together")
    monkeypatch.setattr(RewardSum, "out_of_process", False)
    assert lines("apart") == together


@pytest.mark.parametrize("timeout_s", [None, 20])
def test_the_models_look_once_a_step(tmp_path, monkeypatch, timeout_s):
    calls, look = [], Learner.look
    monkeypatch.setattr(Learner, "look", lambda self, *layout: calls.append(1) or look(self, *layout))
    train(tmp_path / "run", lengths, timeout_s=timeout_s)
    assert len(calls) == 2


def test_a_failure_meanwhile_is_the_runs_own(tmp_path):
    def raises(completions, **columns):
        if len(completions) == 8:
            raise ValueError("no scorer")
        return [float(len(c)) for c in completions]

    with pytest.raises(RewardError, match=r"mine.*no scorer.*--resume"):
        train(tmp_path / "run", raises)


def test_an_interrupt_does_not_wait_for_the_reward(tmp_path, monkeypatch):
    """Ctrl-C arrives where the reward is waited for, and ends it there."""
    pid = os.getpid()

    def hangs(completions, **columns):
        if len(completions) == 8:
            os.kill(pid, signal.SIGINT)
            signal.pause()
        return [float(len(c)) for c in completions]

    monkeypatch.setattr(StopRequest, "__enter__", lambda self: self)  # as at the second Ctrl-C
    ended_by, close = [], InWorker.close
    monkeypatch.setattr(InWorker, "close", lambda self: ended_by.append(threading.current_thread()) or close(self))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell ignore it
    try:
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "run", hangs)
    finally:
        signal.signal(signal.SIGINT, before)
    assert ended_by[0] is threading.main_thread()


class Shortness:
    """A user's own composition: what environments call, and nothing besides."""

    weights: ClassVar = {"short": 1.0}
    scopes: ClassVar = {"short": "episode"}

    def score(self, event, prompts, completions, completion_ids, **columns):
        values = np.array([-float(len(text)) for text in completions])
        return Scores(values, np.ones(len(values), bool), {"short": values})


@pytest.mark.parametrize("own", [Shortness(), RewardSum([])])
def test_a_reward_that_says_nothing_of_processes_is_not_overlapped(own):
    """There is nothing to wait for: not with a Reward that does not know the word, nor with a sum of nothing."""
    mdp, looks = make_mdp("reverse"), []
    mdp.reward = own
    env = TokenVectorEnv(mdp, 2)
    env.reset(seed=0)
    ends = np.full((2, 1), mdp.tokenizer.eos_id)
    env.step_tokens(ends, np.ones(2, int), while_scoring=lambda: looks.append(1))
    assert env.done.all()
    assert not looks
