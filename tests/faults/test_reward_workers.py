"""Reward functions that raise, hang, die, print or fork: scoring continues, and no process remains."""

import asyncio
import contextlib
import io
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import pytest

from rlalign.errors import RewardError
from rlalign.rewards import RewardFunction, compose

SHORT = 0.5  # seconds; hangs never end, so a slow machine does not change the result


def score(total, completions=("a", "bb")):
    count = len(completions)
    return total.score("episode", ["p"] * count, list(completions), [[1]] * count)


def worker_pid(total, name):
    return total._guards[name]._runner.pid


def is_gone(pid):
    """Return whether a process does not exist, or is a zombie that its new parent has not reaped yet."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    return True


def wait_until(condition):
    for _ in range(600):
        if condition():
            return True
        time.sleep(0.05)
    return False


@contextlib.contextmanager
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


# Reward functions. Those that succeed at the second attempt create a file at the first.


def lengths(completions, **columns):
    return [float(len(c)) for c in completions]


def first_time(path):
    try:
        Path(path).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def raising_once(completions, path):
    if first_time(path):
        raise ValueError("not today")
    return lengths(completions)


def raising(completions):
    raise ValueError("not ever")


def hanging(completions):
    while True:
        time.sleep(3600)


def busy(completions):
    while True:
        pass


def hanging_once(completions, path):
    return hanging(completions) if first_time(path) else lengths(completions)


def dying_once(completions, path):
    if first_time(path):
        os._exit(3)
    return lengths(completions)


def killed_once(completions, path):
    if first_time(path):
        os.kill(os.getpid(), signal.SIGKILL)
    return lengths(completions)


def dying(completions):
    os._exit(3)


def leaving(completions):
    sys.exit("bye")


def printing(completions):
    print("to stdout", flush=True)
    os.write(1, b"to the descriptor\n")
    subprocess.run(["echo", "from a child"], check=True)
    return lengths(completions)


def reading(completions):
    return [float(len(sys.stdin.read()))] * len(completions)


def nesting(completions, path):
    child = subprocess.Popen(["sleep", "3600"])
    Path(path).write_text(str(child.pid))
    return hanging(completions)


def daemon(path, seconds=3600):
    """Start a process that has left the group and the descendants of its parent, and that holds all its pipes."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            Path(path).write_text(str(os.getpid()))
            time.sleep(seconds)
        os._exit(0)
    os.wait()
    while not (Path(path).exists() and Path(path).read_text()):
        time.sleep(0.01)


def hanging_beside_daemon(completions, path):
    daemon(path)
    return hanging(completions)


def dying_beside_daemon(completions, path):
    daemon(path)
    os._exit(3)


def returning_beside_daemon(completions, path):
    daemon(path)
    return lengths(completions)


class ExitsWhenRead(float):
    def __reduce__(self):
        return sys.exit, ("bye",)


def exiting_when_read(completions):
    return [ExitsWhenRead(1.0)] * len(completions)


def closing_pipes(completions):
    os.closerange(3, 100)
    return lengths(completions)


def pids(completions):
    return [float(os.getpid())] * len(completions)


# ---- raises ----


@pytest.mark.parametrize("timeout_s", [None, 30.0])
def test_failure_before_successful_retry_is_only_counted(tmp_path, timeout_s):
    item = RewardFunction("r", raising_once, timeout_s=timeout_s, retries=1).using(path=str(tmp_path / "mark"))
    with compose(item) as total:
        assert score(total).total.tolist() == [1.0, 2.0]
        assert total.failures == {"r": {"raised": 1}}


@pytest.mark.parametrize("timeout_s", [None, 30.0])
def test_error_names_reward_cause_place_and_fix(timeout_s):
    with compose(RewardFunction("r", raising, timeout_s=timeout_s, retries=2)) as total:
        with pytest.raises(RewardError) as caught:
            score(total)
        message = str(caught.value)
        for part in ("reward 'r'", "3 attempts", "ValueError: not ever", "test_reward_workers.py:", "on_error="):
            assert part in message
        assert "Traceback" in "".join(caught.value.__notes__)
        assert total.failures == {"r": {"raised": 3}}


