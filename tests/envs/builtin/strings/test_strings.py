"""What the procedural and multi-turn environments say and pay, by hand."""

import random
from fractions import Fraction

import numpy as np
import pytest

from rlalign.envs.builtin.language import reasoning
from rlalign.envs.builtin.multi_turn import dialogue, games, wordle
from rlalign.envs.builtin.multi_turn.calculator import calculate, shown
from rlalign.envs.registration import make_mdp
from rlalign.errors import MissingExtraError, UnknownNameError, UserError
from rlalign.training.supervised import build_demonstrations
from rlalign.types import Task


@pytest.mark.parametrize(
    ("name", "check"),
    [
        ("reverse", lambda text, answer: answer == text[::-1]),
        ("copy", lambda text, answer: answer == text),
        ("sort", lambda text, answer: answer == "".join(sorted(text))),
        ("parity", lambda text, answer: answer == "01"[sum(c == "1" for c in text) % 2]),
        ("add", lambda text, answer: eval(text) == int(answer)),
    ],
)
def test_the_strings_have_their_answers(name, check):
    mdp = make_mdp(name)
    for task in (mdp.source.get("train", index) for index in range(100)):
        assert check(task.prompt[:-1], task.columns["answer"])
        assert len(mdp.prompt_ids(task)) <= mdp.max_prompt
        assert len(mdp.tokenizer.encode(task.columns["answer"])) + 1 < mdp.max_new  # right, and not at the limit


def test_more_digits_and_letters_fit():
    assert len(make_mdp("add?digits=9").source.get("train", 0).prompt) > 10
    assert set(make_mdp("sort?alphabet=zyx&max_length=9").source.get("train", 1).columns["answer"]) <= set("xyz")
    with pytest.raises(UserError, match="digits is 0"):
        make_mdp("add?digits=0")


@pytest.mark.parametrize(
    ("guess", "word", "said"),
    [("abc", "abc", "+++"), ("abc", "cab", "---"), ("aab", "abb", "+.+"), ("bba", "abc", ".+-"), ("ddd", "abc", "...")],
)  # fmt: skip
def test_marks(guess, word, said):
    assert wordle.marks(guess, word) == said


def test_wordle_pays_for_words_information_and_the_word(play):
    mdp = make_mdp("wordle")
    task = Task("3 of abcd\n", {"answer": "abc"})
    assert play(mdp, task, "abc") == (pytest.approx(1.7), "3 of abcd\nabc", True)
    total, text, over = play(mdp, task, "dd", "ddd", "abc")
    assert text == "3 of abcd\nddword?\nddd...\nabc"
    assert (total, over) == (pytest.approx(1 + 0.5 + 0.2 * 2 / 3), True)
    total, _, over = play(mdp, task, *["ddd"] * 5)  # of 64 words 27 have no d
    assert (total, over) == (pytest.approx(0.5 * np.log(64 / 27) / np.log(64) + 0.2), True)
    first = Task("3 of abcd\nddd...\n", {"answer": "abc", "first": "ddd"})
    total, _, over = play(mdp, first, *["ddd"] * 5)
    assert (total, over) == (pytest.approx(0.5 * np.log(64 / 27) / np.log(64) + 0.2), True)
    total, _, _ = play(mdp, first, *["dda"] * 5)
    left = sum(wordle.marks("dda", w) == wordle.marks("dda", "abc") for w in wordle.words_of("abc", 3))
    assert total == pytest.approx(0.5 * np.log(64 / left) / np.log(64) + 0.2)
    tasks = [mdp.source.get("train", i) for i in range(50)]
    assert all(wordle.marks(t.columns["first"], t.columns["answer"]) in t.prompt for t in tasks)
    held_out = {mdp.source.get("test", i).prompt for i in range(200)}
    assert len(held_out) > 60
    assert {mdp.source.get("test", i).columns["answer"] for i in range(200)} & {t.columns["answer"] for t in tasks}
    with pytest.raises(UserError, match="take fewer letters"):
        make_mdp("wordle?alphabet=abcdefghij&length=5")


