"""Preference data of a run as token ids: prompts in the run's format, completions as the policy would generate them.

TRL's own preparation tokenizes a prompt with each completion by the tokenizer's template. Here the prompt has the ids
that the policy reads in a rollout, and a completion those that it samples: the ids of its text, then the end of a turn.
A completion that was cut has no end, so that the policy does not learn to stop there.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from rlalign.envs.encoded_prompts import encoded_alone
from rlalign.envs.mdp import TextMDP
from rlalign.envs.records.splits import KNOWN
from rlalign.errors import RecordError, UserError
from rlalign.preferences.formats import read_preferences
from rlalign.preferences.pairs import Preference, Side, is_set
from rlalign.preferences.row_checks import split_name
from rlalign.preferences.splits import split_by_group
from rlalign.tokenizers import HFTokenizer
from rlalign.types import Task

HELD_OUT = 0.1
"""Share of the pairs that are held out if the data has no split of its own."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A preference as token ids.

    Attributes:
        prompt: ids of the context.
        chosen: ids of the better completion, with the id that ends the turn unless it was cut.
        rejected: the same of the other completion.
        place: file and row.
    """

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]
    place: str

    @property
    def tokens(self) -> int:
        """Number of ids of both completions."""
        return len(self.chosen) + len(self.rejected)


@dataclass(frozen=True, slots=True)
class Pairs:
    """Preference data of a run.

    Attributes:
        train: pairs to train on.
        held_out: pairs of other prompts; empty if the data has one group of prompts only.
        notes: sentences for the user: sizes, and what was left out.
    """

    train: list[Pair]
    held_out: list[Pair]
    notes: list[str] = field(default_factory=list)


def read_pairs(data: str | None) -> tuple[tuple[Preference, ...], dict[str, int]]:
    """Return the preferences of a source, and the number of votes and pairs without a preference by reason.

    A file is read once per state of it: the cells of a study name the same data.

    Raises:
        UserError: it cannot be read, has no known format, or has no preference.
    """
    path = Path(str(data)).expanduser()
    state = (path.stat().st_size, path.stat().st_mtime_ns) if path.is_file() else ()
    return _read(str(path) if path.exists() else str(data), state)


@lru_cache(maxsize=4)
def _read(source: str, state: tuple[int, ...]) -> tuple[tuple[Preference, ...], dict[str, int]]:
    left_out: Counter[str] = Counter()
    preferences = tuple(read_preferences(source, left_out=left_out))
    if not preferences:
        reasons = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
        raise UserError(f"'{source}': expected preferences, got none ({reasons or 'no row'}); collect more votes")
    return preferences, dict(left_out)


def hub_identity(data: str | None) -> dict[str, dict[str, str]]:
    """Return the digest of preferences of the hub, in the form of `rlalign.storage.identity`; {} for files."""
    if data is None or Path(data).expanduser().exists():
        return {}
    rows = (json.dumps(preference.row(), sort_keys=True, default=str) for preference in read_pairs(data)[0])
    digest = hashlib.sha256("\n".join(rows).encode(errors="surrogatepass")).hexdigest()
    return {f"hub preferences {data}": {"sha256": digest, "path": data}}


def build_pairs(
    data: str | None, mdp: TextMDP, *, positions: int | None = None, drop: bool = False, seed: int = 0
) -> Pairs:
    """Return the pairs of preference data, divided by groups of prompts.

    The data's own column `split` divides it if it names both training and other rows; else a tenth of the pairs is held
    out by groups of equal and nearly equal prompts. Pairs whose completions have the same ids have no gradient and are
    left out.

    Args:
        data: path or name of the source.
        mdp: bound to the policy's tokenizer.
        positions: most token ids that the model reads; None: no limit.
        drop: leave out rows that cannot be used, instead of raising an error.
        seed: of the division.

    Raises:
        RecordError: a row cannot be used: several messages in a completion, or too many tokens.
        UserError: the source cannot be read, or no pair is left to train on.
    """
    preferences, left_out = read_pairs(data)
    counts: Counter[str] = Counter(left_out)
    end_ids = end_of_turn(mdp)
    parts: list[list[Pair]] = []
    for part in divide(preferences, seed):
        pairs: list[Pair] = []
        for preference in part:
            try:
                pair = encode(mdp, preference, end_ids, positions)
            except RecordError:
                if not drop:
                    raise
                counts["unusable"] += 1
                continue
            if pair.chosen == pair.rejected:
                counts["equal completions"] += 1
            else:
                pairs.append(pair)
        parts.append(pairs)
    if not parts[0]:
        raise UserError(f"'{data}': expected pairs to train on, got none that can be used; run rlalign feedback check")
    return Pairs(parts[0], parts[1], _notes(parts, counts, mdp))


def _notes(parts: Sequence[Sequence[Pair]], counts: Counter[str], mdp: TextMDP) -> list[str]:
    train, held_out = parts
    notes = [f"preferences: {len(train)} pairs to train on, {len(held_out)} held out"]
    reasons = [f"{count} {reason}" for reason, count in counts.items() if count]
    if reasons:
        notes.append(f"left out of the preferences: {', '.join(reasons)}")
    longer = sum(max(len(pair.chosen), len(pair.rejected)) > mdp.max_new for pair in (*train, *held_out))
    if longer:
        notes.append(
            f"{longer} pairs have a completion of more than {mdp.max_new} tokens, the limit of the policy's own; "
            "--rollout.max-new raises it"
        )
    return notes


def divide(preferences: Sequence[Preference], seed: int = 0) -> tuple[list[Preference], list[Preference]]:
    """Return the preferences to train on and those that are held out (see `build_pairs`)."""
    names = [split_name(preference, KNOWN) for preference in preferences]
    if "train" in names and len(set(names) - {""}) > 1:
        train = [p for p, name in zip(preferences, names, strict=True) if name == "train"]
        return train, [p for p, name in zip(preferences, names, strict=True) if name not in ("", "train")]
    try:
        split = split_by_group(preferences, test=HELD_OUT, seed=seed)
    except UserError:  # one group of prompts
        return list(preferences), []
    return list(split.train), list(split.test)


def encode(mdp: TextMDP, preference: Preference, end_ids: tuple[int, int], positions: int | None = None) -> Pair:
    """Return a preference as token ids.

    Args:
        mdp: bound to the policy's tokenizer; a plain prompt gets the chat template if the run's prompts get it.
        preference: plain or conversational, with an explicit or an implicit prompt.
        end_ids: of `end_of_turn`.
        positions: most token ids that the model reads; None: no limit.

    Raises:
        RecordError: the prompt cannot be encoded, a completion is not one text or one message of the assistant, or the
            model cannot read that many tokens.
    """
    explicit = preference.explicit()
    texts = [
        (name, _text(side, name, preference.place))
        for name, side in (("chosen", explicit.chosen), ("rejected", explicit.rejected))
    ]
    prompt: Any = explicit.prompt
    task = Task(prompt, {}, place=preference.place)
    context = encoded_alone(mdp, task)
    if isinstance(context, RecordError):
        raise context
    plain, conversation = end_ids
    end = plain if isinstance(mdp.policy_prompt(task), str) else conversation
    sides: list[list[int]] = []
    for name, text in texts:
        try:
            ids = mdp.tokenizer.encode(text)
        except UserError as error:  # a character that the tokenizer of a policy from scratch does not have
            raise RecordError(preference.place, f"'{name}': {error}") from error
        if not is_set(preference.extra.get(f"{name}_cut")):
            ids = [*ids, end]
        if positions is not None and len(context) + len(ids) > positions:
            raise RecordError(
                preference.place,
                f"expected at most {positions} tokens, as the model reads, got {len(context)} of the prompt and "
                f"{len(ids)} of '{name}'; leave it out, or use --on-bad-record drop",
            )
        sides.append(ids)
    chosen, rejected = sides
    return Pair(context, chosen, rejected, preference.place)


def _text(side: Side, name: str, place: str) -> str:
    if isinstance(side, str):
        return side
    content = side[0].get("content") if len(side) == 1 and side[0].get("role") == "assistant" else None
    if not isinstance(content, str):
        roles = ", ".join(str(message.get("role")) for message in side) or "no message"
        raise RecordError(
            place, f"expected one message of the assistant with a text in '{name}', got {roles}; leave it out"
        )
    return content


def end_of_turn(mdp: TextMDP) -> tuple[int, int]:
    """Return the id that ends a turn after a plain prompt (EOS), and after a conversation (of the chat template)."""
    tokenizer = mdp.tokenizer
    if not isinstance(tokenizer, HFTokenizer) or not tokenizer.has_chat_template:
        return tokenizer.eos_id, tokenizer.eos_id
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "a"}]
    try:
        ids = tokenizer.hf.apply_chat_template(messages, tokenize=True, return_dict=False)
    except Exception:  # a template may raise anything; the prompts themselves are checked one by one
        return tokenizer.eos_id, tokenizer.eos_id
    # a template may write more after the end, such as a line break
    ends = (int(i) for i in reversed(list(ids)) if int(i) in mdp.stop_ids)
    return tokenizer.eos_id, next(ends, tokenizer.eos_id)


def pair_order(count: int, total: int, seed: int) -> list[int]:
    """Return the numbers of the pairs in the order of training: one random order of all of them after the other.

    Args:
        count: number of pairs.
        total: length of the result.
        seed: of the orders.

    Example:
        >>> order = pair_order(3, 6, seed=0)
        >>> sorted(order[:3]), sorted(order[3:])
        ([0, 1, 2], [0, 1, 2])
    """
    rng = np.random.default_rng(np.random.SeedSequence([seed, 7]))  # apart from the streams of rollouts
    order: list[int] = []
    while len(order) < total:
        order += rng.permutation(count).tolist()
    return order[:total]
