"""Reward functions: TRL's calling convention, registration, arguments, scopes and binding."""

import subprocess
import sys
from functools import partial, wraps

import numpy as np
import pytest

from rlalign.errors import RewardError, UnknownNameError, UserError
from rlalign.registry import REWARDS
from rlalign.rewards import RewardFunction, compose, reward
from rlalign.rewards.function import as_reward

TEXTS = ["aeiou", "xyz", ""]
PROMPTS = ["p"] * 3
IDS = [[1, 2], [3], []]
CHAT = [[{"role": "user", "content": "hello"}]] * 3


def score(specs, event="episode", prompts=PROMPTS, completions=TEXTS, ids=IDS, **columns):
    with compose(specs) as total:
        return total.score(event, prompts, completions, ids, **columns)


def vowels(prompts, completions, **columns):
    return [float(sum(ch in "aeiou" for ch in c)) for c in completions]


@reward("test_vowels", timeout_s=None)
def decorated_vowels(prompts, completions, **columns):
    """Count vowels."""
    return [float(sum(ch in "aeiou" for ch in c)) for c in completions]


def test_decorated_function_is_registered_and_callable():
    assert REWARDS.get("test_vowels") is decorated_vowels
    assert isinstance(decorated_vowels, RewardFunction)
    assert decorated_vowels.__name__ == "test_vowels"
    assert decorated_vowels.__doc__ == "Count vowels."
    assert decorated_vowels(PROMPTS, TEXTS) == [5.0, 0.0, 0.0]


def test_bare_decorator_registers_the_function_name():
    @reward
    def test_bare_name(completions):
        return [0.0 for _ in completions]

    assert REWARDS.get("test_bare_name") is test_bare_name


def test_same_object_runs_in_trl_and_rlalign():
    # trl.GRPOTrainer._calculate_rewards passes keywords only: the columns and three extras.
    extras = {"trainer_state": None, "log_extra": print, "log_metric": print, "answer": ["a"] * 3}
    for function in (vowels, decorated_vowels):
        trl_values = function(prompts=PROMPTS, completions=TEXTS, completion_ids=IDS, **extras)
        assert score(function).total.tolist() == trl_values


@pytest.mark.parametrize("name", ["vader", "repetition", "too_short", "length", "embedding_cosine"])
def test_built_in_rewards_run_in_trls_convention(name):
    values = REWARDS.get(name)(prompts=PROMPTS, completions=TEXTS, completion_ids=IDS, trainer_state=None)
    assert values == score(name).components[name].tolist()


def test_function_receives_only_accepted_arguments():
    def no_ids(completions, answer):
        return [float(c == a) for c, a in zip(completions, answer, strict=True)]

    assert score(no_ids, answer=["aeiou", "", ""], label=[1, 2, 3]).total.tolist() == [1, 0, 1]


def test_missing_column_error_lists_existing_columns():
    with pytest.raises(UserError, match=r"'exact_match': expected 'answer'.*got the columns label"):
        score("exact_match", label=[1, 2, 3])


def test_trl_logging_callbacks_are_passed_on_request():
    def logging(completions, log_metric, log_extra, trainer_state):
        log_metric("x", 1.0)
        log_extra("y", completions)
        return [0.0 if trainer_state is None else 1.0] * len(completions)

    assert score(logging).total.tolist() == [0, 0, 0]


def test_conversational_prompt_gives_conversational_completion():
    def roles(prompts, completions):
        assert prompts[0][-1]["content"] == "hello"
        return [float(len(c[0]["content"])) for c in completions if c[0]["role"] == "assistant"]

    assert score(roles, prompts=CHAT).total.tolist() == [5, 3, 0]


def test_a_function_that_takes_messages_for_texts_gets_a_hint():
    with pytest.raises(RewardError, match=r"'vowels' failed .*use @rlalign.reward\(texts=True\) to get texts"):
        score(vowels, prompts=CHAT)
    broken = RewardFunction("broken", lambda completions: 1 / 0, timeout_s=None, texts=True)
    for item, prompts in ((broken, CHAT), (RewardFunction("broken", broken.function), PROMPTS)):
        with pytest.raises(RewardError, match="'broken' failed") as caught:
            score(item, prompts=prompts)
        assert "texts=True" not in str(caught.value)


@pytest.mark.parametrize("prompts", [PROMPTS, CHAT], ids=["texts", "messages"])
@pytest.mark.parametrize("timeout_s", [None, 30.0])
def test_texts_always_gives_texts(prompts, timeout_s):
    def check(prompts, completions, **columns):
        assert all(isinstance(text, str) for text in [*prompts, *completions])
        return [float(len(text)) for text in completions]

    item = RewardFunction("check", check, timeout_s=timeout_s, texts=True)
    assert score(item, prompts=prompts).total.tolist() == [5, 3, 0]
    # as TRL calls it, and with positions
    messages = [[{"role": "assistant", "content": text}] for text in TEXTS]
    assert item(prompts=prompts, completions=messages, trainer_state=None) == [5, 3, 0]
    assert item(prompts, messages) == [5, 3, 0]


@pytest.mark.parametrize("name", ["vader", "repetition", "too_short", "length", "embedding_cosine", "token_match"])
def test_built_in_rewards_score_both_formats_equally(name):
    plain = score(name, prompts=["hello"] * 3, answer=["aeiou"] * 3)
    chat = score(name, prompts=CHAT, answer=["aeiou"] * 3)
    np.testing.assert_array_equal(plain.total, chat.total)


@pytest.mark.parametrize("timeout_s", [None, 30.0])
def test_async_function(timeout_s):
    async def later(completions, **columns):
        return [float(len(c)) for c in completions]

    item = RewardFunction("later", later, timeout_s=timeout_s)
    assert score(item).total.tolist() == [5, 3, 0]
    assert item(completions=TEXTS) == [5, 3, 0]


