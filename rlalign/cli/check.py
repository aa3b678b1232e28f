"""`rlalign check ENV|REWARD|all`: run the checks of environments and rewards on anything, built in or your own."""

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
    """Run the checks of an environment or a reward."""

    what: tyro.conf.Positional[str]
    """An environment or a reward (name, module:attr, file.py:attr), or `all` built-in ones."""
    episodes: int = 100
    """Episodes to play."""
    seed: int = 0
    """Of the tasks and of what is said."""


def run(args: Sequence[str]) -> int:
    """Check; exit status 1 when a check fails."""
    given = tyro.cli(Args, args=list(args), prog="rlalign check")
    console = make_console()
    broken = sum(_show(console, name, results) for name, results in _checked(given))
    console.print("every check passed" if not broken else f"{broken} {'check' if broken == 1 else 'checks'} failed")
    return 1 if broken else 0


def _checked(given: Args) -> Iterator[tuple[str, list[checks.CheckResult]]]:
    """Names and what was found; all of them a process to a core, since each mostly waits for processes of its own."""
    if given.what != "all":
        yield given.what, _results(given.what, given)
        return
    names = [*ENVS, *(checks.EXAMPLES.get(name, name) for name in REWARDS)]
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        yield from zip(names, pool.map(_results_or_why_not, names, repeat(given)), strict=True)


def _show(console: Console, name: str, results: Sequence[checks.CheckResult]) -> int:
    console.print(f"[bold]{escape(name)}[/]", soft_wrap=True)
    for result in results:
        mark = "[green]passed[/]" if result.passed else "[red]failed[/]"
        console.print(
            f"  {mark} {result.name}" + (f": {escape(result.detail)}" if result.detail else ""), soft_wrap=True
        )
    return sum(not result.passed for result in results)


def _results_or_why_not(name: str, given: Args) -> list[checks.CheckResult]:
    try:
        return _results(name, given)
    except MissingExtraError as error:
        return [checks.CheckResult("can be made", True, f"not checked: {error}")]


def _results(name: str, given: Args) -> list[checks.CheckResult]:
    if name.partition("?")[0] in REWARDS:
        return checks.check_reward(name)
    try:
        find_env(name)
    except UserError as error:
        if isinstance(error, UnknownNameError) and ":" not in name:
            raise UnknownNameError("environment or reward", name, [*ENVS, *REWARDS]) from None
        return checks.check_reward(name)
    return checks.check_env(make_mdp(name), episodes=given.episodes, seed=given.seed)
