"""Stopped and resumed runs against uninterrupted ones: weights, optimizer state and metrics are bitwise equal."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys

import pytest
import torch

from rlalign.config.defaults import default_config
from rlalign.config.instantiate import build_mdp, build_policy
from rlalign.config.serialize import update
from rlalign.errors import FaultError, RewardError, UserError
from rlalign.run import Run
from rlalign.storage import checkpoint
from rlalign.storage.jsonl import read_metrics
from rlalign.storage.run_folder import RunLock
from rlalign.training.experiment import train_run
from rlalign.training.failure_limits import FailureLimits
from rlalign.training.learner import DivergedError, Learner
from rlalign.training.trainer import Trainer

SMALL = {"steps": 4, "rollout.prompts": 4, "rollout.group_size": 4, "evaluation.prompts": 4, "model.hidden_size": 16}
REUSED = {**SMALL, "learner.epochs": 2, "learner.minibatches": 2}
VALUE_MODEL = {"objective.value.kind": "model", "objective.value.lr": 1e-2, "objective.value.pretrain_steps": 2}


def config(folder, algorithm="rloo", policy="gru", **changes):
    """Return the configuration of a small run; `__` in the name of a change is a dot."""
    base = update(default_config("rlalign/Reverse-v0", policy, algorithm), SMALL)
    return update(base, {"output": str(folder), **{k.replace("__", "."): v for k, v in changes.items()}})


def make_trainer(folder, **changes):
    """Return the trainer of a new small run."""
    folder.mkdir()
    settings = config(folder, **changes)
    return Trainer(settings, folder, *build_policy(settings, build_mdp(settings)), quiet=True)


def outcome(folder):
    """Return the state of the newest checkpoint, and the metrics without the times."""
    state, _ = checkpoint.load(checkpoint.latest(folder / "checkpoints"))
    rows = [{k: v for k, v in row.items() if not k.startswith("time/")} for row in read_metrics(folder)]
    return state, rows


def assert_bitwise_equal(a, b, where=""):
    """Compare nested state exactly; `where` is the path to it, for the message. Times are not compared."""
    assert type(a) is type(b), where
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype, where
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            if str(key).startswith("time/"):
                continue
            assert_bitwise_equal(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_bitwise_equal(x, y, f"{where}[{i}]")
    else:
        assert a == b or (a != a and b != b), where  # NaN equals NaN here


def assert_same_run(folder_a, folder_b):
    """Compare the final state, the metrics and the samples of two runs exactly."""
    (state_a, rows_a), (state_b, rows_b) = outcome(folder_a), outcome(folder_b)
    for state in (state_a, state_b):
        del state["progress"]["files"]  # lengths of files that contain times
    assert_bitwise_equal(state_a, state_b)
    assert rows_a == rows_b
    assert (folder_a / "samples.jsonl").read_text() == (folder_b / "samples.jsonl").read_text()


def stop_after(monkeypatch, updates):
    """Send SIGTERM to this process at the start of update number `updates`."""
    real, count = Learner.update, 0

    def counted(self, buffer):
        nonlocal count
        count += 1
        if count == updates:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(self, buffer)

    monkeypatch.setattr(Learner, "update", counted)


@pytest.mark.parametrize(
    ("algorithm", "policy", "changes", "updates"),
    [
        ("rloo", "gru", {}, 2),
        ("reinforce", "gru", {}, 3),  # the moving average continues
        ("ppo", "gru", REUSED, 6),  # in the middle of the second rollout's four updates
        ("grpo", "tiny", REUSED, 5),
        ("ppo", "gru", {**REUSED, "objective__kl__target": 1.0, "learner__lr_schedule": "cosine"}, 7),
        ("rloo", "gru", {"supervised__align_interval": 2}, 3),
        ("dapo", "gru", {}, 3),  # groups that were sampled again
        ("remax", "gru", {}, 3),
        # a value model with its own learning rate: during its pretraining, and after it
        ("vc_ppo", "gru", {**REUSED, **VALUE_MODEL}, 6),
        ("vc_ppo", "tiny", {**REUSED, **VALUE_MODEL, "learner__lr_schedule": "cosine"}, 11),
    ],
)
def test_a_stopped_and_resumed_run_is_bitwise_equal(tmp_path, monkeypatch, algorithm, policy, changes, updates):
    changes = {k.replace(".", "__"): v for k, v in changes.items()}
    train_run(config(tmp_path / "whole", algorithm, policy, **changes), quiet=True)
    with monkeypatch.context() as patch:
        stop_after(patch, updates)
        run = train_run(config(tmp_path / "cut", algorithm, policy, **changes), quiet=True)
        comparison = run.comparison
    assert run.exit_status == 143
    assert comparison is None
    train_run(config(tmp_path / "cut", algorithm, policy, resume=True, **changes), quiet=True)
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


def test_runs_are_bitwise_equal_with_the_same_seed_and_differ_with_another(tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        train_run(config(tmp_path / name, seed=seed), quiet=True)
    assert_same_run(tmp_path / "a", tmp_path / "b")
    assert outcome(tmp_path / "a")[1] != outcome(tmp_path / "c")[1]


def test_frequent_saves_and_evaluations_do_not_change_training(tmp_path):
    train_run(config(tmp_path / "a"), quiet=True)
    train_run(config(tmp_path / "b", save_every=1, evaluation__every=1), quiet=True)
    rows = [{k: v for k, v in r.items() if not k.startswith("eval/")} for r in outcome(tmp_path / "b")[1]]
    assert rows == outcome(tmp_path / "a")[1]
    state_a, state_b = outcome(tmp_path / "a")[0], outcome(tmp_path / "b")[0]
    assert_bitwise_equal(state_a["policy"], state_b["policy"])


def test_a_run_resumed_after_sigkill_is_bitwise_equal(tmp_path):
    """The process is killed after it has logged step 3, whose checkpoint is not written."""
    train_run(config(tmp_path / "whole", save_every=2), quiet=True)
    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)
        real, count = Learner.update, 0

        def killing(self, buffer):
            nonlocal count
            count += 1
            if count == 4:  # step 3 is logged, and its checkpoint is not due
                os.kill(os.getpid(), signal.SIGKILL)
            return real(self, buffer)

        Learner.update = killing
        train_run(config(tmp_path / "cut", save_every=2), quiet=True)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    assert len(read_metrics(tmp_path / "cut")) == 3
    train_run(config(tmp_path / "cut", save_every=2, resume=True), quiet=True)
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)]
)
def test_the_command_saves_and_exits_with_the_status_of_its_signal(tmp_path, number, status):
    command = [sys.executable, "-m", "rlalign", "train", "--env", "reverse", "--policy", "gru", "--steps", "100000"]
    command += ["--output", str(tmp_path / "run"), "--rollout.prompts", "2", "--evaluation.prompts", "2"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:  # one line per step if stdout is not a terminal
        if line.startswith("step 2/"):
            process.send_signal(number)
            break
    output = process.stdout.read()
    assert process.wait() == status
    assert "continue with: rlalign train --resume" in output
    checkpoint.load(checkpoint.latest(tmp_path / "run" / "checkpoints"))


def test_a_changed_configuration_is_printed_and_rejected(tmp_path, capsys):
    train_run(config(tmp_path / "r"), quiet=True)
    with pytest.raises(UserError, match=r"learner\.lr would make the continuation another experiment"):
        train_run(config(tmp_path / "r", resume=True, steps=6, learner__lr=1.5))
    output = capsys.readouterr().out
    assert "learner.lr  0.003 -> 1.5" in output
    assert "steps  4 -> 6" in output
    run = train_run(config(tmp_path / "r", resume=True, steps=6), quiet=True)  # more steps are a safe change
    assert run.metrics["step"] == [1, 2, 3, 4, 5, 6]


def test_a_run_extended_by_resuming_equals_one_long_run(tmp_path, capsys):
    train_run(config(tmp_path / "whole", steps=6), quiet=True)
    train_run(config(tmp_path / "parts"), quiet=True)
    capsys.readouterr()
    train_run(config(tmp_path / "parts", resume=True, steps=6))
    assert "seeded again" not in capsys.readouterr().out  # the same device: the run is bitwise the same
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize("part", ["optimizer", "rng", "learner"])
def test_missing_state_raises_an_error_unless_allowed(tmp_path, part):
    train_run(config(tmp_path / "r"), quiet=True)
    path = checkpoint.latest(tmp_path / "r" / "checkpoints")
    (path / f"{part}.json").unlink()
    with pytest.raises(FaultError, match=f"lacks {part}"):
        train_run(config(tmp_path / "r", resume=True, steps=5), quiet=True)
    train_run(config(tmp_path / "r", resume=True, steps=5, allow_change=True), quiet=True)


def test_a_folder_that_holds_a_run_or_is_locked_raises_an_error(tmp_path):
    train_run(config(tmp_path / "r"), quiet=True)
    with pytest.raises(UserError, match="holds a run already; use --resume"):
        train_run(config(tmp_path / "r"), quiet=True)
    for name, kind in (("results.json", "study"), ("cells", "study"), ("trials.json", "search")):
        (tmp_path / name.replace(".", "-") / name).mkdir(parents=True)
        with pytest.raises(UserError, match=f"holds a {kind}; use another --output"):
            train_run(config(tmp_path / name.replace(".", "-")), quiet=True)
    with RunLock(tmp_path / "busy"), pytest.raises(UserError, match=rf"in use by process {os.getpid()} .*run\.lock"):
        train_run(config(tmp_path / "busy"), quiet=True)
    with pytest.raises(UserError, match=r"expected a run folder, got .*none', which does not exist"):
        train_run(config(tmp_path / "none", resume=True), quiet=True)


def test_repeated_nan_losses_update_no_weights_save_the_batch_and_stop_the_run(tmp_path, monkeypatch):
    from rlalign.training import learner

    real = learner.policy_loss

    def poisoned(objective, batch, state, **settings):
        loss = real(objective, batch, state, **settings)
        return type(loss)(loss.total * float("nan"), loss.count, loss.metrics, loss.maxima)

    trainer = make_trainer(tmp_path / "r")
    before = {k: v.detach().clone() for k, v in trainer.state.policy.trainable().items()}
    monkeypatch.setattr(learner, "policy_loss", poisoned)
    with pytest.raises(FaultError, match="3 in a row, so the run stops"):
        trainer.run()
    trainer.close()
    for name, value in trainer.state.policy.trainable().items():
        assert torch.equal(value, before[name]), name
    assert trainer.learner.optimizer.state == {}
    state, _ = checkpoint.load(checkpoint.latest(tmp_path / "r" / "faults"))
    assert state["batch"]["tokens"].shape[0] == 16


def test_each_skipped_minibatch_of_a_step_is_saved(tmp_path):
    limits = FailureLimits(tmp_path, 9, "hash")
    for step, value in ((4, 1), (4, 2), (5, 3)):
        limits.record_skipped_update("policy", step, DivergedError("loss nan"), {"tokens": torch.tensor([value])})
    states = [checkpoint.load(tmp_path / "faults" / f"step-{step}")[0] for step in (4, 5)]
    batches = [{part: int(batch["tokens"]) for part, batch in state.items()} for state in states]
    assert batches == [{"batch": 1, "batch_2": 2}, {"batch": 3}]


def test_one_nan_loss_is_skipped_and_the_run_continues(tmp_path, poison_losses, monkeypatch):
    """The batch that is stored has the rows of the skipped minibatch, which is the second one of the first step."""
    real, minibatches = Learner.update, []

    def recorded(self, buffer):
        minibatches.append(buffer.tokens[buffer.plan[buffer.position]])
        return real(self, buffer)

    monkeypatch.setattr(Learner, "update", recorded)
    poison_losses([2])
    run = train_run(config(tmp_path / "r", steps=2, learner__minibatches=2, objective__ratio="token"), quiet=True)
    assert run.metrics["train/skipped"] == [0.5, 0.0]
    state, _ = checkpoint.load(tmp_path / "r" / "faults" / "step-1")
    assert torch.equal(state["batch"]["tokens"], minibatches[1])
    assert not torch.equal(minibatches[0], minibatches[1])


def test_nan_weights_raise_an_error_before_a_rollout_and_before_a_save(tmp_path):
    trainer = make_trainer(tmp_path / "r")
    with torch.no_grad():
        next(iter(trainer.state.policy.trainable().values())).view(-1)[0] = float("nan")
    with pytest.raises(FaultError, match="weights are not finite before a rollout"):
        trainer.run()
    with pytest.raises(FaultError, match="weights are not finite before a save"):
        trainer.state.save()
    trainer.close()
    assert checkpoint.complete(tmp_path / "r" / "checkpoints") == []


def test_a_run_resumed_after_a_reward_failure_equals_an_uninterrupted_one(tmp_path):
    calls = 0

    def flaky(completions, **columns):
        nonlocal calls
        calls += 1
        if calls == 4:
            raise ValueError("the scorer is down")
        return [float(len(c)) for c in completions]

    import rlalign

    repaired = [rlalign.reward("steady", timeout_s=None)(lambda completions, **c: [float(len(x)) for x in completions])]
    broken = [rlalign.reward("steady", timeout_s=None, retries=0)(flaky)]
    train_run(config(tmp_path / "whole"), rewards=repaired, quiet=True)
    with pytest.raises(RewardError, match=r"steady.*saved: repair the reward"):
        train_run(config(tmp_path / "cut"), rewards=broken, quiet=True)
    train_run(config(tmp_path / "cut", resume=True), rewards=repaired, quiet=True)
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


def test_out_of_memory_halves_the_micro_batch_without_changing_the_gradient(tmp_path, monkeypatch):
    def run_with(name, memory):
        """Return the final micro-batch and the weights of a run in which at most `memory` rows fit."""
        trainer = make_trainer(tmp_path / name, steps=1)
        real = trainer.state.policy.score

        def limited(tokens, *args, **kwargs):
            if len(tokens) > memory and torch.is_grad_enabled():
                raise torch.cuda.OutOfMemoryError("CUDA out of memory")
            return real(tokens, *args, **kwargs)

        monkeypatch.setattr(trainer.state.policy, "score", limited)
        trainer.run()
        trainer.close()
        return trainer.learner.micro_batcher.micro_batch, {
            k: v.detach() for k, v in trainer.state.policy.trainable().items()
        }

    unlimited_micro_batch, unlimited_weights = run_with("unlimited", 16)
    halved_micro_batch, halved_weights = run_with("halved", 5)
    assert (unlimited_micro_batch, halved_micro_batch) == (0, 4)
    for name, value in unlimited_weights.items():
        torch.testing.assert_close(halved_weights[name], value, rtol=1e-4, atol=1e-6)


def test_a_minibatch_split_on_the_cpu_has_the_same_gradient(tmp_path, monkeypatch):
    def run_with(name, limit):
        """Return (rows, tokens) of each scored part and the weights, for this limit of tokens per part."""
        monkeypatch.setattr("rlalign.training.micro_batches._CPU_TOKENS", limit)
        trainer = make_trainer(tmp_path / name, steps=1)
        parts = []
        real = trainer.state.policy.score

        def counted(tokens, lengths, *args, **kwargs):
            parts.append((len(tokens), int(lengths.sum())))
            return real(tokens, lengths, *args, **kwargs)

        monkeypatch.setattr(trainer.state.policy, "score", counted)
        trainer.run()
        trainer.close()
        return parts, {k: v.detach() for k, v in trainer.state.policy.trainable().items()}

    undivided, undivided_weights = run_with("undivided", 1 << 20)
    parts, divided_weights = run_with("divided", 60)
    assert [rows for rows, _ in undivided] == [16]
    assert len(parts) > 1
    assert sum(rows for rows, _ in parts) == 16
    assert all(rows == 1 or tokens <= 60 for rows, tokens in parts)
    for name, value in undivided_weights.items():
        torch.testing.assert_close(divided_weights[name], value, rtol=1e-4, atol=1e-6)


def test_a_folder_without_a_valid_run_raises_an_error(tmp_path):
    with pytest.raises(UserError, match=r"expected a run folder, got .*, which has no config.json"):
        Run(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"stpes": 3}))
    with pytest.raises(UserError, match=r"unknown setting 'stpes'.*Did you mean 'steps'"):
        _ = Run(tmp_path).config


def as_reward(function):
    """Return a function as the only reward of a run, without a worker process and retries."""
    import rlalign

    return [rlalign.reward("steady", timeout_s=None, retries=0)(function)]


def lengths(completions, **columns):
    return [float(len(c)) for c in completions]


def test_invalid_rewards_of_an_evaluation_are_not_counted_in_the_next_step(tmp_path):
    """A resumed run evaluates the initial policy again, and must not add the failures of that to its first step."""

    def sometimes(completions, **columns):
        return [float(len(c)) if len(c) % 2 else None for c in completions]

    train_run(config(tmp_path / "whole"), rewards=as_reward(sometimes), quiet=True)
    train_run(config(tmp_path / "parts", steps=2), rewards=as_reward(sometimes), quiet=True)
    train_run(config(tmp_path / "parts", resume=True), rewards=as_reward(sometimes), quiet=True)
    assert any(k == "reward/steady/none" for k in read_metrics(tmp_path / "whole")[0])
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_a_reward_failure_during_validation_saves_the_step(tmp_path):
    calls = 0

    def flaky(completions, **columns):
        nonlocal calls
        calls += 1
        if calls == 5:  # calls: initial evaluation, step 1, its validation, step 2, its validation
            raise ValueError("the scorer is down")
        return lengths(completions)

    with pytest.raises(RewardError, match=r"steady.*saved: repair the reward"):
        train_run(config(tmp_path / "cut", evaluation__every=1), rewards=as_reward(flaky), quiet=True)
    # step 2 counts once its validation is logged: the resumed run repeats the validation alone
    assert checkpoint.latest(tmp_path / "cut" / "checkpoints").name == "step-1"
    train_run(config(tmp_path / "cut", evaluation__every=1, resume=True), rewards=as_reward(lengths), quiet=True)
    train_run(config(tmp_path / "whole", evaluation__every=1), rewards=as_reward(lengths), quiet=True)
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


def test_a_run_killed_before_its_first_save_starts_again(tmp_path, capsys):
    train_run(config(tmp_path / "whole"), quiet=True)
    train_run(config(tmp_path / "cut"), quiet=True)
    for path in checkpoint.complete(tmp_path / "cut" / "checkpoints"):
        shutil.rmtree(path)
    with pytest.raises(UserError, match="holds a run already; use --resume"):
        train_run(config(tmp_path / "cut"), quiet=True)
    train_run(config(tmp_path / "cut", resume=True))
    assert "no checkpoint was written yet: starting again" in capsys.readouterr().out
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


def test_a_truncated_metrics_file_raises_an_error_unless_allowed(tmp_path):
    train_run(config(tmp_path / "r"), quiet=True)
    (tmp_path / "r" / "metrics.jsonl").unlink()
    with pytest.raises(FaultError, match=r"metrics\.jsonl': expected \d+ bytes or more, as at the checkpoint, got 0"):
        train_run(config(tmp_path / "r", resume=True, steps=5), quiet=True)
    train_run(config(tmp_path / "r", resume=True, steps=5, allow_change=True), quiet=True)
    assert (tmp_path / "r" / "metrics.jsonl").read_bytes().startswith(b"{")
    assert [row["step"] for row in read_metrics(tmp_path / "r")] == [5]


def test_a_run_resumed_on_another_device_reseeds_its_sampler(tmp_path, capsys):
    """The format of a generator's state depends on the device type; a short tensor stands for that of CUDA."""
    train_run(config(tmp_path / "r", steps=2), quiet=True)
    path = checkpoint.latest(tmp_path / "r" / "checkpoints")
    state, manifest = checkpoint.load(path)
    state["rng"] |= {"device": "cuda", "sampler": torch.zeros(16, dtype=torch.uint8)}
    checkpoint.save(path.parent, manifest["step"], state, config_hash=manifest["config"])
    run = train_run(config(tmp_path / "r", resume=True))
    assert "written on cuda and the run resumes on cpu" in capsys.readouterr().out
    assert run.metrics["step"] == [1, 2, 3, 4]