def test_the_user_says_what_he_would_rather_have(play):
    mdp = make_mdp("recommend")
    task = Task("", {"titles": ["dark war", "odd love", "light space"], "order": [1, 2, 0], "answer": "b"})
    task = Task("a) dark war, b) odd love, c) light space\n", task.columns)
    assert play(mdp, task, "b")[0] == pytest.approx(1 + 1 - 0.1)
    assert play(mdp, task, "odd love")[0] == pytest.approx(1 + 1 - 0.1)
    total, text, over = play(mdp, task, "a", "war", "c")
    assert "more odd" in text
    assert "which?" in text
    assert (total, over) == (pytest.approx(1 / 2 - 0.3), True)


def test_tools_answer_and_needless_calls_cost(play):
    mdp = make_mdp("tools")
    columns = {"prices": {"lamp": 7}, "answer": "21", "tools": ["find lamp", "calc 3*7"]}
    task = Task("3*lamp?\n", columns)
    total, text, over = play(mdp, task, "find lamp", "calc 3*7", "21")
    assert (total, text, over) == (pytest.approx(1.1), "3*lamp?\nfind lamp7\ncalc 3*721\n21", True)
    assert play(mdp, task, "find", "calc (3", "calc 3*7", "21")[0] == pytest.approx(1.1 - 0.05)
    assert play(mdp, task, "21")[0] == pytest.approx(1.1)  # knowing it is no fault
    assert play(mdp, task, "20")[0] == pytest.approx(0.1)
    total, text, _ = play(mdp, task, *["calc 9/7"] * 4)
    assert text == "3*lamp?\n" + "calc 9/71.28571\n" * 3 + "calc 9/7"
    assert total == pytest.approx(-0.1)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2*(3+4)-1", 13), (" -7 // 2", -4), ("7 % 4", 3), ("1/3", Fraction(1, 3)), ("+5", 5),
        ("2**9", None), ("1/0", None), ("5%0", None), ("", None), ("(" * 60, None), ("1+" * 40 + "1", None),
        ("__import__('os')", None), ("True", None), ("1.5", None), ("9j", None), ("x", None), ("٣", None),
        ("007", None),
    ],
)  # fmt: skip
def test_the_calculator_knows_arithmetic_and_nothing_else(text, value):
    assert calculate(text) == value


def test_numbers_are_shown_exactly_where_they_are_whole():
    assert [shown(Fraction(n)) for n in (10**20, -3)] == [str(10**20), "-3"]
    assert shown(Fraction(2, 3)) == "0.666667"


def test_a_customer_is_asked_and_served(play):
    mdp = make_mdp("dialogue")
    task = Task("hi, my lamp is broken.\n", {"remedy": "refund", "order": 4})
    total, text, over = play(mdp, task, "sorry, which remedy and which order?", "thanks, refund order 4.")
    assert "refund order 4 ." in text
    assert (total, over) == (pytest.approx(1.1), True)
    total, text, _ = play(mdp, task, "help", "what?", "which order?", "refund 3")
    assert "please help" in text
    assert total == pytest.approx(0.5 - 0.05 * 2)
    assert "no , not that" in play(mdp, task, "repair 4", "replace 4")[1]
    assert play(mdp, task, "refund repair replace 4", *["help"] * 3)[0] == pytest.approx(-0.1)  # all of them is none


def test_real_openings(monkeypatch, tmp_path):
    path = tmp_path / "dataset.json"
    path.write_text(
        '{"1": {"messages": [[{"text": "Good  day!"}]]}, "2": {"messages": []}, "3": {"messages": [[{"text": "%s"}]]}}'
        % ("x" * 99)
    )
    monkeypatch.setattr("rlalign.envs.builtin.multi_turn.dialogue.wheel_member", lambda name: path)
    assert dialogue.chitchat_openings() == ["Good day!"]
    assert make_mdp("dialogue?openings=chitchat").source.get("train", 0).prompt.startswith("Good day!\nmy ")
    with pytest.raises(UserError, match="no openings 'chat'"):
        make_mdp("dialogue?openings=chat")


