"""The reports parsed as HTML: they load nothing, escape all text and contain every part."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import rlalign
from rlalign.cli import main
from rlalign.cli.report import write
from rlalign.compare.output.html import render, write_report
from rlalign.compare.output.html.study_plots import differences, final_scores, frontier, learning_curves
from rlalign.compare.output.series import color_indices
from rlalign.compare.results.results_json import read_results, write_results
from rlalign.compare.results.schema import Curve, Estimate
from rlalign.errors import UserError
from rlalign.html.markup import Html, tag, visible
from rlalign.html.numbers import interval, number, p_value, seconds, tick, typeset
from rlalign.html.svg import axis_range, separate, ticks

VOID = {"meta", "link", "input"}
PARTS = ("verdict", "finals", "pairs", "budgets", "tuning", "curves", "seeds", "differences", "profiles", "frontier")


class Document(HTMLParser):
    """A parsed document: its elements with their attributes, and its text. Raises if an element is not closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, Any]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self._open or self._open[-1] not in ("style", "script"):
            self.text += data

    def of(self, name: str) -> list[dict[str, Any]]:
        return [attributes for element, attributes in self.elements if element == name]


def assert_nothing_loads(document: Document) -> None:
    for name, attributes in document.elements:
        for key, value in attributes.items():
            assert not key.startswith("on"), f"{name} has {key}"
            if key in ("src", "href", "srcset", "action", "xlink:href", "data", "poster", "background"):
                assert str(value).startswith("data:"), f"{name} {key}={value}"
            if key == "style":
                assert "url(" not in str(value)
    assert {name for name, _ in document.elements}.isdisjoint({"img", "iframe", "object", "embed", "base", "form"})
    assert len(document.of("script")) == 1


def test_the_report_contains_every_part_and_loads_nothing(study) -> None:
    text = render(study)
    document = Document(text)
    assert_nothing_loads(document)
    assert not re.search(r"url\(|@import|fetch\(|XMLHttpRequest|WebSocket", text)
    ids = {a.get("id") for _, a in document.elements}
    assert {*PARTS, "samples", "manifest"} <= ids
    assert "those of IQM and median for new seeds on these prompts" in document.text
    for sentence in study.verdict:
        assert typeset(sentence) in document.text
    first = document.text.index(typeset(study.verdict[0]))
    assert first < document.text.index("Final reward") < document.text.index("Learning curves")
    assert document.text.index("Learning curves") < document.text.index("Completions side by side")
    assert document.text.index("Completions side by side") < document.text.index(study.manifest.command)
    envs = len(study.environments)
    assert len(document.of("svg")) == envs * 4 + envs + envs + (envs + 1) + envs
    for pair in study.environments["reverse"].pairs:
        assert pair.sentence in document.text
    for piece in (study.manifest.commit, study.manifest.fingerprint, "objective.baseline", "another budget", "2.13.0"):
        assert piece in document.text


def test_completions_are_escaped(study) -> None:
    document = Document(render(study))
    prompt = next(s for s in study.environments["reverse"].samples if "<script>" in s.prompt).prompt
    assert visible(prompt) in document.text
    assert "\x00" not in document.text
    assert "\u202e" not in document.text
    hostile_title = replace(study, title="</title><script>alert(1)</script>", algorithms=study.algorithms)
    assert_nothing_loads(Document(render(hostile_title)))


def test_text_is_escaped_and_markup_is_not() -> None:
    assert tag("p", "<b>", Html("<i></i>"), data_x='"&<') == '<p data-x="&quot;&amp;&lt;">&lt;b&gt;<i></i></p>'
    assert tag("p", None, ["a", Html("<br>")], 3, class_=None) == "<p>a<br>3</p>"
    assert visible("a\x07b\n\u202ec") == "a␇b\n\ufffdc"
    assert len(visible("x" * 9000)) < 1300


def test_names_have_no_control_characters_and_can_be_written() -> None:
    """Neither HTML nor UTF-8 has them; names of algorithms, environments and settings are not cut."""
    element = tag("p", "\x00\x1b[31m\ud800", title="\x07\udfff\n")
    assert element == '<p title="\u2407\ufffd\n">\u2400\u241b[31m\ufffd</p>'
    assert element.encode()
    assert len(tag("p", "x" * 9000)) == 9007


