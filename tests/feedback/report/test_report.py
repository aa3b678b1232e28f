"""The report: every number on the page is that of the JSON file, and every claim names the numbers behind it."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from rlalign.cli import main
from rlalign.errors import UserError
from rlalign.feedback import tables
from rlalign.feedback.items import content_of, next_item
from rlalign.feedback.judges.client import Client, Endpoint
from rlalign.feedback.judges.prompt import DEFAULT, Template
from rlalign.feedback.judges.run import run_judge
from rlalign.feedback.people import accept, invite, sign_in, signed_in
from rlalign.feedback.report import Report, write_report
from rlalign.feedback.store import Store
from rlalign.feedback.votes import Ballot, record
from tests.conftest import Browser
from tests.feedback.conftest import build, fixed_draws, write_study
from tests.feedback.judge_server import FakeJudge, served

HOSTILE = "<script>document.title = 1</script>"
SCALES = '[[scales]]\nname = "help"\n[[scales]]\nname = "tone"\npoints = 7\n'

OVERFLOWING = """
[...document.querySelectorAll("main *")].filter(e => {
  const box = e.getBoundingClientRect();
  return box.width && (box.right > innerWidth + 1 || box.left < -1) && !e.closest(".scroll, svg");
}).map(e => e.outerHTML.slice(0, 90))
"""


def judge_all(store: Store, people: int, ballot: Callable[[random.Random, list[str]], Ballot]) -> None:
    """Let people judge all items that they can get."""
    study = store.study()
    for number, link in enumerate(store.write(lambda c: invite(c, people, None)).result()):
        rng = random.Random(number)
        cookie = store.write(lambda c, link=link: sign_in(c, link.token, ("annotator",))).result()  # type: ignore[misc]  # of now

        def work(c: sa.Connection, cookie: str = cookie, rng: random.Random = rng) -> None:
            accept(c, signed_in(c, cookie, "annotator"), "consent", "1")
            while (lease := next_item(c, study, person := signed_in(c, cookie, "annotator"))) is not None:
                texts = [completion["text"] for completion in content_of(c, lease)["completions"]]
                record(c, study, person, lease.id, ballot(rng, texts), "")

        store.write(work).result()


def prefer(rng: random.Random, texts: list[str]) -> Ballot:
    """Prefer "left" in 80 % of the pairs with it; skip, tie or dislike both now and then."""
    draw = rng.random()
    if draw < 0.15:
        return Ballot(("skip", "tie", "bad")[int(draw * 20)])
    first = texts[0].startswith("left")
    known = first or texts[1].startswith("left")
    wins = rng.random() < (0.8 if known else 0.5)
    return Ballot("a" if wins == (first or not known) else "b")


def rate(rng: random.Random, texts: list[str]) -> Ballot:
    """Rate "left" higher."""
    high = texts[0].startswith("left")
    return Ballot(ratings={"help": rng.randint(2 + high, 4 + high), "tone": rng.randint(1, 7)})


def rank(rng: random.Random, texts: list[str]) -> Ballot:
    """Rank "left" first in most cases."""
    order = sorted(range(len(texts)), key=lambda i: 2 * rng.random() - texts[i].startswith("left"))
    return Ballot(ranking={"ABCD"[i]: place + 1 for place, i in enumerate(order)})


CASES: dict[str, tuple[str, dict[str, int], Callable[[random.Random, list[str]], Ballot], int]] = {
    "two policies": ("repeat_share = 0.2", {"prompts": 40}, prefer, 6),
    "three policies": ("", {"prompts": 30, "completions": 3}, prefer, 6),
    "a judge": ("", {"prompts": 10}, prefer, 3),
    "few people": ("votes_per_item = 2", {"prompts": 20}, prefer, 2),
    "no votes": ("", {}, prefer, 0),
    "ratings": (f'kind = "rating"\n{SCALES}', {"prompts": 20}, rate, 5),
    "rankings": ('kind = "ranking"', {"prompts": 20, "completions": 3}, rank, 5),
}


@pytest.fixture(scope="module", params=CASES)
def report(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Report:
    """The report of a study of each kind."""
    folder = tmp_path_factory.mktemp("study")
    text, shape, ballot, people = CASES[request.param]
    with fixed_draws(), build(write_study(folder, text, **shape), folder / "study.db") as store:
        judge_all(store, people, ballot)
        if "judge" in request.param:
            with served(FakeJudge()) as fake, Client(Endpoint(fake.url, "m")) as client:
                run_judge(store, client, Template(DEFAULT))
        return write_report(store, folder / "report.html")


class Numbers(HTMLParser):
    """The `<data>` elements of a page: path, value and text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, str, str]] = []
        self._open: tuple[str, str] | None = None
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self._open = (str(values["data-path"]), str(values["value"])) if tag == "data" else None

    def handle_data(self, data: str) -> None:
        if self._open is not None:
            self.found.append((*self._open, data))
            self._open = None


