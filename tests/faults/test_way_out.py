"""All endings of a run: the state is saved, one line tells how to continue, and the resumed run equals a whole one."""

import errno
import importlib.util
import io
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import pytest
import torch

import rlalign
from rlalign import cli
from rlalign.errors import FaultError, OutputError, ReplyError, RLAlignError, UserError
from rlalign.escaping.console import PlainConsole
from rlalign.log.alarms import AlarmMonitor
from rlalign.log.progress import ProgressLine
from rlalign.log.trackers import Tracker
from rlalign.storage import checkpoint
from rlalign.storage.jsonl import read_metrics
from rlalign.training.experience import ExperienceCollector
from rlalign.training.experiment import train_run
from rlalign.training.learner import Learner
from rlalign.training.stop_request import StopRequest
from rlalign.training.trainer_state import TrainerState

_SPEC = importlib.util.spec_from_file_location("resume_helpers", Path(__file__).with_name("test_resume.py"))
resume_helpers = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(resume_helpers)
config, make_trainer = resume_helpers.config, resume_helpers.make_trainer
assert_same_run = resume_helpers.assert_same_run

EVERY_STAGE = {"evaluation__every": 1, "evaluation__patience": 9, "supervised__align_interval": 1, "save_every": 2}


@rlalign.reward("noisy", timeout_s=None, retries=0)
def noisy(completions, **columns):
    """Return rewards that depend on a global generator, whose state an interrupted step must not move."""
    return [len(c) + random.random() for c in completions]


def raise_at(monkeypatch, owner, name, call, error):
    """Raise an error instead of call number `call` of a method, once."""
    real, count = getattr(owner, name), 0

    def method(self, *args, **kwargs):
        nonlocal count
        count += 1
        if count == call:
            raise error
        return real(self, *args, **kwargs)

    monkeypatch.setattr(owner, name, method)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return the folder of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("way_out") / "whole"
    train_run(config(folder, **EVERY_STAGE), rewards=[noisy], quiet=True)
    return folder


@pytest.mark.parametrize(
    ("owner", "name", "call", "error"),
    [
        (ExperienceCollector, "_metrics", 2, MemoryError()),
        (ExperienceCollector, "_metrics", 3, SystemExit(0)),
        (Learner, "prepare", 2, ValueError("a bug")),
        (Learner, "update", 2, FaultError("a fault")),
        (Learner, "supervised_update", 3, RuntimeError("a bug")),
        (AlarmMonitor, "update", 2, OSError(errno.ENOSPC, "No space left on device")),
        (Tracker, "log", 3, KeyboardInterrupt()),
        (ProgressLine, "show", 2, UnicodeEncodeError("ascii", "é", 0, 1, "ordinal not in range")),
        (TrainerState, "save", 1, OutputError(BrokenPipeError(errno.EPIPE, "Broken pipe"))),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_exception_at_each_stage_is_saved_and_the_resumed_run_is_bitwise_equal(
    tmp_path, monkeypatch, whole, owner, name, call, error
):
    folder = tmp_path / "cut"
    with monkeypatch.context() as patch:
        raise_at(patch, owner, name, call, error)
        with pytest.raises((RLAlignError, KeyboardInterrupt)) as raised:
            train_run(config(folder, **EVERY_STAGE), rewards=[noisy], quiet=True)
    if not isinstance(error, KeyboardInterrupt):
        assert f"rlalign train --resume {folder}" in str(raised.value)
    assert checkpoint.complete(folder / "checkpoints")
    train_run(config(folder, resume=True, **EVERY_STAGE), rewards=[noisy], quiet=True)
    assert_same_run(whole, folder)


def test_an_error_during_validation_restores_the_generators_that_rewards_draw_from(tmp_path, monkeypatch, whole):
    """The validation has drawn from the global generator before it fails, and the resumed run repeats all of it."""
    from rlalign.training.validation import Validator

    real, count = Validator.evaluate, 0

    def evaluate(self, tasks):
        nonlocal count
        count += 1
        results = real(self, tasks)
        if count == 3:  # before training, after step 1, after step 2
            raise ReplyError("reply of X failed")
        return results

    folder = tmp_path / "cut"
    with monkeypatch.context() as patch:
        patch.setattr(Validator, "evaluate", evaluate)
        with pytest.raises(ReplyError, match=r"reply of X failed \(saved at step 1: "):
            train_run(config(folder, **EVERY_STAGE), rewards=[noisy], quiet=True)
    train_run(config(folder, resume=True, **EVERY_STAGE), rewards=[noisy], quiet=True)
    assert_same_run(whole, folder)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGHUP, 129), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("times", [1, 2])
def test_signals_inside_an_update_are_saved_and_the_resumed_run_is_bitwise_equal(
    tmp_path, monkeypatch, whole, number, status, times
):
    real, count = Learner.accumulate_gradient, 0

    def signaled(self, buffer, rows, **kwargs):
        nonlocal count
        count += 1
        sums = real(self, buffer, rows, **kwargs)
        if count == 2:
            for _ in range(times):  # the second one interrupts between the gradient and the optimizer step
                os.kill(os.getpid(), number)
        return sums

    folder = tmp_path / "cut"
    with monkeypatch.context() as patch:
        patch.setattr(Learner, "accumulate_gradient", signaled)
        run = train_run(config(folder, **EVERY_STAGE), rewards=[noisy], quiet=True)
    assert run.exit_status == status
    assert run.comparison is None
    train_run(config(folder, resume=True, **EVERY_STAGE), rewards=[noisy], quiet=True)
    assert_same_run(whole, folder)


@pytest.mark.parametrize(
    ("owner", "name", "call"), [(Learner, "end_rollout", 2), (Learner, "supervised_update", 1), (Tracker, "log", 2)]
)
def test_a_second_signal_at_the_end_of_a_step_neither_repeats_nor_undoes_a_part(
    tmp_path, monkeypatch, whole, owner, name, call
):
    real, count = getattr(owner, name), 0

    def signaled(self, *args, **kwargs):
        nonlocal count
        count += 1
        result = real(self, *args, **kwargs)
        if count == call:
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGTERM)
        return result

    folder = tmp_path / "cut"
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, signaled)
        assert train_run(config(folder, **EVERY_STAGE), rewards=[noisy], quiet=True).exit_status == 143
    train_run(config(folder, resume=True, **EVERY_STAGE), rewards=[noisy], quiet=True)
    assert_same_run(whole, folder)


