"""Tests of the answers, sizes and arguments of the string environments."""

import pytest

from rlalign import checks
from rlalign.envs.registration import make_mdp
from rlalign.errors import UserError


@pytest.mark.parametrize(
    ("name", "is_correct"),
    [
        ("reverse", lambda text, answer: answer == text[::-1]),
        ("copy", lambda text, answer: answer == text),
        ("sort", lambda text, answer: answer == "".join(sorted(text))),
        ("parity", lambda text, answer: answer == "01"[sum(c == "1" for c in text) % 2]),
        ("add", lambda text, answer: eval(text) == int(answer)),
    ],
)
def test_answers_are_correct_and_fit(name, is_correct):
    mdp = make_mdp(name)
    for task in (mdp.source.get("train", index) for index in range(100)):
        assert is_correct(task.prompt[:-1], task.columns["answer"])
        assert len(mdp.prompt_ids(task)) <= mdp.max_prompt
        assert len(mdp.tokenizer.encode(task.columns["answer"])) + 1 < mdp.max_new  # EOS, and not at the limit


def test_more_digits_and_letters_fit():
    assert len(make_mdp("add?digits=9").source.get("train", 0).prompt) > 10
    assert set(make_mdp("sort?alphabet=zyx&max_length=9").source.get("train", 1).columns["answer"]) <= set("xyz")
    with pytest.raises(UserError, match="digits: expected at least 1 and at most 15, got 0"):
        make_mdp("add?digits=0")


def test_reverse_is_exact_and_parametric() -> None:
    mdp = make_mdp("reverse", alphabet="xyz", min_length=3, max_length=5, seed=7)
    task = mdp.source.get("train", 0)
    assert isinstance(task.prompt, str)
    assert task.prompt[:-1][::-1] == task.columns["answer"]
    lengths = {len(mdp.source.get("train", i).columns["answer"]) for i in range(100)}
    assert lengths == {3, 4, 5}
    with pytest.raises(UserError, match="alphabet without"):
        make_mdp("reverse", alphabet="a>")


def test_reverse_with_multibyte_letters_fits_in_bytes() -> None:
    mdp = make_mdp("reverse", alphabet="一二三🙂", tokenizer="bytes")
    assert all(result.passed for result in checks.check_env(mdp, episodes=16))