@pytest.mark.parametrize("name", ["GuessNumber", "Wordle", "Recommend", "Tools", "Dialogue", "Reverse"])
def test_demonstrations_are_the_gold_turns_as_the_environment_would_have_them(name):
    mdp = make_mdp(name)
    tasks = [mdp.source.get("train", index) for index in range(4)]
    found = build_demonstrations(mdp, tasks)
    for row, task in enumerate(tasks):
        mask, ids = found.action_mask[row], found.tokens[row]
        spoken = [t for turn in mdp.reference_turns(task) for t in [*mdp.tokenizer.encode(turn), mdp.tokenizer.eos_id]]
        said = ids[mask].tolist()
        assert said == spoken[: len(said)]
        assert len(said) >= len(spoken) - 1  # a last EOS may not fit
        assert ids[: mask.int().argmax()].tolist() == mdp.prompt_ids(task)
        assert not mask[found.lengths[row] :].any()
        replies = len(mdp.reference_turns(task)) - 1  # lie between the turns
        assert int((mask[1:] & ~mask[:-1]).sum()) == replies + 1


# ---- packages that are optional ----


@pytest.mark.parametrize("task", ["gcd", "chain_sum", "syllogism"])
def test_sets_of_reasoning_gym_that_pass_the_screening(task):
    pytest.importorskip("reasoning_gym")
    reasoning.screen(task)
    mdp = make_mdp(f"reasoning?task={task}")
    assert mdp.source.get("train", 3).columns["answer"]


def test_sets_that_fail_are_refused_with_the_reason(monkeypatch):
    pytest.importorskip("reasoning_gym")
    with pytest.raises(UserError, match="'propositional_logic' is left out: it has no reference answers"):
        make_mdp("reasoning?task=propositional_logic")
    with pytest.raises(UnknownNameError, match=r"unknown set of reasoning-gym 'chainsum'. Did you mean 'chain_sum'"):
        make_mdp("reasoning?task=chainsum")
    with pytest.raises(UserError, match="cannot be made with 'max_terms=0'"):
        make_mdp("reasoning", config="max_terms=0")
    with pytest.raises(UserError, match="raise max_prompt"):
        make_mdp("reasoning?task=gcd&max_prompt=10")

    class Set:
        def __init__(self, score):
            self.score_answer = score

        def __getitem__(self, index):
            return {"question": "?", "answer": "1", "metadata": {}}

    for score, reason in [
        (lambda answer, entry: 0.5, "its own answer '1' does not score 1"),
        (lambda answer, entry: float(answer) / int(entry["answer"]), "ValueError"),
        (lambda answer, entry: 1.0 if answer == "1" else -1.0, "outside 0 to 1"),
    ]:
        monkeypatch.setattr(reasoning, "dataset", lambda task, config, score=score: Set(score))
        with pytest.raises(UserError, match=reason):
            reasoning.screen("gcd")


def test_games_do_not_disturb_each_other():
    pytest.importorskip("textarena")
    alone = [games.Game("GuessTheNumber-v0", seed) for seed in (1, 2)]
    for game in alone:
        for turn in ("[3]", "[7]", "[12]"):
            game.act(turn)
    before = random.getstate()
    mixed = [games.Game("GuessTheNumber-v0", seed) for seed in (1, 2)]
    for turn in ("[3]", "[7]", "[12]"):
        for game in mixed:
            game.act(turn)
    assert random.getstate() == before
    assert [g.said for g in mixed] == [g.said for g in alone]


def test_games_that_cannot_be_played_are_refused():
    pytest.importorskip("textarena")
    with pytest.raises(UnknownNameError, match=r"unknown game of TextArena 'FrozenLake'. Did you mean 'FrozenLake-v0'"):
        make_mdp("games?name=FrozenLake")
    with pytest.raises(UserError, match="'TicTacToe-v0' is left out"):
        make_mdp("games?name=TicTacToe-v0")


@pytest.mark.parametrize(("name", "extra"), [("games", "games"), ("reasoning", "envs"), ("textworld", "textworld")])
def test_a_missing_package_is_named(monkeypatch, name, extra):
    reasoning.dataset.cache_clear()
    for module in ("textarena", "reasoning_gym", "textworld"):
        monkeypatch.setitem(__import__("sys").modules, module, None)
    with pytest.raises(MissingExtraError, match=rf"pip install 'rlalign\[{extra}\]'"):
        make_mdp(name)
