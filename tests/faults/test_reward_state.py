"""State of rewards and validation across a stop: multipliers, schedules, the best weights, the alarms."""

import json
from types import SimpleNamespace

import pytest
import torch

import rlalign
from rlalign.config.defaults import default_config
from rlalign.config.instantiate import build_mdp, build_policy
from rlalign.config.serialize import update
from rlalign.config.validate import validate
from rlalign.envs.registration import make_mdp
from rlalign.errors import RewardError, UserError
from rlalign.evaluation.evaluate import held_out
from rlalign.evaluation.evaluate_run import restore_trained
from rlalign.rewards.function import RewardFunction
from rlalign.storage import checkpoint
from rlalign.storage.jsonl import read_metrics
from rlalign.training.experiment import train_run
from rlalign.training.trainer import Trainer

SMALL = {
    "steps": 6,
    "rollout.prompts": 4,
    "rollout.group_size": 4,
    "evaluation.prompts": 4,
    "model.hidden_size": 16,
}
SCHEDULED = ("token_match=1@0:0.5@4", "length?unit=characters&target=3<=-0.9@2", "exact_match")


def config(folder, **changes):
    """Return the configuration of a small run; `__` in the name of a change is a dot."""
    base = update(default_config("rlalign/Reverse-v0", "gru", "rloo"), SMALL)
    return update(base, {"output": str(folder), **{k.replace("__", "."): v for k, v in changes.items()}})


def make_trainer(settings, folder):
    """Return a trainer of this configuration."""
    folder.mkdir(exist_ok=True)
    return Trainer(settings, folder, *build_policy(settings, build_mdp(settings)), quiet=True)


def rows_of(folder):
    """Return the metrics of each step without the times."""
    return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in read_metrics(folder)]


def weights_of(folder):
    """Return the policy and the progress of the newest checkpoint."""
    state, _ = checkpoint.load(checkpoint.latest(folder / "checkpoints"))
    return state["policy"], state["progress"]


def stop_and_resume(settings, folder, at):
    """Train until step `at`, stop as after SIGTERM, and continue to the end with a second trainer."""
    first = make_trainer(settings, folder)
    update_alarms = first.state.alarms.update

    def stop_then_update(step, metrics):
        if step == at:
            first.stop.signal = 15  # SIGTERM
        return update_alarms(step, metrics)

    first.state.alarms.update = stop_then_update
    first.run()
    first.close()
    second = make_trainer(settings, folder)
    second.resume()
    assert second.state.step == at
    second.run()
    second.close()


def test_scheduled_weights_and_multipliers_resume_bitwise(tmp_path):
    uninterrupted = make_trainer(config(tmp_path / "a", rewards=SCHEDULED), tmp_path / "a")
    uninterrupted.run()
    uninterrupted.close()
    stop_and_resume(config(tmp_path / "b", rewards=SCHEDULED), tmp_path / "b", at=3)
    assert rows_of(tmp_path / "a") == rows_of(tmp_path / "b")
    expected_weights, expected_progress = weights_of(tmp_path / "a")
    weights, progress = weights_of(tmp_path / "b")
    assert all(torch.equal(expected_weights[name], weights[name]) for name in expected_weights)
    assert expected_progress["reward"] == progress["reward"]
    assert expected_progress["reward"]["length"] > 0


def test_the_logged_mean_reward_uses_the_weights_of_its_step(tmp_path):
    trainer = make_trainer(config(tmp_path / "a", rewards=SCHEDULED), tmp_path / "a")
    trainer.run()
    trainer.close()
    rows = rows_of(tmp_path / "a")
    for i, row in enumerate(rows):
        scheduled = 1 - 0.5 * min(i, 4) / 4
        assert row["reward/token_match/weight"] == pytest.approx(scheduled)
        total = scheduled * row["reward/token_match"] + row["reward/exact_match"]
        total += row["reward/length/weight"] * row["reward/length"]
        assert row["reward/mean"] == pytest.approx(total, abs=1e-5)
    # the multiplier is 0 in the first step, and follows the violation of the previous step after that
    assert rows[0]["reward/length/weight"] == 0
    assert rows[1]["reward/length/weight"] == pytest.approx(-max(0, 2 * (rows[0]["reward/length"] + 0.9)))


def test_a_failed_rollout_restores_the_weights_of_evaluation(tmp_path):
    def fails(completions):
        raise ValueError("no")

    settings = config(tmp_path / "a")
    mdp = build_mdp(settings, rewards=[fails, "token_match=1@0:0.5@4"])
    trainer = Trainer(settings, tmp_path / "a", *build_policy(settings, mdp), quiet=True)
    (tmp_path / "a").mkdir()
    with pytest.raises(RewardError):
        trainer.run()
    assert trainer.mdp.reward.weights["token_match"] == 0.5
    trainer.close()


