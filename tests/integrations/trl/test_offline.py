"""Runs of trl:sft, trl:dpo and trl:kto: TRL's own preparation, the run folder, and what is refused."""

from __future__ import annotations

import json
import os
import random
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import rlalign
from rlalign.api import check_config
from rlalign.config.defaults import default_config
from rlalign.config.instantiate import build_mdp, build_policy
from rlalign.config.serialize import fingerprint, update
from rlalign.config.unused_settings import unread, unused_settings
from rlalign.envs.registration import make_mdp
from rlalign.errors import UserError
from rlalign.integrations.trl import offline, train_trl
from rlalign.integrations.trl.offline_settings import offline_arguments
from rlalign.policies.factory import load
from rlalign.rollout.recorded import GroupOrder
from rlalign.storage import checkpoint
from rlalign.storage.identity import changed_files
from rlalign.training.rng import task_seed
from tests.integrations.trl.word_model import environment, preference_rows, word_model, write

ENV = "reverse?max_length=2"
SMALL = {"rollout.prompts": 4, "steps": 2, "evaluation.prompts": 2, "model.hidden_size": 32}


def preferences(folder: Path, count: int = 60, env: str = ENV) -> Path:
    """Write preferences for the reversed text over another one of the same alphabet."""
    source = make_mdp(env).source
    rng = random.Random(0)
    rows = []
    for i in range(count):
        task = source.get("train", i)
        wrong = "".join(rng.choice("abcd") for _ in range(rng.randint(1, 3)))
        if wrong != task.columns["answer"]:
            rows.append({"prompt": task.prompt, "chosen": task.columns["answer"], "rejected": wrong})
    return write(folder / "prefs.jsonl", rows)


def configuration(folder: Path, output: str = "run", algorithm: str = "trl:dpo", **changes: Any) -> Any:
    """Return the configuration of a small run; `__` in the name of a change is a dot."""
    config = default_config(ENV, "tiny", algorithm)
    settings = {**SMALL, "data": str(folder / "prefs.jsonl"), "output": str(folder / output)}
    return update(config, {**settings, **{key.replace("__", "."): value for key, value in changes.items()}})


@pytest.mark.parametrize(
    ("chat", "changes"),
    [
        (False, {"model__lora_r": 0}),
        (True, {"model__lora_r": 0, "learner__micro_batch": 4}),
        (True, {"model__lora_r": 2, "objective__kl__coef": 0.3}),
    ],
    ids=["plain, all weights", "chat, micro-batches", "chat, adapter"],
)
def test_the_losses_and_weights_are_those_of_trls_own_trainer_on_the_same_rows(tmp_path, chat, changes) -> None:
    """The oracle gets texts or messages, and TRL tokenizes them by its own template handling."""
    import datasets
    from transformers import AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    rows = preference_rows(chat)
    write(tmp_path / "prefs.jsonl", rows)
    env = str(environment(tmp_path))
    model = str(word_model(tmp_path / "model"))
    config = configuration(tmp_path, env=env, rewards=["length?target=3"], policy=model, steps=3, **changes)
    run = train_trl(config, quiet=True)

    train = [row for row in rows if row["split"] == "train"]
    order = GroupOrder(len(train), task_seed(config.seed)).next(12)
    policy, _ = build_policy(config, build_mdp(config))
    oracle = DPOTrainer(
        model=policy.model,
        ref_model=None if config.model.adapter.r else build_policy(config, build_mdp(config))[0].model,
        args=DPOConfig(
            output_dir=str(tmp_path / "oracle"), per_device_train_batch_size=4, max_steps=3,
            beta=config.objective.kl.coef, learning_rate=config.learner.lr, lr_scheduler_type="constant",
            max_grad_norm=config.learner.max_grad_norm, bf16=False, use_cpu=True,
            gradient_checkpointing=False, logging_steps=1,
            report_to="none", save_strategy="no", train_sampling_strategy="sequential",
        ),
        train_dataset=datasets.Dataset.from_list([{k: v for k, v in train[i].items() if k != "split"} for i in order]),
        processing_class=AutoTokenizer.from_pretrained(model),
    )  # fmt: skip
    oracle.train()
    logged = [row for row in oracle.state.log_history if "loss" in row]
    for ours, theirs in (
        ("train/loss", "loss"),
        ("train/grad_norm", "grad_norm"),
        ("preference/margin", "rewards/margins"),
        ("preference/chosen_logprob", "logps/chosen"),
    ):
        assert run.metrics[ours] == pytest.approx([row[theirs] for row in logged], rel=1e-4, abs=1e-6)
    state, _ = checkpoint.load(checkpoint.latest(run.folder / "checkpoints"), need=("policy",))
    for name, weight in policy.trainable().items():
        assert torch.allclose(state["policy"][name], weight.detach(), atol=1e-5), name
    # the exported policy is the trained one, with the model's own special ids
    exported = load(run.folder / "policy")
    ids = torch.tensor([[4, 5, 6, 1]])
    with torch.no_grad():
        assert torch.allclose(exported.lm(ids).logits, policy.model(ids).logits, atol=1e-4)
    assert json.loads((run.folder / "policy" / "config.json").read_text()).get("pad_token_id") is None