def test_a_supervised_update_with_a_nan_loss_is_skipped_and_counted(tmp_path, monkeypatch):
    def diverged(self, answers, weight):
        raise DivergedError("loss nan, gradient norm nan")

    monkeypatch.setattr(Learner, "supervised_update", diverged)
    train_run(config(tmp_path / "r", supervised__align_interval=2), quiet=True)
    assert [row.get("supervised/skipped") for row in read_metrics(tmp_path / "r")] == [None, 1.0, None, 1.0]
    assert (tmp_path / "r" / "faults" / "step-2" / "batch.safetensors").is_file()
    settings = {"supervised__align_interval": 1, "learner__max_bad_updates": 2}
    with pytest.raises(FaultError, match="so the run stops"):
        train_run(config(tmp_path / "s", **settings), quiet=True)


def test_missing_answers_raise_an_error_before_the_run_folder_is_created(tmp_path):
    with pytest.raises(UserError, match=r"Sentiment-v0: expected tasks with an 'answer' column"):
        train_run(config(tmp_path / "r", env="sentiment", supervised__align_interval=1), quiet=True)
    assert not (tmp_path / "r").exists()


def test_a_failing_plot_does_not_end_the_run(tmp_path, monkeypatch):
    def broken(folder):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("rlalign.log.plots.plot_run", broken)
    with pytest.warns(UserWarning, match="no plot of"):
        run = train_run(config(tmp_path / "r", save_every=1), quiet=True)
    assert run.comparison is not None
    assert len(run.metrics["step"]) == 4


