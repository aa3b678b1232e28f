"""Data types and protocols shared by all parts: tasks, tokenizers, rewards, segments. numpy only, no torch.

Shapes: B rows of a vector environment, T tokens of a segment. A *turn* is the tokens that the policy generates until
EOS, a stop token or the turn's limit. A *reply* is the environment message after a turn. An *episode* is prompt, turn,
reply, turn, ...

Worked example, byte tokenizer, GuessNumber: the prompt is "guess 1-10\\n", the policy's first turn b"7" EOS, the reply
"lower\\n", the second turn b"3" EOS. The context is the concatenation of the ids in this order and is never tokenized
again. The action mask is 1 on `7`, EOS, `3`, EOS and 0 elsewhere; rewards and losses apply to those four only.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from rlalign.errors import UserError
from rlalign.typecheck import check_range

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

Message = Mapping[str, str]  # {"role": "user" | "assistant" | "system", "content": text}
Prompt = str | Sequence[Message]  # a plain text, or a conversation to which a chat template is applied once
Split = Literal["train", "validation", "test"]
Scope = Literal["token", "turn", "episode", "group"]


@dataclass(frozen=True, slots=True)
class Task:
    """One initial state of an environment.

    Attributes:
        prompt: a text, or a conversation: a list of `{"role": ..., "content": ...}`.
        columns: further data that rewards may need (`answer`, `labels`, ...), by name.
        split: the split that the task belongs to.
        index: its index in the split.
        place: of its record in the data, such as `sums.jsonl, line 18`, for messages; empty if it has none. Tasks that
            differ in it alone are equal.
        env: name of its environment in a mixture (`rlalign.envs.mixture`); empty: there is one environment.
    """

    prompt: Prompt
    columns: Mapping[str, Any] = field(default_factory=dict)
    split: Split = "train"
    index: int = 0
    place: str = field(default="", compare=False, repr=False)
    env: str = ""


def is_missing(value: Any) -> bool:
    """Return whether a value is None or NaN, the missing value of data frames."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def text_of_value(value: Any) -> str:
    """Return the text of a reference value: a number in decimals, a boolean in lower case.

    Raises:
        UserError: the value is none of text, number and boolean.

    Example:
        >>> [text_of_value(value) for value in (5, 5.0, 1e-05, True, "a")]
        ['5', '5', '0.00001', 'true', 'a']
    """
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        # Decimal(repr) has the shortest digits of the number, and `f` writes no exponent
        return format(Decimal(repr(value)), "f").removesuffix(".0")
    raise UserError(
        f"expected a text, a number or a list of these as the reference, got {value!r:.60} ({type(value).__name__}); "
        "use a text"
    )


def texts_of(entry: Any) -> list[str]:
    """Return the texts of one entry: the members of a list, else the entry itself; none for a missing one.

    Raises:
        UserError: a member is none of text, number and boolean.

    Example:
        >>> texts_of(["a cat", "one cat"]), texts_of(42), texts_of(None)
        (['a cat', 'one cat'], ['42'], [])
    """
    parts = entry if isinstance(entry, list | tuple) else [entry]
    return [text_of_value(part) for part in parts if not is_missing(part)]


def reference_text(answer: Any) -> str | None:
    """Return the text that a policy should generate for an `answer`: of a list the first one, of a structure its JSON.

    Returns:
        None for a missing answer, and for an empty list.

    Example:
        >>> [reference_text(answer) for answer in (5.0, ["a", "b"], {"x": 1}, None)]
        ['5', 'a', '{"x": 1}', None]
    """
    parts = answer if isinstance(answer, list | tuple) else [answer]
    if any(isinstance(part, list | tuple | Mapping) for part in parts):
        return json.dumps(answer, ensure_ascii=False, default=str)
    kinds = (str, bool, int, float)
    return next((text_of_value(part) for part in parts if isinstance(part, kinds) and not is_missing(part)), None)


@runtime_checkable
class TaskSource(Protocol):
    """Interface of a source of tasks. Pure: equal arguments return equal tasks, in each process.

    An attribute `distinct = False` declares that splits may share tasks.
    """

    def size(self, split: Split) -> int | None:
        """Return the number of tasks of a split; None if it is unbounded (procedural)."""
        ...

    def get(self, split: Split, index: int) -> Task:
        """Return task `index` of a split.

        Args:
            split: train, validation or test.
            index: 0 to `size(split)` - 1; any number from 0 in an unbounded split.

        Raises:
            IndexError: the index is past the end.
        """
        ...


@runtime_checkable
class Tokenizer(Protocol):
    """The tokenizer interface of environments and policies. A context is a list of ids, never tokenized again.

    A tokenizer may have an attribute `stop_ids`, a set of further ids that end a turn.

    Attributes:
        vocab_size: V; ids are 0..V-1.
        eos_id: id that ends a turn.
        pad_id: id right of a context; may equal `eos_id`.
    """

    vocab_size: int
    eos_id: int
    pad_id: int

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, without special tokens."""
        ...

    def encode_prompt(self, prompt: Prompt) -> list[int]:
        """Return the ids of a prompt, with the special tokens that begin a context (BOS, chat template) once."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids without special tokens. Never raises."""
        ...


