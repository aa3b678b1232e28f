"""Every command and every Python block of README and the pages runs, with steps, seeds and prompts reduced.

Blocks run in the order of the page, in one folder per page:

    ```console         each line after `$ `
    ```bash            the two commands of README, which CI runs as they stand; other pages only repeat them
    ```python          one namespace per page; a block that begins with `# NAME.py` is written to that file
    ```toml            written to the file that its first line names

The Markdown cells of the tutorials are pages, too; `test_tutorials` runs their code.

Indented blocks and ```text are output or shapes of commands.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import rlalign
from rlalign import api, cli
from rlalign.compare import run_study
from rlalign.compare.running.workers import Ended

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    page
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
    if "_build" not in page.parts and page.parent.name != "api"
)
TUTORIALS = sorted((ROOT / "docs" / "tutorials").glob("*.py"))
SMALL = {"steps": 2, "rollout.prompts": 2, "rollout.group_size": 2, "evaluation.prompts": 2, "evaluation.samples": 2}
FLAGS = {
    "compare": {"seeds": "2", "steps": "2", "jobs": "2"},
    "tune": {"trials": "2", "steps": "2"},
    "oracle": {"horizon": "2"},
}
# Commands that prepare a machine or measure for minutes. Each names a file that must exist.
NOT_HERE = (
    "pip ",
    "python3 -m venv ",
    "python docs/_generate",
    "bash .ci/run",
    "python benchmarks/",
    "python -m rlalign.oracle",
    "sphinx-build ",
)


def text_of(page: Path) -> str:
    """Return the text of a page, or of the Markdown cells of a tutorial."""
    text = page.read_text(encoding="utf-8")
    if page.suffix != ".py":
        return text
    cells = re.findall(r"^# %% \[markdown\]\n((?:#.*\n)+?)(?=^# %%|^(?!#)|\Z)", text, flags=re.MULTILINE)
    return re.sub(r"^# ?", "", "\n".join(cells), flags=re.MULTILINE)


def blocks(page: Path) -> Iterator[tuple[str, str]]:
    """Yield language and text of the fenced blocks of a page."""
    pattern = r"^```(\w+)\n(.*?)^```$"
    for match in re.finditer(pattern, text_of(page), flags=re.MULTILINE | re.DOTALL):
        yield match[1], match[2]


def commands(text: str) -> list[str]:
    """Return the commands of a console block, without comments."""
    joined = text.replace("\\\n", " ")
    return [line[2:].partition("  #")[0].strip() for line in joined.splitlines() if line.startswith("$ ")]


def reduced(words: list[str]) -> list[str]:
    """Return the arguments of rlalign for a run of seconds: the last value of a flag counts."""
    command = words[0]
    if "--resume" in words or "--help" in words or command in ("feedback", "new"):
        return words
    if command == "train":
        small = {name: str(value) for name, value in SMALL.items()}
        if ("--policy" not in words and "--config" not in words) or "smollm2" in words:
            small["policy"] = "tiny"
        return [*words, *(part for name, value in small.items() for part in (f"--{name.replace('_', '-')}", value))]
    if command == "compare" and "--algorithms" not in words and not any(word.endswith(".toml") for word in words):
        return words  # runs that exist
    flags = dict(FLAGS.get(command, {}))
    if command in ("compare", "tune"):
        searched = " ".join(words)
        flags |= {
            name: str(value) for name, value in SMALL.items() if "." in name and name.split(".")[1] not in searched
        }
    if any(word.endswith("study.toml") for word in words):
        flags["tune"] = "1"
    if any("suite.toml" in word for word in words):
        flags |= {"algorithms": "reinforce,ppo", "envs": "reverse"}
    if any(word.endswith(".toml") for word in words) and "--output" not in words:
        flags["output"] = "runs/study"  # the study's own folder may be in the repository
    if command == "export" and "--compare" in words:
        flags |= {"prompts": "2", "k": "1", "forms": "gguf-q8_0"}
    if command == "generate":
        flags["max-tries"] = "2"
    if command == "evaluate":
        flags["prompts"] = "10"
    return [*words, *(part for name, value in flags.items() for part in (f"--{name}", value))]


def run_command(command: str) -> None:
    """Run a command in this process and expect that it succeeds."""
    words = shlex.split(command)
    if words[0] == "rlalign":
        arguments = [str(ROOT / word) if word.startswith("benchmarks/") else word for word in words[1:]]
        try:
            status = cli.main(reduced(arguments))
        except SystemExit as leave:  # --help
            status = int(leave.code or 0)
        expected = (0, 1) if words[1] == "generate" else (0,)  # 1: the level was not reached
        assert status in expected, command
    elif words[:3] == ["python", "-m", "pytest"]:
        subprocess.run([sys.executable, *words[1:], "-q", "-p", "no:cacheprovider"], check=True, capture_output=True)
    elif words[:1] == ["python"] and ROOT / words[1] in TUTORIALS:
        assert len(words) == 2, "test_tutorials runs the script without arguments"
    else:
        assert command.startswith(NOT_HERE), f"nothing here runs: {command}"
        for word in words:
            if word.startswith(("benchmarks/", ".ci/", "docs/")) and "_build" not in word:  # a build writes that folder
                assert (ROOT / word).exists(), word


class WorkersHere:
    """Workers that execute each run at once in this process: processes of their own would take seconds to start."""

    jobs = 1

    def __init__(self) -> None:
        self._ended: list[Ended] = []

    def start(self, name: str, config: rlalign.TrainConfig) -> None:
        self._ended.append(Ended(name, api.train_config(config, quiet=True).exit_status))

    def wait(self, seconds: float) -> list[Ended]:
        ended, self._ended = self._ended, []
        return ended

    def stop(self, name: str) -> None:
        """Do nothing: a run has ended before it can be stopped."""

    def close(self) -> None:
        """Do nothing: no process runs."""


@pytest.fixture
def page_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty working folder in which `rlalign.train` makes small runs and files can be imported."""
    train = api.train

    def small(env: Any = "sentiment", policy: Any = "tiny", *args: Any, **settings: Any) -> Any:
        changes = {name.replace(".", "__"): value for name, value in SMALL.items()}
        return train(env, "tiny" if policy == "smollm2" else policy, *args, **settings | changes | {"quiet": True})

    monkeypatch.setattr(api, "train", small)
    monkeypatch.setattr(run_study.Placement, "workers", lambda self, policy: WorkersHere())
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def with_blocks() -> list[Path]:
    """Return the pages that have something to run."""
    return [
        page for page in [*PAGES, *TUTORIALS] if any(language in ("console", "python") for language, _ in blocks(page))
    ]