def test_the_smallest_study_has_a_report(study) -> None:
    """One algorithm, one environment, no KL, a failed seed without a curve: no drawing divides by zero."""
    env = study.environments["reverse"]
    result = env.algorithms["rloo"]
    curve = Curve([0], [0.0], [0.0], [0.0], [0.0], [None], [None])
    failed = replace(result, curves=[curve], final=[[None]], start=[[0.1]], failed=[True])
    small = replace(
        study,
        algorithms=["rloo"],
        environments={"reverse": replace(env, algorithms={"rloo": failed}, pairs=[], samples=[], threshold=None)},
        aggregate=None, tuning=[], differences=[], failures=[], excluded=[], warnings=[],
    )  # fmt: skip
    text = render(small)
    assert "NaN" not in text
    assert "nan" not in re.sub(r"<(style|script)>.*?</\1>", "", text, flags=re.S).replace("finance", "")
    ids = {a.get("id") for _, a in Document(text).elements}
    assert ids.isdisjoint({"pairs", "tuning", "frontier", "samples"})


def test_labels_of_twenty_algorithms_do_not_overlap(study) -> None:
    env = study.environments["reverse"]
    names = [f"algorithm-{i}" for i in range(20)]
    result = env.algorithms["rloo"]
    pair = env.pairs[0]
    many = replace(
        env,
        algorithms=dict.fromkeys(names, result),
        pairs=[replace(pair, a=a, b=b, winner=None) for i, a in enumerate(names) for b in names[i + 1 :]],
    )
    colors = color_indices(names)
    drawing = learning_curves("reverse", many, colors, "samples")
    heights = sorted(float(y) for y in re.findall(r'y="([\d.]+)" class="label', drawing))
    assert len(heights) == 20
    assert min(b - a for a, b in pairwise(heights)) >= 12.9
    assert heights[0] > 40
    assert "dashed" in drawing  # colors beyond the eighth repeat as dashed lines
    assert differences("reverse", many, colors).count("whisker") == 19


def test_two_seeds_are_drawn_as_lines_and_three_as_a_band(study_of) -> None:
    """A band of two seeds would fill the drawing."""
    for seeds in (2, 3):
        study = study_of(seeds)
        colors = dict.fromkeys(study.algorithms, 0)
        drawing = learning_curves("reverse", study.environments["reverse"], colors, "samples")
        assert ('class="band' in drawing) == (seeds == 3)
        assert drawing.count('class="single-seed') == (2 * len(study.algorithms) if seeds == 2 else 0)


def test_only_pairs_with_a_winner_are_unfolded_among_many(study) -> None:
    env = study.environments["reverse"]
    result = env.algorithms["rloo"]
    pair = env.pairs[0]
    names = [f"algorithm-{i}" for i in range(7)]
    pairs = [replace(pair, a=a, b=b, winner=None) for i, a in enumerate(names) for b in names[i + 1 :]]
    pairs[3] = replace(pairs[3], winner=pairs[3].a)
    many = replace(env, algorithms=dict.fromkeys(names, result), pairs=pairs, samples=[])
    bare = replace(study, aggregate=None, tuning=[], differences=[])
    text = render(replace(bare, algorithms=names, environments={"reverse": many}))
    first, folded = re.findall(r'id="pairs">(.*?)<details>(.*?)</details>', text, flags=re.S)[0]
    assert first.count(" − algorithm") == 1
    assert folded.count(" − algorithm") == len(pairs) == 21


def test_the_example_of_the_schema_renders(tmp_path) -> None:
    example = Path(__file__).parents[1] / "data" / "results.json"
    (tmp_path / "results.json").write_text(example.read_text())
    path = write(tmp_path)
    assert path == tmp_path / "report.html"
    assert "No winner is named" in path.read_text()


def test_a_report_from_stored_results_is_the_same(study, tmp_path) -> None:
    write_results(tmp_path, study)
    first = write_report(tmp_path, study).read_text()
    assert write(tmp_path).read_text() == first
    assert read_results(tmp_path) == study