@dataclass(frozen=True, slots=True)
class Sampling:
    """The distribution that tokens are sampled from, and under which their log-probs are computed.

    Order of processing: divide the logits by the temperature, keep the top_k largest (arXiv 1805.04833), then keep the
    smallest set whose probability reaches top_p (arXiv 1904.09751), then renormalize. The default is the model's own
    distribution.

    Attributes:
        temperature: divisor of the logits, above 0.
        top_k: number of logits to keep; 0 keeps all.
        top_p: probability to keep, in (0, 1]; 1.0 keeps all.

    Raises:
        UserError: a number is out of range.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        check_range("temperature", self.temperature, above=0, below=math.inf)
        check_range("top_k", self.top_k, least=0, fix="use 0 for all")
        check_range("top_p", self.top_p, above=0, most=1)


@dataclass(frozen=True, slots=True)
class Scores:
    """Rewards of B texts.

    Attributes:
        total: float [B], Σ weight · component; NaN where not valid.
        valid: bool [B]; False where a component failed. A failure is never a 0.0.
        components: name -> float [B], unweighted; NaN where the component failed or does not apply. A component of
            token scope is the sum over the tokens.
        token_rewards: B arrays, the weighted rewards of token scope on each token, which `total` includes. None if no
            component has token scope.
        extra: column -> B values that rewards logged besides (TRL's `log_extra`).
    """

    total: FloatArray
    valid: BoolArray
    components: Mapping[str, FloatArray]
    token_rewards: Sequence[FloatArray] | None = None
    extra: Mapping[str, Sequence[Any]] = field(default_factory=dict)


class Reward(Protocol):
    """Interface of a weighted sum of reward functions, as environments call it (built by `rlalign.rewards.compose`)."""

    @property
    def weights(self) -> Mapping[str, float]:
        """Component name -> weight."""
        ...

    @property
    def scopes(self) -> Mapping[str, Scope]:
        """Component name -> scope."""
        ...

    def score(
        self,
        event: Literal["turn", "episode", "group"],
        prompts: Sequence[Prompt],
        completions: Sequence[str],
        completion_ids: Sequence[Sequence[int]],
        **columns: Sequence[Any],
    ) -> Scores:
        """Score B texts with the components whose scope belongs to the event.

        Args:
            event: "turn" (scopes turn and token), "episode" or "group".
            prompts: B prompts, texts or conversations.
            completions: B texts.
            completion_ids: B lists of token ids.
            columns: further columns, B entries each.
        """
        ...

    def bind(self, policy: Any) -> None:
        """Pass the initial policy to the components that need it."""
        ...

    def pop_failures(self) -> Mapping[str, Mapping[str, int]]:
        """Return component -> kind of failure -> count since the last call."""
        ...

    @property
    def scheduled(self) -> Sequence[str]:
        """Names of the components whose weight changes during training."""
        ...

    @property
    def out_of_process(self) -> bool:
        """True if each component runs in a process of its own, so that this process can work while they score."""
        ...

    def begin_step(self, step: int) -> None:
        """Set the weights of a training step."""
        ...

    def end_step(self, means: Mapping[str, float] | None = None) -> None:
        """Record the mean of each component over the step's rollout; None if the step was abandoned."""
        ...

    def state_dict(self) -> Mapping[str, Any]:
        """Return what determines the weights, apart from the step, and the states of the reward functions.

        JSON values and tensors, for a checkpoint.
        """
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state that `state_dict` returned."""
        ...

    def close(self) -> None:
        """End the worker processes."""
        ...


@dataclass(frozen=True, slots=True)
class Segment:
    """Result of up to T tokens per row in a vector environment of B rows.

    Attributes:
        consumed: int [B], number of tokens that the row consumed; the rest lies past its end and is ignored.
        replies: B tuples of ids that the environment appended after the turn; empty if it appended none.
        rewards: float [B, T], on consumed tokens only; the reward of a turn or an episode is on its last token. NaN
            there if a reward failed.
        valid: bool [B]; False where a reward failed in this segment.
        components: name -> float [B], NaN where nothing was scored in this segment.
        turn_ended: bool [B]; the segment contains the end of the row's turn.
        terminated: bool [B]; EOS or the environment ended the episode in this segment.
        truncated: bool [B]; a limit ended the episode in this segment.
    """

    consumed: IntArray
    replies: Sequence[tuple[int, ...]]
    rewards: FloatArray
    valid: BoolArray
    components: Mapping[str, FloatArray]
    turn_ended: BoolArray
    terminated: BoolArray
    truncated: BoolArray

    def __iter__(self) -> Iterator[Any]:
        raise TypeError("expected access by field, got iteration: a Segment is not a Gymnasium 5-tuple; use its fields")