def test_a_sighup_that_is_ignored_at_the_start_stays_ignored():
    """So does nohup: the run outlives its terminal."""
    old = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop
    finally:
        signal.signal(signal.SIGHUP, old)


def test_weights_of_an_interrupted_optimizer_step_are_not_saved(tmp_path, monkeypatch):
    folder = tmp_path / "cut"
    with monkeypatch.context() as patch:
        raise_at(patch, torch.optim.AdamW, "step", 3, RuntimeError("launch failure"))
        with pytest.raises(FaultError, match=r"not saved: an optimizer step was .*step-2 s"):
            train_run(config(folder, save_every=1), rewards=[noisy], quiet=True)
    assert checkpoint.latest(folder / "checkpoints").name == "step-2"
    train_run(config(folder, save_every=1, resume=True), rewards=[noisy], quiet=True)
    assert [row["step"] for row in read_metrics(folder)] == [1, 2, 3, 4]


def test_a_save_that_fails_hides_neither_the_error_of_the_run_nor_its_own(tmp_path, monkeypatch):
    raise_at(monkeypatch, Learner, "update", 3, FaultError("a fault"))
    raise_at(monkeypatch, TrainerState, "save", 3, TypeError("keys must be str"))
    folder = tmp_path / "cut"
    with pytest.raises(FaultError, match=r"^a fault \(not saved: TypeError: keys must be str; step-2 stays: continue"):
        train_run(config(folder, save_every=1), rewards=[noisy], quiet=True)


def test_weights_that_are_not_finite_are_not_saved(tmp_path, monkeypatch):
    real = Learner.end_rollout

    def broken(self, buffer):
        real(self, buffer)
        if self.updates == 3:
            with torch.no_grad():
                self.parameters[0].view(-1)[0] = float("nan")

    monkeypatch.setattr(Learner, "end_rollout", broken)
    folder = tmp_path / "r"
    with pytest.raises(FaultError, match=r"not finite before a rollout.*not saved: .*; step-2 stays: continue from it"):
        train_run(config(folder, save_every=2), quiet=True)
    assert checkpoint.latest(folder / "checkpoints").name == "step-2"


