"""Overlap: log-probs are precomputed while worker processes score a rollout; results do not change."""

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
from rlalign.training.preparation import Preparation
from rlalign.training.stop_request import StopRequest
from rlalign.types import Scores

KL = {"objective__kl__where": "loss", "objective__kl__coef": 0.1}
SMALL = {"steps": 2, "rollout__prompts": 2, "rollout__group_size": 4, "evaluation__prompts": 3, "quiet": True}


def train(folder, function, **described):
    item = rlalign.reward("mine", **{"timeout_s": 20, "retries": 0, **described})(function)
    return rlalign.train("reverse", "tiny", "grpo", rewards=[item], output=folder, **KL, **SMALL)


def lengths(completions, **columns):
    return [float(len(c)) for c in completions]


def test_reward_can_wait_for_the_precomputation(tmp_path, monkeypatch):
    """Each step's reward ends after the precomputation has begun, so sequential execution would time out."""
    pipe = str(tmp_path / "pipe")
    os.mkfifo(pipe)
    writer = os.open(pipe, os.O_RDWR)  # with O_RDWR no side blocks until the other has opened the pipe
    precompute = Preparation.precompute

    def announced(self, *layout, **options):
        os.write(writer, b"x")
        return precompute(self, *layout, **options)

    def waits(completions, **columns):
        if len(completions) == 8:  # a training step, not an evaluation
            with open(pipe, "rb", buffering=0) as reader:
                reader.read(1)
        return [float(len(c)) for c in completions]

    monkeypatch.setattr(Preparation, "precompute", announced)
    run = train(tmp_path / "run", waits)
    os.close(writer)
    assert run.metrics["step"] == [1, 2]
    assert run.metrics["rollout/kl"][0] is not None


def test_overlap_is_bitwise_equal_to_sequential_scoring(tmp_path, monkeypatch):
    def lines(name):
        train(tmp_path / name, lengths)
        rows = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        return [{k: v for k, v in row.items() if not k.startswith("time")} for row in rows]

    overlapped = lines("overlapped")
    monkeypatch.setattr(RewardSum, "out_of_process", False)
    assert lines("sequential") == overlapped


@pytest.mark.parametrize("timeout_s", [None, 20])
def test_logprobs_are_precomputed_once_per_step(tmp_path, monkeypatch, timeout_s):
    calls = []
    precompute = Preparation.precompute

    def counted(self, *layout, **options):
        calls.append(1)
        return precompute(self, *layout, **options)

    monkeypatch.setattr(Preparation, "precompute", counted)
    train(tmp_path / "run", lengths, timeout_s=timeout_s)
    assert len(calls) == 2


def test_reward_failure_during_overlap_ends_the_run(tmp_path):
    def raises(completions, **columns):
        if len(completions) == 8:
            raise ValueError("no scorer")
        return [float(len(c)) for c in completions]

    with pytest.raises(RewardError, match=r"mine.*no scorer.*--resume"):
        train(tmp_path / "run", raises)


def test_interrupt_does_not_wait_for_the_reward(tmp_path, monkeypatch):
    """Ctrl-C arrives in the main thread, which waits for the reward, and closes the worker there."""
    pid = os.getpid()

    def hangs(completions, **columns):
        if len(completions) == 8:
            os.kill(pid, signal.SIGINT)
            signal.pause()
        return [float(len(c)) for c in completions]

    monkeypatch.setattr(StopRequest, "__enter__", lambda self: self)  # as at the second Ctrl-C
    closing_threads = []
    close = InWorker.close

    def recorded(self):
        closing_threads.append(threading.current_thread())
        return close(self)

    monkeypatch.setattr(InWorker, "close", recorded)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell ignore SIGINT
    try:
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "run", hangs)
    finally:
        signal.signal(signal.SIGINT, before)
    assert closing_threads[0] is threading.main_thread()


class Shortness:
    """A composition of a user, with only the methods that environments call."""

    weights: ClassVar = {"short": 1.0}
    scopes: ClassVar = {"short": "episode"}

    def score(self, event, prompts, completions, completion_ids, **columns):
        values = np.array([-float(len(text)) for text in completions])
        return Scores(values, np.ones(len(values), bool), {"short": values})


@pytest.mark.parametrize("reward", [Shortness(), RewardSum([])])
def test_reward_without_worker_processes_is_not_overlapped(reward):
    """Nothing runs during scoring: neither for a Reward without `out_of_process` nor for an empty sum."""
    mdp = make_mdp("reverse")
    mdp.reward = reward
    calls = []
    env = TokenVectorEnv(mdp, 2)
    env.reset(seed=0)
    ends = np.full((2, 1), mdp.tokenizer.eos_id)
    env.step_tokens(ends, np.ones(2, int), while_scoring=lambda: calls.append(1))
    assert env.done.all()
    assert not calls


class InWorkers(Shortness):
    """The same, as if worker processes computed it."""

    out_of_process = True


def test_rewards_overlap_only_with_the_end_of_all_episodes():
    """The function reads complete rows, so it is called when the last of them has ended."""
    mdp = make_mdp("reverse")
    mdp.reward = InWorkers()
    calls = []
    env = TokenVectorEnv(mdp, 2)
    env.reset(seed=0)
    tokens = np.full((2, 1), mdp.tokenizer.eos_id)
    for lengths in ([1, 0], [0, 1]):
        env.step_tokens(tokens, np.array(lengths), while_scoring=lambda: calls.append(env.done.copy()))
    assert [done.tolist() for done in calls] == [[True, True]]