def test_a_run_has_a_report(tmp_path) -> None:
    run = rlalign.train("reverse?max_length=2", "gru", "rloo", steps=3, output=tmp_path / "run", quiet=True,
                        evaluation__every=1, evaluation__prompts=2)  # fmt: skip
    path = run.folder / "report" / "evaluation.json"
    evaluation = json.loads(path.read_text())
    evaluation["samples"][0]["after"] = ["<script>alert(1)</script>"]
    path.write_text(json.dumps(evaluation))
    document = Document(write(run.folder).read_text())
    assert_nothing_loads(document)
    assert typeset(evaluation["verdict"]) in document.text
    assert "<script>alert(1)</script>" in document.text
    assert len(document.of("svg")) >= 4
    assert "evaluation.every" in document.text


def test_the_command_writes_the_report_and_prints_its_path(study, tmp_path, capsys) -> None:
    write_results(tmp_path, study)
    assert main(["report", str(tmp_path)]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "report.html")
    assert main(["report", str(tmp_path / "nowhere")]) == 2


def test_a_folder_without_results_raises(tmp_path) -> None:
    with pytest.raises(UserError, match="holds no study"):
        write(tmp_path)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (float("nan"), "–"),
        (-0.12345, "−0.123"),
        (-1e-9, "0.000"),
        (12.34, "12.3"),
        (61000.0, "61000"),
        (2.5e6, "2.50\u00a0M"),
    ],
)
def test_numbers(value, text) -> None:
    assert number(value) == text


def test_an_interval_has_the_decimals_of_its_value() -> None:
    """Detects 5376 [0.000, 15134]."""
    assert interval(Estimate(5376.0, 0.0, 15134.2)) == "[0, 15134]"
    assert interval(Estimate(120_000.0, 9_000.0, 1_250_000.0)) == "[9\u00a0k, 1250\u00a0k]"
    assert interval(Estimate(0.5, -0.25, 12.0), sign=True) == "[−0.250, +12.000]"
    assert interval(Estimate(0.5, None, None)) == "[–]"


def test_other_numbers() -> None:
    assert typeset("a-b, 95 % CI [-0.2, 3-4]") == "a-b, 95\u00a0% CI [−0.2, 3-4]"
    assert [p_value(p) for p in (0.0002, 0.04, None)] == ["< 0.001", "0.040", "–"]
    assert [tick(v) for v in (0.0, -0.25, 20000.0, 1.5e6)] == ["0", "−0.25", "20k", "1.5M"]
    assert [seconds(s) for s in (4.2, 300.0, 9000.0)] == ["4 s", "5.0 min", "2.5 h"]


def test_axes_have_round_numbers_and_labels_do_not_overlap() -> None:
    assert ticks(0.03, 1.04) == [0.2, 0.4, 0.6, 0.8, 1.0]
    assert ticks(-0.5, 0.3) == [-0.4, -0.2, 0.0, 0.2]
    assert len(ticks(0, 25600)) in range(3, 7)
    low, high = axis_range([2.0, 2.0, None])
    assert low < 2 < high
    moved = separate([10.0, 11.0, 12.0, 60.0], 13.0, 0.0, 64.0)
    assert all(b - a >= 13 - 1e-9 for a, b in pairwise(moved))
    assert moved[-1] <= 64


def test_seeds_in_drawings_have_their_own_numbers(study) -> None:
    """Detects numbering the seeds from 0."""
    env = study.environments["reverse"]
    colors = dict.fromkeys(env.algorithms, 0)
    seeds = [100 + i for i in range(len(study.seeds))]
    with_failure = {a: replace(r, failed=[i == 1 for i in range(len(seeds))]) for a, r in env.algorithms.items()}
    drawing = final_scores("reverse", replace(env, algorithms=with_failure), colors, seeds)
    assert "rloo, seed 100: " in drawing
    assert "rloo, seed 101, failed: " in drawing
    assert "rloo, seed 101: " in (frontier("reverse", env, colors, seeds) or "")
