"""The figures in the pages are those of benchmarks/results/."""

from __future__ import annotations

import importlib
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from rlalign.algorithms import ALGORITHMS
from rlalign.registry import ENVS, REWARDS

ROOT = Path(__file__).parents[2]
SCRIPTS = (
    "results_page",
    "speed_page",
    "comparing_page",
    "feedback_page",
    "environments",
    "architectures",
    "adapters",
    "preference_road_page",
    "preference_study",
    "continual",
    "curriculum",
    "export",
)
MARKS = re.compile(r"<!-- (\w+): written by benchmarks/(\w+)\.py")


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that imports a script of benchmarks/; its imports are relative to its folder."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    before = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if (ROOT / "benchmarks" / f"{name}.py").is_file():
            del sys.modules[name]


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_page_has_the_figures_of_the_stored_results(load: Any, name: str) -> None:
    script = load(name)
    for page, texts in script.parts().items():
        assert load("pages").filled(page, texts) == page.read_text(encoding="utf-8"), f"run benchmarks/{name}.py"


def test_every_marked_part_belongs_to_a_tested_script() -> None:
    marked = [
        script
        for page in (ROOT / "docs").rglob("*.md")
        for _, script in MARKS.findall(page.read_text(encoding="utf-8"))
    ]
    assert set(marked) <= set(SCRIPTS)
    assert len(marked) >= 15


def read(name: str) -> dict[str, Any]:
    """Return a file of results."""
    results: dict[str, Any] = json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text(encoding="utf-8"))
    return results


def machine(stored: dict[str, Any]) -> str:
    """Return processor and cores of some results, as pages name them."""
    return f"{stored['machine']['cpu']}, {stored['machine']['cores']} cores"


@pytest.mark.parametrize("page", ["README.md", "docs/get_started.md"])
def test_the_first_run_is_the_stored_one(page: str) -> None:
    stored = read("first_run")
    gain = stored["again"]["metrics"]["reward"]["difference"]
    sentence = (
        f"reward improved by {gain['mean']:+.3f} (95 % CI [{gain['low']:+.3f}, {gain['high']:+.3f}], "
        f"{gain['n']} held-out prompts)"
    )
    assert sentence in (ROOT / page).read_text(encoding="utf-8")


@pytest.mark.parametrize("page", ["README.md", "docs/get_started.md"])
def test_the_examples_are_the_stored_ones(page: str) -> None:
    stored = read("get_started")
    text = (ROOT / page).read_text(encoding="utf-8")
    assert [stored["vowels"]["samples"][0][0] in text, *(s in text for s in stored["compare"]["verdict"])] == [True] * 3
    assert f"rlalign {stored['compare']['command']}" in text
    assert f"rlalign {stored['vowels']['command']}" in text


def test_the_runs_of_own_environments_are_the_stored_ones() -> None:
    stored = read("own_environments")
    page = (ROOT / "docs" / "concepts" / "environments.md").read_text(encoding="utf-8")
    for name in ("digits", "letters", "guess"):
        assert f"$ {stored[name]['command']}\n" in page
        assert f"\n{stored[name]['verdict']}\n" in page
        assert re.search(rf"\b{stored[name]['cpu_seconds']:.0f} s\b", page)
    assert f"from 0 to {stored['digits']['rewards']['exact_match']['after']:.2f} in 200 steps" in page
    assert f"{stored['guess']['rewards']['reward']['after']:.2f} of the letters" in page
    assert stored["letters"]["rewards"]["reward"]["after"] == 1.0
    assert stored["exact_match alone"]["rewards"]["reward"]["after"] == 0.0
    shown = (ROOT / "docs" / "concepts" / "evaluation.md").read_text(encoding="utf-8")
    assert stored["digits"]["verdict"] in shown
    for metric, mean in stored["digits"]["rewards"].items():
        assert re.search(rf"^{metric} +{mean['before']:.3f} +{mean['after']:.3f} ", shown, re.MULTILINE)


