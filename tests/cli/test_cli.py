"""The command line: outputs, exit statuses and error messages."""

import email
import errno
import inspect
import io
import json
import subprocess
import sys
import textwrap
import warnings

import numpy as np
import pytest
from rich.console import Console

import rlalign
from rlalign import cli
from rlalign.cli import doctor
from rlalign.cli.train import parse, print_comparison
from rlalign.config.defaults import default_config
from rlalign.errors import OutputError, UserError
from rlalign.evaluation.before_after import Comparison
from rlalign.evaluation.evaluate import Evaluation
from rlalign.policies.factory import make_policy
from rlalign.registry import Registry


def run(capsys, *arguments):
    """Return the exit status, standard output and standard error of a command."""
    try:
        status = cli.main(list(arguments))
    except SystemExit as error:  # argparse raises it for argument errors and --help
        status = error.code if isinstance(error.code, int) else 0
    out, err = capsys.readouterr()
    return status, out, err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("trian",), "unknown command 'trian'. Did you mean 'train'"),
        (("train", "--algorithm", "grop"), "unknown algorithm 'grop'. Did you mean 'grpo'"),
        (("train", "--env", "revers"), "unknown environment 'revers'. Did you mean 'rlalign/Reverse-v0'"),
        (("train", "--env", "reverse", "--policy", "gruu"), "unknown policy 'gruu'"),
        (("train", "--env", "reverse", "--policy", "gru", "--reward", "vadre"), "unknown reward 'vadre'. Did you mean"),
        (("train", "--env", "reverse", "--policy", "gru", "--reward", "no.py:f"), "no file"),
        (("train", "--learner.minibatches", "5"), "32 sequences do not divide into 5 minibatches"),
        (("train", "--algorithm", "grpo", "--rollout.group-size", "1"), "group_size is 1"),
        (
            ("train", "--device", "cuda:99", "--env", "reverse", "--policy", "gru"),
            "device 'cuda:99' cannot be used here",
        ),
        (("evaluate", "nowhere"), "expected a run folder, got 'nowhere', which does not exist; check the path"),
        (("generate", "nowhere", "text"), "expected a run folder, got 'nowhere', which does not exist; check the path"),
        (
            ("train", "--resume", "nowhere"),
            "expected a run folder, got 'nowhere', which does not exist; check the path",
        ),
        (("check", "revrse"), "unknown environment or reward 'revrse'. Did you mean"),
        (("check", "haiku.py"), "expected an environment or a reward in a file as FILE.py:NAME, got 'haiku.py'"),
    ],
)
def test_a_mistake_in_the_arguments_prints_one_line_and_returns_2(capsys, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    status, _, err = run(capsys, *arguments)
    assert status == 2
    assert err.startswith("rlalign: ")
    assert message in err
    assert len(err.strip().splitlines()) == 1
    assert not list(tmp_path.glob("runs/*/policy"))


def test_the_message_names_the_flag_and_the_numbers_to_use(capsys, tmp_path):
    folder = str(tmp_path / "run")
    rlalign.train("reverse", "gru", "reinforce", output=folder, steps=1, evaluation__prompts=2, quiet=True)
    for flag, words in (("--k", "samples (--k): expected at least 1, got 0; use 1 or more"), ("--prompts", "use 2 or")):
        status, _, err = run(capsys, "evaluate", folder, flag, "0")
        assert status == 2
        assert words in err
    assert "got neither; use a run folder" in run(capsys, "compare", str(tmp_path / "run" / "report"))[2]


def test_debug_shows_the_traceback():
    with pytest.raises(UserError):
        cli.main(["evaluate", "nowhere", "--debug"])


def test_unknown_flags_and_values_return_2(capsys):
    assert run(capsys, "train", "--stpes", "3")[0] == 2
    assert run(capsys, "train", "--steps", "many")[0] == 2
    assert run(capsys, "list", "thngs")[0] == 2


def test_help_names_every_command(capsys):
    status, out, _ = run(capsys)
    assert status == 0
    for name in cli.COMMANDS:
        assert name in out


def test_oracle_changes_one_axis_of_a_preset(capsys):
    short = ("--horizon", "2")
    status, out, _ = run(capsys, "oracle", "--preset", "rloo", "--objective.aggregation", "sequence_mean", *short)
    assert status == 0
    assert "rloo, aggregation sequence_mean" in out
    assert "biased" in out
    plain = ("--objective.scale=none", "--objective.aggregation", "sequence_sum", "--objective.kl.where", "none")
    status, out, _ = run(capsys, "oracle", "--preset", "grpo", *plain, *short)
    assert "exact × 0.5" in out  # (G - 1) / G of the gradient
    for arguments, message in (
        (("--objective.scale", "none"), "expected one algorithm to change"),
        (("--preset", "grpo", "--learner.lr", "1"), "expected a setting of the objective"),
        (("--preset", "grpo", "--objective.scale", "nome"), "scale"),
    ):
        status, _, err = run(capsys, "oracle", *arguments, *short)
        assert status == 2
        assert message in err


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_help(capsys, name):
    status, out, _ = run(capsys, name, "--help")
    assert status == 0
    assert out.strip()


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("envs", ("rlalign/Sentiment-v0", "rlalign/GuessNumber-v0")),
        ("rewards", ("vader", "exact_match")),
        ("algorithms", ("reinforce", "rloo", "grpo", "ppo")),
        ("policies", ("smollm2", "gru")),
        ("metrics", ("reward/mean", "train/clip_fraction", "alarm/gold", "eval/KEY", "pass@K")),
    ],
)
def test_list_prints_names(capsys, kind, names):
    status, out, _ = run(capsys, "list", kind)
    assert status == 0
    for name in names:
        assert name in out


