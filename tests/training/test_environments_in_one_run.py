"""Runs on several environments, and in other orders: shares, metrics by environment, stages, resume, refusals."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from rlalign import cli
from rlalign.cli.compare import Args, study_of
from rlalign.cli.console import console as make_console
from rlalign.cli.train import print_comparison
from rlalign.compare.output.html.run import render
from rlalign.compare.study import Study, build_cells, check_study
from rlalign.config.defaults import default_config
from rlalign.config.instantiate import build_mdp, build_policy
from rlalign.config.schema import TrainConfig
from rlalign.config.serialize import fingerprint, update
from rlalign.config.unused_settings import unused_settings
from rlalign.errors import UserError
from rlalign.evaluation.transcripts import prompt_text
from rlalign.log.metric_keys import METRICS
from rlalign.registry import TASK_ORDERS
from rlalign.run import Run
from rlalign.storage.checkpoint import latest, read_manifest
from rlalign.storage.identity import code_specs, identity_of
from rlalign.storage.jsonl import read_metrics
from rlalign.training.experiment import check_run, default_output, train_run
from rlalign.training.trainer import Trainer
from tests.faults.test_resume import assert_same_run, stop_after

SMALL = {
    "steps": 4,
    "rollout.prompts": 5,
    "rollout.group_size": 4,
    "evaluation.prompts": 3,
    "model.hidden_size": 16,
    "learner.lr": 1e-2,
}

MATCH = {"rewards": ["exact_match"]}


def config(folder: Path | None, env: str, algorithm: str = "rloo", **changes: Any) -> TrainConfig:
    """Return the configuration of a small run; `__` in the name of a change is a dot."""
    base = update(default_config(env, "gru", algorithm), SMALL)
    named = {key.replace("__", "."): value for key, value in changes.items()}
    return update(base, {"output": None if folder is None else str(folder), **named})


def data_file(folder: Path, name: str, count: int = 30) -> Path:
    path = folder / name
    rows = [json.dumps({"prompt": f"{i % 10}{i // 10}>", "answer": str(i % 10)}) for i in range(count)]
    path.write_text("\n".join(rows), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("env", "changes", "stop"),
    [
        ("sort=0.7,reverse=0.3", {}, 2),
        ("sort@0,reverse@2", {}, 2),  # in the last step of the first stage
        ("sort@0,reverse@2", {"supervised__align_interval": 1}, 3),  # in the first step of the second one
        ("sort=0.8,guess_number=0.2@0:0@3", {}, 2),
        ("sort,reverse", {"tasks__mixing": "difficulty"}, 3),
        ("{data}", {**MATCH, "tasks__order": "difficulty", "objective__filter__dynamic_sampling": True}, 3),
        ("{data}=0.5,sort=0.5", {**MATCH, "tasks__order": "sequential"}, 2),
    ],
)
def test_a_stopped_and_resumed_run_is_bitwise_equal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, env: str, changes: dict[str, Any], stop: int
) -> None:
    env = env.replace("{data}", f"{data_file(tmp_path, 'digits.jsonl')}?tokenizer=chars:0123456789>abcd")
    train_run(config(tmp_path / "whole", env, **changes), quiet=True)
    with monkeypatch.context() as patch:
        stop_after(patch, stop)
        assert train_run(config(tmp_path / "cut", env, **changes), quiet=True).exit_status == 143
    train_run(config(tmp_path / "cut", env, resume=True, **changes), quiet=True)
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


def test_metrics_evaluations_and_samples_name_the_environment(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train_run(config(tmp_path / "run", "sort=0.6,reverse=0.4", evaluation__every=2), quiet=True)
    rows = read_metrics(run.folder)
    assert [row["env/sort/share"] for row in rows] == [0.6] * 4
    for row in rows:
        parts = [(row[f"env/{name}/share"], row[f"env/{name}/reward/mean"]) for name in ("sort", "reverse")]
        assert sum(share * mean for share, mean in parts) == pytest.approx(row["reward/mean"], abs=1e-6)
        tokens = [row[f"env/{name}/rollout/tokens"] for name in ("sort", "reverse")]
        assert sum(tokens) == row["rollout/tokens"]
    both = [rows[1][f"env/{name}/eval/reward"] for name in ("sort", "reverse")]
    assert sum(both) / 2 == pytest.approx(rows[1]["eval/reward"])
    patterns = [metric.pattern for stage in METRICS.values() for metric in stage]
    unknown = {key for row in rows for key in row if key != "step"}
    assert not [key for key in unknown if not any(pattern.fullmatch(key) for pattern in patterns)]

    comparison = json.loads((run.folder / "report" / "evaluation.json").read_text())
    assert list(comparison["environments"]) == ["sort", "reverse"]
    for part in comparison["environments"].values():
        assert part["metrics"]["reward"]["difference"]["n"] == 3
        assert "pass@1" in part["corpus"]["after"]["figures"]
    assert "pass@1" not in comparison["corpus"]["after"]["figures"]  # the gold scores may differ
    means = [part["metrics"]["reward"]["after"] for part in comparison["environments"].values()]
    assert sum(means) / 2 == pytest.approx(comparison["metrics"]["reward"]["after"])
    assert Counter(sample["env"] for sample in comparison["samples"]) == {"sort": 3, "reverse": 3}
    assert "environment: sort" in prompt_text(comparison["samples"][0])
    assert {sample["env"] for sample in Run(run.folder).samples} == {"sort", "reverse"}
    assert list(Run(run.folder).evaluate(prompts=2).by_environment) == ["sort", "reverse"]

    assert run.comparison is not None
    print_comparison(make_console(), run.comparison)
    printed = capsys.readouterr().out
    assert re.search(r"reward by environment.*sort +│ +3 │.*reverse +│ +3 │", printed, re.DOTALL)
    report = render(Run(run.folder))
    assert "Reward by environment" in report
    assert "reward on sort" in report
    assert cli.main(["generate", str(run.folder), "cab>"]) == 2
    assert "--env: expected one of the environments sort, reverse, got none" in capsys.readouterr().err
    assert cli.main(["generate", str(run.folder), "cab>", "--env", "reverse", "--column", "answer=bac"]) == 0


def test_stages_take_the_tasks_of_their_environment_alone(tmp_path: Path) -> None:
    run = train_run(config(tmp_path / "run", "sort@0,reverse@3"), quiet=True)
    rows = read_metrics(run.folder)
    assert ["env/sort/share" in row for row in rows] == [True, True, True, False]
    assert ["env/reverse/share" in row for row in rows] == [False, False, False, True]
    assert run.comparison is not None
    assert list(run.comparison.by_environment) == ["sort", "reverse"]


def test_a_mixture_of_one_environment_twice_learns_as_that_environment(tmp_path: Path) -> None:
    """The tasks are those of one environment, so the metrics of the first step are too."""
    env = "sort?max_length=4,sort?max_length=4&min_length=2"
    train_run(config(tmp_path / "two", env, rollout__prompts=6), quiet=True)
    train_run(config(tmp_path / "one", "sort"), quiet=True)
    two, one = (read_metrics(tmp_path / name)[0] for name in ("two", "one"))
    assert two["env/sort[max_length=4]/share"] == 0.5
    assert {key for key in one if key.startswith("reward/")} == {key for key in two if key.startswith("reward/")}


def test_a_loss_divides_by_the_longest_episode_of_one_environment(tmp_path: Path) -> None:
    """guess_number has 4 turns of 2 tokens, reverse one of 6: replay of one does not multiply the limits of both."""
    for env in ("guess_number", "guess_number=0.8,reverse=0.2"):
        settings = config(tmp_path / "run", env, objective__aggregation="constant")
        policy, mdp = build_policy(settings, build_mdp(settings))
        assert Trainer(settings, tmp_path / "run", policy, mdp, quiet=True).learner.preparation.max_length == 8


def test_rewards_of_the_run_are_those_of_each_environment(tmp_path: Path) -> None:
    run = train_run(config(tmp_path / "run", "sort,reverse", rewards=["+length?target=3=0.1"], steps=1), quiet=True)
    row = read_metrics(run.folder)[0]
    for name in ("sort", "reverse"):
        assert {f"env/{name}/reward/{component}" for component in ("length", "exact_match")} <= row.keys()


def test_difficulty_takes_what_is_neither_easy_nor_hard(tmp_path: Path) -> None:
    """Every completion is a success, so that a task is easy once it was taken."""
    rows = [json.dumps({"prompt": f"{i:02d}"}) for i in range(60)]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows), encoding="utf-8")
    env = f"{tmp_path / 'rows.jsonl'}?tokenizer=chars:0123456789x&max_new=2"
    changes = {"tasks__order": "difficulty", "rewards": ["regex?pattern=.*"], "tasks__success": 0.5}
    run = train_run(config(tmp_path / "run", env, steps=6, **changes), quiet=True)
    rows_of_run = read_metrics(run.folder)
    total = [sum(row[f"tasks/{name}"] for name in ("easy", "medium", "hard")) for row in rows_of_run]
    assert set(total) == {48}
    assert rows_of_run[0]["tasks/easy"] == 5
    # after the first step 8/9 of the prompts are of the medium pool, 22.2 of 25: tasks that were not taken yet
    assert rows_of_run[-1]["tasks/easy"] in (27, 28)


def test_an_order_of_a_file_is_used_and_is_part_of_the_identity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "order.py").write_text(
        "from rlalign.envs.task_order.fixed import Sequential\n\n\n"
        "class First(Sequential):\n"
        '    """The first task, again and again."""\n\n'
        "    def next(self, n):\n        return [0] * n\n",
        encoding="utf-8",
    )
    order = f"{tmp_path / 'order.py'}:First"
    settings = config(tmp_path / "run", str(data_file(tmp_path, "d.jsonl")), tasks__order=order, steps=1, **MATCH)
    run = train_run(settings, quiet=True)
    assert len({sample["prompt"] for sample in run.samples}) == 1
    assert ("tasks.order", order) in code_specs(settings)
    assert "tasks.order order.py" in identity_of(settings)
    assert set(TASK_ORDERS) >= {"shuffled", "sequential", "difficulty"}


def test_the_identity_has_the_data_of_every_environment(tmp_path: Path) -> None:
    a, b = data_file(tmp_path, "a.jsonl"), data_file(tmp_path, "b.csv", 3)
    b.write_text("prompt,answer\n" + "\n".join(f"{i}>,{i}" for i in range(9)), encoding="utf-8")
    (tmp_path / "own.py").write_text(
        "import rlalign\n\n\nclass Own(rlalign.TextMDP):\n"
        '    """Prompts of its own."""\n\n'
        '    source = [{"prompt": f"{i}>", "answer": str(i)} for i in range(9)]\n'
        '    rewards = {"exact_match": 1.0}\n',
        encoding="utf-8",
    )
    env = f"{a}=0.4,{b}=0.3,{tmp_path / 'own.py'}:Own=0.3"
    settings = config(tmp_path / "run", env, rewards=["exact_match"], steps=1)
    train_run(settings, quiet=True)
    identity = read_manifest(latest(tmp_path / "run" / "checkpoints"))["identity"]
    assert {"data a.jsonl", "data b.csv", "environment own.py", "tasks of own"} <= identity.keys()
    assert {path.name for path in (tmp_path / "run").glob("data*.json")} == {
        "data-a.json",
        "data-b.json",
        "data-own.json",
    }
    data_file(tmp_path, "a.jsonl", 29)
    with pytest.raises(UserError, match=r"data a\.jsonl would make the continuation another experiment"):
        train_run(update(settings, {"resume": True}), quiet=True)


@pytest.mark.parametrize(
    ("env", "changes", "message"),
    [
        ("sort", {"tasks.order": "difficulty"}, "unbounded source"),
        ("sort=1,reverse=1", {"tasks.mixing": "difficulty"}, "without weights"),
        ("sort,sentiment", {"tasks.mixing": "difficulty"}, r"--tasks\.success REWARD"),
        ("sort,reverse", {"tasks.temperature": 0.0}, r"tasks\.temperature"),
        ("sort,reverse", {"tasks.order": "shufled"}, "task order 'shufled'.*shuffled"),
        ("sort,reverse", {"tasks.easy": 0.2}, r"tasks\.hard 0\.2: expected less than tasks\.easy"),
        ("sort,reverse", {"tasks.medium_share": 0.2}, r"tasks\.medium_share"),
        ("sort,reverze", {}, "unknown environment 'reverze'"),
        ("sort,reverse@5", {}, "a step for each"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_loaded(
    env: str, changes: dict[str, Any], message: str
) -> None:
    from rlalign.config.validate import validate

    settings = update(default_config(env, "gru", "rloo"), changes)

    def check() -> None:
        validate(settings)
        check_run(settings)

    with pytest.raises(UserError, match=message):
        check()


def test_the_checks_of_a_mixture_are_those_of_an_environment(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", "sort=0.5,reverse=0.5", "--episodes", "4"]) == 0
    assert "every check passed" in capsys.readouterr().out
    assert cli.main(["check", "exact_match", "--env", "sort,reverse"]) == 2
    assert "expected one environment, got sort + reverse" in capsys.readouterr().err


def test_a_study_has_cells_on_a_mixture_from_a_file_alone() -> None:
    study = check_study(Study(("grpo", "rloo"), ("sort=0.7,reverse=0.3",), seeds=(0,)))
    names = [cell.name for cell in build_cells(study)]
    assert names == ["sort-0.7-reverse-0.3/grpo/seed-0", "sort-0.7-reverse-0.3/rloo/seed-0"]
    with pytest.raises(UserError, match="got a mixture, whose commas separate environments here"):
        study_of(Args(algorithms="grpo", envs="sort=0.7,reverse=0.3"), {})


def test_other_trainers_refuse_what_they_cannot_do() -> None:
    from rlalign.integrations.trl.settings import check_run as check_trl_run
    from rlalign.training.best_of_n import check_best_of_run

    mixture = update(default_config("sort,reverse", "tiny", "trl:grpo"), {"evaluation.prompts": 2})
    with pytest.raises(UserError, match=r"TRL: expected one environment, got sort \+ reverse"):
        check_trl_run(mixture)
    with pytest.raises(UserError, match="best of n: expected one environment"):
        check_best_of_run(default_config("sort,reverse", "gru", "best_of_n"))


def test_settings_without_effect_are_named() -> None:
    changes = {"tasks.temperature": 2.0, "tasks.decay": 0.5}
    one = unused_settings(update(default_config("sort", "gru"), changes))
    assert one["tasks.temperature"] == "there is one environment"
    assert "tasks.decay" in one
    two = unused_settings(update(default_config("sort=1,reverse=2", "gru"), changes))
    assert list(two) == ["tasks.decay"]
    difficult = {**changes, "tasks.mixing": "difficulty", "tasks.temperature": None}
    assert not unused_settings(update(default_config("sort,reverse", "gru"), difficult))


def test_the_settings_of_before_keep_their_fingerprint_and_folders_have_legal_names() -> None:
    plain = default_config("sort", "gru")
    assert fingerprint(plain) == fingerprint(update(plain, {"tasks.order": "shuffled"}))
    assert fingerprint(plain) != fingerprint(update(plain, {"tasks.order": "sequential"}))
    name = default_output(default_config("rlalign/Sort-v0=0.7,a/b.csv?prompt=q=0.3", "gru")).name
    assert name.startswith("sort+b-gru-rloo-")
    assert "/" not in name
