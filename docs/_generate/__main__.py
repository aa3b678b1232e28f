"""Write the pages of docs/reference/ that describe what the code contains.

python docs/_generate            # writes the pages
python docs/_generate --check    # exits with 1 if a page is not current
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import command_line_page
import configuration_page
import environments_page
import metrics_page
import rewards_page

REFERENCE = Path(__file__).resolve().parents[1] / "reference"
PAGES: dict[str, Callable[[], str]] = {
    "environments": environments_page.page,
    "rewards": rewards_page.page,
    "metrics": metrics_page.page,
    "configuration": configuration_page.page,
    "command_line": command_line_page.page,
}


def outdated() -> list[Path]:
    """Return the pages that differ from what the code gives now."""
    return [path for path, text in pages() if not path.is_file() or path.read_text(encoding="utf-8") != text]


def pages() -> list[tuple[Path, str]]:
    """Return path and text of each page."""
    return [(REFERENCE / f"{name}.md", page()) for name, page in PAGES.items()]


def main() -> int:
    """Write or check the pages; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only report pages that are not current")
    if parser.parse_args().check:
        for path in outdated():
            print(f"{path} is not current; run: python docs/_generate")
        return bool(outdated())
    for path, text in pages():
        path.write_text(text, encoding="utf-8")
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
