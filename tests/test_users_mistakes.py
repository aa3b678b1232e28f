"""Mistakes of users: one line of text, exit status 2, and no written file for each."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import rlalign
from rlalign import cli, typecheck
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
    def reply(self, task, turn_ids, state, rng): return [2.5]

class Own(rlalign.TextMDP):
    rewards = {"length": 1.0}
    def __init__(self): super().__init__(source=[{"prompt": "a"}])
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with a run of two steps, folders with broken configurations, and a file of the user's own."""
    path = tmp_path_factory.mktemp("mistakes")
    assert cli.main([*_TRAIN, "--steps", "2", "--output", str(path / "run")]) == 0
    (path / "own.py").write_text(_OWN)
    config = (path / "run" / "config.json").read_text()
    for name, text in (("bare", config), ("list", "[1]"), ("typed", json.dumps({"steps": "abc"}))):
        (path / name).mkdir()
        (path / name / "config.json").write_text(text)
    return path


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("evaluate run --prompts -1", "prompts: expected at least 2, got -1"),
        ("evaluate run --prompts 0", "prompts: expected at least 2, got 0"),
        ("evaluate run --samples 0", "samples (--k): expected at least 1, got 0"),
        ("evaluate run --k -2", "samples (--k): expected at least 1, got -2"),
        ("evaluate run --env guess_number", "expected characters of the tokenizer's alphabet"),
        ("evaluate list", "list/config.json': a configuration: expected an object of settings, got [1]"),
        ("evaluate typed", "steps: expected an integer, got 'abc'"),
        ("generate run abc --until 1", "reward 'token_match' needs 'answer': add --column answer=..."),
        ("generate run abc --column answer=cba --seed -1", "seed: expected at least 0, got -1"),
        ("generate run abc --column answer=cba --until nan", "until: expected a finite reward, got nan"),
        (
            "generate run abc --column answer=cba --temperature -1",
            "--temperature: expected a number above 0, got -1; use 0.001",
        ),
        (
            "generate run abc --column answer=cba --temperature 0",
            "--temperature: expected a number above 0, got 0; use 0.001",
        ),
        ("generate run abc --column answer=cba --max-tries 0", "max_tries: expected at least 1, got 0"),
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
        ("TRAIN --objective.kl.coef inf", "objective.kl.coef: expected a finite number, got inf"),
        ("TRAIN --learner.lr inf", "learner.lr: expected a finite number, got inf"),
        ("TRAIN --rollout.temperature inf", "temperature: expected a finite number, got inf"),
        ("TRAIN --env reverse?max_length=abc", "max_length of rlalign/Reverse-v0: expected an integer, got 'abc'"),
        ("TRAIN --objective.loss own.py:needs", "expected a function f(objective, batch), got a reward"),
        ("TRAIN --objective.baseline own.py:none", "expected a function f(returns, batch), got f()"),
        ("TRAIN --objective.trust.kind own.py:one", "expected a function f(x, trust), got f(x)"),
        ("TRAIN --policy ./missing", "no folder './missing'"),
        ("TRAIN --reward own.py", "expected a reward in a file as FILE.py:NAME, got 'own.py'; use own.py:NAME"),
        ("TRAIN --reward regex?pattern=(", "expected a regular expression, got '('"),
        ("TRAIN --env own.py:Own?max_new=3", "its __init__ must take **kwargs and hand them to super().__init__"),
    ],
)
def test_a_mistake_on_the_command_line_prints_one_line_and_writes_nothing(
    capsys, folder, monkeypatch, command, message
):
    monkeypatch.chdir(folder)
    arguments = []
    for word in command.split():
        arguments += _TRAIN if word == "TRAIN" else [word]
    before = modification_times(folder)
    assert cli.main(arguments) == 2
    err = capsys.readouterr().err
    assert err.startswith("rlalign: ")
    assert message in err
    assert len(err.strip().splitlines()) == 1
    assert modification_times(folder) == before


