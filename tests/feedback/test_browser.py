"""The pages in headless Chromium: people who label by keyboard and by clicks, accessibility, and lost connections."""

from __future__ import annotations

import itertools
import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

import pytest
import sqlalchemy as sa

from rlalign.feedback import tables
from rlalign.feedback.people import Scope, invite
from rlalign.feedback.progress import counted_votes
from rlalign.feedback.store import Store
from rlalign.feedback.votes import expire
from rlalign.feedback.web.serve import in_background
from tests.feedback.conftest import CHECK, PRACTICE, build, check_places, write_study

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page, Request, ViewportSize

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
axe_api = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python")
expect = sync_api.expect

WIDE: ViewportSize = {"width": 1440, "height": 900}
NARROW: ViewportSize = {"width": 390, "height": 844}
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
    "left": "\n\n".join(f"Paragraph {i} of the first story, which continues for a line or two." for i in range(40)),
    "right": "\n\n".join(f"Paragraph {i} of the second story, which continues for a line or two." for i in range(40)),
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


@dataclass(eq=False)
class Person:
    """A simulated person: a browser context of their own.

    Attributes:
        page: the only tab.
        pseudonym: in the store.
        answers: by lease; those that were undone are removed.
        errors: messages of the console and exceptions of scripts.
        hosts: hosts of all requests.
        sent: number of requests that carried a vote.
        fast: the clock of the pages is put forward instead of waiting for the first moment of an item.
    """

    page: Page
    pseudonym: str
    answers: dict[int, Answer] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    hosts: set[str] = field(default_factory=set)
    sent: int = 0
    fast: bool = False

    def watch(self) -> None:
        """Record errors and requests from now on."""

        def on_request(request: Request) -> None:
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
        self.page.locator("#vote").wait_for()

    def wait_for_item(self, *others: int) -> int:
        """Wait until an item other than some is on the screen and accepts answers; return its lease."""
        # a function of the page looks at each frame, a locator twice per second
        script = """([item, others]) => {
            const lease = document.querySelector(`#vote${item} input[name=lease]`);
            return lease && !others.includes(Number(lease.value)) && Number(lease.value);
        }"""
        if self.fast:
            self.page.wait_for_function(script, arg=["", others])
            self.page.clock.run_for(900)
        lease = self.page.wait_for_function(script, arg=[":has(button[aria-disabled=false])", others])
        return int(lease.json_value())

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

    def person(self, scope: Scope = "annotator", *, fast: bool = True, **options: Any) -> Person:
        """Return a new person with a personal link open in a new context.

        Args:
            scope: of the link.
            fast: see `Person`.
            options: of the context, such as its locale.
        """
        (link,) = self.store.write(lambda c: invite(c, 1, None, scope)).result()
        context: BrowserContext = self.browser.new_context(**{"viewport": WIDE, "locale": "en-US", **options})
        context.set_default_timeout(10_000)
        person = Person(context.new_page(), link.pseudonym, fast=fast and options.get("java_script_enabled", True))
        person.watch()
        if person.fast:
            person.page.clock.install()
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
        browser = playwright.chromium.launch(executable_path=program, args=["--disable-gpu"])
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
    if not page.evaluate("'axe' in window"):
        page.evaluate(axe_api.Axe().axe_script)
    # the scheme changes nothing but colors
    checks: tuple[tuple[Literal["light", "dark"], dict[str, Any]], ...]
    checks = (("light", {}), ("dark", {"runOnly": ["color-contrast"]}))
    for scheme, options in checks:
        page.emulate_media(color_scheme=scheme)
        violations = page.evaluate("(options) => axe.run(document, options).then((r) => r.violations)", options)
        found = [
            (rule["id"], node["html"], node["failureSummary"])
            for rule in violations
            if rule["impact"] in ("serious", "critical")
            for node in rule["nodes"]
        ]
        assert found == [], (name, scheme)
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth"), name