def test_the_policy_improves_on_held_out_prompts_and_prefers_the_chosen_of_held_out_pairs(tmp_path) -> None:
    """From scratch in 40 updates on 400 pairs. The interval of the gain is above 0: false alarm below 2.5 %."""
    env = "reverse?max_length=4"
    preferences(tmp_path, 400, env)
    config = configuration(
        tmp_path, env=env, steps=40, rollout__prompts=32, evaluation__samples=4, evaluation__prompts=16,
        evaluation__every=20, model__hidden_size=64,
    )  # fmt: skip
    run = train_trl(config, quiet=True)
    assert run.comparison is not None
    assert run.comparison.differences["reward"].low > 0
    accuracy = run.metrics["held_out/accuracy"]
    assert [value is not None for value in accuracy] == [step in (20, 40) for step in range(1, 41)]
    assert accuracy[-1] > 0.8  # of 39 pairs, by chance below 1e-4
    assert run.metrics["train/loss"][0] == pytest.approx(0.6931, abs=1e-3)
    assert run.metrics["data/passes"][-1] > 3
    assert run.held_out["verdict"].startswith("held-out data: accuracy 0.5")
    stored = json.loads((run.folder / "report" / "held_out.json").read_text())
    assert stored["metrics"]["accuracy"]["after"] == accuracy[-1]


@pytest.mark.pictures
def test_the_run_folder_is_that_of_the_other_trainers(tmp_path) -> None:
    path = preferences(tmp_path)
    config = configuration(tmp_path, evaluation__every=1)
    run = train_trl(config, quiet=True)
    assert run.metrics["step"] == [1, 2]
    assert None not in run.metrics["eval/reward"]
    assert {"train/loss", "train/grad_norm", "time/step", "time/tokens_per_s", "rollout/tokens"} <= set(run.metrics)
    assert not any(key.startswith(("reward/", "alarm/")) for key in run.metrics)
    assert run.samples[0]["completion"]
    assert (run.folder / "report" / "reward.png").stat().st_size > 1000
    assert "2 of 2 steps" in repr(run)
    manifest = checkpoint.read_manifest(checkpoint.latest(run.folder / "checkpoints"))
    assert set(manifest["identity"]) == {"preferences prefs.jsonl"}
    assert changed_files(run.folder, run.config) == []
    for resume, message in ((False, "holds a run already"), (True, "holds a finished run")):
        with pytest.raises(UserError, match=message):
            train_trl(replace(run.config, resume=resume), quiet=True)
    again = train_trl(configuration(tmp_path, "again", evaluation__every=1), quiet=True)
    assert again.metrics["train/loss"] == run.metrics["train/loss"]
    assert again.comparison.after.completions == run.comparison.after.completions
    path.write_text(path.read_text() + path.read_text().splitlines()[0] + "\n")
    assert [change.role for change in changed_files(run.folder, run.config)] == ["preferences prefs.jsonl"]


