"""The limit `max_prompt` of an environment of data: the longest prompt of the data."""

from __future__ import annotations

from typing import Any

from rlalign.envs.encoded_prompts import encoded_chunks, is_finite
from rlalign.errors import RecordError

_UNKNOWN = 512  # tokens, if the source is unbounded


class LongestPrompt:
    """The limit `max_prompt` of an environment of data, unless it is set: the length of its longest prompt in tokens.

    It is a descriptor without `__set__`, so that a limit that is set on an instance comes before it. The data is
    tokenized at the first access with each tokenizer.
    """

    def __get__(self, mdp: Any, owner: type) -> int:
        """Return the length of the longest prompt that can be encoded; 512 on the class."""
        if mdp is None:
            return _UNKNOWN
        if not _is_remembered(mdp):
            remember_longest(mdp, longest_prompt(mdp))
        return int(mdp.__dict__["_longest_prompt"][1])


def remember_longest(mdp: Any, length: int) -> None:
    """Store the length of the longest prompt, which is valid for the environment's present tokenizer and source."""
    mdp.__dict__["_longest_prompt"] = (_key(mdp), length)


def is_known(mdp: Any) -> bool:
    """Return whether `max_prompt` of an environment can be read without a pass over its data."""
    parts = getattr(mdp, "parts", None)  # of a mixture
    if parts is not None:
        return all(is_known(part) for part in parts.values())
    return not limit_of_data(mdp) or _is_remembered(mdp)


def _is_remembered(mdp: Any) -> bool:
    known = mdp.__dict__.get("_longest_prompt")
    return known is not None and all(a is b for a, b in zip(known[0], _key(mdp), strict=True))


def _key(mdp: Any) -> tuple[Any, ...]:
    """Return the objects that the lengths depend on, which are compared by identity."""
    return mdp.tokenizer, mdp.chat, mdp.source


def longest_prompt(mdp: Any) -> int:
    """Return the number of tokens of the longest prompt that can be encoded.

    It is 512 if the source is unbounded or empty.
    """
    if not is_finite(mdp):
        return _UNKNOWN
    lengths = [0]
    for _, ids in encoded_chunks(mdp, []):
        lengths += [len(row) for row in ids if not isinstance(row, RecordError)]
    return max(lengths) or _UNKNOWN


def limit_of_data(mdp: Any) -> bool:
    """Return whether `max_prompt` of an environment is the length of the longest prompt of its data."""
    if "max_prompt" in vars(mdp):
        return False
    limit = next((vars(cls)["max_prompt"] for cls in type(mdp).__mro__ if "max_prompt" in vars(cls)), None)
    return isinstance(limit, LongestPrompt)