def test_a_stop_within_a_rollout_restores_the_weights_of_evaluation(tmp_path):
    reuse = {"objective__ratio": "token", "learner__epochs": 2}
    trainer = make_trainer(config(tmp_path / "a", rewards=SCHEDULED, **reuse), tmp_path / "a")
    update = trainer.learner.update

    def stop_after_update(buffer):
        trainer.stop.request()
        return update(buffer)

    trainer.learner.update = stop_after_update
    assert trainer.run() == 143
    trainer.close()
    assert trainer.state.experience.buffer.position == 1
    assert trainer.mdp.reward.weights == {"token_match": 0.5, "length": 0.0, "exact_match": 1.0}


def test_per_component_changes_the_training_rewards_and_not_the_logged_ones(tmp_path):
    rewards = ("token_match=100", "exact_match")
    for name, per_component in (("sum", False), ("apart", True)):
        settings = config(tmp_path / name, rewards=rewards, rollout__per_component=per_component)
        trainer = make_trainer(settings, tmp_path / name)
        trainer.run()
        trainer.close()
    first, other = (rows_of(tmp_path / name)[0] for name in ("sum", "apart"))
    assert {k: v for k, v in first.items() if k.startswith("reward/")} == {
        k: v for k, v in other.items() if k.startswith("reward/")
    }
    weights, changed = weights_of(tmp_path / "sum")[0], weights_of(tmp_path / "apart")[0]
    assert any(not torch.equal(weights[name], changed[name]) for name in weights)


# ---- rewards with state ----


class Novelty:
    """Rewards a text less each time that it occurs."""

    def __init__(self):
        self.counts = {}

    def __call__(self, completions, log_metric, log_extra, **columns):
        values = []
        for text in completions:
            self.counts[text] = self.counts.get(text, 0) + 1
            values.append(1 / self.counts[text])
        log_metric("texts", len(self.counts))
        log_extra("seen", [self.counts[text] for text in completions])
        return values

    def state_dict(self):
        return {"counts": self.counts}

    def load_state_dict(self, state):
        self.counts = state["counts"]


def novelty_trainer(folder, **changes):
    folder.mkdir(exist_ok=True)
    settings = config(folder, **changes)
    mdp = build_mdp(settings, rewards=[RewardFunction("novelty", Novelty(), timeout_s=None)])
    return Trainer(settings, folder, *build_policy(settings, mdp), quiet=True)


def test_the_state_of_a_reward_resumes_bitwise_and_validation_does_not_change_it(tmp_path):
    whole = novelty_trainer(tmp_path / "a")
    whole.run()
    part = novelty_trainer(tmp_path / "b", evaluation__every=1, steps=3)
    part.run()
    rest = novelty_trainer(tmp_path / "b", evaluation__every=1)
    rest.resume()
    rest.run()

    def training(folder):
        return [{k: v for k, v in row.items() if not k.startswith("eval/")} for row in rows_of(folder)]

    assert training(tmp_path / "a") == training(tmp_path / "b")
    assert all(torch.equal(v, weights_of(tmp_path / "b")[0][k]) for k, v in weights_of(tmp_path / "a")[0].items())
    texts = [row["reward/novelty/log/texts"] for row in rows_of(tmp_path / "a")]
    assert texts == sorted(texts)
    assert 0 < texts[0] < texts[-1]
    counts = weights_of(tmp_path / "a")[1]["reward"]["state of novelty"]["counts"]
    assert sum(counts.values()) == 6 * 16
    samples = [json.loads(line) for line in (tmp_path / "a" / "samples.jsonl").read_text().splitlines()]
    assert all(sample["extra"]["seen"] >= 1 for sample in samples)


# ---- early stopping ----


def with_validations(folder, rewards, **changes):
    """Return a trainer whose validations have these mean rewards, in this order."""
    trainer = make_trainer(config(folder, evaluation__every=1, **changes), folder)
    values = iter(rewards)

    class NextEvaluation:
        envs = ()
        report = SimpleNamespace(figures={})

        def __init__(self, tasks):
            self.metrics, self.value = ("reward",), next(values)

        def mean(self, name):
            return self.value

    trainer.validator.evaluate = NextEvaluation
    return trainer


def test_early_stopping_ends_the_run_and_restores_the_best_weights(tmp_path):
    trainer = with_validations(tmp_path / "a", [0.1, 0.5, 0.4, 0.5, 0.9, 0.9], evaluation__patience=2)
    weights = {}
    record = trainer.state.early_stopping.record

    def recording(step, *rest):
        weights[step] = {k: v.clone() for k, v in trainer.state.policy.trainable().items()}
        record(step, *rest)

    trainer.state.early_stopping.record = recording
    trainer.run()
    assert (trainer.state.step, trainer.state.early_stopping.step) == (4, 2)  # an equal reward is not an improvement
    assert trainer.state.early_stopping.restore(trainer.state.policy)
    assert all(torch.equal(v, weights[2][k]) for k, v in trainer.state.policy.trainable().items())
    trainer.close()