def test_a_stopped_run_reports_the_signal_and_starts_again_on_resume(tmp_path, monkeypatch) -> None:
    preferences(tmp_path)
    real = offline._Recorder.on_log

    def on_log(self, args, state, control, logs=None, **kwargs):
        real(self, args, state, control, logs=logs, **kwargs)
        if self.step == 2 and "loss" in logs:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(offline._Recorder, "on_log", on_log)
    run = train_trl(configuration(tmp_path, steps=6), quiet=True)
    monkeypatch.undo()
    assert run.exit_status == 128 + signal.SIGTERM
    assert run.comparison is None
    assert len(run.metrics["step"]) == 3
    resumed = train_trl(configuration(tmp_path, steps=6, resume=True), quiet=True)
    assert resumed.metrics["step"] == [1, 2, 3, 4, 5, 6]
    assert resumed.comparison is not None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": None}, "trl:dpo learns from recorded data: expected a file, got none; use --data FILE"),
        ({"data": "absent.jsonl"}, "absent.jsonl"),
        (
            {"objective__kl__coef": 0.0},
            "kl.coef above 0|objective.kl.coef: expected a beta above 0 for trl:dpo, got 0.0",
        ),
        ({"objective__kl__where": "loss"}, "expected kl.where reward|objective.kl.where: expected reward"),
        (
            {"objective__baseline": "group_mean"},
            "group_mean has no meaning for loss dpo|objective.baseline: expected none for trl:dpo",
        ),
        ({"objective__loss": "kto"}, "objective.loss: expected dpo or ipo for trl:dpo, got kto"),
        (
            {"objective__preference__label_smoothing": 0.1},
            "objective.preference.label_smoothing: expected 0.0 for trl:dpo, got 0.1; change it, or use rlalign's own "
            "trainer: --algorithm dpo",
        ),
        (
            {"objective__loss": "ipo", "objective__preference__length_normalized": False},
            "objective.preference.length_normalized: expected True",
        ),
        ({"rollout__group_size": 4}, r"expected group_size 2, got 4|rollout.group_size: expected 2 \(a pair\)"),
        ({"learner__minibatches": 2}, "learner.minibatches: expected 1"),
        ({"learner__epochs": 2}, "learner.epochs: expected 1"),
        ({"algorithm": "trl:grpo"}, "'.*prefs.jsonl': expected the columns prompt, completion and reward, which"),
        ({"learner__micro_batch": 3}, "learner.micro_batch: expected twice a divisor of the 4 pairs"),
        ({"evaluation__patience": 2, "evaluation__every": 1}, "patience"),
        ({"supervised__align_interval": 1}, "supervised"),
        ({"evaluation__stop_kl": 1.0, "evaluation__every": 1}, "stop_kl"),
        ({"policy": "gru"}, "expected a transformers model for trl:dpo, got 'gru'"),
        ({"env": "rlalign/GuessNumber-v0"}, "turns"),
    ],
    ids=str,
)
def test_unsupported_settings_raise_an_error_with_the_reason(tmp_path, changes, message) -> None:
    preferences(tmp_path)
    config = configuration(tmp_path, **changes)
    with pytest.raises(UserError, match=message):
        train_trl(config, quiet=True)
    with pytest.raises(UserError, match=message):
        check_config(config)
    assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.parametrize(
    ("algorithm", "changes", "message"),
    [
        ("trl:sft", {"objective.baseline": "batch_mean"}, "objective.baseline: expected none for trl:sft, got batch_m"),
        ("trl:sft", {"objective.aggregation": "sequence_mean"}, "aggregation: expected token_global"),
        ("trl:sft", {"learner.micro_batch": 3}, "micro_batch: expected a divisor of the 4 rows of a step"),
        ("trl:sft", {"rollout.group_size": 2}, r"group_size: expected 1 \(a row\)"),
        (
            "trl:kto",
            {"learner.micro_batch": 2},
            "expected 0 or 4, the rows of a step, whose mean is the reference point",
        ),
        ("trl:kto", {"rollout.prompts": 1}, "rollout.prompts: expected at least 2, for the reference point"),
        ("trl:kto", {"objective.loss": "dpo"}, "objective.loss: expected kto"),
    ],
)
def test_settings_that_trls_sft_and_kto_do_not_read_are_refused(algorithm, changes, message) -> None:
    config = update(default_config(ENV, "tiny", algorithm), {"rollout.prompts": 4, **changes})
    with pytest.raises(UserError, match=message):
        offline_arguments(config, cpu=True, bf16=False)


def test_kto_with_an_adapter_has_the_policy_without_it_as_reference(tmp_path) -> None:
    """TRL turns the adapter off, and nothing of its own stays in the model."""
    preferences(tmp_path)
    settings = {"model__lora_r": 2, "learner__lr": 0.01}
    theirs = train_trl(configuration(tmp_path, algorithm="trl:kto", **settings), quiet=True)
    ours = rlalign.train(config=configuration(tmp_path, "own", "kto", **settings), quiet=True)
    for key in ("train/loss", "train/grad_norm", "preference/reference_point", "preference/chosen_reward"):
        expected = [value and pytest.approx(value, rel=1e-4, abs=1e-6) for value in ours.metrics[key]]
        assert theirs.metrics[key] == expected, key


