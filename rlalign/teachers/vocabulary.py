"""The check that the token ids of a teacher are those of the policy: equal tokens, equal ids that end a turn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlalign.errors import UserError
from rlalign.tokenizers import HFTokenizer
from rlalign.types import Tokenizer

_SHOWN = 3  # differences in a message


def check_same_vocabulary(student: Tokenizer, teacher: Tokenizer, name: str) -> None:
    """Raise UserError unless each id is the same token for both, and the same ids end a turn.

    A log-ratio of a token compares two probabilities of one id. Padding ids need not agree, because padding is masked,
    nor the rows of a padded embedding that no token has.

    Args:
        student: tokenizer of the policy.
        teacher: tokenizer of the teacher.
        name: of the teacher, for the message.

    Example:
        >>> from rlalign.tokenizers import CharTokenizer
        >>> check_same_vocabulary(CharTokenizer("ab"), CharTokenizer("ba"), "big/")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        rlalign.errors.UserError: teacher 'big/': expected the policy's vocabulary, got another one: ...
    """
    ours, theirs = tokens_of(student), tokens_of(teacher)
    differing = [i for i in sorted({*ours, *theirs}) if ours.get(i) != theirs.get(i)]
    if differing:
        raise _refused(name, "; ".join(_named(ours, theirs, differing)))
    if stop_ids(student) != stop_ids(teacher):
        raise _refused(
            name,
            f"a turn ends at the ids {sorted(stop_ids(student))} for the policy and {sorted(stop_ids(teacher))} for "
            "the teacher",
        )
    if student.vocab_size > teacher.vocab_size:
        raise _refused(
            name,
            f"the policy generates {student.vocab_size} ids and the teacher {teacher.vocab_size}, rows of padding "
            "included",
        )


def have_same_tokens(a: Tokenizer, b: Tokenizer) -> bool:
    """Return whether each id is the same token for both tokenizers, and the same ids end a turn."""
    return tokens_of(a) == tokens_of(b) and stop_ids(a) == stop_ids(b)


def tokens_of(tokenizer: Tokenizer) -> dict[int, str]:
    """Return id -> token of all tokens of a tokenizer."""
    if isinstance(tokenizer, HFTokenizer):
        return {token_id: token for token, token_id in tokenizer.hf.get_vocab().items()}
    tokens = {i: tokenizer.decode([i]) for i in range(tokenizer.vocab_size)}
    names: dict[str, Any] = {name: getattr(tokenizer, name, None) for name in ("pad_id", "eos_id", "bos_id")}
    return tokens | {i: f"<{name.removesuffix('_id')}>" for name, i in names.items() if i is not None}


def stop_ids(tokenizer: Tokenizer) -> frozenset[int]:
    """Return the ids that end a turn."""
    return frozenset(getattr(tokenizer, "stop_ids", ())) | {tokenizer.eos_id}


def _named(ours: Mapping[int, str], theirs: Mapping[int, str], ids: list[int]) -> list[str]:
    def shown(tokens: Mapping[int, str], i: int) -> str:
        return repr(tokens[i]) if i in tokens else "no token"

    lines = [f"id {i} is {shown(ours, i)} for the policy and {shown(theirs, i)} for the teacher" for i in ids[:_SHOWN]]
    return [*lines, *([f"{len(ids) - _SHOWN} more ids differ"] if len(ids) > _SHOWN else [])]


def _refused(name: str, reason: str) -> UserError:
    return UserError(
        f"teacher '{name}': expected the policy's vocabulary, got another one: {reason}; use a teacher with the "
        "policy's tokenizer: a probability of another token cannot be compared"
    )