@pytest.mark.parametrize("count", [8, pytest.param(20, marks=pytest.mark.slow)])
def test_three_people_label_all_items(serve: Callable[..., Site], count: int) -> None:
    """The people take turns, so that each waits for the others instead of for the first moment of an item."""
    rows = [RICH, CHINESE, ARABIC, *plain_rows(count - 3)]
    site = serve('languages = ["en", "zh"]\ncompletion_code = true', rows)
    ada = site.person(fast=False, color_scheme="light")
    ben = site.person(fast=False, color_scheme="light", viewport=NARROW, has_touch=True, is_mobile=True)
    chen = site.person(fast=False, locale="zh-CN", color_scheme="dark")
    people = (ada, ben, chen)
    for person in people:
        person.begin()
    expect(chen.page.get_by_role("heading", level=1)).to_have_text("哪个回答更好？")

    choices = itertools.cycle(("a", "b", "tie", "bad"))
    comments = {(ada, 3): "clearer than 2", (chen, 0): "第一个回答更清楚，1 比 2 好"}

    def label(person: Person) -> Iterator[None]:
        """Answer all items; yield after each step. One answer is undone, and Chen first skips that item."""
        lease = 0
        for turn in range(count):
            if person is chen and turn == count // 2:
                person.page.set_viewport_size(NARROW)
            keys = person is ada or (person is chen and turn % 2 == 0)
            person.wait_for_item(lease)
            lease = person.vote(next(choices), keys=keys, comment=comments.get((person, turn), ""))
            yield
            for choice in () if turn != 2 else ("skip", "b") if person is chen else ("a",):
                person.wait_for_item(lease)
                person.undo(lease, keys=keys)
                yield
                person.wait_for_item()
                assert person.vote(choice, keys=keys) == lease
                yield

    for _ in itertools.zip_longest(*(label(person) for person in people)):
        pass
    for person in people:
        person.page.locator(".code").wait_for()
        person.check_quiet()
    assert [person.sent for person in people] == [count + 1, count + 1, count + 2]
    assert len({person.page.locator(".code code").inner_text() for person in people}) == 3

    site.check_stored(*people)
    stored = site.votes()
    assert len(stored) == 3 * count
    assert all(row.seen in (0, 1) and 800 <= row.active_ms <= row.elapsed_ms for row in stored.values())
    per_item: dict[int, set[int]] = {}
    for row in stored.values():
        per_item.setdefault(row.item, set()).add(row.annotator)
    assert [len(annotators) for annotators in per_item.values()] == [3] * count


def test_keys_are_ignored_when_they_are_not_meant(serve: Callable[..., Site]) -> None:
    """The clock of the page stands, so that the first moment of an item lasts as long as the test needs."""
    site = serve(rows=plain_rows(3))
    person = site.person()
    page, keyboard = person.page, person.page.keyboard
    person.begin()
    first = person.wait_for_item()
    page.clock.pause_at(page.evaluate("Date.now() + 1000"))
    person.vote("b", keys=True)
    second = page.locator(f"#vote input[name=lease]:not([value='{first}'])")
    second.wait_for(state="attached")

    keyboard.down("2")  # the second item is new, and the key is held until keys count
    keyboard.press("z")
    page.locator("#vote button[value=b]").click(force=True)
    page.clock.run_for(700)
    keyboard.press("3")
    expect(page.locator("#vote button[value=b]")).to_have_attribute("aria-disabled", "true")
    page.clock.run_for(150)
    expect(page.locator("#vote button[value=b]")).to_have_attribute("aria-disabled", "false")
    keyboard.down("2")  # repeats
    keyboard.up("2")
    for modifier in ("Control", "Alt", "Meta"):
        keyboard.press(f"{modifier}+2")
    keyboard.press("c")
    keyboard.type("2 z 0 ?")
    expect(page.locator("#comment-text")).to_have_value("2 z 0 ?")
    page.locator("#comment-text").fill("")
    keyboard.press("Escape")
    session = page.context.new_cdp_session(page)
    digit = {"code": "Digit2", "windowsVirtualKeyCode": 229, "key": "Process"}
    session.send("Input.dispatchKeyEvent", {"type": "rawKeyDown", **digit})
    composing = {"code": "Digit2", "key": "2", "isComposing": True, "bubbles": True}
    page.locator("h1").dispatch_event("keydown", composing)

    assert int(second.input_value()) != first
    assert person.sent == 1
    person.vote("a", keys=True)
    third = page.locator(f"#vote input[name=lease]:not([value='{first}'], [value='{second.input_value()}'])")
    third.wait_for(state="attached")
    page.clock.run_for(900)
    # a French keyboard: the place of the key counts, not its character
    lease, shown = int(third.input_value()), person.shown()
    session.send("Input.dispatchKeyEvent", {"type": "keyDown", "code": "Digit1", "key": "&", "text": "&"})
    expect(page.get_by_role("heading", level=1)).to_have_text("Thank you, everything is done")
    person.answers[lease] = Answer("a", shown)
    assert person.sent == 3
    site.check_stored(person)
    person.check_quiet()