def test_a_run_killed_while_it_replaced_a_checkpoint_resumes(tmp_path):
    """Only the old copy of the checkpoint, `step-N.old`, is left; its step number is read as usual."""
    train_run(config(tmp_path / "r"), quiet=True)
    path = checkpoint.latest(tmp_path / "r" / "checkpoints")
    for other in checkpoint.complete(path.parent)[:-1]:
        shutil.rmtree(other)
    path.rename(path.with_name(f"{path.name}.old"))
    with pytest.raises(UserError, match="has done 4 steps already"):
        train_run(config(tmp_path / "r", resume=True, steps=3), quiet=True)
    run = train_run(config(tmp_path / "r", resume=True, steps=5), quiet=True)
    assert run.metrics["step"] == [1, 2, 3, 4, 5]


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_is_resumed(tmp_path, capsys):
    train_run(config(tmp_path / "r", steps=2, save_every=1), quiet=True)
    (tmp_path / "r" / "checkpoints" / "step-2" / "policy.safetensors").write_bytes(b"")
    run = train_run(config(tmp_path / "r", steps=2, save_every=1, resume=True))
    output = " ".join(capsys.readouterr().out.split())
    assert re.search(r"step-2/policy\.safetensors' is damaged.*; using step-1", output)
    assert run.metrics["step"] == [1, 2]


