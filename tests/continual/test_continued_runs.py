"""Runs that continue a former run: optimizer, reference, penalty, resume, refusals, and the matrix of their chain."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rlalign import cli
from rlalign.config.defaults import default_config
from rlalign.config.instantiate import build_mdp, build_policy
from rlalign.config.schema import TrainConfig
from rlalign.config.serialize import update
from rlalign.config.validate import resolve
from rlalign.continual import Continuation, check_continual, continuation
from rlalign.errors import FaultError, UserError
from rlalign.escaping.console import PlainConsole
from rlalign.policies.base import Policy
from rlalign.run import Run
from rlalign.storage import checkpoint
from rlalign.training.experiment import train_run
from rlalign.training.learner import Learner
from rlalign.training.trainer import Trainer
from rlalign.types import Sampling
from tests.faults.test_resume import assert_same_run, stop_after

SMALL = {
    "steps": 3, "rollout.prompts": 4, "rollout.group_size": 4, "evaluation.prompts": 4, "model.hidden_size": 16,
    "objective.kl.coef": 0.05, "objective.kl.where": "reward", "learner.lr": 0.01,
}  # fmt: skip
ALL_PARTS = {
    "continual.replay": 0.3,
    "continual.replay_schedule": "linear",
    "continual.optimizer": "kept",
    "continual.anchor": "both",
    "continual.ewc": 5.0,
    "continual.ewc_samples": 8,
}


def config(folder: Path, env: str, policy: Any = "gru", algorithm: str = "rloo", **changes: Any) -> TrainConfig:
    """Return the configuration of a small run; `__` in the name of a change is a dot."""
    base = update(default_config(env, str(policy), algorithm), SMALL | {"output": str(folder)})
    return update(base, {name.replace("__", "."): value for name, value in changes.items()})


@pytest.fixture(scope="module")
def former(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run on sort; tests that change it copy it."""
    folder = tmp_path_factory.mktemp("runs") / "a"
    train_run(config(folder, "sort", seed=3), quiet=True)
    return folder


@pytest.fixture(scope="module")
def second(former: Path) -> Path:
    """Return a run on reverse that continues it, with the reference of the first one."""
    folder = former.with_name("b")
    train_run(config(folder, "reverse", former, continual__anchor="previous", seed=4), quiet=True)
    return folder


def begun(settings: TrainConfig, folder: Path) -> tuple[Trainer, Continuation]:
    """Return the trainer of a new run after it has taken what it takes from the former one."""
    settings = resolve(settings)
    policy, mdp = build_policy(settings, build_mdp(settings))
    taken = continuation(settings, folder, policy, PlainConsole(quiet=True), resumed=False)
    assert taken is not None
    folder.mkdir(exist_ok=True)
    trainer = Trainer(settings, folder, policy, mdp, former=taken, quiet=True)
    trainer.begin()
    return trainer, taken


def logprobs(policy: Any, tokenizer: Any) -> torch.Tensor:
    """Return log-probs of fixed tokens, by a policy or a reference policy."""
    tokens = torch.tensor([tokenizer.encode("abc>cba")])
    mask = torch.zeros_like(tokens, dtype=torch.bool)
    mask[:, 4:] = True
    score = policy.score if isinstance(policy, Policy) else policy.reference_logprobs
    with torch.no_grad():
        found = score(tokens, torch.tensor([7]), mask, Sampling())
    result: torch.Tensor = getattr(found, "logprobs", found)
    return result


# ---- optimizer ----


def test_kept_moments_are_those_of_the_former_checkpoint_and_fresh_ones_are_none(former: Path, tmp_path: Path) -> None:
    state, _ = checkpoint.load(checkpoint.latest(former / "checkpoints"))
    trainer, _ = begun(config(tmp_path / "b", "reverse", former, continual__optimizer="kept"), tmp_path / "b")
    moments = trainer.learner.optimizer.state_dict()["state"]
    assert len(moments) == len(state["policy"])
    for number, old in state["optimizer"]["state"].items():
        for key in ("step", "exp_avg", "exp_avg_sq"):
            assert torch.equal(moments[int(number)][key], old[key])
    fresh, _ = begun(config(tmp_path / "c", "reverse", former), tmp_path / "c")
    assert fresh.learner.optimizer.state_dict()["state"] == {}


