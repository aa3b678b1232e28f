"""Texts of trajectories for tables: one completion, or the turns and environment messages with their roles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

Message = Mapping[str, str]


def transcript(messages: Sequence[Message]) -> str:
    """Return the text of a trajectory without its prompt: the completion, or one line per message with its role.

    Args:
        messages: the whole trajectory (see `rlalign.envs.episode.Episode.messages`).

    Example:
        >>> prompt = {"role": "user", "content": "1 to 9"}
        >>> transcript([prompt, {"role": "assistant", "content": "5"}])
        '5'
        >>> game = [prompt, {"role": "assistant", "content": "7"}, {"role": "environment", "content": "lower"}]
        >>> transcript([*game, {"role": "assistant", "content": "5"}]).splitlines()
        ['assistant: 7', 'environment: lower', 'assistant: 5']
    """
    # A prompt may have messages of the assistant too, but none of the environment.
    start = len(messages) - 1
    while start >= 2 and messages[start - 1]["role"] == "environment":
        start -= 2
    if start == len(messages) - 1:
        return messages[start]["content"]
    return "\n".join(f"{message['role']}: {message['content'].rstrip()}" for message in messages[start:])


def sample_texts(sample: Mapping[str, Any], side: Literal["before", "after"]) -> list[str]:
    """Return the texts of one side of a sample in report/evaluation.json, also of a file without whole trajectories."""
    if "messages" in sample:
        return [transcript(messages) for messages in sample["messages"][side]]
    return list(sample[side])


def prompt_text(sample: Mapping[str, Any], limit: int = 200) -> str:
    """Return the prompt of a sample in report/evaluation.json, with environment and columns of the task below it.

    Args:
        sample: the sample, also of a file without columns.
        limit: characters of a column at most.

    Example:
        >>> prompt_text({"prompt": "2+2=", "columns": {"answer": "4"}}).splitlines()
        ['2+2=', 'answer: 4']
    """
    env = [f"environment: {sample['env']}"] if "env" in sample else []
    columns = [f"{name}: {value}"[:limit] for name, value in sample.get("columns", {}).items()]
    return "\n".join([str(sample["prompt"]), *env, *columns])