def test_the_example_of_over_optimization_is_the_stored_one() -> None:
    stored = read("overoptimization")
    page = (ROOT / "docs" / "concepts" / "overoptimization.md").read_text(encoding="utf-8")
    (rl,) = [group for group in stored["groups"] if group["form"] == "rl"]
    turn = rl["fits"]["gold"]["turn"]["kl"]
    measured = rl["measured"]["gold"]
    assert f"| {turn['value']:.1f} [{turn['low']:.1f}, {turn['high']:.1f}] |" in page
    assert f"| {measured['value']:.1f} ({measured['low']:.1f}, {measured['high']:.1f}) |" in page
    for runs in (stored["free"], stored["stopped"]):
        means = {name: sum(run[name] for run in runs) / len(runs) for name in ("reward", "gold", "kl")}
        assert f"| {means['reward']:.2f} | {means['gold']:.2f} | {means['kl']:.1f} |" in page
    gains = [b["gold"] - a["gold"] for a, b in zip(stored["free"], stored["stopped"], strict=True)]
    assert min(gains) > 0
    assert f"by {sum(gains) / len(gains):.2f} on average" in page
    assert f"({min(stored['budgets']):.1f} to {max(stored['budgets']):.1f} nats)" in page
    ends = [run["kl"] for run in stored["stopped"]]
    assert f"at {min(ends):.1f} to {max(ends):.1f} nats" in page
    assert machine(stored) in page


def test_readme_shows_the_table_the_texts_and_the_time_of_the_first_run() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    stored = read("first_run")
    for name in ("reward", "kl", "fluency"):
        metric = stored["again"]["metrics"][name]
        difference = metric["difference"]
        interval = f"[{difference['low']:+.3f}, {difference['high']:+.3f}]"
        row = f"{name} {metric['before']:.3f} {metric['after']:.3f} {difference['mean']:+.3f} {interval}"
        assert row in " ".join(readme.split())
    texts = {sample["prompt"]: (sample["before"][0], sample["after"][0]) for sample in stored["again"]["samples"]}
    lines = [line for line in readme.splitlines() if line.startswith("The film ")]
    assert len(lines) == 2
    for line in lines:
        prompt, before, after = re.split(r" {2,}", line)
        assert texts[prompt][0].lstrip().startswith(before)
        assert texts[prompt][1].lstrip().startswith(after)
    minutes, seconds = divmod(round(stored["empty_cache"]["seconds"]), 60)
    shown = " ".join(readme.split())
    time = f"takes {minutes}:{seconds:02} with an empty cache ({machine(stored)};"
    assert time in shown
    assert time in " ".join((ROOT / "docs" / "get_started.md").read_text(encoding="utf-8").split())
    assert f"{stored['again']['metrics']['kl']['after']:.1f} nats in 16 tokens" in shown


def test_readme_names_the_machine_of_the_examples() -> None:
    assert f"ran on {machine(read('get_started'))} (" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_pages_count_the_algorithms_environments_and_seeds_of_the_study() -> None:
    study = read("suite/results")
    words = {6: "six", 8: "eight", 10: "ten"}
    algorithms, environments, seeds = (words[len(study[key])] for key in ("algorithms", "environments", "seeds"))
    index = (ROOT / "docs" / "results" / "index.md").read_text(encoding="utf-8")
    assert f"{algorithms.capitalize()} algorithms, {environments} environments, {seeds} seeds each" in index
    assert f"{seeds} seeds of {algorithms} algorithms" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"with {seeds} seeds each" in (ROOT / "docs" / "results" / "study.md").read_text(encoding="utf-8")


def test_readme_quotes_the_stored_speeds_and_counts(load: Any) -> None:
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    for memory in ("as it comes", "kept"):
        ratios = [cell["ratio"] for cell in load("speed_page").cells("step", memory)]
        assert f"1/{min(ratios):.1f} to 1/{max(ratios):.1f}" in readme
    environments = [name for name in ENVS if name.startswith("rlalign/")]
    assert f"[{len(environments)} environments]" in readme
    assert f"[{len(REWARDS.built_in)} rewards]" in readme
    assert f"[{len(ALGORITHMS)} algorithms" in readme
