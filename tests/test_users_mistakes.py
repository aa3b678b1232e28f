"""What people get wrong, and the one line that they get for it: exit status 2, and nothing on the disk."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import rlalign
from rlalign import cli
from rlalign import typecheck as fields
from rlalign.config.schema import TrainConfig
from rlalign.config.serialize import from_dict, update
from rlalign.config.validate import validate
from rlalign.errors import FaultError, UserError
from rlalign.policies.factory import make_policy

_SMALL = ("--rollout.prompts", "2", "--rollout.group-size", "2", "--evaluation.prompts", "4")
_TRAIN = ("train", "--env", "reverse", "--policy", "gru", *_SMALL)
_OWN = """
import rlalign

def needs(completions, answer, **columns): return [0.0] * len(completions)
def none(): return 0
def one(x): return x

class Raises(rlalign.TextMDP):
    source = [{"prompt": letter} for letter in "abcd"]
    max_turns, max_reply, max_new, rewards = 2, 4, 3, {"length": 1.0}
    def reply(self, task, turn_ids, state, rng): raise TypeError("oops")

class Text(Raises):
    def reply(self, task, turn_ids, state, rng): return "hello"

class Own(rlalign.TextMDP):
    rewards = {"length": 1.0}
    def __init__(self): super().__init__(source=[{"prompt": "a"}])
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a run of two steps, runs that are none, and a file of the user's own."""
    folder = tmp_path_factory.mktemp("mistakes")
    assert cli.main([*_TRAIN, "--steps", "2", "--output", str(folder / "run")]) == 0
    (folder / "own.py").write_text(_OWN)
    config = (folder / "run" / "config.json").read_text()
    for name, text in (("bare", config), ("list", "[1]"), ("typed", json.dumps({"steps": "abc"}))):
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(text)
    return folder


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("evaluate run --prompts -1", "prompts is -1: it must be at least 2"),
        ("evaluate run --prompts 0", "prompts is 0"),
        ("evaluate run --samples 0", "samples is 0: it must be at least 1"),
        ("evaluate run --k -2", "samples is -2"),
        ("evaluate run --env guess_number", "not in the tokenizer's alphabet"),
        ("evaluate list", "list/config.json': a configuration: expected an object of settings, got [1]"),
        ("evaluate typed", "steps is 'abc': it must be an integer"),
        ("generate run abc", "reward 'token_match' needs 'answer': add --column answer=..."),
        ("generate run abc --column answer=cba --seed -1", "seed is -1"),
        ("generate run abc --column answer=cba --until nan", "until is nan"),
        ("generate run abc --column answer=cba --temperature -1", "temperature is -1.0: it must be above 0"),
        ("generate run abc --column answer=cba --temperature 0", "temperature is 0.0"),
        ("generate run abc --column answer=cba --max-tries 0", "max_tries is 0"),
        ("plot run --output x.xyz", "'x.xyz': expected the suffix of an image format"),
        ("plot run run", "got the same run twice"),
        ("plot bare", "'bare': expected metrics, got no step with a reward"),
        ("list envs --diff a b", "--diff compares two algorithms"),
        ("oracle --preset rloo --group-size 0", "group_size: expected at least 1, got 0"),
        ("oracle --preset rloo --horizon 0", "horizon: expected at least 1, got 0"),
        ("check reverse --episodes 0", "episodes: expected at least 1, got 0"),
        ("check reverse --seed -1", "seed: expected at least 0, got -1"),
        ("train --resume run --steps 1", "has done 2 steps already"),
        ("train --resume=run --steps 1", "has done 2 steps already"),
        ("TRAIN --objective.kl.coef inf", "objective.kl.coef is inf"),
        ("TRAIN --learner.lr inf", "learner.lr is inf"),
        ("TRAIN --rollout.temperature inf", "temperature is inf"),
        ("TRAIN --env reverse?max_length=abc", "max_length of rlalign/Reverse-v0 is 'abc': it must be an integer"),
        ("TRAIN --objective.loss own.py:needs", "expected a function f(objective, batch), got a reward"),
        ("TRAIN --objective.baseline own.py:none", "expected a function f(returns, batch), got f()"),
        ("TRAIN --objective.trust.kind own.py:one", "expected a function f(x, trust), got f(x)"),
        ("TRAIN --policy ./missing", "no folder './missing'"),
        ("TRAIN --reward own.py", "'own.py' is a file: name the reward in it, own.py:NAME"),
        ("TRAIN --reward regex?pattern=(", "expected a regular expression, got '('"),
        ("TRAIN --env own.py:Own?max_new=3", "its __init__ must take **kwargs and hand them to super().__init__"),
    ],
)
def test_a_mistake_on_the_command_line(capsys, made, monkeypatch, words, said):
    monkeypatch.chdir(made)
    given = [word for part in words.split() for word in (_TRAIN if part == "TRAIN" else [part])]
    before = {path: path.stat().st_mtime_ns for path in made.rglob("*") if path.is_file() and path.suffix != ".pyc"}
    assert cli.main(given) == 2
    err = capsys.readouterr().err
    assert err.startswith("rlalign: ")
    assert said in err
    assert len(err.strip().splitlines()) == 1
    after = {path: path.stat().st_mtime_ns for path in made.rglob("*") if path.is_file() and path.suffix != ".pyc"}
    after.pop(made / "run" / "run.lock", None)
    before.pop(made / "run" / "run.lock", None)
    assert after == before


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Raises", "reply of Raises failed: TypeError: oops"),
        ("Text", "reply of Text: expected token ids, got a text"),
    ],
)
def test_a_reply_that_fails_or_is_no_ids(made, name, said):
    env = rlalign.make_env(f"{made / 'own.py'}:{name}")
    env.reset(seed=0)
    with pytest.raises(UserError, match=said):
        env.step(env.mdp.tokenizer.eos_id)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"steps": "abc"}, "steps is 'abc': it must be an integer"),
        ({"steps": 2.5}, "steps is 2.5: it must be an integer"),
        ({"steps": True}, "steps is True"),
        ({"learner__lr": "abc"}, "learner.lr is 'abc': it must be a number"),
        ({"learner__lr": float("nan")}, "learner.lr is nan"),
        ({"rollout__group_size": None}, "rollout.group_size is None"),
        ({"resume": 1}, "resume is 1: it must be true or false"),
        ({"reward": "vader"}, "unknown setting 'reward'. Did you mean 'rewards'?"),
        ({"learner": 5}, "learner: expected an object of settings, got 5"),
        ({"rewards": 3}, "rewards is 3"),
        ({"policy": None}, "policy is None: give a name"),
    ],
)
def test_a_mistake_in_python(tmp_path, settings, said):
    with pytest.raises(UserError) as error:
        rlalign.train("reverse", **{"policy": "gru", "output": tmp_path / "run", **settings})
    assert said in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_configuration_of_objects_is_checked_as_well():
    config = TrainConfig()
    with pytest.raises(UserError, match=r"learner\.warmup is 'abc'"):
        validate(replace(config, learner=replace(config.learner, warmup="abc")))


