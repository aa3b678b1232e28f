"""Programs in the sandbox: what they can do, what they cannot reach, and what remains of them."""

import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from rlalign.rewards.sandbox import isolation, program
from rlalign.rewards.sandbox.run import Limits, _remove, count_passed

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Landlock and seccomp are of Linux")

# The second element of Limits decides on namespaces: False is a system that does not allow them, as in most containers.
BOTH = pytest.mark.parametrize("namespaces", [True, False])


@pytest.fixture(scope="module", autouse=True)
def available():
    try:
        count_passed("", ["pass"], Limits(2, 256))
    except isolation.UnavailableError as error:
        pytest.skip(str(error))


def passed(code, *tests, namespaces=True, seconds=2, network=False):
    return count_passed(code, tests or ["pass"], Limits(seconds, 512, network, namespaces))


def running(code_path=program.__file__):
    """Return the processes that this process has started and that run the sandbox."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if os.fsencode(code_path) in command and f"{os.getpid()}".encode() in _ancestors(entry):
                found.append(int(entry.name))
    return found


def _ancestors(entry):
    pids = []
    while entry.name not in ("0", "1"):
        try:
            parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
        except OSError:
            break
        pids.append(parent.encode())
        entry = Path("/proc") / parent
    return pids


# ---- what a program can do ----


@BOTH
def test_a_program_computes_writes_its_folder_and_starts_threads(namespaces):
    code = """
import asyncio, os, socket, tempfile, threading
marks = []
thread = threading.Thread(target=marks.append, args=(1,))
thread.start()
thread.join()
async def answer(): return 42
result = asyncio.run(answer())
os.mkdir("folder")
with open("file", "w") as file: file.write("text")
os.rename("file", "folder/file")
os.remove("folder/file")
with tempfile.TemporaryFile() as file: file.write(b"x")
"""
    tests = ["assert marks == [1]", "assert result == 42", "assert os.listdir() == ['folder']"]
    assert passed(code, *tests, namespaces=namespaces) == 3


def test_a_pid_namespace_allows_processes():
    code = """
import subprocess, multiprocessing
said = subprocess.run(["echo", "hi"], capture_output=True, text=True).stdout
with multiprocessing.get_context("fork").Pool(2) as pool: squares = pool.map(abs, [-1, -2])
"""
    with_processes = passed(code, "assert said == 'hi\\n'", "assert squares == [1, 2]")
    if not _has_namespaces():
        pytest.skip("no namespaces here")
    assert with_processes == 2


def test_without_a_pid_namespace_there_are_no_processes():
    assert passed("import os", "os.fork()", "os.posix_spawn('/bin/true', [], {})", "pass", namespaces=False) == 1


def _has_namespaces():
    code = "import isolation; n = isolation.enter_namespaces(); print(n.pids and n.mounts)"
    folder = os.path.dirname(isolation.__file__)
    process = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    return process.stdout.strip() == "True"


# ---- what it cannot reach ----


@BOTH
def test_no_socket_of_any_kind_reaches_anything(namespaces, tmp_path):
    """Internet, Unix by path, abstract, and a pair of datagram sockets, which sends to any path."""
    server = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    path = str(tmp_path / "s")
    server.bind(path)
    server.setblocking(False)
    code = f"""
import socket
opened = 0
for family, kind in ((socket.AF_INET, 1), (socket.AF_INET6, 2), (socket.AF_UNIX, 1), (socket.AF_UNIX, 2)):
    try:
        socket.socket(family, kind).sendto(b"x", {path!r})
        opened += 1
    except PermissionError:
        pass
try:
    socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)[0].sendto(b"x", {path!r})
    opened += 1
except PermissionError:
    pass
