"""`rlalign check ENV|REWARD|all`: run the laws of the MDP and of rewards on anything, built in or your own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import tyro
from rich.console import Console

from rlalign import checks
from rlalign.cli.console import console as make_console
from rlalign.errors import UnknownNameError, UserError
from rlalign.make import find_env, make_mdp
from rlalign.registry import ENVS, REWARDS


@dataclass(frozen=True)
class Args:
    """Run the laws on an environment or a reward."""

    what: tyro.conf.Positional[str]
    """An environment or a reward (name, module:attr, file.py:attr), or `all` built-in ones."""
    episodes: int = 100
    seed: int = 0


def run(args: Sequence[str]) -> int:
    """Check; exit status 1 when a law is broken."""
    given = tyro.cli(Args, args=list(args), prog="rlalign check")
    console = make_console()
    names = [*ENVS, *REWARDS] if given.what == "all" else [given.what]
    broken = sum(_check(console, name, given) for name in names)
    console.print("every law holds" if not broken else f"{broken} {'law is' if broken == 1 else 'laws are'} broken")
    return 1 if broken else 0


def _check(console: Console, name: str, given: Args) -> int:
    results = _results(name, given)
    console.print(f"[bold]{name}[/]")
    for law in results:
        mark = "[green]holds[/] " if law.passed else "[red]broken[/]"
        console.print(f"  {mark} {law.name}" + (f": {law.detail}" if law.detail else ""), soft_wrap=True)
    return sum(not law.passed for law in results)


def _results(name: str, given: Args) -> list[checks.LawResult]:
    if name.partition("?")[0] in REWARDS:
        return checks.check_reward_laws(name)
    try:
        find_env(name)
    except UserError as error:
        if isinstance(error, UnknownNameError) and ":" not in name:
            raise UnknownNameError("environment or reward", name, [*ENVS, *REWARDS]) from None
        return checks.check_reward_laws(name)
    return checks.check_env_laws(make_mdp(name), episodes=given.episodes, seed=given.seed)