@pytest.mark.parametrize("timeout_s", [None, 30.0])
def test_drop_makes_samples_invalid_and_warns_once(timeout_s):
    items = [RewardFunction("r", raising, timeout_s=timeout_s, retries=0, on_error="drop"), (lengths, 1.0)]
    with compose(items) as total:
        with pytest.warns(RuntimeWarning, match="'r' failed in its only attempt: ValueError: not ever.*dropped"):
            scores = score(total)
        assert not scores.valid.any()
        assert np.isnan(scores.total).all()
        assert np.isnan(scores.components["r"]).all()
        assert scores.components["lengths"].tolist() == [1.0, 2.0]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            score(total)
        assert total.failures == {"r": {"raised": 2}}


def test_number_replaces_failure():
    with compose((RewardFunction("r", raising, timeout_s=None, on_error=-1.5), 2.0)) as total, no_warnings():
        scores = score(total)
    assert scores.valid.all()
    assert scores.total.tolist() == [-3.0, -3.0]
    assert total.failures == {"r": {"raised": 2}}


def test_number_of_token_scope_is_on_last_token():
    item = RewardFunction("r", raising, "token", None, on_error=-1.0)
    with no_warnings():
        scores = compose((item, 2.0)).score("turn", ["p"] * 2, ["abc", ""], [[1, 2, 3], []])
    assert [x.tolist() for x in scores.token_rewards] == [[0.0, 0.0, -2.0], []]


@pytest.mark.parametrize("function", [raising, dying, hanging])
def test_failing_metric_does_not_affect_total(function):
    items = [(RewardFunction("m", function, timeout_s=SHORT, retries=0), 0.0), RewardFunction("l", lengths)]
    with compose(items) as total, pytest.warns(RuntimeWarning, match="'m' failed"):
        scores = score(total)
    assert scores.total.tolist() == [1.0, 2.0]
    assert scores.valid.all()
    assert sum(total.failures["m"].values()) == 1


def test_sys_exit_is_a_reward_failure():
    for timeout_s in (None, 30.0):
        with (
            compose(RewardFunction("r", leaving, timeout_s=timeout_s, retries=0)) as total,
            pytest.raises(RewardError, match="SystemExit: bye"),
        ):
            score(total)


# ---- functions in this process that would end it ----


class Own(BaseException):
    pass


@pytest.mark.parametrize("kind", [KeyboardInterrupt, GeneratorExit, asyncio.CancelledError, Own])
def test_any_exception_of_a_function_in_this_process_is_a_failure(kind):
    def raises(completions):
        raise kind("bye")

    with (
        compose(RewardFunction("r", raises, timeout_s=None, retries=0)) as total,
        pytest.raises(RewardError, match=kind.__name__),
    ):
        score(total)


def test_ctrl_c_during_a_call_in_this_process_interrupts():
    def interrupted(completions):
        signal.raise_signal(signal.SIGINT)
        return lengths(completions)

    with compose(RewardFunction("r", interrupted, timeout_s=None)) as total:
        with pytest.raises(KeyboardInterrupt):
            score(total)
        assert total.failures == {}
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("descriptor", [0, 1, 2])
def test_a_function_that_closes_a_standard_descriptor_fails_and_it_is_restored(descriptor):
    def closes(completions):
        os.close(descriptor)
        return lengths(completions)

    before = os.fstat(descriptor)
    with compose(RewardFunction("r", closes, timeout_s=None, retries=0)) as total:
        with pytest.raises(RewardError, match=rf"closed file descriptor {descriptor} of this process; use timeout_s"):
            score(total)
        assert os.path.samestat(os.fstat(descriptor), before)


def test_a_function_that_closes_a_standard_stream_fails_and_it_is_replaced(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.StringIO())

    def closes(completions):
        sys.stdout.close()
        return lengths(completions)

    with (
        compose(RewardFunction("r", closes, timeout_s=None, retries=0)) as total,
        pytest.raises(RewardError, match=r"closed sys\.stdout"),
    ):
        score(total)
    assert not sys.stdout.closed


def test_a_function_that_closes_all_descriptors_fails_without_a_traceback(tmp_path):
    """In a process of its own, since it closes the descriptors of this one too."""
    code = """
import os
from rlalign.errors import RewardError
from rlalign.rewards import RewardFunction, compose

def closes(completions):
    os.closerange(0, 256)
    return [0.0]

try:
    compose(RewardFunction("r", closes, timeout_s=None, retries=0)).score("episode", ["p"], ["c"], [[1]])
except RewardError as error:
    with open("message", "w") as file:
        file.write(str(error))
"""
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    assert "closed file descriptors 0, 1, 2, 3, 4, 5 of this process" in (tmp_path / "message").read_text()


# ---- hangs ----