def test_defaults_depend_on_algorithm_and_policy():
    assert parse([]).objective.baseline == "leave_one_out"
    assert parse([]).learner.lr == 1e-3
    grpo = parse(["--algorithm", "grpo", "--policy", "gru", "--env", "reverse"])
    assert grpo.objective.baseline == "group_mean"
    assert grpo.learner.lr == 3e-3


def test_a_dotted_flag_overrides_one_axis():
    config = parse(["--algorithm", "grpo", "--objective.baseline", "leave_one_out", "--objective.scale", "none"])
    assert (config.objective.baseline, config.objective.scale) == ("leave_one_out", "none")
    assert config.objective.trust.kind == "clip"
    kl = ["--objective.kl.where", "reward", "--objective.kl.estimator", "k1"]
    assert parse(["--algorithm", "grpo", *kl]).objective.kl.where == "reward"


def test_reward_is_repeatable():
    assert parse(["--reward", "vader", "--reward", "length=0.5"]).rewards == ("vader", "length=0.5")


@pytest.mark.pictures
def test_train_evaluate_generate_plot_from_the_command_line(capsys, tmp_path):
    folder = str(tmp_path / "run")
    small = ["--rollout.prompts", "2", "--rollout.group-size", "2", "--evaluation.prompts", "4"]
    arguments = ["train", "--env", "reverse", "--policy", "gru", "--steps", "2", "--output", folder, *small]
    status, out, _ = run(capsys, *arguments)
    assert status == 0
    for text in ("step 2/2", "before / after on 4 held-out prompts", "samples", "reward.png", folder):
        assert text in out
    verdict = out.splitlines()[-1]
    assert "reward" in verdict
    assert "95 % CI" in verdict
    assert "4 held-out prompts" in verdict
    assert {p.name for p in (tmp_path / "run").iterdir()} >= {
        "config.json", "metrics.jsonl", "samples.jsonl", "checkpoints", "policy", "report",
    }  # fmt: skip

    status, out, _ = run(capsys, "evaluate", folder, "--json", "--prompts", "4")
    assert status == 0
    assert json.loads(out)["metrics"]["reward"]["difference"]["n"] == 4

    status, out, _ = run(
        capsys, "generate", folder, "abc>", "--column", "answer=cba", "--until", "99", "--max-tries", "3"
    )
    assert status == 1
    assert "best of 3 tries; +99.000 was not reached" in out
    status, out, _ = run(capsys, "generate", folder, "abc>", "--column", "answer=cba", "--until", "-99")
    assert status == 0
    assert "reached -99.000 in 1 try" in out

    run_plot = tmp_path / "run" / "report" / "reward.png"
    run_plot.unlink()
    status, out, _ = run(capsys, "plot", folder, "--output", str(tmp_path / "curves.png"))
    assert status == 0
    for plot in (tmp_path / "curves.png", run_plot):
        assert plot.read_bytes().startswith(b"\x89PNG")