def test_the_moments_of_a_value_with_its_own_rate_reach_the_same_parameters(tmp_path: Path) -> None:
    """The optimizer numbers the parameters of the policy before those of the value, not in the order of names."""
    value = {"objective__value__kind": "model", "objective__value__lr": 0.02}
    train_run(config(tmp_path / "a", "sort", algorithm="ppo", **value), quiet=True)
    settings = config(tmp_path / "b", "reverse", tmp_path / "a", "ppo", continual__optimizer="kept", **value)
    trainer, _ = begun(settings, tmp_path / "b")
    original = resolve(config(tmp_path / "a", "sort", algorithm="ppo", **value))
    policy, mdp = build_policy(original, build_mdp(original))
    old = Trainer(original, tmp_path / "a", policy, mdp, quiet=True)
    old.resume()
    names = {id(parameter): name for name, parameter in policy.trainable().items()}
    expected = {names[id(parameter)]: state for parameter, state in old.learner.optimizer.state.items()}
    for name, parameter in trainer.state.policy.trainable().items():
        assert torch.equal(trainer.learner.optimizer.state[parameter]["exp_avg"], expected[name]["exp_avg"]), name
    assert any(name.startswith("value") for name in expected)


@pytest.mark.parametrize("setting", [{"continual__optimizer": "kept"}, {"continual__ewc": 1.0}])
def test_other_trained_tensors_are_refused_by_name(former: Path, tmp_path: Path, setting: dict[str, Any]) -> None:
    settings = config(tmp_path / "b", "reverse", former, "ppo", **setting)
    with pytest.raises(UserError, match="the former run did not train value_head") as error:
        begun(settings, tmp_path / "b")
    assert str(former) in str(error.value)
    assert "use --model.adapter.kind none" in str(error.value)


def test_a_new_adapter_with_the_names_of_the_former_one_is_refused_and_the_continued_one_is_kept(
    tmp_path: Path,
) -> None:
    """Both adapters have equal names and shapes; the new one starts at 0, where A has no Fisher information."""
    adapter = {"model__lora_r": 4}
    train_run(config(tmp_path / "a", "sort", "tiny", **adapter), quiet=True)
    for setting in ({"continual__optimizer": "kept"}, {"continual__ewc": 1.0, "continual__ewc_samples": 4}):
        with pytest.raises(UserError, match=r"another start of .*use --policy .*policy/adapter"):
            begun(config(tmp_path / "b", "reverse", tmp_path / "a", **adapter, **setting), tmp_path / "b")
        continued = config(tmp_path / "c", "reverse", tmp_path / "a" / "policy" / "adapter", **setting)
        trainer, _ = begun(continued, tmp_path / "c")
    assert trainer.learner.ewc is not None
    # A and B both have Fisher information, because neither is 0
    assert all(float(value.sum()) > 0 for value in trainer.learner.ewc.fisher.values())


def test_an_adapter_of_fewer_ranks_than_were_trained_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    adapter = {"model__adapter__kind": "adalora", "model__adapter__r": 2}
    train_run(config(tmp_path / "a", "sort", "tiny", steps=6, **adapter), quiet=True)
    source = tmp_path / "a" / "policy" / "adapter"
    for setting, shown in (({"optimizer": "kept"}, "optimizer kept"), ({"ewc": 1.0}, "ewc 1.0")):
        changes: dict[str, Any] = {f"continual__{name}": value for name, value in setting.items()}
        for policy in (source, tmp_path / "a"):
            with pytest.raises(UserError, match=rf"continual.{shown}: the AdaLoRA adapter .*ranks that are left of 42"):
                train_run(config(tmp_path / "b", "reverse", policy, **changes), quiet=True)
        assert not (tmp_path / "b").exists()
    # a run that continued the adapter trained the ranks that it stores
    train_run(config(tmp_path / "c", "reverse", source, steps=1), quiet=True)
    kept = config(tmp_path / "d", "copy", tmp_path / "c" / "policy" / "adapter", continual__optimizer="kept")
    check_continual(kept)
    begun(kept, tmp_path / "d")