"""
    with server:
        assert passed(code, "assert opened == 0", namespaces=namespaces) == 1
        with pytest.raises(BlockingIOError):
            server.recv(1)


def test_the_network_can_be_left_reachable_but_not_unix_sockets():
    code = "import socket\nsocket.socket(socket.AF_INET)"
    assert passed(code, "socket.socket(socket.AF_UNIX)", "pass", network=True) == 1
    assert passed(code, "pass", network=False) == 0


@BOTH
def test_no_file_outside_of_the_folder_is_changed(namespaces, tmp_path):
    (tmp_path / "file").write_text("text")
    os.chmod(tmp_path / "file", 0o640)
    before = (tmp_path / "file").stat()
    code = f"""
import os
os.chdir({str(tmp_path)!r})
changed = []
for change in (
    lambda: open("file", "a"), lambda: open("new", "w"), lambda: os.open("file", os.O_RDONLY | os.O_TRUNC),
    lambda: os.truncate("file", 0), lambda: os.remove("file"), lambda: os.rename("file", "other"),
    lambda: os.mkdir("folder"), lambda: os.symlink("/", "link"), lambda: os.link("file", "hard"),
    lambda: os.mkfifo("pipe"), lambda: os.chmod("file", 0), lambda: os.utime("file", (0, 0)),
    lambda: os.chown("file", 1, 1), lambda: os.setxattr("file", "user.x", b"1"),
):
    try:
        change()
        changed.append(change.__code__.co_names)
    except OSError:
        pass
text = open("file").read()
"""
    assert passed(code, "assert not changed, changed", "assert text == 'text'", namespaces=namespaces) == 2
    after = (tmp_path / "file").stat()
    assert os.listdir(tmp_path) == ["file"]
    assert (after.st_mode, after.st_size, after.st_mtime_ns) == (before.st_mode, before.st_size, before.st_mtime_ns)


@BOTH
def test_other_processes_are_out_of_reach(namespaces):
    """Neither their environment and memory nor, by signals, their end."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    code = f"""
import os, signal
reached = 0
for pid in ({os.getpid()}, {child.pid}):
    for reach in (
        lambda: open(f"/proc/{{pid}}/environ").read(), lambda: open(f"/proc/{{pid}}/mem", "rb"),
        lambda: os.kill(pid, signal.SIGKILL), lambda: os.pidfd_open(pid) and signal.pidfd_send_signal(
            os.pidfd_open(pid), signal.SIGKILL),
    ):
        try:
            reach()
            reached += 1
        except OSError:
            pass
"""
    try:
        assert passed(code, "assert reached == 0, reached", namespaces=namespaces) == 1
        assert child.poll() is None
    finally:
        child.kill()
        child.communicate()


@BOTH
def test_the_environment_is_empty_and_privileges_cannot_be_regained(namespaces, monkeypatch):
    monkeypatch.setenv("RLALIGN_SECRET", "x")
    code = "import ctypes, os\nlibc = ctypes.CDLL(None)"
    tests = [
        "assert 'RLALIGN_SECRET' not in os.environ",
        "assert libc.unshare(0x10000000) == -1",
        "assert libc.prctl(1, 0, 0, 0, 0) == -1",  # PR_SET_PDEATHSIG
        "assert 'CapEff:\\t0000000000000000' in open('/proc/self/status').read()",
    ]
    assert passed(code, *tests, namespaces=namespaces) == 4


# ---- its marks ----


@pytest.mark.parametrize("report", ["10000", "-5", "100.0", "network", "1e9", "", "1" * 500])
def test_a_forged_report_stays_between_none_and_all(report):
    code = f"""
import os, sys
frame = sys._getframe(1)
os.write(frame.f_locals["writer"], (frame.f_locals["nonce"] + " " + {report!r}).encode())
os._exit(0)
"""
    assert 0 <= passed(code, "assert False", "assert False") <= 2


def test_a_report_without_the_nonce_counts_nothing():
    code = """
import os
for descriptor in range(32):
    try:
        os.write(descriptor, b"0" * 32 + b" 1")
    except OSError:
        pass
os._exit(0)
"""
    assert passed(code, "assert False") == 0


@BOTH
def test_endless_output_is_cut(namespaces):
    code = """