def test_callable_objects_partials_and_closures_run_in_worker():
    class Times:
        def __init__(self, factor):
            self.factor = factor

        def __call__(self, completions, **columns):
            return [self.factor * len(c) for c in completions]

    def scaled(completions, factor, **columns):
        return [factor * len(c) for c in completions]

    factor = 3

    def closure(completions, **columns):
        return [factor * len(c) for c in completions]

    items = [as_reward(Times(3)), RewardFunction("partial", partial(scaled, factor=3)), as_reward(closure)]
    for values in score(items).components.values():
        assert values.tolist() == [15, 9, 0]


def doubling(function):
    @wraps(function)
    def doubled(*args, **kwargs):
        return [2 * x for x in function(*args, **kwargs)]

    return doubled


@doubling
def doubled_length(completions):
    return [float(len(c)) for c in completions]


def test_user_decorator_applies_in_worker():
    assert score(doubled_length).total.tolist() == [10, 6, 0]


def test_unpicklable_function_raises_an_error():
    import threading

    lock = threading.Lock()

    def locked(completions):
        with lock:
            return [0.0] * len(completions)

    with pytest.raises(UserError, match=r"can be pickled for a worker process.*timeout_s=None"):
        score(locked)
    assert score(RewardFunction("locked", locked, timeout_s=None)).valid.all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scope": "epsiode"}, "Did you mean 'episode'"),
        ({"timeout_s": 0}, "timeout_s of reward 'x': .*got 0"),
        ({"timeout_s": float("inf")}, "None to run in-process"),
        ({"retries": -1}, "retries of reward 'x': .*got -1"),
        ({"on_error": "ignore"}, "on_error of reward 'x': .*got 'ignore'"),
        ({"on_error": float("nan")}, "finite number"),
    ],
)
def test_invalid_descriptions_raise_an_error(arguments, message):
    with pytest.raises(UserError, match=message):
        RewardFunction("x", vowels, **arguments)


def test_classes_and_numbers_are_not_functions():
    with pytest.raises(UserError, match="expected a function"):
        compose(dict)
    with pytest.raises(UserError, match="expected a function"):
        compose([3])


# ---- scopes ----


def test_each_event_scores_its_scopes():
    def make(scope):
        function = (lambda completions: [[1.0] * 2, [1.0], []]) if scope == "token" else lambda completions: [1.0] * 3
        return RewardFunction(scope, function, scope=scope, timeout_s=None)

    total = compose([make(s) for s in ("token", "turn", "episode", "group")])
    assert dict(total.scopes) == {s: s for s in ("token", "turn", "episode", "group")}
    names = {e: set(total.score(e, PROMPTS, TEXTS, IDS).components) for e in ("turn", "episode", "group")}
    assert names == {"turn": {"token", "turn"}, "episode": {"episode"}, "group": {"group"}}


def test_token_rewards_are_weighted_and_added_to_total():
    item = RewardFunction("t", lambda completion_ids: [[0.5] * len(x) for x in completion_ids], "token", None)
    scores = compose([(item, 2.0), (RewardFunction("turn", lambda completions: [10.0] * 3, "turn", None), 1.0)]).score(
        "turn", PROMPTS, TEXTS, IDS
    )
    assert [x.tolist() for x in scores.token_rewards] == [[1.0, 1.0], [1.0], []]
    assert scores.components["t"].tolist() == [1.0, 0.5, 0.0]
    assert scores.total.tolist() == [12.0, 11.0, 10.0]


def test_token_scope_requires_one_number_per_id():
    item = RewardFunction("t", lambda completion_ids: [[0.5] for _ in completion_ids], "token", None)
    with pytest.raises(
        RewardError, match=r"'t': expected 2 values for the completion ids of sample 0 \('aeiou'\), got 1"
    ):
        score(item, event="turn")


def test_group_scope_receives_group_ids():
    def rank(completions, group_ids):
        return [float(g) for g in group_ids]

    item = RewardFunction("rank", rank, "group", None)
    assert score(item, event="group", group_ids=[0, 0, 1]).total.tolist() == [0, 0, 1]


def test_empty_batch_and_empty_sum_give_valid_zero():
    assert score("vader", prompts=[], completions=[], ids=[]).total.shape == (0,)
    scores = score(None)
    assert scores.total.tolist() == [0, 0, 0]
    assert scores.valid.all()
    assert scores.components == {}


# ---- binding ----


def test_bind_affects_one_sum_only():
    class PolicyReader:
        def __init__(self, policy=0.0):
            self.policy = policy

        def bind(self, policy):
            return PolicyReader(policy)

        def __call__(self, completions):
            return [self.policy] * len(completions)

    item = RewardFunction("p", PolicyReader(), timeout_s=None)
    one, other = compose(item), compose(item)
    one.bind(7.0)
    assert one.score("episode", PROMPTS, TEXTS, IDS).total.tolist() == [7, 7, 7]
    assert other.score("episode", PROMPTS, TEXTS, IDS).total.tolist() == [0, 0, 0]
    with pytest.raises(UserError, match="timeout_s=None"):
        compose(RewardFunction("p", PolicyReader())).bind(7.0)


# ---- names and imports ----


def test_unknown_reward_gets_suggestion():
    with pytest.raises(UnknownNameError, match="Did you mean 'vader'"):
        compose("vadr")


def test_importing_rewards_does_not_import_torch():
    code = (
        "import sys, rlalign.rewards, importlib\n"
        "for m in 'classifier length match repetition sentiment similarity'.split():\n"
        "    importlib.import_module('rlalign.rewards.builtin.' + m)\n"
        "assert not {'torch', 'transformers', 'trl', 'datasets'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