def test_three_nan_losses_in_a_row_are_saved_with_their_count(tmp_path, poison_losses):
    poison_losses(range(3, 9))  # twice per update: again with checks
    settings = {"steps": 6, "rollout__group_size": 4}
    with pytest.raises(FaultError, match=r"3 in a row, so the run stops \(saved at step 4: continue with"):
        train_run(config(tmp_path / "r", **settings), quiet=True)
    run = train_run(config(tmp_path / "r", resume=True, **settings), quiet=True)
    assert run.metrics["train/skipped"] == [0.0, 0.0, 1.0, 1.0, 1.0, 0.0]


class Turns(rlalign.TextMDP):
    """Two turns; `reply` ends the process, raises, or answers."""

    source: ClassVar = [{"prompt": f"{i}="} for i in range(40)]
    rewards: ClassVar = {"length": 1.0}
    max_prompt, max_new, max_turns, max_reply = 16, 3, 2, 4
    fault = None
    calls = 0

    def reply(self, task, turn_ids, state, rng):
        type(self).calls += 1
        if self.calls == 60 and self.fault is not None:
            raise self.fault
        return self.tokenizer.encode("ok")


@pytest.mark.parametrize("fault", [ValueError("the tool broke"), SystemExit(0)])
def test_a_failing_reply_is_saved_and_the_resumed_run_is_bitwise_equal(tmp_path, fault):
    small = {"env": "object:Turns", "steps": 3}
    train_run(config(tmp_path / "whole", **small), env=Turns(), rewards=[noisy], quiet=True)

    class Failing(Turns):
        pass

    Failing.fault = fault
    Failing.calls = 0
    with pytest.raises(RLAlignError, match="saved at step"):
        train_run(config(tmp_path / "cut", **small), env=Failing(), rewards=[noisy], quiet=True)
    train_run(config(tmp_path / "cut", resume=True, **small), env=Turns(), rewards=[noisy], quiet=True)
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


# ---- the output ----


class Failing(io.StringIO):
    """A stream that fails from its third line on, as a pipe does whose reader was `head -3`."""

    def __init__(self, error):
        super().__init__()
        self.error = error

    def write(self, text):
        if self.getvalue().count("\n") >= 3:
            raise self.error
        return super().write(text)


@pytest.mark.parametrize(
    "error", [BrokenPipeError(errno.EPIPE, "Broken pipe"), OSError(errno.ENOSPC, "No space left on device")]
)
def test_an_output_that_fails_saves_the_run_and_ends_it_with_a_line_on_stderr(tmp_path, monkeypatch, capsys, error):
    monkeypatch.setattr(sys, "stdout", Failing(error))
    arguments = "train --env reverse --policy gru --steps 9 --rollout.prompts 2 --evaluation.prompts 2"
    status = cli.main([*arguments.split(), "--output", str(tmp_path / "r")])
    assert status == 1
    message = capsys.readouterr().err
    assert f"the output cannot be written ({error.strerror}) (saved at step" in message
    steps = len(read_metrics(tmp_path / "r"))
    assert 0 < steps < 9
    assert checkpoint.latest(tmp_path / "r" / "checkpoints").name == f"step-{steps}"


