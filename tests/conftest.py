"""Settings of all tests: marks, the pictures of runs, garbage collection; and a browser.

One thread per process is faster for small models and sums in the same order.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "offline")

import base64
import gc
import json
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# a suite that is started in the background, or by nohup, inherits signals that are ignored
for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, handler)


def pytest_collection_modifyitems(items):
    """Skip slow tests unless RLALIGN_SLOW is 1, and tests that need a GPU if there is none."""
    if os.environ.get("RLALIGN_SLOW") != "1":
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="slow: run with RLALIGN_SLOW=1, as .ci/slow does"))
    marked = [item for item in items if "gpu" in item.keywords]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


_LONG = ("tests/docs/test_tutorials.py", "tests/docs/test_pages.py", "tests/learning/")
"""Files of few long tests without fixtures of a module."""


@pytest.hookimpl(optionalhook=True)  # of xdist
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give each file to one worker, so that the fixtures of its module are made once; likewise those of studies.

    Files with many tests come first. Long tests are given out one by one at the end, so that both workers end together.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            if file.startswith(_LONG):
                return nodeid
            return "tests/compare" if file.startswith("tests/compare/") else file

    return ByFile(config, log)


def pytest_collection_finish() -> None:
    """Take modules and tests out of the garbage collection: an export of a policy collects, for 0.5 s with them."""
    gc.collect()
    gc.freeze()


_PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
)


def _write_pixel(folder: Path) -> Path:
    """Write report/reward.png of a run folder with one pixel, and return its path."""
    path = folder / "report" / "reward.png"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(_PIXEL)
    return path


def _save_pixel(figure: Any, target: Any, **options: Any) -> None:
    """Save a figure of matplotlib as one pixel."""
    if hasattr(target, "write"):
        target.write(_PIXEL)
    else:
        Path(target).write_bytes(_PIXEL)


@pytest.fixture(scope="session", autouse=True)
def drawing() -> Iterator[tuple[Any, Any]]:
    """Write one pixel in place of each picture in this process, which takes longer than a small run; the functions."""
    from matplotlib.figure import Figure

    from rlalign.log import plots

    real = plots.plot_run, Figure.savefig
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "plot_run", _write_pixel)
        patch.setattr(Figure, "savefig", _save_pixel)
        yield real


@pytest.fixture(autouse=True)
def _pictures(request: pytest.FixtureRequest, drawing: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw the pictures in tests that are marked `pictures`."""
    if "pictures" in request.keywords:
        monkeypatch.setattr("rlalign.log.plots.plot_run", drawing[0])
        monkeypatch.setattr("matplotlib.figure.Figure.savefig", drawing[1])


class Browser:
    """Headless Chromium over its debugging pipe: opens files, records events, evaluates scripts, takes screenshots."""

    def __init__(self, program: str, profile: Path) -> None:
        command, answers = os.pipe(), os.pipe()

        def wire() -> None:  # Chromium reads commands from descriptor 3 and answers on 4
            spare = os.dup(command[0]), os.dup(answers[1])
            os.dup2(spare[0], 3)
            os.dup2(spare[1], 4)

        flags = (
            "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
            "--disable-component-update --disable-sync --hide-scrollbars --remote-debugging-pipe"
        )
        self._process = subprocess.Popen(
            [program, *flags.split(), f"--user-data-dir={profile}", "about:blank"],
            preexec_fn=wire, pass_fds=(3, 4), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(command[0])
        os.close(answers[1])
        self._out, self._in = os.fdopen(command[1], "wb"), os.fdopen(answers[0], "rb")
        self._buffer, self._id, self.events = b"", 0, []  # type: ignore[var-annotated]  # events of all kinds
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.ask(f"{domain}.enable")

    def open(self, path: Path, *, query: str = "", width: int = 1440, height: int = 900, dark: bool = False) -> None:
        """Load a file and wait until it is loaded and painted."""
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[scheme])
        self.events.clear()
        self.ask("Page.navigate", url=path.as_uri() + (f"?{query}" if query else ""))
        while not any(e["method"] == "Page.loadEventFired" for e in self.events):
            self._read()
        self.value("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def value(self, expression: str) -> Any:
        """Return the value of a JavaScript expression."""
        answer = self.ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        return answer["result"].get("value")

    def picture(self, path: Path) -> None:
        """Write the page as a PNG."""
        answer = self.ask("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(answer["data"]))

    def of(self, *methods: str) -> list[dict[str, Any]]:
        """Return the parameters of the events since the page was opened."""
        return [e["params"] for e in self.events if e["method"] in methods]

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        return self._ask(method, session=self._session, **params)

    def _ask(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        self._id += 1
        message = {"id": self._id, "method": method, "params": params} | ({"sessionId": session} if session else {})
        self._out.write(json.dumps(message).encode() + b"\0")
        self._out.flush()
        while (answer := self._read()).get("id") != self._id:
            pass
        assert "error" not in answer, answer
        return answer["result"]

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            more = os.read(self._in.fileno(), 1 << 16)
            if not more:
                raise AssertionError("the browser has exited")
            self._buffer += more
        line, _, self._buffer = self._buffer.partition(b"\0")
        message = json.loads(line)
        if "method" in message:
            self.events.append(message)
        return message

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()
        self._out.close()
        self._in.close()


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    opened = Browser(program, tmp_path_factory.mktemp("chromium"))
    yield opened
    opened.close()