def test_on_adapter_continue_takes_the_adapter_in_the_policy_of_a_run(tmp_path: Path) -> None:
    train_run(config(tmp_path / "a", "sort", "tiny", model__lora_r=4, steps=1), quiet=True)
    settings = config(tmp_path / "b", "reverse", tmp_path / "a", model__on_adapter="continue")
    assert resolve(settings).policy == str(tmp_path / "a" / "policy" / "adapter")


def test_a_run_without_checkpoints_has_no_moments(former: Path, tmp_path: Path) -> None:
    copied = tmp_path / "a"
    shutil.copytree(former, copied)
    shutil.rmtree(copied / "checkpoints")
    settings = config(tmp_path / "b", "reverse", copied, continual__optimizer="kept")
    with pytest.raises(UserError, match="expected a checkpoint of"):
        begun(settings, tmp_path / "b")


# ---- reference ----


def test_the_anchors_are_the_start_and_the_reference_of_the_former_run(former: Path, tmp_path: Path) -> None:
    first = resolve(config(former, "sort", seed=3))
    initial, mdp = build_policy(first, build_mdp(first))
    trained = Run(former).policy
    for anchor in ("new", "previous", "both"):
        folder = tmp_path / anchor
        trainer, _ = begun(config(folder, "reverse", former, continual__anchor=anchor), folder)
        preparation = trainer.learner.preparation
        scorers = [preparation.reference, preparation.second_reference]
        found = [
            logprobs(scorer, mdp.tokenizer)
            for scorer in scorers
            if scorer is not None and scorer is not preparation.policy
        ]
        if preparation.reference is preparation.policy:
            found.insert(0, preparation.policy.reference_logprobs(*_row(mdp.tokenizer), Sampling()))
        expected = {"new": [trained], "previous": [initial], "both": [trained, initial]}[anchor]
        assert len(found) == len(expected)
        for one, policy in zip(found, expected, strict=True):
            torch.testing.assert_close(one, logprobs(policy, mdp.tokenizer), rtol=0, atol=1e-6)
    assert not torch.allclose(logprobs(trained, mdp.tokenizer), logprobs(initial, mdp.tokenizer), atol=1e-3)