def at(content: Any, pointer: str) -> Any:
    """Return the value at a JSON pointer."""
    for part in pointer.split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        content = content[int(key)] if isinstance(content, list) else content[key]
    return content


def test_every_number_of_the_page_is_that_of_the_json_file(report: Report) -> None:
    content = json.loads(report.data.read_text())
    numbers = Numbers(report.page.read_text()).found
    assert len(numbers) > 10
    for pointer, value, text in numbers:
        stored = at(content, pointer)
        assert json.loads(value) == stored, pointer
        if stored is None:
            assert text == "–"
            continue
        assert _agrees(text, stored), (pointer, text, stored)


def _agrees(text: str, value: float) -> bool:
    """Return True if a text is the value rounded to its decimals, as it is or in percent or points."""
    if text.startswith("< "):
        return value < float(text[2:])
    bare = text.replace("−", "-").replace("\u202f", "").replace("\xa0", " ")
    number, _, unit = bare.partition(" ")
    shown = 100 * value if unit in ("%", "points") else value
    decimals = len(number.partition(".")[2])
    return abs(float(number) - shown) <= 0.5 * 10**-decimals * (1 + 1e-9)


def estimates(content: Any, path: str = "") -> list[tuple[str, dict[str, Any]]]:
    """Return all estimates of the JSON file with their paths."""
    if isinstance(content, list):
        return [e for i, part in enumerate(content) for e in estimates(part, f"{path}/{i}")]
    if not isinstance(content, dict):
        return []
    own = [(path, content)] if {"value", "low", "high"} <= content.keys() else []
    return own + [e for key, part in content.items() for e in estimates(part, f"{path}/{key}")]


def test_every_estimate_names_the_numbers_behind_it_its_method_and_paper(report: Report) -> None:
    content = json.loads(report.data.read_text())
    for path, estimate in estimates(content):
        assert {"prompts", "people", "votes", "detectable", "method", "source", "level"} <= estimate.keys(), path
        assert estimate["method"], path
        assert any(character.isdigit() for character in estimate["source"]), path  # a year


def test_each_claim_of_the_verdict_has_prompts_people_and_votes(report: Report) -> None:
    if report.verdict[0].startswith(("No two policies", "The votes determine no order")):
        return
    # an order is one claim, whose numbers stand in the sentence behind it
    claims = [" ".join(report.verdict)] if ": rank " in report.verdict[0] else report.verdict
    for claim in claims:
        assert re.search(r"\d prompts?, \d+ (people|person), [\d\u202f]+ votes?\.", claim), claim
        assert "this panel of annotators" in claim or "the population of annotators" in claim, claim


@pytest.mark.parametrize("width", [390, 1440])
def test_the_page_fits_and_is_silent(browser: Browser, report: Report, width: int) -> None:
    browser.open(report.page, width=width, dark=width == 390)
    assert browser.of("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded") == []
    urls = [event["request"]["url"] for event in browser.of("Network.requestWillBeSent")]
    assert [url for url in urls if not url.startswith("data:")] == [report.page.as_uri()]
    assert browser.value("document.documentElement.scrollWidth") == width
    assert browser.value(OVERFLOWING) == []


def rounded(content: Any) -> Any:
    """Return JSON values with nine significant digits: sums of other lengths differ in the last ones."""
    if isinstance(content, dict):
        return {key: rounded(part) for key, part in content.items()}
    if isinstance(content, list):
        return [rounded(part) for part in content]
    return float(f"{content:.9g}") if isinstance(content, float) else content


def test_a_judge_stands_beside_the_people_and_is_no_vote(tmp_path: Path) -> None:
    with build(write_study(tmp_path, prompts=10), tmp_path / "study.db") as store:
        judge_all(store, 3, prefer)
        alone = json.loads(write_report(store, tmp_path / "report.html").data.read_text())
        with served(FakeJudge()) as fake, Client(Endpoint(fake.url, "m")) as client:
            run_judge(store, client, Template(DEFAULT))
        beside = json.loads(write_report(store, tmp_path / "report.html").data.read_text())
    assert rounded(beside["people"]) == rounded(alone["people"])
    assert alone["judges"] == {}
    (judge,) = beside["judges"].values()
    assert judge["pairs"] == 10
    assert judge["estimates"]["flips"]["value"] == 0.0  # "right" is longer than "left" in both orders
    assert judge["estimates"]["people_with_ties"]["people"] == 3
    assert "LLM judges" in (tmp_path / "report.html").read_text()


def test_a_clear_preference_is_found(tmp_path: Path) -> None:
    """The draws are fixed. With other ones the lower bound is 0.62 ± 0.01."""
    with build(write_study(tmp_path, prompts=60), tmp_path / "study.db") as store:
        judge_all(store, 8, prefer)
        report = write_report(store, tmp_path / "report.html")
    pair = json.loads(report.data.read_text())["people"]["win_rates"]["pairs"][0]
    assert (pair["first"], pair["second"]) == ("left", "right")
    assert 0.5 < pair["population"]["low"] < pair["population"]["value"] < 0.9
    assert report.verdict[0].startswith("left against right: win rate, ties as one half, ")
    assert "do not determine" not in report.verdict[0]