import os
while True:
    for descriptor in range(32):
        try:
            os.write(descriptor, b"x" * 65536)
        except OSError:
            pass
"""
    assert passed(code, namespaces=namespaces, seconds=1) == 0


@pytest.mark.parametrize(
    "code",
    ["while True: pass", "x = [0] * 10**10", "open('f', 'w').write('a' * 10**8)", "import os\nos.kill(os.getpid(), 9)"],
)
def test_a_limit_ends_a_program_without_a_mark(code):
    assert passed(code, seconds=1) == 0


# ---- what remains of it ----

_DAEMON = """
import os, time
try:
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(600)
        os._exit(0)
    os.wait()
except PermissionError:
    pass
"""


@BOTH
def test_a_daemon_does_not_outlive_its_program(namespaces):
    """It holds the pipe of the report, so that it must not delay the result either."""
    start = time.monotonic()
    assert passed(_DAEMON, namespaces=namespaces, seconds=60) == 1
    assert time.monotonic() - start < 60  # far below the sleep
    assert running() == []


@BOTH
def test_a_program_dies_with_its_supervisor(namespaces):
    results = []
    thread = threading.Thread(
        target=lambda: results.append(passed("import time\ntime.sleep(600)", namespaces=namespaces, seconds=600))
    )
    thread.start()
    expected = 3 if namespaces and _has_namespaces() else 2  # supervisor, first process of the namespace, program
    while len(processes := running()) < expected:
        time.sleep(0.01)
    os.kill(min(processes), 9)
    thread.join()
    assert results == [None]
    deadline = time.monotonic() + 20
    while [pid for pid in processes if Path(f"/proc/{pid}").exists()] and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not [pid for pid in processes if Path(f"/proc/{pid}").exists()]


def test_a_folder_nested_beyond_every_limit_is_deleted(tmp_path):
    nested = tmp_path / "folder"
    nested.mkdir()
    directory = os.open(nested, os.O_DIRECTORY)
    for _ in range(1050):  # beyond Python's recursion limit and the longest path
        os.mkdir("d", dir_fd=directory)
        below = os.open("d", os.O_DIRECTORY, dir_fd=directory)
        os.close(directory)
        directory = below
    os.close(directory)
    (nested / "link").symlink_to(tmp_path)
    (nested / "closed").mkdir(0)
    _remove(str(nested))
    assert list(tmp_path.iterdir()) == []


# ---- systems without a protection ----


def test_another_processor_is_refused(monkeypatch):
    monkeypatch.setattr("platform.machine", lambda: "sparc")
    with pytest.raises(isolation.UnavailableError, match="seccomp: rules for sparc"):
        isolation.system_call_filter(network=False, processes=True, attributes=True)


def test_a_refused_setup_names_the_protection(monkeypatch, tmp_path):
    """A copy of the sandbox whose Landlock call has a number that no kernel knows."""
    for file in (program.__file__, isolation.__file__):
        text = Path(file).read_text().replace("= 444, 445, 446", "= 4444, 445, 446")
        (tmp_path / Path(file).name).write_text(text)
    monkeypatch.setattr(program, "__file__", str(tmp_path / "program.py"))
    with pytest.raises(isolation.UnavailableError, match="Landlock: Function not implemented"):
        passed("x = 1")


def test_the_filter_jumps_only_forward_inside_the_program():
    for settings in ((True, True, True), (False, False, False)):
        code = isolation.system_call_filter(network=settings[0], processes=settings[1], attributes=settings[2])
        for i, (operation, true, false, _) in enumerate(code):
            if operation in (isolation._EQUAL, isolation._AT_LEAST):
                assert i + 1 + max(true, false) < len(code)
        assert code[-1] == (isolation._RETURN, 0, 0, isolation._ALLOW)


def test_another_system_is_refused_with_its_name(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(isolation.UnavailableError, match="darwin, which has no Landlock and seccomp"):
        passed("x = 1")
