"""Tests of Math: boxes, data sets and sums."""

import json
from pathlib import Path

import pytest

from rlalign.envs.builtin.language import math
from rlalign.envs.registration import make_mdp
from rlalign.errors import UserError


def test_last_box_has_balanced_braces() -> None:
    assert math.last_boxed(r"first \boxed{1}, then \boxed{\frac{1}{2}}.") == r"\frac{1}{2}"
    assert math.last_boxed("no box") is None
    assert math.last_boxed(r"\boxed{never closed") is None


def test_exactly_one_filled_box_scores() -> None:
    texts = [r"so \boxed{3}", r"\boxed{1} or \boxed{2}", r"\boxed{}", r"\boxed{ }", "3", ""]
    assert math.boxed(texts) == [1, 0, 0, 0, 0, 0]


def test_word_problems_keep_their_splits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, score) -> None:
    files = {
        "gsm8k/train": [
            {"question": f"How many is {i}?", "answer": f"It is <<{i}>>\n#### 1,{i:03d}"} for i in range(20)
        ],
        "gsm8k/test": [{"question": "Half of five?", "answer": "5/2\n#### 2.5"}],
        "svamp/test": [{"Body": f"There are {i}. ", "Question": "How many?", "Answer": float(i)} for i in range(20)],
        "math/train": [
            {"problem": "p", "solution": r"\boxed{\frac12}", "level": "Level 5"},
            {"problem": "x" * 2000, "solution": r"\boxed{1}"},
            {"problem": "none", "solution": "no box"},
        ],
        "math/test": [{"problem": "q", "solution": r"\boxed{7}"}],
    }
    for name, records in files.items():
        path = tmp_path / f"{name}.jsonl"
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join(map(json.dumps, records)))
    monkeypatch.setattr("rlalign.assets.wheel_member", lambda name: tmp_path)
    gsm8k = make_mdp("math?source=gsm8k")
    assert gsm8k.source.size("test") == 1
    assert gsm8k.source.get("test", 0).columns["answer"] == r"\boxed{2.5}"
    task = gsm8k.source.get("train", 0)
    answer = task.columns["answer"]
    assert answer.startswith(r"\boxed{10")
    svamp = make_mdp("math?source=svamp")
    assert [svamp.source.size(s) for s in ("train", "validation", "test")] == [16, 2, 2]
    assert str(svamp.source.get("train", 0).prompt).count(". How many?") == 1
    competition = make_mdp("math?source=math").source
    assert competition.size("train") == 1
    assert competition.get("train", 0).columns == {
        "level": "Level 5",
        "solution": r"\boxed{\frac12}",
        "answer": r"\boxed{\frac12}",
    }
    scores = score(gsm8k, task, answer, answer.strip("\\boxed{}"), "no idea")
    gsm8k.reward.close()
    assert scores["math_verify"] == [1, 1, 0]
    assert scores["boxed"] == [1, 0, 0]


def test_sums_are_exact_and_near_results_score(score) -> None:
    mdp = make_mdp("math", largest=20, operations="-")
    tasks = (mdp.source.get("train", i) for i in range(200))
    task = next(task for task in tasks if len(task.columns["answer"]) == 3)
    a, b = str(task.prompt).rstrip("=").split("-")
    answer = task.columns["answer"]
    assert int(a) - int(b) == int(answer)
    near = str(int(answer) - 2)
    scores = score(mdp, task, answer, near, f"{a}-{b}", f"{answer}0", "--1", "", "²", "9" * 99)
    assert scores["exact_match"] == [1, 0, 0, 0, 0, 0, 0, 0]
    assert scores["near"] == pytest.approx([1, 0.8, 0, 0, 0, 0, 0, 0])
    with pytest.raises(UserError, match="operations"):
        make_mdp("math", operations="/")


def test_own_records_replace_the_tasks() -> None:
    mdp = make_mdp("math", source=[{"prompt": "1+1?", "answer": "\\boxed{2}"}] * 3)
    assert mdp.source.get("train", 0).prompt == "1+1?"
    assert "math_verify" in mdp.rewards
