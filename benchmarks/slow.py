"""The result of .ci/slow: counts and seconds of the slow tests by file.

python benchmarks/slow.py JUNIT.xml    # as `pytest --junitxml` writes it
"""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ET
from collections import defaultdict
from pathlib import Path
from typing import Any

from machine import write


def counts(path: Path) -> dict[str, dict[str, Any]]:
    """Return, for each file of tests, the numbers of passed, failed and skipped tests, and the seconds.

    Args:
        path: the report of pytest.
    """
    files: dict[str, dict[str, Any]] = defaultdict(lambda: {"passed": 0, "failed": 0, "skipped": 0, "seconds": 0.0})
    for case in ET.parse(path).iter("testcase"):
        row = files[case.get("classname", "")]
        kinds = {child.tag for child in case}
        outcome = "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"
        row[outcome] += 1
        row["seconds"] = round(row["seconds"] + float(case.get("time", 0)), 1)
    return dict(sorted(files.items()))


if __name__ == "__main__":
    print(write("slow", {"files": counts(Path(sys.argv[1]))}))
