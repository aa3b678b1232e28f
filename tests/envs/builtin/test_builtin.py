import warnings
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

from rlalign import checks
from rlalign.envs.builtin.language import sentiment
from rlalign.envs.builtin.language.alignment import sentences
from rlalign.envs.builtin.multi_turn.guess_number import GuessNumber, won
from rlalign.envs.builtin.multi_turn.guess_number import turns as guesses
from rlalign.envs.registration import make_mdp, make_vec
from rlalign.envs.vector_env import TokenVectorEnv
from rlalign.errors import MissingExtraError, UserError
from rlalign.policies.factory import make_policy
from rlalign.registry import ENVS
from rlalign.rewards.function import RewardFunction
from rlalign.types import Task

BUILT_IN = [name for name in ENVS if name.startswith("rlalign/")]


@pytest.fixture(params=BUILT_IN)
def name(request: pytest.FixtureRequest) -> str:
    """Every environment whose optional package is there."""
    try:
        make_mdp(request.param)
    except MissingExtraError as error:
        pytest.skip(str(error))
    return str(request.param)


def test_gymnasium_accepts_it(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gym.make(name).unwrapped)
        env = gym.make_vec(name, num_envs=4)
    assert isinstance(env, TokenVectorEnv)
    env.reset(seed=0)
    for _ in range(env.mdp.max_context):
        observation, rewards, terminated, truncated, _ = env.step(env.action_space.sample())
        assert env.observation_space.contains(observation)
        assert np.isfinite(rewards).all()
    assert (terminated != truncated).all()


def test_its_laws_hold(name: str) -> None:
    for law in checks.check_env(make_mdp(name), episodes=40):
        assert law.passed, f"{law.name}: {law.detail}"


def test_what_is_said_in_a_conversation_is_worth_what_its_text_is(name: str) -> None:
    mdp = make_mdp(name)
    task = mdp.source.get("train", 0)
    said = [*(mdp.reference_turns(task) or ["a good one"])[-1:], "", "x y"]
    columns = {key: [value] * 3 for key, value in task.columns.items()}
    columns |= {
        "state": [{} for _ in said],
        "turns": [[s] for s in said],
        "replies": [[]] * 3,
        "truncated": [False] * 3,
    }
    if mdp.reward.asks_for_policy:
        mdp.reward.bind(make_policy("gru", tokenizer=mdp.tokenizer, seed=0))
    ids = [[mdp.tokenizer.eos_id]] * 3
    plain, message = ([prompt] * 3 for prompt in (task.prompt, [{"role": "user", "content": task.prompt}]))
    as_text = mdp.reward.score("episode", plain, said, ids, **columns)
    in_talk = mdp.reward.score("episode", message, said, ids, **columns)
    assert in_talk.total.tolist() == pytest.approx(as_text.total.tolist(), nan_ok=True)


def test_other_tokenizers_fit(name: str) -> None:
    mdp = make_mdp(name, tokenizer="bytes")
    env = TokenVectorEnv(mdp, 16)
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    while not env.done.all():
        env.step_tokens(rng.integers(256, size=(16, mdp.max_new)), np.full(16, mdp.max_new))
    for task in (mdp.source.get("train", i) for i in range(8)):  # what is right can be said, EOS included
        assert all(len(mdp.tokenizer.encode(turn)) < mdp.max_new for turn in mdp.reference_turns(task) or ())
    assert mdp.description
    assert type(mdp).__doc__


def test_reverse_is_exact_and_parametric() -> None:
    mdp = make_mdp("reverse", alphabet="xyz", min_length=3, max_length=5, seed=7)
    task = mdp.source.get("train", 0)
    assert isinstance(task.prompt, str)
    assert task.prompt[:-1][::-1] == task.columns["answer"]
    lengths = {len(mdp.source.get("train", i).columns["answer"]) for i in range(100)}
    assert lengths == {3, 4, 5}
    with pytest.raises(UserError, match="alphabet without"):
        make_mdp("reverse", alphabet="a>")


def test_reverse_with_wide_letters_fits_in_bytes() -> None:
    mdp = make_mdp("reverse", alphabet="一二三🙂", tokenizer="bytes")
    assert all(law.passed for law in checks.check_env(mdp, episodes=16))