def test_prompts_of_the_preferences_among_the_held_out_ones_are_reported(tmp_path, capsys) -> None:
    tasks = [make_mdp(ENV).source.get("validation", i) for i in range(8)]
    rows = [{"prompt": t.prompt, "chosen": t.columns["answer"], "rejected": "dddd", "split": "train"} for t in tasks]
    write(tmp_path / "prefs.jsonl", [*rows, {**rows[0], "prompt": "dd>", "split": "test"}])
    train_trl(configuration(tmp_path, steps=1))
    text = " ".join(capsys.readouterr().out.split())
    assert "2 of the 2 held-out prompts are also prompts of the data" in text
    assert "pairs: 8 pairs to train on, 1 held out" in text


def test_reports_and_pictures_show_the_pairs_in_place_of_rewards(tmp_path) -> None:
    from rlalign.compare.output.html.run import write_run_report
    from rlalign.log.plots import plot_runs

    preferences(tmp_path)
    run = train_trl(configuration(tmp_path, evaluation__every=1), quiet=True)
    report = write_run_report(run).read_text()
    for title in (
        "held-out reward",
        "accuracy on the step’s pairs",
        "accuracy on held-out preferences",
        "2 of 2 steps",
    ):
        assert title in report
    again = tmp_path / "grpo"
    again.mkdir()
    (again / "metrics.jsonl").write_text('{"step": 1, "reward/mean": 1.0, "reward/ci95": 0.1, "rollout/length": 3}\n')
    assert plot_runs([again], tmp_path / "a.png").is_file()
    with pytest.raises(UserError, match="is a run on recorded data, without reward; plot it alone"):
        plot_runs([again, run.folder], tmp_path / "b.png")


def test_defaults_read_as_many_completions_as_others_sample() -> None:
    for policy in ("tiny", "smollm2"):
        ours, theirs = (default_config(ENV, policy, name) for name in ("trl:dpo", "grpo"))
        assert ours.samples_per_step == theirs.samples_per_step
        assert (ours.rollout.group_size, ours.objective.kl.coef) == (2, 0.1)
    assert default_config(ENV, "tiny", "trl:dpo").learner.lr == 3e-3
    assert default_config(ENV, "smollm2", "trl:dpo").learner.lr == pytest.approx(1e-4)


def test_data_without_effect_is_reported_and_axes_of_dpo_are_unread() -> None:
    other = update(default_config(ENV, "tiny", "grpo"), {"data": "a.jsonl"})
    assert "rollout.group_size" in unread(other)  # logged rewards
    ours = update(default_config(ENV, "tiny", "trl:dpo"), {"data": "a.jsonl"})
    assert unused_settings(ours) == {}
    assert {"objective.baseline", "objective.trust.high", "objective.kl.estimator"} <= set(unread(ours))
    assert not {"data", "objective.kl.coef", "objective.loss"} & set(unread(ours))
    assert unread(update(default_config(ENV, "tiny", "trl:grpo"), {"data": "a.jsonl"}))["data"].startswith("trl:grpo")


def test_data_is_a_setting_of_the_result_and_older_runs_keep_their_fingerprint(tmp_path) -> None:
    plain = default_config(ENV, "tiny", "grpo")
    # of the version before the setting
    assert fingerprint(update(plain, {"seed": 3})) == "6a036f91238cecade1d9c4ffab503b2559b69b7730db2fa9b22e33a788d0e5cd"
    assert fingerprint(update(plain, {"data": "a.jsonl"})) != fingerprint(plain)


def test_dpo_stands_beside_other_algorithms_in_a_study(tmp_path) -> None:
    from rlalign.compare.cell_settings import check_equal_settings
    from rlalign.compare.records.run_records import read_record
    from rlalign.compare.study import Study, build_cells

    preferences(tmp_path)
    small = {"rollout.max_new": 4, "evaluation.prompts": 2, "model.hidden_size": 32, "evaluation.every": 1}
    study = Study(
        ("grpo", "trl:dpo"), (ENV,), "tiny", (0,), steps=2, output=str(tmp_path / "study"), settings=small,
        algorithm={"trl:dpo": {"data": str(tmp_path / "prefs.jsonl")}},
    )  # fmt: skip
    cells = build_cells(study)
    check_equal_settings(cells)  # as many completions per step as the others
    cell = cells[1]
    train_trl(cell.config, quiet=True)
    record = read_record(cell)
    assert record.failure is None
    assert record.held_out is not None
    assert record.held_out.samples == [0, 128, 256]
    tokens = rlalign.Run(cell.folder).metrics["rollout/tokens"]
    assert record.held_out.tokens == [0, tokens[0], sum(tokens)]
    assert len(record.after["reward"]) == 2