def test_a_reward_that_cannot_be_scored_is_not_checked(capsys, tmp_path):
    (tmp_path / "mine.py").write_text("def pos(prompt, completion): return 1.0\n")
    status, out, _ = run(capsys, "check", f"{tmp_path / 'mine.py'}:pos")
    assert status == 1
    assert "skipped can be scored: reward 'pos': expected 'prompt'" in out
    assert "use the parameter 'prompts', a list" in " ".join(out.split())
    assert out.rstrip().endswith("nothing was checked")


def test_generate_shows_the_system_message_and_takes_longer_prompts_than_the_data(capsys, tmp_path):
    roles = [{"role": "system", "content": "be short"}, {"role": "user", "content": "hi"}]
    lines = [json.dumps({"prompt": [roles[0], {**roles[1], "content": f"hi {i}"}], "answer": "a"}) for i in range(12)]
    (tmp_path / "chat.jsonl").write_text("\n".join(lines))
    settings = {"steps": 1, "evaluation__prompts": 2, "quiet": True, "rewards": ["exact_match"]}
    folder = str(tmp_path / "run")
    rlalign.train(f"{tmp_path / 'chat.jsonl'}?max_new=4", "gru", "reinforce", output=folder, **settings)
    status, out, _ = run(capsys, "generate", folder, "a much longer question " * 9)
    assert status == 0
    assert out.startswith("[system] be short\na much longer question")
    status, _, err = run(capsys, "generate", folder, "hi", "--column", "answr=a")
    assert status == 2
    assert "--column answr: the tasks have no such column. Did you mean 'answer'?" in err


@pytest.mark.pictures
def test_plot_skips_folders_without_a_curve(capsys, tmp_path):
    study, empty, picture = tmp_path / "study", tmp_path / "empty", tmp_path / "curves.png"
    for folder in (study, empty):
        folder.mkdir()
    (study / "results.json").write_text("{}")
    settings = {"steps": 1, "evaluation__prompts": 2, "quiet": True}
    rlalign.train("reverse", "gru", "reinforce", output=tmp_path / "run", **settings)
    folders = [str(folder) for folder in sorted(tmp_path.iterdir())]
    status, _, err = run(capsys, "plot", *folders, "--output", str(picture))
    assert status == 0
    assert picture.is_file()
    assert f"skipped: '{study}' is a study or a search; use rlalign report" in err
    assert f"skipped: expected a run folder, got '{empty}', which has no config.json" in err
    status, _, err = run(capsys, "plot", str(study))
    assert status == 2
    assert f"rlalign: '{study}' is a study or a search" in err
    status, _, err = run(capsys, "plot", str(study), str(empty))
    assert status == 2
    assert "expected a run with metrics" in err


def test_a_run_folder_stands_for_its_policy(tmp_path):
    settings = {"steps": 1, "evaluation__prompts": 2, "quiet": True}
    first = rlalign.train("reverse", "gru", "reinforce", output=tmp_path / "run", **settings)
    assert default_config(policy=str(tmp_path / "run")).policy == str(tmp_path / "run" / "policy")
    assert default_config(policy=str(tmp_path / "run" / "policy")).policy == str(tmp_path / "run" / "policy")
    second = rlalign.train("reverse", str(tmp_path / "run"), "reinforce", output=tmp_path / "second", **settings)
    assert second.config.policy == str(tmp_path / "run" / "policy")
    assert make_policy(str(tmp_path / "run")).trainable().keys() == first.policy.trainable().keys()


@pytest.mark.parametrize("words", [["help"], ["help", "plot"], ["version"]])
def test_help_and_version_are_commands_too(capsys, words):
    flags = {"help": "--help", "version": "--version"}
    status, out, _ = run(capsys, *words)
    expected = run(capsys, *words[1:], flags[words[0]])
    assert (status, out) == expected[:2]
    assert out


