"""Specs of rewards: names, parameters, weights, and the errors of malformed specs."""

import pytest

from rlalign.errors import UnknownNameError, UserError
from rlalign.rewards import RewardFunction, compose
from rlalign.rewards.specs import split


def flat(completions, *, factor: float = 1.0, words: int = 2, loud: bool = False, mark: str = "!", free=None):
    return [0.0 for _ in completions]


FLAT = "rlalign_test_flat"


@pytest.fixture
def user_file(tmp_path):
    (tmp_path / "mine.py").write_text(
        "def vowels(prompts, completions, **columns):\n"
        "    return [float(sum(ch in 'aeiou' for ch in c)) for c in completions]\n"
    )
    return tmp_path / "mine.py"


@pytest.mark.parametrize(
    ("spec", "parts"),
    [
        ("vader", ("vader", {}, None)),
        ("vader=0.5", ("vader", {}, "0.5")),
        ("vader=-1e-3", ("vader", {}, "-1e-3")),
        ("a.b:c=2", ("a.b:c", {}, "2")),
        ("lr=1/file.py:f", ("lr=1/file.py:f", {}, None)),
        ("lr=1/file.py:f=2", ("lr=1/file.py:f", {}, "2")),
        ("length?target=20", ("length", {"target": "20"}, None)),
        ("length?target=20=0.5", ("length", {"target": "20"}, "0.5")),
        ("length?target=20&unit=words=2", ("length", {"target": "20", "unit": "words"}, "2")),
        (r"regex?pattern=\d+", ("regex", {"pattern": r"\d+"}, None)),
        ("regex?pattern=a=b", ("regex", {"pattern": "a=b"}, None)),
        ("regex?pattern=a=b=3", ("regex", {"pattern": "a=b"}, "3")),
        ("regex?pattern=x%3D1", ("regex", {"pattern": "x=1"}, None)),
        ("regex?pattern=a%26b?", ("regex", {"pattern": "a&b?"}, None)),
        ("regex?pattern=", ("regex", {"pattern": ""}, None)),
    ],
)
def test_split(spec, parts):
    assert split(spec) == parts


def test_all_forms_of_specs():
    def mine(completions):
        return [0.0] * len(completions)

    total = compose(["vader", "repetition=0.5", mine, ("too_short", 2.0), (mine_too := RewardFunction("b", mine), 3)])
    assert total.weights == {"vader": 1.0, "repetition": 0.5, "mine": 1.0, "too_short": 2.0, "b": 3.0}
    assert compose({"vader": 1, "repetition=0.5": 2, mine_too: 0}).weights == {"vader": 1, "repetition": 1, "b": 0}
    assert compose("vader=2").weights == compose(("vader", 2)).weights == {"vader": 2.0}
    assert compose(mine).weights == {"mine": 1.0}
    assert compose(None).weights == compose([]).weights == {}


def test_function_of_a_file_with_a_weight(user_file):
    with compose(f"{user_file}:vowels=0.5") as total:
        assert total.score("episode", ["p"], ["aei"], [[1]]).total.tolist() == [1.5]


def test_function_of_a_module():
    assert compose("rlalign.rewards.builtin.sentiment:vader").weights == {"vader": 1.0}


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ("vader=heavy", UserError, "expected a finite weight, got 'heavy'"),
        ("vader=inf", UserError, "expected a finite weight, got 'inf'"),
        ("length?targt=3", UserError, "no parameter 'targt'. Did you mean 'target'"),
        ("length?completions=3", UserError, "no parameter 'completions'"),
        ("length?target=long", UserError, "length\\?target: expected int, got 'long'"),
        ("length?target", UserError, "expected a parameter, got 'target'"),
        ("exact_match?ignore_case=perhaps", UserError, "expected true or false, got 'perhaps'"),
        ("nowhere.at_all:f", UserError, "no module 'nowhere.at_all'"),
        ("/no/such/file.py:f", UserError, "no file"),
        ("lenth=2", UnknownNameError, "Did you mean 'length'"),
        (["vader", "vader=2"], UserError, "got 'vader' twice"),
        (["regex?pattern=a", "regex?pattern=a=2"], UserError, "got 'regex.pattern=a.' twice"),
        ([("vader",)], UserError, "use \\(reward, weight\\)"),
    ],
)
def test_malformed_specs_raise_an_error(spec, error, message):
    with pytest.raises(error, match=message):
        compose(spec)


def test_parameters_are_converted_to_annotated_types():
    from rlalign.registry import REWARDS

    REWARDS.add(FLAT, RewardFunction("flat", flat, timeout_s=None))
    from rlalign.rewards.specs import resolve

    ((item, weight),) = resolve(f"{FLAT}?factor=2&words=3&loud=yes&mark=4&free=5=0.5")
    assert item.parameters == {"factor": 2.0, "words": 3, "loud": True, "mark": "4", "free": 5}
    assert isinstance(item.parameters["factor"], float)
    assert weight == 0.5
    assert item.using(words=9).parameters["words"] == 9


def test_repeated_function_gets_parameters_in_component_name():
    specs = ["regex?pattern=a", "regex?pattern=b=2", "vader"]
    assert compose(specs).weights == {"regex[pattern=a]": 1.0, "regex[pattern=b]": 2.0, "vader": 1.0}


def test_a_file_names_its_objects_and_its_registered_functions(tmp_path):
    path = tmp_path / "scorers.py"
    path.write_text(
        "import math\nimport functools\nimport rlalign\n\n"
        "class MyScorer:\n"
        "    def __call__(self, completions, **columns):\n        return [0.0 for _ in completions]\n\n"
        "inst = MyScorer()\n"
        "part = functools.partial(inst)\n\n"
        "@rlalign.reward('rlalign_test_given')\n"
        "def other(completions, **columns):\n    return [1.0 for _ in completions]\n"
    )
    specs = [f"{path}:inst", f"{path}:part=0.5", f"{path}:rlalign_test_given"]
    assert list(compose(specs).weights) == ["inst", "part", "rlalign_test_given"]
    with pytest.raises(UserError, match=r"has no 'zzz'\. Available: MyScorer, inst, other, part, rlalign_test_given\."):
        compose([f"{path}:zzz"])


def test_a_folder_without_a_slash_is_named(tmp_path, monkeypatch) -> None:
    (tmp_path / "rm").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"no reward 'rm': .* use \./rm"):
        compose("rm")