def test_a_look_is_counted_until_the_study_is_complete(tmp_path: Path) -> None:
    with build(write_study(tmp_path), tmp_path / "study.db") as store:
        first = json.loads(write_report(store, tmp_path / "report.html").data.read_text())
        second = json.loads(write_report(store, tmp_path / "report.html").data.read_text())
        assert (first["study"]["looks"], second["study"]["looks"]) == (1, 2)
        assert "The study is not complete" in (tmp_path / "report.html").read_text()
        store.write(lambda c: c.execute(sa.update(tables.study).values(state="complete"))).result()
        third = json.loads(write_report(store, tmp_path / "report.html").data.read_text())
        assert third["study"]["looks"] == 2
        assert "The study is not complete" not in (tmp_path / "report.html").read_text()
        looks = store.read(lambda c: c.execute(sa.select(tables.event).where(tables.event.c.what == "look")).all())
        assert len(looks) == 3


def test_a_report_never_replaces_the_store_or_another_file(tmp_path: Path) -> None:
    location = tmp_path / "study.html"
    build(write_study(tmp_path), location).close()
    before = location.read_bytes()
    other = tmp_path / "other.json"
    other.write_text('{"mine": 1}')
    with Store(location) as store:
        for path, message in (
            (location, "is the store of the study"),
            (tmp_path / "study.db", "use report.html"),
            (tmp_path / "other.html", "holds something else than a report"),
        ):
            with pytest.raises(UserError, match=message):
                write_report(store, path)
        assert store.read(lambda c: c.execute(sa.select(tables.study.c.looks)).scalar_one()) == 0
    assert location.read_bytes()[:16] == before[:16]
    assert other.read_text() == '{"mine": 1}'


def test_votes_that_are_all_ties_are_no_win(tmp_path: Path) -> None:
    with build(write_study(tmp_path, prompts=10, completions=3), tmp_path / "study.db") as store:
        # the third policy has no votes: its pairs are skipped
        judge_all(store, 3, lambda _, texts: Ballot("skip" if any("third" in text for text in texts) else "tie"))
        report = write_report(store, tmp_path / "report.html")
    assert report.verdict[0].startswith("left against right: win rate, ties as one half, 50.0 %, 95 % CI [")
    assert report.verdict[0].endswith("The votes do not determine which of them is preferred.")
    assert report.verdict[1] == "Without votes: third."


def test_one_vote_has_no_interval(tmp_path: Path) -> None:
    with build(write_study(tmp_path, "votes_per_item = 1", prompts=1), tmp_path / "study.db") as store:
        judge_all(store, 1, lambda *_: Ballot("a"))
        report = write_report(store, tmp_path / "report.html")
    assert "no interval from so few prompts" in report.verdict[0]
    assert "1 prompt, 1 person, 1 vote." in report.verdict[0]


def test_an_order_of_rankings_counts_rankings(tmp_path: Path) -> None:
    with build(write_study(tmp_path, 'kind = "ranking"', prompts=20, completions=3), tmp_path / "study.db") as store:
        judge_all(store, 5, rank)
        report = write_report(store, tmp_path / "report.html")
        cast = store.read(lambda c: c.execute(sa.select(sa.func.count()).select_from(tables.vote)).scalar_one())
    assert f"{cast} votes." in report.verdict[1]


def test_names_of_policies_and_studies_are_no_markup(tmp_path: Path) -> None:
    rows = [
        {"prompt": f"p{i}", "policy": policy, "completion": f"{policy} {i}"}
        for i in range(4)
        for policy in (HOSTILE, "b")
    ]
    (tmp_path / "completions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "study.toml").write_text(f"name = '{HOSTILE}'\ncompletions = 'completions.jsonl'\n")
    with build(tmp_path / "study.toml", tmp_path / "study.db") as store:
        judge_all(store, 3, prefer)
        report = write_report(store, tmp_path / "report.html")
    page = report.page.read_text()
    assert HOSTILE not in page
    assert "&lt;script&gt;document.title" in page


def test_the_command_writes_both_files_and_prints_the_verdict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with build(write_study(tmp_path), tmp_path / "study.db") as store:
        judge_all(store, 3, prefer)
    assert main(["feedback", "report", str(tmp_path / "study.db")]) == 0
    printed = capsys.readouterr().out
    assert "left against right: win rate, ties as one half, " in printed
    assert (tmp_path / "report.html").is_file()
    assert (tmp_path / "report.json").is_file()
    assert main(["feedback", "report", str(tmp_path / "study.db"), "--output", str(tmp_path / "other.html")]) == 0
    assert (tmp_path / "other.json").is_file()