def test_views_panels_and_folds(serve: Callable[..., Site]) -> None:
    site = serve(rows=[LONG])
    person = site.person(viewport=NARROW)
    page = person.page
    person.begin()
    person.wait_for_item()
    expect(page.get_by_role("heading", level=1)).to_be_focused()
    heights = [box["height"] for box in (c.bounding_box() for c in page.locator(".fold").all()) if box]
    assert heights[0] == heights[1] < 700

    page.keyboard.press("m")
    expect(page.locator(".card .rendered").first).to_be_hidden()
    page.keyboard.press("m")
    page.keyboard.press("d")
    assert set(page.locator(".card .rendered mark").all_inner_texts()) == {"first", "second"}
    page.keyboard.press("d")
    expect(page.locator("mark")).to_have_count(0)
    for key, panel in (("g", "#guidelines"), ("?", "#shortcuts")):
        page.keyboard.press(key)
        expect(page.locator(f"{panel} .sheet")).to_be_focused()
        page.keyboard.press("Escape")
        expect(page.locator(f"{panel} .sheet")).to_be_hidden()
        expect(page.locator(f"{panel} summary")).to_be_focused()

    lease = person.vote("tie", keys=True)  # nobody has seen the ends
    expect(page.get_by_role("status")).to_have_text("Saved")
    covered = page.evaluate(
        """() => [...document.querySelectorAll('.study, .languages, main')].filter((part) => {
            const a = part.getBoundingClientRect(), b = document.querySelector('#status').getBoundingClientRect();
            return a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;
        }).length"""
    )
    assert covered == 0
    assert (site.votes()[lease].seen, site.votes()[lease].unfolded) == (0, 0)
    expect(page.get_by_role("heading", level=1)).to_be_focused()
    site.check_stored(person)
    page.get_by_role("button", name="Undo last answer").click()
    person.wait_for_item()
    person.answers.clear()
    site.check_stored(person)
    person.check_quiet()


def test_unfolded_answers_are_seen_to_their_ends(serve: Callable[..., Site]) -> None:
    site = serve(rows=[LONG, {**LONG, "prompt": "Tell another story."}])
    person = site.person(viewport=NARROW)
    person.begin()
    person.wait_for_item()
    person.page.get_by_role("button", name="Show all").click()
    for end in person.page.locator(".end").all():
        end.scroll_into_view_if_needed()
        person.page.mouse.wheel(0, 200)
    person.page.locator("#vote").scroll_into_view_if_needed()
    lease = person.vote("a", keys=False)
    person.wait_for_item(lease)
    assert person.page.evaluate("scrollY") == 0
    stored = site.votes()[lease]
    assert (stored.seen, stored.unfolded) == (1, 1)
    person.check_quiet()


def test_votes_are_kept_while_the_server_cannot_be_reached(serve: Callable[..., Site]) -> None:
    site = serve(rows=plain_rows(5))
    person = site.person()
    page, status = person.page, person.page.get_by_role("status")
    person.begin()
    lost = "Connection lost. Your answer is kept in this browser and will be sent again."

    first = person.wait_for_item()
    page.context.set_offline(True)
    person.vote("a", keys=True)
    expect(status).to_have_text(lost)
    page.keyboard.press("2")  # while an answer waits, there is no other one
    assert site.votes() == {}
    page.context.set_offline(False)
    second = person.wait_for_item(first)
    assert list(site.votes()) == [first]

    # the server stores the answer, and its own answer is lost
    page.route("**/api/vote", lambda route: (route.fetch(), route.abort()), times=1)
    before = person.sent
    person.vote("b", keys=False)
    expect(status).to_have_text(lost)
    assert list(site.votes()) == [first, second]
    page.evaluate("dispatchEvent(new Event('online'))")
    third = person.wait_for_item(first, second)
    assert person.sent == before + 2

    # the page is loaded again before the answer was sent
    page.route("**/api/vote", lambda route: route.abort())
    person.vote("tie", keys=True)
    expect(status).to_have_text(lost)
    page.unroute("**/api/vote")
    page.reload()
    fourth = person.wait_for_item(first, second, third)
    assert list(site.votes()) == [first, second, third]

    # the study is paused while an item is on the screen
    site.store.write(lambda c: c.execute(sa.update(tables.study).values(state="paused"))).result()
    person.vote("bad", keys=True)
    expect(page.get_by_role("heading", level=1)).to_have_text("The study is paused")
    assert list(site.votes()) == [first, second, third, fourth]
    site.store.write(lambda c: c.execute(sa.update(tables.study).values(state="open"))).result()
    page.reload()
    fifth = person.wait_for_item(first, second, third, fourth)
    site.check_stored(person)
    assert len(site.votes()) == 4

    # somebody else got the item meanwhile
    def release(c: sa.Connection) -> None:
        c.execute(sa.update(tables.lease).where(tables.lease.c.id == fifth).values(expires=0))
        expire(c)

    site.store.write(release).result()
    person.vote("a", keys=True)
    expect(status).to_contain_text("given to somebody else")
    person.answers.pop(fifth)
    site.check_stored(person)
    assert all(error.startswith("Failed to load resource") for error in person.errors)


