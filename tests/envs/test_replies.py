"""The call of `reply`: texts and ids, ids outside of the vocabulary, failures, and the time limit."""

import inspect
import signal
import threading
import time

import pytest

from rlalign.envs import time_limit
from rlalign.envs.mdp import TextMDP
from rlalign.envs.task_sources import ProceduralSource
from rlalign.envs.time_limit import TimeLimitReached, call_within, shorten_running_limit
from rlalign.envs.token_env import TokenEnv
from rlalign.errors import ReplyError, ReplyTimeoutError, UserError
from rlalign.tokenizers import CharTokenizer
from rlalign.training.stop_request import StopRequest


class Replies(TextMDP):
    """Replies what it was built with."""

    source = ["a", "b"]  # noqa: RUF012 - a minimal class, as a user writes it
    max_new, max_turns, max_reply = 4, 2, 4
    message: object = None

    def default_tokenizer(self):
        return CharTokenizer("abc")

    def reply(self, task, turn_ids, state, rng):
        return self.message() if callable(self.message) else self.message


def context_after_turn(message, **settings):
    """Return the context after a first turn of EOS alone, without the prompt and the turn."""
    mdp = Replies(**settings)
    mdp.message = message
    env = TokenEnv(mdp)
    env.reset(seed=0)
    before = len(env.context) + 1
    env.step(mdp.tokenizer.eos_id)
    return env.context[before:]


def test_a_text_is_encoded_and_equals_its_ids():
    assert context_after_turn("ab") == context_after_turn([2, 3]) == [2, 3]
    assert context_after_turn("") == []


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ([2, 5], r"expected token ids from 0 to 4, got 5; use self.tokenizer.encode\(text\)"),
        ([-1], "expected token ids from 0 to 4, got -1"),
        ([2.0], r"expected a text, token ids or None, got \[2.0\]"),
        (3, "expected a text, token ids or None, got 3"),
        (b"ab", "expected a text, token ids or None, got b'ab'"),
        ("xyz", "reply of Replies: the text 'xyz' cannot be encoded"),
        (lambda: 1 / 0, "reply of Replies failed: ZeroDivisionError"),
        (lambda: exit(0), "reply of Replies failed: SystemExit"),
    ],
)
def test_another_message_is_an_error_that_names_it(message, words):
    with pytest.raises(ReplyError, match=words):
        context_after_turn(message)


def test_a_hanging_reply_ends_at_its_limit_with_task_turn_and_line():
    def hang():
        for _ in range(3):
            try:
                time.sleep(60)
            except Exception:  # a user's handler must not catch the end of the time
                continue

    with pytest.raises(
        ReplyTimeoutError,
        match=r"within 0.05 s, got none on turn 1 of train task \d \(test_replies.py:\d+\); .* larger reply_timeout_s",
    ):
        context_after_turn(hang, reply_timeout_s=0.05)
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_a_function_of_tasks_that_hangs_ends_at_its_limit():
    def hang(rng):
        while True:
            pass

    source = ProceduralSource(hang)
    source.timeout_s = 0.05
    with pytest.raises(UserError, match=r"test task 3: expected a task within 0.05 s, got none"):
        source.get("test", 3)


@pytest.mark.parametrize("value", [0, -1.0, float("inf")])
def test_a_limit_out_of_range_is_refused(value):
    with pytest.raises(UserError, match="reply_timeout_s of TextMDP"):
        Replies(reply_timeout_s=value)


def test_the_limit_ends_a_regular_expression_and_restores_an_outer_timer():
    import re

    fired = []
    old = signal.signal(signal.SIGALRM, lambda *_: fired.append(1))
    try:
        signal.setitimer(signal.ITIMER_REAL, 100)
        with pytest.raises(TimeLimitReached):
            call_within(0.05, lambda: re.match(r"(a+)+b", "a" * 60))
        assert 50 < signal.getitimer(signal.ITIMER_REAL)[0] <= 100
        assert signal.getsignal(signal.SIGALRM)(0, None) is None
        assert fired == [1]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)


def test_a_stop_shortens_the_call_in_progress_only():
    shorten_running_limit()  # without a call: nothing to shorten
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0

    def remaining():
        shorten_running_limit()
        return signal.getitimer(signal.ITIMER_REAL)[0]

    assert 0 < call_within(100.0, remaining) <= 5
    assert 0 < call_within(2.0, remaining) <= 2


def test_a_hanging_reply_does_not_hold_up_a_stop(monkeypatch):
    monkeypatch.setattr(time_limit, "_AFTER_STOP_S", 0.05)

    def hang():
        signal.raise_signal(signal.SIGTERM)
        while True:
            pass

    with (
        StopRequest() as stop,
        pytest.raises(ReplyTimeoutError, match=r"within 0.05 s of the signal to stop"),
    ):
        context_after_turn(hang)
    assert stop.exit_status == 143


def test_without_the_main_thread_a_call_has_no_limit():
    results = []
    thread = threading.Thread(target=lambda: results.append(call_within(1e-3, lambda: time.sleep(0.01) or "done")))
    thread.start()
    thread.join()
    assert results == ["done"]


def test_none_as_an_argument_keeps_the_limit_of_the_class_and_the_docstring_says_so():
    class Unlimited(TextMDP):
        reply_timeout_s = None

    assert TextMDP(source=["a"], reply_timeout_s=None).reply_timeout_s == 30.0
    assert Unlimited(source=["a"]).reply_timeout_s is None
    arguments, _, _ = TextMDP.__doc__.partition("Attributes:")
    missing = [name for name in inspect.signature(TextMDP).parameters if f"    {name}: " not in arguments]
    assert not missing