def _row(tokenizer: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    tokens = torch.tensor([tokenizer.encode("abc>cba")])
    mask = torch.zeros_like(tokens, dtype=torch.bool)
    mask[:, 4:] = True
    return tokens, torch.tensor([7]), mask


def test_previous_follows_the_chain_to_the_run_whose_reference_it_was(
    former: Path, second: Path, tmp_path: Path
) -> None:
    """b had anchor previous, so its KL was to the initial policy of a: so is that of c."""
    first = resolve(config(former, "sort", seed=3))
    initial, mdp = build_policy(first, build_mdp(first))
    _, taken = begun(config(tmp_path / "c", "copy", second, continual__anchor="previous"), tmp_path / "c")
    assert torch.equal(logprobs(taken.reference, mdp.tokenizer), logprobs(initial, mdp.tokenizer))
    assert [ancestor.name for ancestor in taken.chain] == ["b", "a"]


def test_a_distilled_former_run_has_a_teacher_as_its_reference(former: Path, tmp_path: Path) -> None:
    train_run(config(tmp_path / "a", "sort", "gru", "distill", teacher=str(former), steps=1), quiet=True)
    train_run(config(tmp_path / "b", "sort", tmp_path / "a", steps=1), quiet=True)
    for anchor in ("previous", "both"):
        settings = config(tmp_path / "c", "reverse", tmp_path / "a", continual__anchor=anchor)
        with pytest.raises(UserError, match="with distill, whose reference policy is its teacher"):
            begun(settings, tmp_path / "c")
    # that of a run which continues the distilled one is its own start
    begun(config(tmp_path / "d", "reverse", tmp_path / "b", continual__anchor="previous"), tmp_path / "d")


def test_the_kls_to_both_references_are_logged(former: Path, tmp_path: Path) -> None:
    run = train_run(config(tmp_path / "b", "reverse", former, continual__anchor="both", steps=1), quiet=True)
    row = {name: values[0] for name, values in run.metrics.items()}
    assert row["rollout/kl"] == pytest.approx((row["rollout/kl_new"] + row["rollout/kl_previous"]) / 2)
    assert row["rollout/kl_new"] == pytest.approx(0, abs=1e-5)
    assert abs(row["rollout/kl_previous"]) > 1e-3


# ---- resume ----


def test_a_stopped_and_resumed_run_is_bitwise_equal(
    former: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {name.replace(".", "__"): value for name, value in ALL_PARTS.items()}
    changes |= {"learner__epochs": 2, "objective__ratio": "token"}
    train_run(config(tmp_path / "whole", "reverse", former, **changes), quiet=True)
    with monkeypatch.context() as patch:
        stop_after(patch, 4)  # between the two updates of the second rollout
        assert train_run(config(tmp_path / "cut", "reverse", former, **changes), quiet=True).exit_status == 143
    train_run(config(tmp_path / "cut", "reverse", former, resume=True, **changes), quiet=True)
    assert_same_run(tmp_path / "whole", tmp_path / "cut")
    assert max(Run(tmp_path / "cut").metrics["train/ewc"]) > 0


def test_a_run_that_was_stopped_before_its_first_update_takes_everything_once(
    former: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {name.replace(".", "__"): value for name, value in ALL_PARTS.items()}
    train_run(config(tmp_path / "whole", "reverse", former, **changes), quiet=True)

    def fail(self: Learner, buffer: object) -> None:
        raise FaultError("the machine stopped")

    with monkeypatch.context() as patch:
        patch.setattr(Learner, "update", fail)
        with pytest.raises(FaultError, match="the machine stopped"):
            train_run(config(tmp_path / "cut", "reverse", former, **changes), quiet=True)
    train_run(config(tmp_path / "cut", "reverse", former, resume=True, **changes), quiet=True)
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


def test_a_run_is_not_resumed_with_a_former_run_that_changed(former: Path, tmp_path: Path) -> None:
    copied = tmp_path / "a"
    shutil.copytree(former, copied)
    train_run(config(tmp_path / "b", "reverse", copied, continual__anchor="previous"), quiet=True)
    text = (copied / "config.json").read_text()
    (copied / "config.json").write_text(text.replace('"seed": 3', '"seed": 5'))
    resumed = config(tmp_path / "b", "reverse", copied, continual__anchor="previous", steps=4, resume=True)
    with pytest.raises(UserError, match=r"continual.anchor: .*config.json of .* has changed"):
        train_run(resumed, quiet=True)


# ---- refusals ----


@pytest.mark.parametrize("setting", ["optimizer kept", "anchor previous", "replay 0.2", "ewc 1.0"])
def test_settings_without_a_former_run_are_refused(tmp_path: Path, setting: str) -> None:
    name, value = setting.split()
    changed = config(
        tmp_path / "b", "reverse", "gru", **{f"continual__{name}": value if value.isalpha() else float(value)}
    )
    with pytest.raises(UserError, match=f"continual.{setting}: expected the policy of a finished run, got 'gru'"):
        train_run(changed, quiet=True)
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("name", "value", "word"),
    [("replay", 1.0, "continual.replay"), ("ewc", -1.0, "continual.ewc"), ("ewc_samples", 0, "continual.ewc_samples")],
)
def test_numbers_out_of_range_are_refused(former: Path, tmp_path: Path, name: str, value: Any, word: str) -> None:
    with pytest.raises(UserError, match=word):
        train_run(config(tmp_path / "b", "reverse", former, **{f"continual__{name}": value}), quiet=True)


def test_code_of_a_former_run_that_is_not_trusted_does_not_run(former: Path, tmp_path: Path) -> None:
    copied = tmp_path / "a"
    shutil.copytree(former, copied)
    (tmp_path / "mine.py").write_text("def one(completions, **columns):\n    return [1.0] * len(completions)\n")
    settings = json.loads((copied / "config.json").read_text())
    settings["rewards"] = [f"{tmp_path}/mine.py:one"]
    (copied / "config.json").write_text(json.dumps(settings))
    changed = config(tmp_path / "b", "reverse", copied, continual__ewc=1.0, continual__ewc_samples=2)
    with pytest.raises(UserError, match="--trust-run"):
        train_run(changed, quiet=True)


# ---- the matrix ----


def test_the_matrix_holds_the_rewards_of_each_stage(former: Path, second: Path) -> None:
    matrix = Run(second).transfer_matrix(["rlalign/Sort-v0", "reverse", "copy"], prompts=6, samples=2)
    assert matrix.stages == ("start", "a", "b")
    assert matrix.learned == (1, 2, None)
    assert [rewards.shape for rewards in matrix.rewards] == [(3, 6)] * 3
    # the last stage and the start are those of the evaluations of single runs
    of_b = Run(second).evaluate(env="reverse", prompts=6, samples=2)
    np.testing.assert_allclose(matrix.rewards[1][2], of_b.after.metrics["reward"].mean(1), atol=1e-6)
    np.testing.assert_allclose(matrix.rewards[1][1], of_b.before.metrics["reward"].mean(1), atol=1e-6)
    stored = json.loads((second / "report" / "transfer-test.json").read_text())
    assert stored["tasks"][0]["prompts"]["start"] == matrix.rewards[0][0].tolist()
    assert stored["stages"] == [
        {"name": "start", "folder": ""},
        {"name": "a", "folder": str(former)},
        {"name": "b", "folder": str(second)},
    ]


@pytest.mark.parametrize("adapter", [{"model__adapter__kind": "prefix"}, {"model__base": "int8"}])
def test_a_drawn_or_quantized_start_is_that_of_its_run(tmp_path: Path, adapter: dict[str, Any]) -> None:
    settings = {"model__adapter__kind": "lora", "model__adapter__tokens": 4, "steps": 1} | adapter
    train_run(config(tmp_path / "a", "sort", "tiny", **settings), quiet=True)
    train_run(config(tmp_path / "b", "reverse", tmp_path / "a", steps=1), quiet=True)
    matrix = Run(tmp_path / "b").transfer_matrix(["sort", "reverse"], prompts=4)
    assert matrix.stages == ("start", "a", "b")
    before = Run(tmp_path / "a").evaluate(split="test", prompts=4).before
    np.testing.assert_allclose(matrix.rewards[0][0], before.metrics["reward"].mean(1), atol=1e-6)


def test_the_matrix_is_printed_and_one_environment_stays_a_comparison(
    second: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["evaluate", str(second), "--env", "sort,reverse", "--prompts", "4"]) == 0
    text = capsys.readouterr().out
    assert "backward transfer" in text
    assert "learned in" in text
    assert cli.main(["evaluate", str(second), "--env", "sort", "--prompts", "4"]) == 0
    assert "before / after" in capsys.readouterr().out
    assert cli.main(["evaluate", str(second), "--env", "sort,reverse", "--prompts", "4", "--folds", "2"]) == 2


def test_a_task_with_other_characters_is_refused(second: Path) -> None:
    with pytest.raises(UserError, match="Add-v0: expected texts that the policy's tokenizer can encode"):
        Run(second).transfer_matrix(["sort", "add"], prompts=4)


def test_a_missing_stage_is_an_error_and_a_changed_one_a_warning(former: Path, second: Path, tmp_path: Path) -> None:
    for folder in (former, second):
        shutil.copytree(folder, tmp_path / folder.name)
    weights = tmp_path / "a" / "policy" / "gru.safetensors"
    policy = Run(tmp_path / "a").policy
    with torch.no_grad():
        next(iter(policy.parameters())).add_(0.1)
    policy.save_pretrained(weights.parent)
    former_aside = former.rename(former.with_name("aside"))  # its absolute path would be found unchanged
    try:
        with pytest.warns(UserWarning, match="the policy of .* has changed"):
            matrix = Run(tmp_path / "b").transfer_matrix(["sort", "reverse"], prompts=4)
        assert any("the policy of" in note for note in matrix.notes)
        shutil.rmtree(tmp_path / "a")
        with pytest.raises(UserError, match="moved or deleted"):
            Run(tmp_path / "b").transfer_matrix(["sort", "reverse"], prompts=4)
    finally:
        former_aside.rename(former)


def test_an_evaluation_finds_a_parent_that_moved_along_and_names_one_that_is_gone(tmp_path: Path) -> None:
    train_run(config(tmp_path / "runs" / "a", "sort", steps=1), quiet=True)
    train_run(config(tmp_path / "runs" / "b", "reverse", tmp_path / "runs" / "a", steps=1), quiet=True)
    before = Run(tmp_path / "runs" / "b").evaluate(split="test")
    moved = (tmp_path / "runs").rename(tmp_path / "elsewhere")
    after = Run(moved / "b").evaluate(split="test")
    assert np.array_equal(before.before.metrics["reward"], after.before.metrics["reward"])
    shutil.rmtree(moved / "a")
    with pytest.raises(UserError, match=r"began with the policy of .*runs/a.* moved or deleted; put it back"):
        Run(moved / "b").evaluate(split="test")
    with pytest.warns(UserWarning, match="policy policy.json is not there any more"):
        alone = Run(moved / "b").evaluate(split="test", baseline="gru")  # nothing of the parent is needed
    assert np.array_equal(alone.after.metrics["reward"], after.after.metrics["reward"])


def test_a_moved_tree_is_resumed_bitwise_and_evaluated_without_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    """The configuration names the parent by a relative path, whose first folder is gone: it looks like a hub id."""
    monkeypatch.chdir(tmp_path)

    def asked(*arguments: Any, **settings: Any) -> None:
        raise AssertionError(f"the hub was asked for {arguments}")

    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", asked)
    monkeypatch.setattr("transformers.utils.hub.cached_file", asked)
    changes = {name.replace(".", "__"): value for name, value in ALL_PARTS.items()}
    del changes["continual__replay_schedule"]  # its shares depend on the number of steps
    train_run(config(Path("runs/a"), "sort", steps=1), quiet=True)
    train_run(config(Path("runs/b"), "reverse", "runs/a", steps=2, **changes), quiet=True)
    shutil.copytree("runs", "copy")
    assert cli.main(["train", "--resume", "runs/b", "--steps", "4"]) == 0
    Path("runs").rename("aside")
    Path("copy").rename("runs2")
    recwarn.clear()
    Run("runs2/b").transfer_matrix(["sort", "reverse"], prompts=4)
    assert not [str(warning.message) for warning in recwarn if "changed" in str(warning.message)]
    assert cli.main(["train", "--resume", "runs2/b", "--steps", "4"]) == 0
    assert_same_run(Path("aside/b"), Path("runs2/b"))
    assert Run("runs2/b").config.policy == Run("aside/b").config.policy  # as it was recorded
