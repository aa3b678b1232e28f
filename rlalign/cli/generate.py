"""`rlalign generate RUN TEXT`: complete a prompt with a trained policy, until the reward reaches a level."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from rlalign.cli.arguments import parse_arguments
from rlalign.escaping.terminal import print_text

if TYPE_CHECKING:
    from rlalign.rollout.generation import Generation
    from rlalign.types import Prompt


@dataclass(frozen=True)
class Args:
    """Complete a prompt with a run's trained policy."""

    run: tyro.conf.Positional[Path]
    """Run folder."""
    text: tyro.conf.Positional[str]
    """Prompt; in a run on conversations, the message of the user. The system message of the first training record
    stands before it, if that record has one, and is printed."""
    until: float | None = None
    """Sample again until the reward reaches this level; None: sample once."""
    max_tries: int = 16
    """Largest number of completions."""
    env: str | None = None
    """Environment of the prompt, by its name in the metrics, in a run on several; None: the run has one."""
    column: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """NAME=VALUE of a column that the run's rewards read, such as answer=cba; repeatable."""
    seed: int = 0
    """Seed of the sampling."""
    temperature: float | None = None
    """Sampling temperature, above 0; 0.001 takes the most probable tokens. None: the run's."""
    trust_run: bool = False
    """Run the code that the run's config.json names, although somebody else wrote the folder. It can do anything that
    you can."""


def run(args: Sequence[str]) -> int:
    """Print a completion and its reward; return 1 if no completion reached the level, otherwise 0.

    Without a level, a reward that needs a column which is not passed is left out.
    """
    arguments = parse_arguments(Args, args, prog="rlalign generate")
    from rlalign.envs.chat_prompts import prompt_like
    from rlalign.envs.mixture.parts import environment_of
    from rlalign.errors import MissingColumnError, UserError
    from rlalign.rollout.generation import generate
    from rlalign.run import Run
    from rlalign.types import Sampling, Task

    trained = Run(arguments.run, trust=arguments.trust_run)
    policy = trained.policy
    mdp = environment_of(trained.build_mdp(), arguments.env)
    sampling = trained.config.rollout.sampling
    if arguments.temperature is not None:
        if not arguments.temperature > 0:
            raise UserError(
                f"--temperature: expected a number above 0, got {arguments.temperature:g}; use 0.001 for the most "
                "probable tokens"
            )
        sampling = Sampling(arguments.temperature, sampling.top_k, sampling.top_p)
    columns: dict[str, Any] = {}
    example = mdp.source.get("train", 0).columns
    for column in arguments.column:
        name, equals, value = column.partition("=")
        if not equals:
            raise UserError(f"--column: expected NAME=VALUE, got '{column}'")
        columns[name] = _column_like(example, name, value)
    prompt = prompt_like(mdp, arguments.text)
    # the limit of the data is that of its longest prompt, which says nothing about this one
    encoded = mdp.tokenizer.encode_prompt(mdp.policy_prompt(Task(prompt, {}, "train", 0)))
    mdp = mdp.with_limits(max_prompt=max(mdp.max_prompt, len(encoded)))
    separate = mdp.chat or not isinstance(prompt, str)  # an answer to the text, not its continuation
    settings: dict[str, Any] = {"sampling": sampling, "seed": arguments.seed, "max_tries": arguments.max_tries}
    try:
        result = generate(policy, mdp, prompt, columns, until=arguments.until, **settings)
    except MissingColumnError as error:
        if arguments.until is not None:
            raise UserError(
                f"reward '{error.reward}' needs '{error.column}': add --column {error.column}=..."
            ) from error
        result = generate(policy, mdp.with_reward(None), prompt, columns, **settings)
        _print_trajectory(prompt, arguments.text, result, separate=separate)
        print_text(f"\nno reward: '{error.reward}' needs --column {error.column}=...")
        return 0
    _print_trajectory(prompt, arguments.text, result, separate=separate)
    components = ", ".join(f"{name} {value:+.2f}" for name, value in result.components.items())
    reward = f"reward {result.reward:+.3f} ({components})"
    tries = f"{result.tries} {'try' if result.tries == 1 else 'tries'}"
    if arguments.until is None:
        print_text(f"\n{reward}")
        return 0
    if result.reached:
        print_text(f"\n{reward} reached {arguments.until:+.3f} in {tries}")
        return 0
    print_text(f"\n{reward} is the best of {tries}; {arguments.until:+.3f} was not reached")
    return 1


def _column_like(columns: Mapping[str, Any], name: str, text: str) -> Any:
    """Return the value of a column with the type that it has in the tasks: a text, or the JSON value of other types."""
    from rlalign.errors import UserError, did_you_mean

    if name not in columns and difflib.get_close_matches(name, columns):
        raise UserError(f"--column {name}: the tasks have no such column.{did_you_mean(name, columns)}")
    example = columns.get(name)
    if example is None or isinstance(example, str):
        return text
    try:
        return json.loads(text)
    except ValueError:
        raise UserError(
            f"--column {name}: expected a value such as {json.dumps(example, default=str)}, as in the tasks, got "
            f"'{text}'; use JSON"
        ) from None


def _print_trajectory(prompt: Prompt, text: str, result: Generation, *, separate: bool) -> None:
    """Print the messages before the text, the text and the completion.

    Of several turns the turns and environment messages are printed with their roles.
    """
    from rlalign.evaluation.transcripts import transcript

    for message in prompt[:-1] if not isinstance(prompt, str) else ():
        print_text(f"[{message['role']}] {message['content']}")
    several = len(result.messages) > 1 and result.messages[-2]["role"] == "environment"
    turns = text.rstrip("\n") + "\n" + transcript(result.messages)
    print_text(turns if several else text + "\n" * separate + result.text)
