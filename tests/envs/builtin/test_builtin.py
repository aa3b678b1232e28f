"""Tests that run on all built-in environments, and on further configurations of some of them."""

import re
import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from rlalign import checks
from rlalign.envs.builtin.language import reasoning
from rlalign.envs.registration import make_mdp
from rlalign.envs.task_sources import SPLITS
from rlalign.envs.vector_env import TokenVectorEnv
from rlalign.errors import MissingExtraError, UserError
from rlalign.evaluation.evaluate import held_out
from rlalign.policies.factory import make_policy
from rlalign.registry import ENVS, import_optional
from rlalign.training.supervised import build_demonstrations

BUILT_IN = [name for name in ENVS if name.startswith("rlalign/")]
VARIANTS = [
    "translate?language=zh",
    "translate?tokenizer=bytes",
    "classification?language=zh",
    "classification?tokenizer=bytes",
    "entities?language=zh",
    "entities?source=faker&language=zh",
    "entities?source=faker",
    "events?language=zh",
    "events?tokenizer=bytes",
    "summarise?reference=keywords",
    "constrained?tokenizer=bytes",
    "math?operations=%2B-*&largest=20",
    "hackme?exploit=format&tokenizer=bytes",
    "hackme?exploit=length",
    "alignment?source=chinese",
]


@pytest.fixture(params=BUILT_IN)
def name(request: pytest.FixtureRequest) -> str:
    """Return the id of each environment whose optional package is installed."""
    try:
        make_mdp(request.param)
    except MissingExtraError as error:
        pytest.skip(str(error))
    return str(request.param)


def test_gymnasium_checker_accepts_environment(name: str) -> None:
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


def test_invariants_hold(name: str) -> None:
    for result in checks.check_env(make_mdp(name), episodes=16):
        assert result.passed, f"{result.name}: {result.detail}"


IN_SLOW = {
    "translate?tokenizer=bytes", "classification?tokenizer=bytes", "events?tokenizer=bytes", "events?language=zh",
    "entities?source=faker", "constrained?tokenizer=bytes", "hackme?exploit=length",
}  # fmt: skip
"""Configurations that differ from others in the environment alone."""


@pytest.mark.parametrize(
    "spec", [pytest.param(spec, marks=(pytest.mark.slow,) if spec in IN_SLOW else ()) for spec in VARIANTS]
)
def test_invariants_hold_in_other_configurations(spec: str) -> None:
    for result in checks.check_env(make_mdp(spec), episodes=8):
        assert result.passed, f"{result.name}: {result.detail}"


def test_conversation_scores_like_its_text(name: str) -> None:
    mdp = make_mdp(name)
    task = mdp.source.get("train", 0)
    completions = [*(mdp.reference_turns(task) or ["a good one"])[-1:], "", "x y"]
    columns = {key: [value] * 3 for key, value in task.columns.items()}
    columns |= {
        "state": [{} for _ in completions],
        "turns": [[s] for s in completions],
        "replies": [[]] * 3,
        "truncated": [False] * 3,
    }
    if mdp.reward.needs_policy:
        mdp.reward.bind(make_policy("gru", tokenizer=mdp.tokenizer, seed=0))
    ids = [[mdp.tokenizer.eos_id]] * 3
    texts = [task.prompt] * 3
    conversations = [[{"role": "user", "content": task.prompt}]] * 3
    text_scores = mdp.reward.score("episode", texts, completions, ids, **columns)
    conversation_scores = mdp.reward.score("episode", conversations, completions, ids, **columns)
    assert conversation_scores.total.tolist() == pytest.approx(text_scores.total.tolist(), nan_ok=True)


def test_byte_tokenizer_fits(name: str) -> None:
    mdp = make_mdp(name, tokenizer="bytes")
    env = TokenVectorEnv(mdp, 16)
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    while not env.done.all():
        env.step_tokens(rng.integers(256, size=(16, mdp.max_new)), np.full(16, mdp.max_new))
    for task in (mdp.source.get("train", i) for i in range(8)):  # reference turns fit, EOS included
        assert all(len(mdp.tokenizer.encode(turn)) < mdp.max_new for turn in mdp.reference_turns(task) or ())
    assert mdp.description
    assert type(mdp).__doc__


@pytest.mark.parametrize("name", ["GuessNumber", "Wordle", "Recommend", "Tools", "Dialogue", "Reverse"])
def test_demonstrations_are_the_reference_trajectory(name):
    mdp = make_mdp(name)
    tasks = [mdp.source.get("train", index) for index in range(4)]
    batch = build_demonstrations(mdp, tasks)
    for row, task in enumerate(tasks):
        mask = batch.action_mask[row]
        ids = batch.tokens[row]
        turns = [[*mdp.tokenizer.encode(turn), mdp.tokenizer.eos_id] for turn in mdp.reference_turns(task)]
        reference = [token for turn in turns for token in turn]
        actions = ids[mask].tolist()
        assert actions == reference[: len(actions)]
        assert len(actions) >= len(reference) - 1  # the last EOS may not fit
        assert ids[: mask.int().argmax()].tolist() == mdp.prompt_ids(task)
        assert not mask[batch.lengths[row] :].any()
        replies = len(turns) - 1  # one between each two turns
        assert int((mask[1:] & ~mask[:-1]).sum()) == replies + 1


@pytest.mark.parametrize("env", ["hackme", "overlongtrap", "preference", "detoxify"])
def test_held_out_prompts_suffice_for_an_interval_and_are_not_trained_on(env) -> None:
    mdp = make_mdp(env)
    prompts = {split: {task.prompt for task in held_out(mdp, split, 32)} for split in SPLITS}
    assert {split: len(distinct) for split, distinct in prompts.items()} == dict.fromkeys(SPLITS, 32)
    trained = {mdp.source.get("train", i).prompt for i in range(mdp.source.size("train") or 2000)}
    assert not trained & (prompts["validation"] | prompts["test"])
    assert not prompts["validation"] & prompts["test"]


def test_chinese_prompts_have_no_latin_letters() -> None:
    for env in ("entities", "entities?source=faker", "events", "classification?level=3"):
        source = make_mdp(env, language="zh").source
        texts = [str(source.get("train", i).prompt).removesuffix("\nJSON：") for i in range(50)]
        assert [text for text in texts if re.search("[A-Za-z]", text)] == []


@pytest.mark.parametrize(
    "env", ["alignment", "classification", "detoxify", "entities", "math", "sentiment", "summarise"]
)
def test_unknown_sources_raise_an_error(env: str) -> None:
    with pytest.raises(UserError, match="unknown source 'nonsense'"):
        make_mdp(env, source="nonsense")


@pytest.mark.parametrize(("name", "extra"), [("games", "games"), ("reasoning", "envs"), ("textworld", "textworld")])
def test_missing_package_names_its_extra(monkeypatch, name, extra):
    reasoning.dataset.cache_clear()
    for module in ("textarena", "reasoning_gym", "textworld"):
        monkeypatch.setitem(__import__("sys").modules, module, None)
    with pytest.raises(MissingExtraError, match=rf"pip install -c constraints.txt -e '.\[{extra}\]'"):
        make_mdp(name)


def test_missing_package_is_named():
    with pytest.raises(MissingExtraError, match=r"'nowhere'.* pip install -c constraints.txt -e '.\[envs\]'"):
        import_optional("nowhere", "envs")
