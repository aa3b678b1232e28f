"""Prompts of all tasks of an environment as token ids, many per call of the tokenizer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rlalign.envs.initial_context import check_prompt, place_of, shown_prompt, task_at
from rlalign.envs.records.splits import SPLITS
from rlalign.errors import RecordError, RLAlignError
from rlalign.tokenizers import HFTokenizer
from rlalign.types import Prompt, Split, Task, Tokenizer

_CHUNK = 256  # prompts per call of the tokenizer


@dataclass(frozen=True, slots=True)
class BadRecord:
    """A record that cannot be used.

    Attributes:
        split: of its task.
        index: of its task.
        place: of the record, such as `sums.jsonl, line 18`.
        reason: what was expected and what the record has.
        needed: the limit in tokens with which the record could be used; 0 if it is not too long.
    """

    split: Split
    index: int
    place: str
    reason: str
    needed: int = 0


def is_finite(mdp: Any) -> bool:
    """Return whether a pass can read all tasks; those of an unbounded split are checked when they are drawn."""
    return all(mdp.source.size(split) is not None for split in SPLITS)


def encoded_chunks(mdp: Any, bad: list[BadRecord]) -> Iterator[tuple[list[Task], list[list[int] | RecordError]]]:
    """Yield the tasks of all splits in chunks, with the ids of each prompt, or why it has none.

    Args:
        mdp: an environment (`TextMDP`) whose splits are finite.
        bad: records that are no task are added to it.
    """
    for split in SPLITS:
        size = mdp.source.size(split) or 0
        for start in range(0, size, _CHUNK):
            chunk = []
            for index in range(start, min(start + _CHUNK, size)):
                try:
                    chunk.append(task_at(mdp.source, split, index))
                except RecordError as error:
                    bad.append(BadRecord(split, index, error.place, error.reason))
            yield chunk, _encoded(mdp, chunk)


def _encoded(mdp: Any, tasks: Sequence[Task]) -> list[list[int] | RecordError]:
    """Return the ids of each prompt, or why it has none. One call of the tokenizer for all, if none fails."""
    try:
        prompts = [mdp.policy_prompt(task) for task in tasks]
        for task in tasks:
            check_prompt(task)
        return list(encode_prompts(mdp.tokenizer, prompts))
    except Exception:  # of one prompt, which the loop below finds
        return [encoded_alone(mdp, task) for task in tasks]


def encoded_alone(mdp: Any, task: Task) -> list[int] | RecordError:
    """Return the ids of the prompt of a task, or why it has none."""
    try:
        check_prompt(task)
        return list(mdp.tokenizer.encode_prompt(mdp.policy_prompt(task)))
    except RecordError as error:
        return error
    except RLAlignError as error:
        return RecordError(place_of(task), str(error))
    except Exception as error:  # of a tokenizer of another package, whose errors have many types
        line = (str(error).splitlines() or [""])[0]
        return RecordError(
            place_of(task),
            f"expected a prompt that the tokenizer encodes, got {shown_prompt(task)} ({type(error).__name__}: {line})",
        )


def encode_prompts(tokenizer: Tokenizer, prompts: Sequence[Prompt]) -> list[list[int]]:
    """Return the ids of prompts, equal to those of `encode_prompt`; with transformers in a fraction of the time.

    Raises:
        Exception: one of the prompts cannot be encoded; `encode_prompt` names the cause.
    """
    ids: list[list[int]] = [[] for _ in prompts]
    alone = set(range(len(prompts)))
    if type(tokenizer) is HFTokenizer:
        texts = [i for i, prompt in enumerate(prompts) if isinstance(prompt, str)]
        for i, row in zip(texts, _texts_together(tokenizer, [prompts[i] for i in texts]), strict=True):
            ids[i] = row
        # a conversation that ends with the assistant is continued, which one call does for all or for none
        talks = [i for i in alone.difference(texts) if prompts[i][-1]["role"] != "assistant"]  # type: ignore[index]  # messages
        if tokenizer.has_chat_template:
            for i, row in zip(talks, _talks_together(tokenizer, [prompts[i] for i in talks]), strict=True):
                ids[i] = row
            alone.difference_update(talks)
        alone.difference_update(texts)
    for i in alone:
        ids[i] = tokenizer.encode_prompt(prompts[i])
    return ids


def _texts_together(tokenizer: HFTokenizer, texts: Sequence[Any]) -> list[list[int]]:
    return [tokenizer.after_prefix(tokenizer.readable(ids)) for ids in _ids_of(tokenizer.hf, texts)]


def _talks_together(tokenizer: HFTokenizer, talks: Sequence[Any]) -> list[list[int]]:
    if not talks:
        return []
    messages = [[dict(message) for message in talk] for talk in talks]
    texts = tokenizer.hf.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    return [tokenizer.readable(ids) for ids in _ids_of(tokenizer.hf, texts)]


def _ids_of(hf: Any, texts: Sequence[str]) -> list[list[int]]:
    """Return the ids of texts without special tokens, by the Rust tokenizer itself if there is one."""
    backend: Any = getattr(hf, "backend_tokenizer", None)
    if not texts or not hasattr(backend, "encode_batch_fast"):
        return [list(row) for row in hf(list(texts), add_special_tokens=False)["input_ids"]] if texts else []
    # transformers leaves the padding and truncation of its last call in the backend
    backend.no_padding()
    backend.no_truncation()
    return [encoding.ids for encoding in backend.encode_batch_fast(list(texts), add_special_tokens=False)]