@pytest.mark.parametrize("page", with_blocks(), ids=lambda page: str(page.relative_to(ROOT)))
def test_the_blocks_of_a_page_run(page: Path, page_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    namespace: dict[str, Any] = {"__name__": "page"}
    for language, text in blocks(page):
        first = text.partition("\n")[0]
        if language in ("python", "toml") and re.fullmatch(r"# \w+\.(py|toml)", first):
            (page_folder / first[2:]).write_text(text, encoding="utf-8")
        elif language == "python":
            exec(compile(text, f"{page.name}", "exec"), namespace)
        elif language == "console":
            for command in commands(text):
                run_command(command)
    capsys.readouterr()


def test_the_two_commands_are_those_of_readme() -> None:
    def two(page: Path) -> list[str]:
        return [text for language, text in blocks(page) if language == "bash"][:2]

    assert two(ROOT / "docs" / "get_started.md") == two(ROOT / "README.md")
    assert len(two(ROOT / "README.md")) == 2


def test_no_page_hides_a_command() -> None:
    """A command in an indented block or in ```text would not run here."""
    hidden = []
    for page in [*PAGES, *TUTORIALS]:
        text = text_of(page)
        hidden += [
            f"{page.name}: {line}" for line in re.findall(r"^ {4}(?:\$ )?(?:rlalign|pip|python) .*", text, re.MULTILINE)
        ]
        for language, block in blocks(page):
            if language == "text":
                shapes = re.findall(r"^rlalign \w+.*$", block, re.MULTILINE)
                hidden += [f"{page.name}: {line}" for line in shapes if "[options]" not in line]
    assert not hidden


def test_reduced_commands_keep_their_own_flags() -> None:
    words = reduced(shlex.split("train --env reverse --steps 60"))
    assert words[:5] == ["train", "--env", "reverse", "--steps", "60"]
    assert words[words.index("--policy") + 1] == "tiny"
    assert reduced(["compare", "runs/a", "runs/b"]) == ["compare", "runs/a", "runs/b"]
    words = reduced(shlex.split("train --policy smollm2"))
    assert words[-2:] == ["--policy", "tiny"]


def test_the_blocks_of_a_tutorial_are_those_of_its_markdown_cells() -> None:
    tutorial = ROOT / "docs" / "tutorials" / "own_algorithm.py"
    languages = [language for language, _ in blocks(tutorial)]
    assert languages == ["python", "console"]
    assert next(blocks(tutorial))[1].startswith("# median.py\nimport torch\n\nfrom rlalign")