def test_the_forms_work_without_script(serve: Callable[..., Site]) -> None:
    site = serve(rows=plain_rows(3))
    person = site.person(java_script_enabled=False, viewport=NARROW)
    page = person.page
    person.begin()
    expect(page.get_by_role("button", name="Raw text")).to_be_hidden()
    page.locator("#comment summary").click()
    page.locator("#comment-text").fill("two\nlines")
    first = person.vote("a", keys=False)
    person.answers[first] = Answer("a", person.answers[first].shown, "two\nlines")
    site.check_stored(person)
    (stored,) = site.votes().values()
    # not measured: all the time since the item was given
    assert (stored.seen, stored.active_ms, stored.unfolded) == (-1, stored.elapsed_ms, 0)

    person.undo(first, keys=False)
    site.check_stored(person)
    second = person.vote("b", keys=False)
    assert second == first
    # the page began with the comment of the undone answer
    person.answers[second] = Answer("b", person.answers[second].shown, "two\nlines")
    person.vote("skip", keys=False)
    site.check_stored(person)
    page.get_by_role("link", name="Withdraw from the study").click()
    page.get_by_role("checkbox", name="Delete my comments as well").check()
    page.get_by_role("button", name="Withdraw").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("You have withdrawn")
    assert site.votes() == {}
    assert site.store.read(lambda c: c.execute(sa.select(tables.comment)).all()) == []
    page.goto(site.address)
    expect(page.get_by_role("heading", level=1)).to_have_text("You have withdrawn")
    person.check_quiet()


def test_practice_check_break_and_done(serve: Callable[..., Site]) -> None:
    settings = "break_items = 4\nitems_per_person = 2\ncompletion_code = true\n"
    site = serve(settings + PRACTICE + CHECK, plain_rows(4))
    person = site.person()
    page, heading = person.page, person.page.get_by_role("heading", level=1)
    person.begin()
    expect(page.locator(".mark")).to_have_text("Practice: this answer is not counted")
    person.wait_for_item()
    page.keyboard.press("2")
    expect(heading).to_contain_text("Another answer was expected")
    expect(heading).to_be_focused()
    expect(page.locator(".prose strong")).to_have_text("right")
    page.get_by_role("button", name="Continue").click()
    for key in ("2", "1"):  # the check has two tries
        expect(page.locator(".mark")).to_have_text("Test before the tasks: a correct answer is needed")
        expect(page.get_by_text("The first try was not right. One try is left.")).to_have_count(int(key == "1"))
        person.wait_for_item()
        page.keyboard.press(key)
        page.locator("#vote").or_(page.get_by_role("button", name="Continue")).first.wait_for()
        expect(page.get_by_role("status")).to_have_text("Saved")
    person.wait_for_item()
    expect(page.locator(".mark")).to_have_count(0)
    first = person.vote("a", keys=True)
    expect(heading).to_have_text("Time for a break")
    page.get_by_role("button", name="Continue").click()
    person.wait_for_item(first)
    person.vote("b", keys=True)
    expect(heading).to_have_text("Thank you, everything is done")
    code = page.locator(".code code").inner_text()
    assert len(code) == 8
    page.reload()
    expect(page.locator(".code code")).to_have_text(code)
    person.check_quiet()


SCALES = """
kind = "rating"
[[scales]]
name = "help"
label = "Helpfulness"
low = "useless"
high = "as good as it gets"
[[scales]]
name = "truth"
points = 7
"""


