"""`rlalign check ENV|REWARD|all`: conformance checks of built-in and user-defined environments and rewards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from multiprocessing import get_context

import tyro
from rich.console import Console
from rich.markup import escape

from rlalign import checks
from rlalign.cli.console import console as make_console
from rlalign.envs.registration import find_env, make_mdp
from rlalign.errors import MissingExtraError, UnknownNameError, UserError
from rlalign.registry import ENVS, REWARDS


@dataclass(frozen=True)
class Args:
    """Run the conformance checks of an environment or a reward."""

    target: tyro.conf.Positional[str]
    """Environment or reward (name, module:attr, file.py:attr), or `all` for all built-in ones."""
    episodes: int = 100
    """Number of episodes to play."""
    seed: int = 0
    """Seed of the tasks and of the sampled tokens."""


def run(args: Sequence[str]) -> int:
    """Print the results of the checks; return 1 if a check fails, otherwise 0."""
    arguments = tyro.cli(Args, args=list(args), prog="rlalign check")
    console = make_console()
    failures = 0
    for name, results in _check_targets(arguments):
        _print_results(console, name, results)
        failures += sum(not result.passed for result in results)
    if not failures:
        console.print("every check passed")
        return 0
    console.print(f"{failures} {'check' if failures == 1 else 'checks'} failed")
    return 1


def _check_targets(arguments: Args) -> Iterator[tuple[str, list[checks.CheckResult]]]:
    """Yield name and results; `all` runs in one process per core, since most checks wait for worker processes."""
    if arguments.target != "all":
        yield arguments.target, _results(arguments.target, arguments)
        return
    # a reward whose parameters have no defaults is checked by an example spec
    names = [*ENVS, *(checks.EXAMPLES.get(name, name) for name in REWARDS)]
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        yield from zip(names, pool.map(_results_or_skipped, names, repeat(arguments)), strict=True)


def _print_results(console: Console, name: str, results: Sequence[checks.CheckResult]) -> None:
    console.print(f"[bold]{escape(name)}[/]", soft_wrap=True)
    for result in results:
        mark = "[green]passed[/]" if result.passed else "[red]failed[/]"
        detail = f": {escape(result.detail)}" if result.detail else ""
        console.print(f"  {mark} {result.name}{detail}", soft_wrap=True)


def _results_or_skipped(name: str, arguments: Args) -> list[checks.CheckResult]:
    """Return the results of the checks, or one result that names the missing optional package."""
    try:
        return _results(name, arguments)
    except MissingExtraError as error:
        return [checks.CheckResult("can be built", True, f"not checked: {error}")]


def _results(name: str, arguments: Args) -> list[checks.CheckResult]:
    if name.partition("?")[0] in REWARDS:
        return checks.check_reward(name)
    try:
        find_env(name)
    except UserError as error:
        if isinstance(error, UnknownNameError) and ":" not in name:
            raise UnknownNameError("environment or reward", name, [*ENVS, *REWARDS]) from None
        return checks.check_reward(name)  # `module:attr` that is not an environment is a reward
    return checks.check_env(make_mdp(name), episodes=arguments.episodes, seed=arguments.seed)
