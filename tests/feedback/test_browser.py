"""The pages in headless Chromium: people who label by keyboard and by clicks, accessibility, and lost connections."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
import sqlalchemy as sa

from rlalign.feedback import tables
from rlalign.feedback.people import Scope, invite
from rlalign.feedback.progress import counted_votes
from rlalign.feedback.store import Store
from rlalign.feedback.web.serve import in_background
from tests.feedback.conftest import CHECK, PRACTICE, build, check_places, write_study

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
axe_api = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python")
expect = sync_api.expect

WIDE, NARROW = {"width": 1440, "height": 900}, {"width": 390, "height": 844}
KEYS = {"a": "1", "b": "2", "tie": "3", "bad": "4", "skip": "0"}
RICH = {
    "prompt": [
        {"role": "system", "content": "Answer in one paragraph."},
        {"role": "user", "content": "How do I sum a list in `Python`?"},
    ],
    "left": "Use the built-in:\n\n```python\ntotal = sum(values)\n```\n\nIt computes $\\sum_{i=1}^{n} x_i$.",
    "right": "| way | time |\n|---|---|\n| `sum` | fast |\n| a loop | **slow** |\n\n1. Prefer `sum`.\n2. Test it.",
}
CHINESE = {"prompt": "请用一句话解释什么是递归。", "left": "递归是函数调用自身的方法。", "right": "递归就是循环。"}
ARABIC = {"prompt": "ما هي عاصمة مصر؟", "left": "عاصمة مصر هي **القاهرة**.", "right": "القاهرة"}
LONG = {
    "prompt": "Tell a long story.",
    "left": "\n\n".join(f"Paragraph {i} of the first story, which goes on for a line or two." for i in range(40)),
    "right": "\n\n".join(f"Paragraph {i} of the second story, which goes on for a line or two." for i in range(40)),
}
"""Prompts with the completions of two policies."""


@dataclass(frozen=True)
class Answer:
    """An answer of a simulated person, with what the page showed.

    Attributes:
        choice: of the buttons.
        shown: the completions in their order on the screen.
        comment: the comment.
    """

    choice: str
    shown: tuple[str, ...]
    comment: str = ""


@dataclass
class Person:
    """A simulated person: a browser context of their own.

    Attributes:
        page: the only tab.
        pseudonym: in the store.
        answers: by lease; those that were undone are removed.
        errors: messages of the console and exceptions of scripts.
        hosts: hosts of all requests.
        sent: number of requests that carried a vote.
    """

    page: Page
    pseudonym: str
    answers: dict[int, Answer] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    hosts: set[str] = field(default_factory=set)
    sent: int = 0

    def watch(self) -> None:
        """Record errors and requests from now on."""

        def on_request(request: Any) -> None:
            self.hosts.add(urlsplit(request.url).netloc)
            self.sent += request.url.endswith(("/api/vote", "/vote")) and request.method == "POST"

        self.page.on("console", lambda m: self.errors.append(m.text) if m.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.context.on("request", on_request)

    def begin(self) -> None:
        """Sign in, consent and read the guidelines. The buttons are found by their roles."""
        self.page.get_by_role("button").click()
        self.page.get_by_role("checkbox").check()
        self.page.locator("form[action='/consent'] button").click()
        self.page.locator("form[action='/guidelines'] button").click()

    def wait_for_item(self, *others: int) -> int:
        """Wait until an item other than some is on the screen and accepts answers; return its lease."""
        lease = "".join(f":not([value='{other}'])" for other in others)
        self.page.locator(f"#vote:has(input[name=lease]{lease}) button[aria-disabled=false]").first.wait_for()
        return int(self.page.locator("#vote input[name=lease]").input_value())

    def shown(self) -> tuple[str, ...]:
        """Return the completions as they follow each other on the screen: rows from the top, each from the left."""
        cards = self.page.evaluate(
            """() => [...document.querySelectorAll('.card')].map((card) => {
                const {x, y} = card.getBoundingClientRect();
                return {x, y, text: card.querySelector('.text.raw').textContent};
            })"""
        )
        return tuple(card["text"] for card in sorted(cards, key=lambda c: (round(c["y"]), round(c["x"]))))

    def comment(self, text: str) -> None:
        """Type a comment by an input method: the text is composed and then committed."""
        self.page.locator("#comment-text").focus()
        session = self.page.context.new_cdp_session(self.page)
        for length in range(1, len(text) + 1):
            session.send(
                "Input.imeSetComposition", {"text": text[:length], "selectionStart": length, "selectionEnd": length}
            )
        session.send("Input.insertText", {"text": text})
        session.detach()
        expect(self.page.locator("#comment-text")).to_have_value(text)

    def vote(self, choice: str, *, keys: bool, comment: str = "") -> int:
        """Answer the pair on the screen, note what was shown, and return its lease."""
        lease = int(self.page.locator("#vote input[name=lease]").input_value())
        shown = self.shown()
        if comment:
            if keys:
                self.page.keyboard.press("c")
            else:
                self.page.locator("#comment summary").click()
            self.comment(comment)
            if keys:
                self.page.keyboard.press("Escape")
        if keys:
            self.page.keyboard.press(KEYS[choice])
        else:
            self.page.locator(f"#vote button[value={choice}]").click()
        self.answers[lease] = Answer(choice, shown, comment)
        return lease

    def undo(self, lease: int, *, keys: bool) -> None:
        """Undo an answer and wait until its item is back."""
        if keys:
            self.page.keyboard.press("z")
        else:
            self.page.locator("#undo button").click()
        self.page.locator(f"#vote input[name=lease][value='{lease}']").wait_for(state="attached")
        assert self.shown() == self.answers.pop(lease).shown

    def check_quiet(self) -> None:
        """Assert that nothing went wrong in the browser and nothing left this machine."""
        assert self.errors == []
        assert self.hosts == {urlsplit(self.page.url).netloc}


@dataclass(frozen=True)
class Site:
    """A served study.

    Attributes:
        address: of the server.
        store: the open store.
        browser: the browser.
    """

    address: str
    store: Store
    browser: Browser

    def person(self, scope: Scope = "annotator", **options: Any) -> Person:
        """Return a new person with a personal link open in a new context.

        Args:
            scope: of the link.
            options: of the context, such as its locale.
        """
        (link,) = self.store.write(lambda c: invite(c, 1, None, scope)).result()
        context: BrowserContext = self.browser.new_context(**{"viewport": WIDE, "locale": "en-US", **options})
        context.set_default_timeout(10_000)
        person = Person(context.new_page(), link.pseudonym)
        person.watch()
        person.page.goto(self.address + link.path)
        return person

    def votes(self, pseudonym: str = "") -> dict[int, Any]:
        """Return the votes that count by lease, with their comments; of one person or of all."""
        stored = counted_votes().subquery()
        query = sa.select(stored, tables.comment.c.text.label("comment"), tables.annotator.c.pseudonym)
        query = query.join(tables.annotator, tables.annotator.c.id == stored.c.annotator)
        query = query.outerjoin(tables.comment, tables.comment.c.vote == stored.c.id)
        rows = self.store.read(lambda c: c.execute(query).all())
        mine = [row for row in rows if pseudonym in ("", row.pseudonym)]
        assert len({row.lease for row in mine}) == len(mine), "an item was stored twice"
        return {row.lease: row for row in mine}

    def texts(self, row: Any) -> tuple[str, ...]:
        """Return the completions of a vote in their stored order on the screen."""
        table = tables.completion
        texts = self.store.read(lambda c: {r.id: r.text for r in c.execute(sa.select(table))})
        return tuple(texts[i] for i in json.loads(row.order_json))

    def check_stored(self, *people: Person) -> None:
        """Assert that the store holds exactly the answers of some people, with the order that each page showed."""
        for person in people:
            stored = self.votes(person.pseudonym)
            answers = {k: Answer(row.choice, self.texts(row), row.comment or "") for k, row in stored.items()}
            assert answers == person.answers
        check_places(self.store)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """Headless Chromium, one for all tests."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program)
        yield browser
        browser.close()


