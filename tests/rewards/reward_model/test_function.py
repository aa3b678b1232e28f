"""The reward of a spec: a registered name first, then a folder with a `/`."""

from __future__ import annotations

import numpy as np
import pytest

from rlalign import checks
from rlalign.errors import UserError
from rlalign.registry import REWARDS
from rlalign.rewards import compose
from rlalign.rewards.reward_model.folder import load_scorer
from rlalign.rewards.reward_model.function import FolderReward, samples_of
from rlalign.rewards.reward_model.rendering import Sample
from rlalign.rewards.specs import resolve


def score(spec, prompts, texts, **columns):
    with compose(spec) as total:
        return total.score("episode", prompts, texts, [[1]] * len(texts), **columns).total


def test_folder_scores_finished_and_cut(text_model):
    scorer, _ = load_scorer(text_model.folder)
    values = score(str(text_model.folder), ["p:"] * 2, [" clear"] * 2, truncated=[False, True])
    assert values.tolist() == scorer.scores([Sample("p:", " clear"), Sample("p:", " clear", cut=True)]).tolist()
    assert values[0] != values[1]


def test_weight_and_options_of_the_spec(linear):
    plain = score(str(linear), ["p"], [" clear kind"], truncated=[False])
    assert score(f"{linear}=0.5", ["p"], [" clear kind"], truncated=[False]) == pytest.approx(0.5 * plain)
    _, manifest = load_scorer(linear)
    centered = score(f"{linear}?centered=true", ["p"], [" clear kind"], truncated=[False])
    assert centered == pytest.approx(plain - manifest.center)


def test_registered_name_comes_first_and_a_folder_needs_a_slash(linear, monkeypatch, tmp_path):
    import shutil

    monkeypatch.chdir(tmp_path)
    shutil.copytree(linear, "length")
    shutil.copytree(linear, "rm")
    assert resolve("length")[0][0].function is REWARDS.get("length").function
    assert isinstance(resolve("./length")[0][0].function, FolderReward)
    assert resolve("./rm")[0][0].name == "rm"
    with pytest.raises(UserError, match=r"no reward 'rm'.* use \./rm"):
        resolve("rm")
    with pytest.raises(UserError, match="got no folder"):
        resolve("./rn")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"got a folder without reward_model.json"):
        resolve("./empty")


@pytest.mark.parametrize("kind", ["linear", "text", "chat"])
def test_passes_the_checks_of_a_reward(kind, linear, text_model, chat_model):
    folder = {"linear": linear, "text": text_model.folder, "chat": chat_model.folder}[kind]
    results = checks.check_reward(str(folder))
    assert [str(result) for result in results if not result.passed] == []


def test_options_of_ensembles_need_one(linear):
    with pytest.raises(UserError, match="expected an ensemble for how and coef"):
        FolderReward(str(linear))(["p"], ["c"], how="min")
    with pytest.raises(UserError, match="expected form text or chat"):
        FolderReward(str(linear))(["p"], ["c"], form="html")


def test_several_turns_become_one_conversation():
    samples = samples_of(["p"], ["one\ntwo"], [True], [["one", "two"]], [["why?"]])
    assert samples[0].messages() == [
        {"role": "user", "content": "p"},
        {"role": "assistant", "content": "one"},
        {"role": "user", "content": "why?"},
        {"role": "assistant", "content": "two"},
    ]
    assert samples_of(["p"], ["one"], None, [["one"]], [[]]) == [Sample("p", "one")]


def test_scores_do_not_depend_on_order_to_the_last_bit(text_model):
    texts = [" clear", " kind useful rude", " note", " calm and clear and kind", ""] * 3
    rng = np.random.default_rng(0)
    order = rng.permutation(len(texts))
    first = score(str(text_model.folder), ["p"] * 15, texts, truncated=[False] * 15)
    second = score(str(text_model.folder), ["p"] * 15, [texts[i] for i in order], truncated=[False] * 15)
    assert (first[order] == second).all()


def test_policy_of_a_run_names_its_device(linear):
    class Policy:
        device = "meta"

    assert FolderReward(str(linear)).bind(Policy())._device == "meta"
