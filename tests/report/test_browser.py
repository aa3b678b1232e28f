"""The report in a real browser: no console message, no request, all parts visible, nothing wider than the screen."""

from __future__ import annotations

import pytest

from rlalign.compare.output.html import write_report

PARTS = ("verdict", "finals", "pairs", "budgets", "curves", "seeds", "differences", "profiles", "frontier", "samples")

OVERFLOWING = """
[...document.querySelectorAll("main *")].filter(e => {
  const box = e.getBoundingClientRect();
  return box.width && (box.right > innerWidth + 1 || box.left < -1) && !e.closest(".scroll, svg");
}).map(e => e.outerHTML.slice(0, 90))
"""

HIDDEN_TYPE = """
[...document.querySelectorAll("svg")].filter(s => s.getBoundingClientRect().width).flatMap(s => {
  const scale = s.getBoundingClientRect().width / s.viewBox.baseVal.width, edge = document.documentElement.clientWidth;
  return [...s.querySelectorAll("text")].filter(t => {
    const box = t.getBoundingClientRect();
    return box.right > edge || box.left < 0 || parseFloat(getComputedStyle(t).fontSize) * scale < 9;
  }).map(t => t.textContent);
})
"""


@pytest.fixture(scope="module")
def report(study, tmp_path_factory):
    return write_report(tmp_path_factory.mktemp("study"), study)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
def test_the_report_opens_without_messages_or_requests_and_fits(browser, report, study, width, dark) -> None:
    browser.open(report, width=width, dark=dark)
    assert browser.of("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded") == []
    urls = [e["request"]["url"] for e in browser.of("Network.requestWillBeSent")]
    assert [url for url in urls if not url.startswith("data:")] == [report.as_uri()]
    assert browser.value("document.title") == study.title
    for part in PARTS:
        height = browser.value(f"document.getElementById('{part}').getBoundingClientRect().height")
        assert height > 20, part
    drawings = browser.value(
        "[...document.querySelectorAll('svg')].filter(s => s.getBoundingClientRect().height > 60).length"
    )
    envs = len(study.environments)
    assert drawings == envs * 5 + 1  # one of the four budgets is shown
    assert browser.value("document.documentElement.scrollWidth") == width
    assert browser.value(OVERFLOWING) == []
    assert browser.value(HIDDEN_TYPE) == []


def test_light_and_dark_have_contrast_and_different_backgrounds(browser, report) -> None:
    contrast = """
    (() => {
      const linear = v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
      const light = c => {
        const [r, g, b] = c.match(/[\\d.]+/g).map(v => linear(v / 255));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
      };
      const paper = light(getComputedStyle(document.body).backgroundColor);
      return [...document.querySelectorAll("p, td, svg .label, svg .tick, .note, .warn")].map(e => {
        const style = getComputedStyle(e), ink = light(e.closest("svg") ? style.fill : style.color);
        return (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
      }).reduce((a, b) => Math.min(a, b));
    })()
    """
    papers = []
    for dark in (False, True):
        browser.open(report, dark=dark)
        papers.append(browser.value("getComputedStyle(document.body).backgroundColor"))
        assert browser.value(contrast) >= 4.5  # WCAG AA
    assert papers[0] != papers[1]


def test_a_table_that_scrolls_shows_a_hint(browser, report) -> None:
    shown = "getComputedStyle(document.querySelector('#pairs .scroll').nextElementSibling).display"
    box = "document.querySelector('#pairs .scroll')"
    browser.open(report, width=1440)
    assert browser.value(shown) == "none"
    browser.open(report, width=390)
    assert browser.value(shown) == "block"
    assert browser.value(f"{box}.classList.contains('more')")
    browser.value(f"{box}.scrollLeft = 9999")
    browser.value("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    assert not browser.value(f"{box}.classList.contains('more')")  # no fade at the end
    assert browser.value(shown) == "block"  # the hint stays, so that nothing moves


def test_values_of_a_column_are_aligned(browser, report) -> None:
    """The right edges of values agree for intervals of all widths."""
    browser.open(report, width=1440)
    edges = browser.value(
        "[...document.querySelectorAll('#finals table:first-of-type tbody tr:not(.group) td:nth-child(2) .ci')]"
        ".map(e => Math.round(e.getBoundingClientRect().left))"
    )
    assert len(edges) > 10
    assert max(edges) - min(edges) <= 1


def test_the_budget_can_be_switched_and_hovering_shows_the_values(browser, report) -> None:
    browser.open(report)
    shown = "[...document.querySelectorAll('#curves .by')].filter(e => e.offsetHeight).map(e => e.className)"
    assert browser.value(shown) == ["panels by by-samples"]
    browser.value("document.getElementById('by-tokens').click()")
    assert browser.value(shown) == ["panels by by-tokens"]
    browser.value("document.getElementById('by-samples').click()")
    browser.value("document.querySelector('.by-samples svg').scrollIntoView({block: 'center'})")
    box = browser.value("(b => [b.x + b.width / 2, b.y + b.height / 2])(document.querySelector('.by-samples svg')"
                        ".getBoundingClientRect())")  # fmt: skip
    browser.ask("Input.dispatchMouseEvent", type="mouseMoved", x=box[0], y=box[1])
    tip = browser.value("(t => [getComputedStyle(t).visibility, t.textContent])(document.getElementById('tip'))")
    assert tip[0] == "visible"
    assert "rloo" in tip[1]
    assert "samples drawn" in tip[1]


def test_a_script_in_a_completion_does_not_run(browser, report, study) -> None:
    browser.open(report)
    assert browser.value("document.title") == study.title
    assert browser.value("document.querySelectorAll('script').length") == 1
    assert browser.value("document.querySelectorAll('img').length") == 0
    assert "<script>" in browser.value("document.getElementById('samples').textContent")


def test_a_tap_shows_the_values_until_the_next_tap_elsewhere(browser, report) -> None:
    browser.open(report, width=390)
    browser.value("document.querySelector('.by-samples svg').scrollIntoView({block: 'center'})")
    tap = """((target, x, y) => {
      const at = {clientX: x, clientY: y, pointerType: "touch", bubbles: true};
      for (const kind of ["pointerdown", "pointerup", "pointerout", "pointerleave"])
        target.dispatchEvent(new PointerEvent(kind, at));
    })"""
    shown = "getComputedStyle(document.getElementById('tip')).visibility"
    middle = "(s => (b => [s, b.x + b.width / 2, b.y + b.height / 2])(s.getBoundingClientRect()))"
    browser.value(f"{tap}(...{middle}(document.querySelector('.by-samples svg')))")
    assert browser.value(shown) == "visible"
    assert "samples drawn" in browser.value("document.getElementById('tip').textContent")
    browser.value(f"{tap}(document.querySelector('h1'), 5, 5)")
    assert browser.value(shown) == "hidden"


def test_screen_readers_get_names_and_headings(browser, report) -> None:
    """Each table and drawing has a name, each row and column a heading, and no heading is empty."""
    browser.open(report)
    assert browser.value("[...document.querySelectorAll('.scroll')].every(e => e.getAttribute('aria-label'))")
    assert browser.value("[...document.querySelectorAll('tbody tr')].every(e => e.querySelector('th[scope]'))")
    assert browser.value("[...document.querySelectorAll('th')].filter(e => !e.textContent.trim()).length") == 0
    assert browser.value("[...document.querySelectorAll('svg')].every(e => e.getAttribute('aria-label'))")
