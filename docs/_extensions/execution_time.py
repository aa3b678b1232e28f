"""The time that the tutorials took: printed after a build that executes all of them, and limited.

The limit of the project is 200 seconds for all tutorials on an idle machine. Machines that run the checks are not idle:
the build fails only above `nb_execution_seconds_limit`, and prints the number for a reader to compare.
"""

from __future__ import annotations

from sphinx.application import Sphinx
from sphinx.errors import ExtensionError


def _report(app: Sphinx, error: Exception | None) -> None:
    """Print the seconds of each executed page; raise ExtensionError if their sum is above the limit."""
    if error is not None or app.config.nb_execution_mode != "force":
        return
    pages = {name: data["exec_data"] for name, data in app.env.nb_metadata.items() if "exec_data" in data}
    seconds = {name: data["runtime"] for name, data in pages.items() if data["runtime"]}
    total = sum(seconds.values())
    texts = [f"{name} {value:.0f} s" for name, value in sorted(seconds.items())]
    print(f"{', '.join(texts)}: {total:.0f} s for all tutorials, of 200 s on an idle machine")
    limit = app.config.nb_execution_seconds_limit
    if total > limit:
        raise ExtensionError(f"expected at most {limit} s for all tutorials, got {total:.0f} s")


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the setting and the report."""
    app.add_config_value("nb_execution_seconds_limit", 500, "", int)
    app.connect("build-finished", _report)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