def modification_times(folder):
    """Return file -> modification time, without bytecode and the lock, which a failed command may write."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    return {path: path.stat().st_mtime_ns for path in files if path != folder / "run" / "run.lock"}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Raises", "reply of Raises failed: TypeError: oops"),
        ("Text", r"reply of Text: expected a text, token ids or None, got \[2.5\]"),
    ],
)
def test_a_failing_or_invalid_reply_raises_an_error_that_names_it(folder, name, message):
    env = rlalign.make_env(f"{folder / 'own.py'}:{name}")
    env.reset(seed=0)
    with pytest.raises(UserError, match=message):
        env.step(env.mdp.tokenizer.eos_id)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": "abc"}, "steps: expected an integer, got 'abc'"),
        ({"steps": 2.5}, "steps: expected an integer, got 2.5"),
        ({"steps": True}, "steps: expected an integer, got True"),
        ({"learner__lr": "abc"}, "learner.lr: expected a finite number, got 'abc'"),
        ({"learner__lr": float("nan")}, "learner.lr: expected a finite number, got nan"),
        ({"rollout__group_size": None}, "rollout.group_size: expected an integer, got None"),
        ({"resume": 1}, "resume: expected true or false, got 1"),
        ({"reward": "vader"}, "unknown setting 'reward'. Did you mean 'rewards'"),
        ({"learner": 5}, "learner: expected an object of settings, got 5"),
        ({"rewards": 3}, "rewards: expected names, specs, functions, or a mapping of them to weights, got 3"),
        ({"policy": None}, "policy: expected a name of rlalign list policies, a model folder or a hub id, got None"),
    ],
)
def test_a_mistake_in_python_raises_an_error_and_writes_nothing(tmp_path, settings, message):
    with pytest.raises(UserError) as error:
        rlalign.train("reverse", **{"policy": "gru", "output": tmp_path / "run", **settings})
    assert message in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_configuration_built_from_objects_is_checked():
    config = TrainConfig()
    with pytest.raises(UserError, match=r"learner\.warmup: expected .*, got 'abc'"):
        validate(replace(config, learner=replace(config.learner, warmup="abc")))


def test_numpy_numbers_and_integers_are_converted_to_the_types_of_the_fields():
    config = update(TrainConfig(), {"steps": np.int64(3), "learner.lr": 1, "learner.weight_decay": np.float32(0.5)})
    values = (config.steps, config.learner.lr, config.learner.weight_decay)
    assert values == (3, 1.0, 0.5)
    assert [type(value) for value in values] == [int, float, float]
    assert from_dict(TrainConfig, {"learner": config.learner}).learner is config.learner


@pytest.mark.parametrize(
    ("hint", "value", "fits"),
    [
        (int | None, None, True), (int | None, "a", False), (int, True, False), (float, 2, True), (str, 2, False),
        (None, object(), True), (tuple[str, ...], ["a"], True), (tuple[int, int], [1, 2, 3], False),
        (int | tuple[int, int] | None, (1, 2), True), (int | tuple[int, int] | None, "a", False),
    ],
)  # fmt: skip
def test_values_are_checked_against_annotations(hint, value, fits):
    if fits:
        typecheck.checked(hint, value, "x")
    else:
        with pytest.raises(UserError, match="x: expected"):
            typecheck.checked(hint, value, "x")


def test_weights_of_another_shape_raise_an_error_that_names_the_parameter():
    policies = [make_policy("gru", tokenizer=rlalign.make_mdp(env).tokenizer) for env in ("reverse", "guess_number")]
    with pytest.raises(FaultError, match=r"another policy: parameter .* is \("):
        policies[0].load_trainable({n: p.detach() for n, p in policies[1].trainable().items()})
    assert all(torch.isfinite(p).all() for p in policies[0].parameters())


def test_an_environment_with_an_init_without_arguments_can_be_built(folder):
    assert rlalign.make_mdp(f"{folder / 'own.py'}:Own").source.size("train") == 1