@pytest.fixture
def serve(tmp_path: Path, chromium: Browser) -> Iterator[Callable[..., Site]]:
    """Return a function that serves a study of the settings that it gets."""
    with ExitStack() as stack:

        def make(text: str = "", rows: Sequence[Mapping[str, Any]] = (), **shape: int) -> Site:
            folder = tmp_path / f"study{len(list(tmp_path.iterdir()))}"
            folder.mkdir()
            path = write_study(folder, text, **shape)
            if rows:
                records = [
                    {"prompt": row["prompt"], "policy": policy, "completion": row[policy]}
                    for row in rows
                    for policy in row
                    if policy != "prompt"
                ]
                lines = "".join(json.dumps(record) + "\n" for record in records)
                (folder / "completions.jsonl").write_text(lines, encoding="utf-8")
            store = stack.enter_context(build(path, folder / "study.db"))
            return Site(stack.enter_context(in_background(store)), store, chromium)

        yield make
        for context in chromium.contexts:
            context.close()


def plain_rows(count: int) -> list[dict[str, Any]]:
    """Return prompts of one line with the completions of two policies."""
    return [{"prompt": f"Question {i}", "left": f"first {i}", "right": f"second {i}"} for i in range(count)]


def check_access(page: Page, name: str = "") -> None:
    """Assert that axe finds nothing serious in the light and in the dark scheme, and that no page scrolls sideways."""
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]  # a literal
        results = axe_api.Axe().run(page, options={"resultTypes": ["violations"]})
        found = [
            (v["id"], node["html"], node["failureSummary"])
            for v in results.response["violations"]
            if v["impact"] in ("serious", "critical")
            for node in v["nodes"]
        ]
        assert found == [], (name, scheme)
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth"), name