def guess(number: int, *turns: str) -> tuple[float, str, bool]:
    rewards = [(RewardFunction(f.__name__, f, timeout_s=None), w) for f, w in ((won, 1.0), (guesses, -0.1))]
    env = make_vec("guessnumber", rewards=rewards)
    env.reset(seed=0, options={"tasks": [Task("guess 1-9\n", {"number": number})]})
    total = 0.0
    for turn in turns:
        ids = [*env.mdp.tokenizer.encode(turn), env.mdp.tokenizer.eos_id][: env.mdp.max_new]
        total += float(env.step_tokens(np.array([ids]), np.array([len(ids)])).rewards.sum())
    return total, env.mdp.tokenizer.decode(env.contexts([0])[0]), bool(env.terminated[0])


def test_guessing() -> None:
    reward, text, terminated = guess(7, "5", "8", "7")
    assert text == "guess 1-9\n5higher\n8lower\n7"
    assert terminated
    assert reward == pytest.approx(1 - 0.3)
    reward, text, terminated = guess(7, "", "77", "s", "-7")
    assert text.count("number?") == 2  # "77" is a number, and the last turn gets no reply
    assert "lower" in text
    assert not terminated
    assert reward == pytest.approx(-0.4)


def test_bisection_always_wins() -> None:
    for number in range(1, 10):
        low, high, turns = 1, 9, []
        while not turns or turns[-1] != str(number):
            middle = (low + high) // 2
            turns.append(str(middle))
            low, high = (middle + 1, high) if middle < number else (low, middle - 1)
        assert guess(number, *turns)[0] >= 0.6 - 1e-9


def test_guess_number_refuses_one_turn() -> None:
    with pytest.raises(UserError, match="at least 2"):
        GuessNumber(max_turns=1)
    with pytest.raises(UserError, match="high is 5, but games for three splits need 6"):
        GuessNumber(high=5)


@pytest.mark.parametrize("high", [6, 9, 20])
def test_games_of_guess_number_lie_within_their_range_and_in_one_split(high) -> None:
    mdp = GuessNumber(high=high)
    games: dict[str, set[tuple[str, int]]] = {}
    for split in ("train", "validation", "test"):
        for task in (mdp.source.get(split, index) for index in range(300)):
            first, last = map(int, task.prompt.split()[1].split("-"))
            assert 1 <= first <= task.columns["number"] <= last <= high
            assert first < last
            games.setdefault(split, set()).add((task.prompt, task.columns["number"]))
    assert min(map(len, games.values())) >= 6
    assert sum(map(len, games.values())) == len(set.union(*games.values()))


def test_openings_are_many_short_and_neutral() -> None:
    texts = [o["prompt"] for o in sentiment.openings()]
    assert len(set(texts)) == 288
    assert all(3 < len(text.split()) < 8 for text in texts)
    score = SentimentIntensityAnalyzer().polarity_scores
    assert [t for t in texts if score(t)["compound"] != 0] == []
    source = make_mdp("sentiment").source
    assert [source.size(s) for s in ("train", "validation", "test")] == [172, 58, 58]


def test_imdb_openings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "reviews.csv"
    rows = [f'"One two<br />three four {i} and more",{i % 2},imdb' for i in range(10)]
    path.write_text("text,label,source\n" + "\n".join([*rows, rows[0], "short,1,imdb", '"a b c d e f",1,rt']))
    monkeypatch.setattr("rlalign.assets.wheel_member", lambda name: path)
    mdp = make_mdp("sentiment", source="imdb")
    tasks = [mdp.source.get(s, i) for s in ("train", "validation", "test") for i in range(mdp.source.size(s) or 0)]  # type: ignore[arg-type]  # strings that are its splits
    assert {t.prompt for t in tasks} == {f"One two three four {i}" for i in range(10)}
    assert tasks[0].columns["label"] in ("positive", "negative")
    with pytest.raises(UserError, match="no source 'imbd'"):
        make_mdp("sentiment", source="imbd")


def test_alignment_sentences() -> None:
    assert len({s["prompt"] for s in sentences()}) == 320