def test_another_experiment_is_printed_and_refused_before_its_code_runs(tmp_path, monkeypatch, capsys):
    """Data, the environment's file and a module beside it change between a stop and its resume."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "helper.py").write_text("TARGET = 3\n")
    (tmp_path / "data.jsonl").write_text("".join(f'{{"prompt": "{i}="}}\n' for i in range(40)))
    (tmp_path / "e.py").write_text(
        "import rlalign\nclass E(rlalign.TextMDP):\n    import sys; sys.path.insert(0, '.'); import helper\n"
        "    source = 'data.jsonl'\n    rewards = {'length?target=3': 1.0}\n    max_prompt, max_new = 16, 3\n"
    )

    def resume(**changes):
        capsys.readouterr()
        return train_run(config(tmp_path / "r", env=f"{tmp_path}/e.py:E", resume=True, steps=3, **changes))

    train_run(config(tmp_path / "r", env=f"{tmp_path}/e.py:E", steps=2), quiet=True)
    original = {name: (tmp_path / name).read_text() for name in ("helper.py", "data.jsonl", "e.py")}
    for name, role in (("helper.py", "environment helper.py"), ("e.py", "environment e.py"), ("data.jsonl", "data")):
        (tmp_path / name).write_text(original[name].replace("3", "4"))
        with pytest.raises(UserError, match=rf"^{role} would make the continuation another experiment"):
            resume()
        assert f"changed: {role}  " in capsys.readouterr().out
        (tmp_path / name).write_text(original[name])
    manifest, version = checkpoint.versions(), {"torch": "0.1"}
    monkeypatch.setattr(checkpoint, "versions", lambda: manifest | version)
    (tmp_path / "data.jsonl").write_text("".join(f'{{"prompt": "{i}="}}\n' for i in range(30)))
    run = resume(allow_change=True)
    output = capsys.readouterr().out
    assert f"changed: version of torch  {manifest['torch']} -> 0.1" in output
    assert "cannot resume the order of tasks" in output
    assert run.metrics["step"] == [1, 2, 3]
