"""The order of a mixture: exact shares, stages, temperature, difficulty, and its state."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest

from rlalign.envs.mixture.mixture import Mixture
from rlalign.envs.mixture.stream import task_stream
from rlalign.envs.mixture.weights import Weight
from rlalign.envs.registration import make_mdp
from rlalign.envs.task_order.options import TaskOptions
from rlalign.envs.task_order.sampler import TaskResult
from rlalign.envs.task_stream import TaskStream
from rlalign.errors import FaultError, UserError
from rlalign.rewards.weights import Schedule


def data(name: str, count: int) -> list[dict[str, str]]:
    return [{"prompt": f"{name}{i}", "answer": str(i)} for i in range(count)]


def mixture(weights: dict[str, Weight] | None = None, sizes: dict[str, int] | None = None) -> Mixture:
    sizes = sizes or {"a": 60, "b": 20, "c": 10}
    parts = {name: make_mdp(data(name, count), rewards="exact_match") for name, count in sizes.items()}
    return Mixture(parts, weights)


@pytest.mark.parametrize("prompts", [1, 3, 8])
def test_the_shares_are_exact_over_any_number_of_prompts(prompts: int) -> None:
    weights: dict[str, Weight] = {"a": 0.61, "b": 0.3, "c": 0.09}
    stream = task_stream(mixture(weights), seed=2)
    counts: Counter[str] = Counter()
    windows: list[str] = []
    for step in range(200):
        for task in stream.next(prompts, step):
            counts[task.env] += 1
            windows.append(task.env)
            for name, weight in weights.items():
                assert abs(counts[name] - counts.total() * float(weight)) < 1  # type: ignore[arg-type]  # numbers
    for start in range(0, 100, 7):  # two counts that are each within 1 differ by less than 2 from the share between
        part = windows[start : start + 50]
        assert abs(part.count("b") - len(part) * 0.3) < 2


def test_each_environment_takes_its_tasks_as_if_it_were_alone() -> None:
    mdp = mixture({"a": 1, "b": 1, "c": 1})
    tasks = task_stream(mdp, seed=5).next(60)
    for name, part in mdp.parts.items():
        own = [task.prompt for task in tasks if task.env == name]
        assert own == [task.prompt for task in TaskStream(part.source, seed=5).next(len(own))]


def test_stages_switch_at_their_step() -> None:
    stream = task_stream(make_mdp("sort@0,reverse@2,sort@3"))
    assert [{task.env for task in stream.next(4, step)} for step in range(5)] == [
        {"sort"},
        {"sort"},
        {"reverse"},
        {"sort"},
        {"sort"},
    ]


def test_a_schedule_of_replay_ends() -> None:
    stream = task_stream(mixture({"a": 0.8, "b": Schedule(((0, 0.2), (10, 0.0))), "c": 0}))
    counts = [Counter(task.env for task in stream.next(20, step)) for step in range(15)]
    expected = sum(20 * (0.2 - 0.02 * step) / (1 - 0.02 * step) for step in range(10))
    assert abs(sum(count["b"] for count in counts) - expected) < 1
    assert not any(count["b"] for count in counts[10:])
    assert not any(count["c"] for count in counts)


def test_temperature_flattens_sizes_or_weights() -> None:
    def shares(temperature: float, weights: dict[str, Weight] | None = None) -> list[float]:
        stream = task_stream(mixture(weights), options=TaskOptions(temperature=temperature))
        counts = Counter(task.env for task in stream.next(1200))
        return [counts[name] / 1200 for name in "abc"]

    size = np.array([make_mdp(data("a", n)).source.size("train") or 0 for n in (60, 20, 10)], float)
    assert shares(1.0) == pytest.approx((size / size.sum()).tolist(), abs=1.01 / 1200)
    root = np.sqrt(size)
    assert shares(2.0) == pytest.approx((root / root.sum()).tolist(), abs=1.01 / 1200)
    assert shares(1e6) == pytest.approx([1 / 3] * 3, abs=1e-3)
    assert shares(2.0, {"a": 4, "b": 1, "c": 0}) == pytest.approx([2 / 3, 1 / 3, 0], abs=1.01 / 1200)
    with pytest.raises(UserError, match="unbounded source; give weights"):
        task_stream(make_mdp("sort,reverse"), options=TaskOptions(temperature=1.0))


def test_difficulty_prefers_the_environment_whose_success_is_uncertain() -> None:
    stream = task_stream(make_mdp("sort,reverse,copy"), options=TaskOptions(mixing="difficulty", medium_share=0.8))
    chances = {"sort": 0.0, "reverse": 0.5, "copy": 1.0}
    counts: Counter[str] = Counter()
    for step in range(60):
        tasks = stream.next(10, step)
        if step >= 10:
            counts.update(task.env for task in tasks)
        stream.update([TaskResult(task, 0.0, chances[task.env], 8) for task in tasks])
    assert stream.metrics() == {"tasks/easy": 1.0, "tasks/medium": 1.0, "tasks/hard": 1.0}
    assert counts == {"sort": 50, "reverse": 400, "copy": 50}
    with pytest.raises(UserError, match="without weights"):
        task_stream(make_mdp("sort=0.5,reverse=0.5"), options=TaskOptions(mixing="difficulty"))


@pytest.mark.parametrize(
    "options",
    [TaskOptions(), TaskOptions(order="sequential"), TaskOptions(order="difficulty"), TaskOptions(mixing="difficulty")],
)
def test_it_continues_from_its_state(options: TaskOptions) -> None:
    stream, resumed = (task_stream(mixture(), seed=1, options=options) for _ in range(2))

    def results(tasks: list) -> list[TaskResult]:
        return [TaskResult(task, 0.0, task.index % 3 / 2, 4) for task in tasks]

    for step in range(9):
        stream.update(results(stream.next(7, step)))
    resumed.load_state_dict(json.loads(json.dumps(stream.state_dict())))
    for step in range(9, 20):
        tasks = stream.next(7, step)
        assert resumed.next(7, step) == tasks
        for one in (stream, resumed):
            one.update(results(tasks))
    assert resumed.state_dict() == stream.state_dict()


def test_the_state_of_another_order_is_refused() -> None:
    mdp = mixture()
    state = task_stream(mdp).state_dict()
    with pytest.raises(FaultError, match="of a, b, c, now it is of a, b"):
        task_stream(mixture(sizes={"a": 60, "b": 20})).load_state_dict(state)
    with pytest.raises(FaultError, match=r"tasks\.mixing"):
        task_stream(mdp, options=TaskOptions(mixing="difficulty")).load_state_dict(state)
    with pytest.raises(FaultError, match="its order was shuffled, now it is sequential"):
        task_stream(mdp, options=TaskOptions(order="sequential")).load_state_dict(state)
    one = TaskStream(mdp.parts["a"].source)
    with pytest.raises(FaultError, match="of one environment"):
        task_stream(mdp).load_state_dict(one.state_dict())
    with pytest.raises(FaultError, match="a mixture of environments"):
        one.load_state_dict(state)


def test_results_reach_the_order_of_their_environment() -> None:
    stream = task_stream(mixture(), options=TaskOptions(order="difficulty"))
    tasks = stream.next(9)
    stream.update([TaskResult(task, 0.0, float(task.env == "a"), 8) for task in tasks])
    total = sum(make_mdp(data("a", n)).source.size("train") or 0 for n in (60, 20, 10))
    assert stream.metrics() == {"tasks/easy": 3.0, "tasks/hard": 6.0, "tasks/medium": total - 9.0}