def test_numbers_of_numpy_and_integers_for_floats_become_what_json_holds():
    config = update(TrainConfig(), {"steps": np.int64(3), "learner.lr": 1, "learner.weight_decay": np.float32(0.5)})
    found = (config.steps, config.learner.lr, config.learner.weight_decay)
    assert found == (3, 1.0, 0.5)
    assert [type(value) for value in found] == [int, float, float]
    assert from_dict(TrainConfig, {"learner": config.learner}).learner is config.learner


@pytest.mark.parametrize(
    ("hint", "value", "fits"),
    [
        (int | None, None, True), (int | None, "a", False), (int, True, False), (float, 2, True), (str, 2, False),
        (None, object(), True), (tuple[str, ...], ["a"], True), (tuple[int, int], [1, 2, 3], False),
        (int | tuple[int, int] | None, (1, 2), True), (int | tuple[int, int] | None, "a", False),
    ],
)  # fmt: skip
def test_values_against_annotations(hint, value, fits):
    if fits:
        fields.checked(hint, value, "it")
    else:
        with pytest.raises(UserError, match="it is"):
            fields.checked(hint, value, "it")


def test_weights_of_another_shape_are_refused_by_name():
    policies = [make_policy("gru", tokenizer=rlalign.make_mdp(env).tokenizer) for env in ("reverse", "guess_number")]
    with pytest.raises(FaultError, match=r"another policy: parameter .* is \("):
        policies[0].load_trainable({n: p.detach() for n, p in policies[1].trainable().items()})
    assert all(torch.isfinite(p).all() for p in policies[0].parameters())


def test_an_environment_whose_init_takes_nothing_can_be_made(made):
    assert rlalign.make_mdp(f"{made / 'own.py'}:Own").source.size("train") == 1