@pytest.mark.parametrize("script", [True, False], ids=["keys", "no script"])
def test_ratings(serve: Callable[..., Site], *, script: bool) -> None:
    site = serve(SCALES, [{"prompt": "Question", "left": "first"}])
    person = site.person(java_script_enabled=script, viewport=NARROW)
    page = person.page
    person.begin()
    if script:
        person.wait_for_item()
        page.keyboard.press("?")
        expect(page.locator(".keys div").first).to_contain_text("1 … 7")
        page.keyboard.press("Escape")
        page.keyboard.press("4")
        page.keyboard.press("5")
        page.keyboard.press("3")  # nothing is open and no scale has the focus
        page.get_by_role("group", name="truth").get_by_role("radio", name="5").focus()
        page.keyboard.press("6")  # the scale with the focus is set again
        check_access(page)
        expect(page.get_by_role("button", name="Save")).to_be_focused()
        page.keyboard.press("Enter")
    else:
        page.get_by_role("group", name="Helpfulness").get_by_role("radio", name="4").check()
        page.get_by_role("group", name="truth").get_by_role("radio", name="6").check()
        page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Thank you, everything is done")
    (stored,) = site.votes().values()
    assert json.loads(stored.ratings_json) == {"help": 4, "truth": 6}
    expect(page.locator(".facts")).to_contain_text(re.compile(r"Active time\s*\d+ min \d+ s"))
    page.get_by_role("button", name="Undo last answer").click()
    expect(page.get_by_role("group", name="Helpfulness").get_by_role("radio", name="4")).to_be_checked()
    expect(page.get_by_role("group", name="truth").get_by_role("radio", name="6")).to_be_checked()
    if script:
        person.wait_for_item()
        for key in ("2", "3", "Enter"):
            page.keyboard.press(key)
        expect(page.get_by_role("heading", level=1)).to_have_text("Thank you, everything is done")
        (stored,) = site.votes().values()
        assert json.loads(stored.ratings_json) == {"help": 2, "truth": 3}
    person.check_quiet()


@pytest.mark.parametrize("script", [True, False], ids=["keys", "no script"])
def test_rankings(serve: Callable[..., Site], *, script: bool) -> None:
    row = {"prompt": "Question", "left": "first", "right": "second", "third": "third"}
    site = serve('kind = "ranking"', [row])
    person = site.person(java_script_enabled=script)
    page = person.page
    person.begin()
    shown = person.shown()
    if script:
        person.wait_for_item()
        for key in ("2", "1", "2"):
            page.keyboard.press(key)
        check_access(page)
        page.keyboard.press("Enter")
    else:
        for label, rank in (("A", "2"), ("B", "1"), ("C", "2")):
            page.get_by_role("group", name=f"Rank of answer {label}").get_by_role("radio", name=rank).check()
        page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Thank you, everything is done")
    (stored,) = site.votes().values()
    assert json.loads(stored.ranking_json) == {"A": 2, "B": 1, "C": 2}
    assert site.texts(stored) == shown
    person.check_quiet()


def test_the_administrator_invites_pauses_and_exports(serve: Callable[..., Site]) -> None:
    site = serve(rows=plain_rows(4))
    admin = site.person("admin")
    page = admin.page
    check_access(page)
    page.get_by_role("button").click()
    page.get_by_label("Number of links").fill("2")
    page.get_by_role("button", name="Create links").click()
    links = page.locator(".new-links code").all_inner_texts()
    assert len(links) == 2
    check_access(page)
    page.set_viewport_size(NARROW)
    check_access(page)
    assert all(link.startswith(f"{site.address}/j/") for link in links)

    context = site.browser.new_context(viewport=WIDE, locale="en-US")
    person = Person(context.new_page(), page.locator(".new-links li").first.inner_text().split(":")[0])
    person.watch()
    person.page.goto(links[0])
    person.begin()
    lease = person.wait_for_item()
    person.vote("a", keys=True)
    person.wait_for_item(lease)

    page.goto(f"{site.address}/admin")
    expect(page.locator(".new-links")).to_have_count(0)
    tiles = dict(
        zip(page.locator(".tiles dt").all_inner_texts(), page.locator(".tiles dd").all_inner_texts(), strict=True)
    )
    assert (tiles["Votes"], tiles["Votes needed"], tiles["Open leases"]) == ("1", "12", "1")
    expect(page.get_by_role("row", name=person.pseudonym)).to_contain_text("active")
    with page.expect_download() as download:
        page.get_by_role("link", name="JSONL").click()
    lines = Path(download.value.path()).read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["choice"] for line in lines] == ["a"]
    person.check_quiet()

    page.get_by_role("button", name="Pause the study").click()
    expect(page.get_by_text("The study is paused: nobody gets tasks.")).to_be_visible()
    person.page.reload()
    expect(person.page.get_by_role("heading", level=1)).to_have_text("The study is paused")
    page.get_by_role("button", name="Resume the study").click()
    person.page.get_by_role("link", name="Try again").click()
    person.wait_for_item(lease)
    page.locator(".revoke summary", has_text=person.pseudonym).click()
    check_access(page)
    page.get_by_role("button", name=f"End access: {person.pseudonym}").click()
    expect(page.get_by_role("row", name=person.pseudonym)).to_contain_text("revoked")
    person.page.reload()
    expect(person.page.get_by_role("heading", level=1)).to_have_text("You are not signed in")
    site.check_stored(person)
    admin.check_quiet()


