"""`rlalign check ENV|REWARD|POLICY|all`: conformance checks of environments, rewards and policies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from rlalign.cli.arguments import parse_arguments
from rlalign.cli.console import console as make_console
from rlalign.envs.mixture.spec import env_specs
from rlalign.envs.registration import find_env, make_mdp
from rlalign.errors import MissingExtraError, UnknownNameError, UserError
from rlalign.escaping.console import PlainConsole, line
from rlalign.registry import ENVS, REWARDS
from rlalign.rewards.reward_model.folder import is_reward_model
from rlalign.rewards.reward_model.function import is_folder, is_url

if TYPE_CHECKING:  # it imports torch, which takes longer than --help
    from rlalign import checks


@dataclass(frozen=True)
class Args:
    """Run the conformance checks of an environment, a reward or a policy."""

    target: tyro.conf.Positional[str]
    """Environment or reward (name, module:attr, file.py:attr, ./FOLDER of a reward model), several environments as in
    --env of a run, or `all` for all built-in ones."""
    kind: Annotated[Literal["auto", "policy"], tyro.conf.arg(name="as")] = "auto"
    """auto: an environment or a reward. policy: a folder, a hub id or a name of `rlalign list policies`; each path
    through its model is compared with plain forward passes of each row alone."""
    env: str | None = None
    """Data file or environment on whose prompts, references and sampled completions a reward runs, as texts and as
    messages; None: a reward runs on texts of every kind."""
    policy: str = "gru"
    """Policy that samples the completions for --env, a run folder, a policy folder or a name; gru: a small random
    one."""
    episodes: int = 100
    """Number of episodes to play."""
    seed: int = 0
    """Seed of the tasks and of the sampled tokens."""


def run(args: Sequence[str]) -> int:
    """Print the results of the checks; return 1 if a check fails or nothing could be checked, otherwise 0."""
    arguments = parse_arguments(Args, args, prog="rlalign check")
    console = make_console()
    failures = checked = skipped = 0
    for name, results in _check_targets(arguments):
        _print_results(console, name, results)
        failures += sum(not result.passed for result in results)
        skipped += sum(result.skipped for result in results)
        checked += sum(not result.skipped for result in results)
    if not checked:
        console.print("nothing was checked")
        return 1
    if not failures and skipped:
        console.print(f"every check passed; {skipped} of {skipped + checked} were not run")
        return 0
    if not failures:
        console.print("every check passed")
        return 0
    console.print(f"{failures} {'check' if failures == 1 else 'checks'} failed")
    return 1


def _check_targets(arguments: Args) -> Iterator[tuple[str, list[checks.CheckResult]]]:
    """Yield name and results; `all` runs in one process per core, since most checks wait for worker processes."""
    from rlalign import checks

    if arguments.env is not None and (arguments.target == "all" or arguments.kind == "policy"):
        raise UserError(f"--env: expected a reward to run on it, got '{arguments.target}'; use check REWARD --env DATA")
    if arguments.target != "all" or arguments.kind == "policy":
        yield arguments.target, _results(arguments.target, arguments)
        return
    # a reward whose parameters have no defaults is checked by an example spec
    names = [*ENVS, *(checks.EXAMPLES.get(name, name) for name in REWARDS)]
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        yield from zip(names, pool.map(_results_or_skipped, names, repeat(arguments)), strict=True)


def _print_results(console: PlainConsole, name: str, results: Sequence[checks.CheckResult]) -> None:
    console.print(line((name, "bold")), soft_wrap=True)
    for result in results:
        passed = ("warning", "yellow") if result.warning else ("passed", "green")
        passed = ("skipped", "yellow") if result.skipped else passed
        mark = passed if result.passed else ("failed", "red")
        detail = f": {result.detail}" if result.detail else ""
        console.print(line("  ", mark, f" {result.name}{detail}"), soft_wrap=True)


def _results_or_skipped(name: str, arguments: Args) -> list[checks.CheckResult]:
    """Return the results of the checks, or one result that names the missing optional package."""
    from rlalign import checks

    try:
        return _results(name, arguments)
    except MissingExtraError as error:
        return [checks.CheckResult("can be built", True, str(error), skipped=True)]


def _results(name: str, arguments: Args) -> list[checks.CheckResult]:
    from rlalign import checks

    if arguments.kind == "policy":
        return checks.check_policy(name)
    if arguments.env is not None:
        return checks.check_reward_on_data(name, arguments.env, policy=arguments.policy, seed=arguments.seed)
    target = name.partition("?")[0]
    if target in REWARDS or is_url(target) or (is_folder(target) and is_reward_model(Path(target).expanduser())):
        return checks.check_reward(name)
    if name.endswith(".py"):
        raise UserError(f"expected an environment or a reward in a file as FILE.py:NAME, got '{name}'; use {name}:NAME")
    try:
        for env in env_specs(name):
            find_env(env)
    except UserError as error:
        if isinstance(error, UnknownNameError) and ":" not in name:
            raise UnknownNameError("environment or reward", name, [*ENVS, *REWARDS]) from None
        return checks.check_reward(name)  # `module:attr` that is not an environment is a reward
    return checks.check_env(make_mdp(name), episodes=arguments.episodes, seed=arguments.seed)
