"""The built site: no broken link, a search that finds, and pages that open without messages and fit on every screen.

`sphinx-build -W docs docs/_build/html` builds it.
"""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

SITE = Path(__file__).parents[2] / "docs" / "_build" / "html"
PAGES = (
    "index",
    "get_started",
    "tutorials/own_reward",
    "concepts/objective",
    "concepts/comparing",
    "reference/environments",
    "reference/algorithms",
    "reference/configuration",
    "reference/api/training",
    "results/study",
    "speed",
)
OVERFLOWING = """
[...document.querySelectorAll("main *")].filter(e => {
  const box = e.getBoundingClientRect();
  const scrolls = ".pst-scrollable-table-container, pre, .equation, math, .sig, .prev-next-area, .bd-sidebar-secondary";
  return box.width && box.right > innerWidth + 1 && !e.closest(scrolls);
}).map(e => e.outerHTML.slice(0, 120))
"""


@pytest.fixture(scope="module")
def site() -> Path:
    if not (SITE / "index.html").is_file():
        pytest.skip("no site here: sphinx-build -W docs docs/_build/html")
    return SITE


class Links(HTMLParser):
    """The ids, the references and the alternative texts of images of a page."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.references: list[str] = []
        self.alternatives: list[str] = []
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "img":
            self.alternatives.append(dict(attrs).get("alt") or "")
        for name, value in attrs:
            if name == "id" and value:
                self.ids.add(value)
            elif name in ("href", "src") and value:
                self.references.append(value)


def test_no_link_inside_the_site_is_broken(site: Path) -> None:
    pages = {page: Links(page) for page in site.rglob("*.html") if "_static" not in page.parts}
    broken = []
    for page, links in pages.items():
        for reference in links.references:
            parts = urlsplit(reference)
            if parts.scheme or parts.netloc:
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            known = pages.get(target)
            if not target.exists() or (parts.fragment and known and unquote(parts.fragment) not in known.ids):
                broken.append(f"{page.relative_to(site)}: {reference}")
    assert len(pages) > 40
    assert not broken, "\n".join(broken[:20])


def test_every_image_has_an_alternative_text_of_several_words(site: Path) -> None:
    texts = [(page.stem, text) for page in site.rglob("*.html") for text in Links(page).alternatives]
    assert len(texts) >= 8
    assert [page for page, text in texts if len(text.split()) < 4] == []


@pytest.mark.parametrize("width", [390, 1440])
def test_a_table_shows_the_meanings_on_every_screen(browser, site: Path, width: int) -> None:
    for name in ("reference/configuration", "reference/command_line", "reference/metrics"):
        browser.open(site / f"{name}.html", width=width)
        hidden = """
        [...document.querySelectorAll("table.stacked td:last-child")].filter(cell => {
          const box = cell.getBoundingClientRect();
          return box.right > innerWidth + 1 || box.width < 150;
        }).length
        """
        assert browser.value(hidden) == 0, name


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
def test_pages_open_without_messages_or_requests_and_fit(browser, site: Path, width: int, dark: bool) -> None:
    for name in PAGES:
        browser.open(site / f"{name}.html", width=width, dark=dark)
        assert browser.of("Runtime.exceptionThrown", "Log.entryAdded") == [], name
        urls = [event["request"]["url"] for event in browser.of("Network.requestWillBeSent")]
        assert [url for url in urls if not url.startswith(("file:", "data:"))] == [], name
        assert browser.value("document.documentElement.scrollWidth") <= width, name
        assert browser.value(OVERFLOWING) == [], name
        assert browser.value("document.documentElement.dataset.theme") == ("dark" if dark else "light"), name


def test_the_search_finds_an_object_a_setting_and_a_page(browser, site: Path) -> None:
    for query, title in (("compute_advantages", "Objective"), ("align_interval", "Configuration"), ("wordle", "Env")):
        found = """
        new Promise(done => {
          const read = () => {
            const titles = [...document.querySelectorAll("#search-results li a")].map(a => a.textContent);
            titles.length ? done(titles) : setTimeout(read, 20);
          };
          read();
        })
        """
        browser.open(site / "search.html", query=f"q={query}")
        assert any(title in result or query in result for result in browser.value(found)), query