@pytest.mark.parametrize("bypass_csp", [False, True], ids=["", "bypass CSP"])
def test_pages_are_accessible(serve: Callable[..., Site], *, bypass_csp: bool) -> None:
    """Axe does not see what the policy blocked, so it also looks at the pages with texts of the study without one."""
    settings = 'languages = ["en", "zh"]\ncompletion_code = true\nbreak_items = 4\n'
    site = serve(settings + PRACTICE, [RICH] if bypass_csp else [RICH, CHINESE, ARABIC, LONG])
    person = site.person(viewport=NARROW, bypass_csp=bypass_csp)
    page = person.page

    def go_on() -> None:
        page.locator("main button.primary").click()

    check_access(page, "join")
    go_on()
    check_access(page, "consent")
    page.get_by_role("checkbox").check()
    go_on()
    check_access(page, "guidelines")
    go_on()
    person.wait_for_item()
    check_access(page, "practice")
    page.keyboard.press("1")
    page.get_by_role("heading", name="As expected").wait_for()
    check_access(page, "explanation")
    go_on()
    leases: list[int] = []
    for _ in range(1 if bypass_csp else 3):
        leases.append(person.wait_for_item(*leases))
        page.keyboard.press("c")
        page.keyboard.press("Escape")
        page.keyboard.press("d")
        check_access(page, "task")
        page.keyboard.press("d")
        person.vote("skip", keys=True)
    if bypass_csp:
        return
    page.get_by_role("heading", name="Time for a break").wait_for()
    check_access(page, "break")
    go_on()
    person.wait_for_item(*leases)
    page.set_viewport_size(WIDE)
    for key in ("g", "?"):
        page.keyboard.press(key)
        check_access(page, f"panel {key}")
        page.keyboard.press("Escape")
    page.keyboard.press("1")
    page.locator(".code").wait_for()
    check_access(page, "done")
    page.goto(f"{site.address}/withdraw")
    check_access(page, "withdraw")
    person.check_quiet()


def test_the_next_item_does_not_look_answered(serve: Callable[..., Site]) -> None:
    """The pointer still lies on the button of the last answer; its style returns when the pointer moves."""
    site = serve(rows=plain_rows(3))
    person = site.person()
    person.begin()
    lease = person.wait_for_item()
    button = person.page.locator("#vote button[value=a]")
    color = "(button) => getComputedStyle(button).backgroundColor"
    plain = button.evaluate(color)
    button.hover()
    hovered = button.evaluate(color)
    assert hovered != plain
    person.vote("a", keys=False)
    person.wait_for_item(lease)
    assert button.evaluate(color) == plain
    box = button.bounding_box()
    assert box
    person.page.mouse.move(box["x"] + 5, box["y"] + 5)
    person.page.mouse.move(box["x"] + 9, box["y"] + 9)
    assert button.evaluate(color) == hovered
    person.check_quiet()


def test_skip_and_comment_are_in_sight_on_a_phone(serve: Callable[..., Site]) -> None:
    site = serve(rows=plain_rows(3))
    person = site.person(viewport=NARROW, has_touch=True, is_mobile=True)
    person.begin()
    lease = person.wait_for_item()
    person.vote("a", keys=False)
    person.wait_for_item(lease)
    for part in ("#vote button[value=skip]", "#comment summary"):
        expect(person.page.locator(part)).to_be_in_viewport(ratio=1)
    check_access(person.page)
    person.check_quiet()