@pytest.mark.parametrize(("patience", "split"), [(1, "test"), (0, "validation")])
def test_early_stopping_compares_before_and_after_on_the_test_split(tmp_path, patience, split):
    """The best of many validation rewards is biased upward, so the comparison must use other prompts."""
    settings = {"evaluation__every": 1, "evaluation__patience": patience, "evaluation__prompts": 4}
    run = rlalign.train("reverse", "tiny", "rloo", output=tmp_path / "a", steps=2, quiet=True, **settings)
    mdp = make_mdp("reverse")
    prompts = [task.prompt for task in held_out(mdp, split, 4)]
    assert run.comparison.before.prompts == run.comparison.after.prompts == prompts


def test_early_stopping_is_off_by_default_and_requires_validations(tmp_path):
    trainer = with_validations(tmp_path / "a", [0.5] * 6)
    trainer.run()
    assert trainer.state.step == 6
    assert not trainer.state.early_stopping.restore(trainer.state.policy)
    trainer.close()
    with pytest.raises(UserError, match=r"evaluation\.every"):
        validate(config(tmp_path, evaluation__patience=2))


def test_early_stopping_state_survives_a_stop(tmp_path):
    first = with_validations(tmp_path / "a", [0.5, 0.4, 0.3], evaluation__patience=3, steps=2)
    first.run()
    first.close()
    second = with_validations(tmp_path / "a", [0.3, 0.2, 0.1], evaluation__patience=3)
    second.resume()
    second.run()
    assert (second.state.step, second.state.early_stopping.step, second.state.early_stopping.reward) == (4, 1, 0.5)
    second.close()


def test_the_policy_of_a_run_with_early_stopping_has_the_best_weights(tmp_path):
    settings = config(tmp_path / "a", evaluation__every=1, evaluation__patience=1, steps=30, learner__lr=3e-2)
    run = train_run(settings, quiet=True)
    comparison = run.comparison
    rewards = [row["eval/reward"] for row in read_metrics(run.folder)]
    assert len(rewards) < 30
    assert run.evaluate(split="validation").after.mean("reward") == pytest.approx(max(rewards))
    assert run.evaluate().after.mean("reward") == pytest.approx(comparison.after.mean("reward"))
    policy, _ = build_policy(settings, build_mdp(settings))
    restore_trained(policy, run.folder)
    saved = run.policy.trainable()
    assert all(torch.equal(v, saved[k]) for k, v in policy.trainable().items())


def test_alarms_are_printed_when_they_start_and_end_and_are_saved(tmp_path, capsys):
    from rich.console import Console

    from rlalign.log.alarms import AlarmMonitor

    def held(kind):
        return json.loads((tmp_path / "report" / "alarms.json").read_text())[kind]["held"]

    far, near = ({"rollout/length": 4.0, "rollout/kl": kl} for kl in (40.0, 0.0))
    monitor = AlarmMonitor(tmp_path, Console())
    values = [monitor.update(step, far)["alarm/kl"] for step in range(1, 13)]
    assert values == [0.0] * 9 + [1.0] * 3
    assert capsys.readouterr().out.count("alarm kl, step 10") == 1
    assert held("kl") == [[10, None]]
    values += [monitor.update(step, near)["alarm/kl"] for step in range(13, 17)]
    assert values[-4:] == [1.0, 1.0, 0.0, 0.0]  # the mean of three steps falls below 12 with the second
    assert capsys.readouterr().out == "alarm kl ended: it was active from step 10 to 14\n"
    assert held("kl") == [[10, 14]]
    rows = [{"step": s, **(far if s < 13 else near), "alarm/kl": value} for s, value in enumerate(values, 1)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows[:12])))
    resumed = AlarmMonitor(tmp_path, Console())
    resumed.resume()  # after step 12, while the alarm was active
    assert held("kl") == [[10, None]]
    assert resumed.update(13, far)["alarm/kl"] == 1.0
    assert capsys.readouterr().out == ""
    assert [resumed.update(step, near)["alarm/kl"] for step in (14, 15, 16)] == [1.0, 1.0, 0.0]
    resumed.update(17, {"rollout/length": 4.0, "rollout/kl": 99.0})
    assert held("kl") == [[10, 15], [17, None]]
    assert "kl again, step 17" in capsys.readouterr().out


def test_the_report_of_a_run_lists_its_alarms(tmp_path):
    from rlalign.compare.output.html.run import write_run_report

    run = train_run(config(tmp_path / "a", steps=1), quiet=True)
    assert 'id="alarms"' not in write_run_report(run).read_text()
    alarm = {"kl": {"held": [[7, 9], [12, None]], "says": "far from <the reference>"}}
    (run.folder / "report" / "alarms.json").write_text(json.dumps(alarm))
    page = write_run_report(run).read_text()
    assert 'id="alarms"' in page
    assert "7 to 9, from 12 to the end" in page
    assert "far from &lt;the reference&gt;" in page