def test_help_and_mistakes_do_not_import_torch():
    """It takes seconds. One process tries all commands, because a process takes long too."""
    code = """
        import contextlib, io, sys
        from rlalign.cli import COMMANDS, main
        for command in COMMANDS:
            for word in ("--help", "--no-such-flag"):
                with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                    with contextlib.suppress(SystemExit):
                        main([command, word])
                assert "torch" not in sys.modules, (command, word)
        with contextlib.redirect_stdout(io.StringIO()):
            main(["list", "policies"])
        assert "torch" not in sys.modules
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)


def test_the_descriptions_of_policies_are_read_without_importing_them():
    from rlalign.registry import POLICIES

    for name in POLICIES:
        assert POLICIES.docstring(name) == inspect.getdoc(POLICIES.get(name)), name
    assert Registry("constant", {"pi": "math:pi"}).docstring("pi") == ""


def test_doctor_names_the_missing_packages_of_each_extra(monkeypatch):
    def version(name):
        if name == "installed":
            return "2.0"
        if name == "rlalign":
            return "0.1"
        raise doctor.PackageNotFoundError(name)

    packages = {"full": ["installed>=1"], "old": ["installed>=3"], "half": ["absent", "installed"], "dev": ["absent"]}
    requirements = ["torch>=2"]
    for extra, names in packages.items():
        requirements += [f'{name}; extra == "{extra}"' for name in names]
    metadata = email.message_from_string("".join(f"Provides-Extra: {extra}\n" for extra in packages))
    monkeypatch.setattr(doctor, "version", version)
    monkeypatch.setattr(doctor, "requires", lambda name: requirements)
    monkeypatch.setattr(doctor, "metadata", lambda name: metadata)
    assert doctor._extras() == {
        "full": "complete",
        "old": "pip install -c constraints.txt -e '.[old]' installs installed",
        "half": "pip install -c constraints.txt -e '.[half]' installs absent",
    }


def test_doctor_prints_versions_and_device(capsys):
    status, out, _ = run(capsys, "doctor")
    assert status == 0
    for name in ("torch", "device", "bf16", "cache", "free disk"):
        assert name in out


def test_the_comparison_table_shows_no_negative_zero_and_no_nan():
    texts = ["p"] * 3, [["x"]] * 3
    ones, zeros, nans = (np.full((3, 1), x) for x in (1.0, -1e-9, np.nan))
    spread = np.array([[0.0], [1.0], [2.0]])
    before = Evaluation({"reward": zeros, "same": ones, "none": nans, "small": ones}, *texts)
    after = Evaluation({"reward": spread, "same": ones, "none": nans, "small": ones + spread / 1e4 + 2e-4}, *texts)
    console = Console(record=True, width=100, file=io.StringIO())
    print_comparison(console, Comparison(before, after))
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in console.export_text().splitlines()]
    cells = {row[0]: row[1:] for row in rows if row}
    assert cells["reward"] == ["0.000", "1.000", "+1.000", "[-1.484, +3.484]"]
    assert cells["same"] == ["1.000", "1.000", "+0.000", "same on each"]
    assert cells["none"] == ["-", "-", "-", "-"]
    assert cells["small"] == ["1.0000", "1.0003", "+0.0003", "[+0.0001, +0.0005]"]


def test_doctor_shows_brackets(monkeypatch, capsys):
    monkeypatch.setattr(
        doctor, "facts", lambda: {"extra tune": "pip install -c constraints.txt -e '.[tune]' installs optuna"}
    )
    assert "'.[tune]'" in run(capsys, "doctor")[1]


def test_a_warning_is_one_line():
    setup = "import warnings; from rlalign import cli; cli._dispatch = lambda args: warnings.warn('the disk is slow')"
    process = subprocess.run(
        [sys.executable, "-c", f"{setup}; cli.main(['train'])"], capture_output=True, text=True, check=True
    )
    assert process.stderr == "warning: the disk is slow\n"


def test_a_recorded_warning_is_not_printed(monkeypatch, capsys):
    """Fails if warnings.showwarning is replaced: a recorded warning would be printed among the lines of an error."""
    monkeypatch.setattr(cli, "_dispatch", lambda args: warnings.warn("the disk is slow", stacklevel=1))
    with pytest.warns(UserWarning, match="the disk is slow"):
        assert run(capsys, "train")[2] == ""


def test_the_help_without_arguments_ends_quietly_when_its_reader_exits(monkeypatch):
    def closed(args):
        raise OutputError(BrokenPipeError(errno.EPIPE, "Broken pipe"))

    monkeypatch.setattr(cli, "_dispatch", closed)
    assert cli.main([]) == 0