def test_three_people_label_sixty_items(serve: Callable[..., Site]) -> None:
    """The people take turns, so that each waits for the others instead of for the first moment of an item."""
    rows = [RICH, CHINESE, ARABIC, *plain_rows(17)]
    site = serve('languages = ["en", "zh"]\ncompletion_code = true', rows)
    ada = site.person(color_scheme="light")
    ben = site.person(color_scheme="light", viewport=NARROW, has_touch=True, is_mobile=True)
    chen = site.person(locale="zh-CN", color_scheme="dark")
    people = (ada, ben, chen)
    for person in people:
        person.begin()
    expect(chen.page.get_by_role("heading", level=1)).to_have_text("哪个回答更好？")

    choices = itertools.cycle(("a", "b", "tie", "bad"))
    last: dict[str, tuple[int, ...]] = {person.pseudonym: () for person in people}
    for turn in range(20):
        for person in people:
            person.wait_for_item(*last[person.pseudonym])
            keys = person is ada or (person is chen and turn % 2 == 0)
            comment = {(0, "zh"): "第一个回答更清楚，1 比 2 好", (3, "en"): "clearer than 2"}.get(
                (turn, "zh" if person is chen else "en"), ""
            )
            if person is chen and turn == 10:
                person.page.set_viewport_size(NARROW)  # type: ignore[arg-type]  # a dictionary of two numbers
            lease = person.vote(next(choices), keys=keys, comment=comment)
            last[person.pseudonym] = (lease,)
    for person in people:
        expect(person.page.locator(".code code")).to_have_text(person.page.locator(".code code").inner_text())
        person.check_quiet()
        assert person.sent == 20
    assert len({person.page.locator(".code code").inner_text() for person in people}) == 3

    site.check_stored(*people)
    stored = site.votes()
    assert len(stored) == 60
    assert all(row.seen in (0, 1) and 800 <= row.active_ms <= row.elapsed_ms for row in stored.values())
    per_item: dict[int, set[int]] = {}
    for row in stored.values():
        per_item.setdefault(row.item, set()).add(row.annotator)
    assert [len(annotators) for annotators in per_item.values()] == [3] * 20