def test_characters_that_the_output_cannot_encode_are_escaped(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    PlainConsole().print("± \ud800")
    sys.stdout.flush()
    assert raw.getvalue() == b"\\xb1 \\ud800\n"


def test_the_command_saves_and_fails_when_the_reader_of_its_output_exits(tmp_path):
    command = [sys.executable, "-m", "rlalign", "train", "--env", "reverse", "--policy", "gru", "--steps", "100000"]
    command += ["--output", str(tmp_path / "run"), "--rollout.prompts", "2", "--evaluation.prompts", "2"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for _ in range(3):
        process.stdout.readline()
    process.stdout.close()
    message = process.stderr.read()
    assert process.wait() == 1
    assert message.startswith("rlalign: the output cannot be written (Broken pipe) (saved at step ")
    assert len(message.splitlines()) == 1
    checkpoint.load(checkpoint.latest(tmp_path / "run" / "checkpoints"))


# ---- the log files and the folders ----


def test_a_full_disk_under_the_log_leaves_whole_lines_in_both_files(tmp_path, monkeypatch, whole):
    from rlalign.storage.jsonl import JsonLines

    class Full:
        def __init__(self, file):
            self.file = file

        def __getattr__(self, name):
            return getattr(self.file, name)

        def write(self, data):
            if self.file.write(data[: len(data) // 2]):  # a part fits
                raise OSError(errno.ENOSPC, "No space left on device")

    real = JsonLines.write

    def write(self, rows):
        if self.path.name == "samples.jsonl" and self.length and not isinstance(self._file, Full):
            self._file = Full(self._file)
        real(self, rows)

    folder = tmp_path / "cut"
    with monkeypatch.context() as patch:
        patch.setattr(JsonLines, "write", write)
        with pytest.raises(FaultError, match=r"samples\.jsonl' cannot be written .*saved at"):
            train_run(config(folder, **EVERY_STAGE), rewards=[noisy], quiet=True)
    assert [row["step"] for row in read_metrics(folder)] == [1]
    assert {json.loads(line)["step"] for line in (folder / "samples.jsonl").read_text().splitlines()} == {1}
    train_run(config(folder, resume=True, **EVERY_STAGE), rewards=[noisy], quiet=True)
    assert_same_run(whole, folder)


def test_a_full_disk_under_the_policy_folder_names_it(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("rlalign.training.experiment.save_measured", full)
    with pytest.raises(FaultError, match=r"policy' cannot be written \(No space left.*the run is saved.*--resume"):
        train_run(config(tmp_path / "r"), quiet=True)
    assert checkpoint.latest(tmp_path / "r" / "checkpoints").name == "step-4"


@pytest.mark.parametrize("missing", [True, False])
def test_checkpoints_that_are_missing_or_unreadable_never_restart_a_run_silently(tmp_path, missing):
    train_run(config(tmp_path / "r"), quiet=True)
    (tmp_path / "r" / "checkpoints").rename(tmp_path / "aside")
    if not missing:
        (tmp_path / "r" / "checkpoints").write_text("")
    metrics = (tmp_path / "r" / "metrics.jsonl").read_bytes()
    with pytest.raises(FaultError, match=r"checkpoints' cannot be read .*--allow-change to start again at step 0"):
        train_run(config(tmp_path / "r", steps=5, resume=True), quiet=True)
    assert (tmp_path / "r" / "metrics.jsonl").read_bytes() == metrics


@pytest.mark.pictures
def test_an_edited_or_damaged_line_of_the_metrics_is_found(tmp_path):
    train_run(config(tmp_path / "r"), quiet=True)
    path = tmp_path / "r" / "metrics.jsonl"
    original = path.read_bytes()
    path.write_bytes(original.replace(b'"step": 2', b'"step": 7'))
    with pytest.raises(FaultError, match=r"metrics\.jsonl': expected the \d+ bytes .* a line was changed"):
        train_run(config(tmp_path / "r", steps=5, resume=True), quiet=True)
    path.write_bytes(original.replace(b'"step": 2', b'"step\xff: 2'))
    with pytest.raises(FaultError, match=r"metrics\.jsonl' line 2 is damaged .*utf-8"):
        rlalign.Run(tmp_path / "r").plot()
    with pytest.raises(FaultError, match=r"a line was changed"):
        train_run(config(tmp_path / "r", steps=5, resume=True), quiet=True)


def test_best_weights_that_are_missing_are_reported(tmp_path, monkeypatch, capsys):
    from rlalign.storage.best_weights import BestWeights

    monkeypatch.setattr(BestWeights, "save", lambda *args: None)
    run = train_run(config(tmp_path / "r", evaluation__every=2, evaluation__patience=9))
    assert "best/step-2' is missing" in capsys.readouterr().out.replace("\n", "")
    with pytest.warns(UserWarning, match=r"best/step-2' is missing, so the weights of the last step are evaluated"):
        run.evaluate(prompts=2)


def test_a_step_that_ends_after_save_minutes_is_saved(tmp_path):
    trainer = make_trainer(tmp_path / "r", save_minutes=1e-9, keep=9)
    trainer.run()
    trainer.close()
    steps = [checkpoint.step_of(path) for path in checkpoint.complete(tmp_path / "r" / "checkpoints")]
    assert steps == [1, 2, 3, 4]


def test_minutes_between_checkpoints_are_not_negative():
    with pytest.raises(UserError, match="save_minutes: expected at least 0, got -1"):
        train_run(config("unused", save_minutes=-1.0), quiet=True)