@pytest.mark.parametrize("function", [hanging, busy])
def test_hanging_function_is_killed_and_scoring_continues(function):
    items = [RewardFunction("h", function, timeout_s=SHORT, retries=1, on_error="drop"), RewardFunction("l", lengths)]
    started = []
    with compose(items) as total, no_warnings():
        runner = total._guards["h"]._runner
        start = runner._start
        runner._start = lambda: (start(), started.append(runner.pid))
        for _ in range(2):
            scores = score(total)
            assert not scores.valid.any()
            assert scores.components["l"].tolist() == [1.0, 2.0]
        assert total.failures == {"h": {"timeout": 4}}
        assert len(set(started)) == 4
        assert all(is_gone(pid) for pid in started)


def test_retry_after_hang_succeeds(tmp_path):
    item = RewardFunction("h", hanging_once, timeout_s=2.0, retries=1).using(path=str(tmp_path / "mark"))
    with compose(item) as total:
        assert score(total).total.tolist() == [1.0, 2.0]
        assert total.failures == {"h": {"timeout": 1}}


def test_timeout_error_suggests_larger_timeout():
    with compose(RewardFunction("h", hanging, timeout_s=SHORT, retries=0)) as total:
        with pytest.raises(RewardError, match=r"took longer than 0.5 s and was killed.*timeout_s="):
            score(total)
        assert worker_pid(total, "h") is None


def test_child_processes_of_function_are_killed(tmp_path):
    path = tmp_path / "pid"
    item = RewardFunction("n", nesting, timeout_s=2.0, retries=0, on_error="drop").using(path=str(path))
    with compose(item) as total, no_warnings():
        score(total)
    assert wait_until(lambda: is_gone(int(path.read_text())))


@pytest.mark.filterwarnings("ignore:reward 'h' failed:RuntimeWarning")
def test_timeouts_work_in_parallel_threads():
    totals = [compose(RewardFunction("h", hanging, timeout_s=SHORT, on_error="drop")) for _ in range(4)]
    valid = []

    def work(total):
        valid.append(score(total).valid.any())

    threads = [threading.Thread(target=work, args=(t,)) for t in totals]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert valid == [False] * 4
    assert all(t.failures == {"h": {"timeout": 2}} for t in totals)


def test_threads_sharing_one_sum_get_their_own_results():
    with compose(RewardFunction("l", lengths)) as total:
        results = {}

        def work(n):
            results[n] = [score(total, ["x" * n] * n).total.tolist() for _ in range(20)]

        threads = [threading.Thread(target=work, args=(n,)) for n in range(1, 5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert results == {n: [[float(n)] * n] * 20 for n in range(1, 5)}


@pytest.mark.parametrize(
    ("function", "message"),
    [(hanging_beside_daemon, "took longer than 3 s"), (dying_beside_daemon, "exit status 3")],
)
def test_a_daemon_that_holds_the_pipe_neither_delays_the_end_nor_survives(tmp_path, function, message):
    path = tmp_path / "pid"
    item = RewardFunction("d", function, timeout_s=3.0, retries=0).using(path=str(path))
    start = time.monotonic()
    with compose(item) as total, pytest.raises(RewardError, match=message):
        score(total)
    assert time.monotonic() - start < 600  # far below the hour that the daemon sleeps
    assert wait_until(lambda: is_gone(int(path.read_text())))


def test_a_daemon_of_a_successful_call_ends_with_its_worker(tmp_path):
    path = tmp_path / "pid"
    with compose(RewardFunction("d", returning_beside_daemon, retries=0).using(path=str(path))) as total:
        assert score(total).total.tolist() == [1.0, 2.0]
        assert not is_gone(int(path.read_text()))
    assert wait_until(lambda: is_gone(int(path.read_text())))


# ---- deaths ----


@pytest.mark.parametrize(("function", "message"), [(exiting_when_read, "SystemExit: bye"), (closing_pipes, "died")])
def test_a_result_that_ends_its_reader_or_a_closed_pipe_is_a_failure(function, message):
    with compose(RewardFunction("r", function, retries=0)) as total, pytest.raises(RewardError, match=message):
        score(total)


def test_a_worker_killed_while_it_starts_is_a_failure_of_the_call_with_a_retry():
    with compose(RewardFunction("p", pids, retries=1)) as total:
        runner = total._guards["p"]._runner
        exchange, killed = runner._exchange, []

        def kill_first(request, limit_s):
            if not killed:
                killed.append(runner.pid)
                os.kill(runner.pid, signal.SIGKILL)
            return exchange(request, limit_s)

        runner._exchange = kill_first
        assert int(score(total).total[0]) not in (os.getpid(), *killed)
        assert total.failures == {"p": {"died": 1}}


@pytest.mark.parametrize("function", [dying_once, killed_once])
def test_dead_worker_is_restarted_for_retry(tmp_path, function):
    item = RewardFunction("d", function, retries=1).using(path=str(tmp_path / "mark"))
    with compose(item) as total:
        assert score(total).total.tolist() == [1.0, 2.0]
        assert total.failures == {"d": {"died": 1}}


@pytest.mark.parametrize(("function", "cause"), [(dying_once, "exit status 3"), (killed_once, "killed by SIGKILL")])
def test_error_names_cause_of_worker_death(tmp_path, function, cause):
    item = RewardFunction("d", function, retries=0).using(path=str(tmp_path / "mark"))
    with compose(item) as total, pytest.raises(RewardError, match=cause):
        score(total)


def test_worker_killed_between_calls_is_not_a_failure():
    with compose(RewardFunction("p", pids, retries=0)) as total:
        pid = int(score(total).total[0])
        assert pid == worker_pid(total, "p")
        os.kill(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        assert int(score(total).total[0]) != pid
        assert total.failures == {}


def test_worker_persists_between_calls():
    with compose(RewardFunction("p", pids)) as total:
        first, second = int(score(total).total[0]), int(score(total).total[0])
    assert first == second != os.getpid()
    assert is_gone(first)


def test_closed_sum_can_be_used_again():
    total = compose(RewardFunction("p", pids))
    with total:
        first = score(total).total[0]
    with total:
        assert score(total).total[0] != first


def test_garbage_collected_sum_leaves_no_worker():
    total = compose(RewardFunction("p", pids))
    pid = int(score(total).total[0])
    del total
    assert is_gone(pid)


PARENT = """
import sys, threading
from rlalign.rewards import RewardFunction, compose

def pids(completions, path):
    import os, pathlib, time
    pathlib.Path(path).write_text(str(os.getpid()))
    while {hang}:
        time.sleep(3600)
    return [0.0]

total = compose(RewardFunction("p", pids, timeout_s=3600).using(path=sys.argv[1]))
total.score("episode", ["p"], ["c"], [[1]])
"""


def test_no_orphan_after_parent_ends(tmp_path):
    path = tmp_path / "pid"
    subprocess.run([sys.executable, "-c", PARENT.format(hang=False), str(path)], check=True)
    assert is_gone(int(path.read_text()))


def test_no_orphan_after_parent_is_killed_during_hang(tmp_path):
    path = tmp_path / "pid"
    parent = subprocess.Popen([sys.executable, "-c", PARENT.format(hang=True), str(path)])
    assert wait_until(lambda: path.exists() and path.read_text())
    parent.kill()
    parent.wait()
    assert wait_until(lambda: is_gone(int(path.read_text())))


# ---- the protocol ----


def test_prints_of_function_go_to_stderr(capfd):
    with compose(RewardFunction("p", printing, retries=0)) as total:
        for _ in range(3):
            assert score(total).total.tolist() == [1.0, 2.0]
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count("to stdout") == err.count("to the descriptor") == err.count("from a child") == 3


def test_stdin_of_function_is_empty():
    with compose(RewardFunction("r", reading, timeout_s=30.0, retries=0)) as total:
        assert score(total).total.tolist() == [0.0, 0.0]


def test_requests_larger_than_a_pipe():
    with compose(RewardFunction("l", lengths)) as total:
        assert score(total, ["x" * 900_000] * 4).total.tolist() == [9e5] * 4


def test_import_failure_in_worker_names_cause(tmp_path):
    (tmp_path / "mine.py").write_text(
        "import sys\n"
        "if 'pytest' not in sys.modules:\n"
        "    raise RuntimeError('needs a license')\n"
        "def f(completions):\n"
        "    return [0.0] * len(completions)\n"
    )
    with (
        compose(f"{tmp_path}/mine.py:f") as total,
        pytest.raises(
            RewardError, match=r"'f': expected a function that its worker can load, got RuntimeError: needs a license"
        ),
    ):
        score(total)


def test_unpicklable_result_is_a_failure():
    def locks(completions):
        return [threading.Lock() for _ in completions]

    with compose(RewardFunction("r", locks, retries=0)) as total, pytest.raises(RewardError, match="pickle"):
        score(total)
