"""The nouns of the library: what a task, an episode, a segment and a score are. Numpy only, no torch.

Shapes: B rows of a vector environment, T tokens of a segment. A *turn* is what the policy says until EOS, a stop token
or the turn's limit; a *reply* is what the environment says back; an *episode* is prompt, turn, reply, turn, ...

Worked example, byte tokenizer, GuessNumber: the prompt is "guess 1-10\\n", the policy's first turn b"7" EOS, the reply
"lower\\n", the second turn b"3" EOS. The context is the concatenation of the ids in this order and is never
re-tokenised; the action mask is 1 on `7`, EOS, `3`, EOS and 0 elsewhere; rewards and losses land on those four only.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from rlalign.errors import UserError

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

Message = Mapping[str, str]  # {"role": "user" | "assistant" | "system", "content": text}
Prompt = str | Sequence[Message]  # a plain text, or a conversation to which a chat template is applied once
Split = Literal["train", "validation", "test"]
Scope = Literal["token", "turn", "episode", "group"]


@dataclass(frozen=True, slots=True)
class Task:
    """One initial state: a prompt, and the columns that rewards may need (`answer`, `label`, ...)."""

    prompt: Prompt
    columns: Mapping[str, Any] = field(default_factory=dict)
    split: Split = "train"
    index: int = 0


@runtime_checkable
class TaskSource(Protocol):
    """Where tasks come from. Pure: equal arguments give equal tasks, in every process."""

    def size(self, split: Split) -> int | None:
        """Number of tasks of a split; None when it is unbounded (procedural)."""
        ...

    def get(self, split: Split, index: int) -> Task:
        """Task `index` of a split. Raises IndexError past the end."""
        ...


@runtime_checkable
class Tokenizer(Protocol):
    """What an environment and a policy need of a tokenizer. Ids in, ids out; nothing is ever re-tokenised."""

    vocab_size: int
    eos_id: int
    pad_id: int

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without special tokens."""
        ...

    def encode_prompt(self, prompt: Prompt) -> list[int]:
        """Ids of a prompt, with whatever the model starts a context with (BOS, chat template), once."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, special tokens left out. Never raises."""
        ...


@dataclass(frozen=True, slots=True)
class Sampling:
    """The distribution tokens are drawn from, and therefore the one their log-probs are scored under.

    Order of processing: divide by temperature, keep the top_k logits (0: all), then keep the smallest set whose
    probability reaches top_p (1.0: all), renormalise.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.temperature < math.inf:
            raise UserError(f"temperature is {self.temperature}: it must be above 0 and finite")
        if self.top_k < 0:
            raise UserError(f"top_k is {self.top_k}: it must be at least 0")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p is {self.top_p}: it must lie in (0, 1]")


@dataclass(frozen=True, slots=True)
class Scores:
    """What a reward says of B texts.

    Attributes:
        total: float [B], Σ weight · component; NaN where not valid.
        valid: bool [B]; False where a component failed. A failure is never a 0.0.
        components: name -> float [B], unweighted; NaN where the component failed or does not apply.
        token_rewards: B arrays, the weighted token-scope part on each token, already in `total`; None without one.
    """

    total: FloatArray
    valid: BoolArray
    components: Mapping[str, FloatArray]
    token_rewards: Sequence[FloatArray] | None = None


class Reward(Protocol):
    """A weighted composition of reward functions, as environments call it (built by `rlalign.rewards`)."""

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
        """Score B texts with the components whose scope belongs to the event ("turn": turn and token scope)."""
        ...

    def bind(self, policy: Any) -> None:
        """Hand the policy at its start to the components that want it."""
        ...

    def pop_failures(self) -> Mapping[str, Mapping[str, int]]:
        """Component -> kind of failure -> count, since the last call."""
        ...

    @property
    def scheduled(self) -> Sequence[str]:
        """Names of the components whose weight changes during training."""
        ...

    @property
    def out_of_process(self) -> bool:
        """Every component runs in a process of its own: this one can do something else while they score."""
        ...

    def begin_step(self, step: int) -> None:
        """A training step begins: take its weights."""
        ...

    def end_step(self, means: Mapping[str, float] | None = None) -> None:
        """Its rollout is over, with these means of the components; None: it was given up."""
        ...

    def state_dict(self) -> Mapping[str, float]:
        """What the weights depend on besides the step."""
        ...

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Take up a saved state."""
        ...

    def close(self) -> None:
        """End worker processes."""
        ...


@dataclass(frozen=True, slots=True)
class Segment:
    """What happened when each of B rows was given up to T tokens.

    Attributes:
        consumed: int [B], how many of the given tokens the row took (the rest lies past its end and is ignored).
        replies: B tuples of ids that the environment appended after the turn; empty where it did not speak.
        rewards: float [B, T], on consumed tokens only; a turn's or episode's reward stands on its last token. NaN there
            where a reward failed.
        valid: bool [B]; False where a reward failed in this segment.
        components: name -> float [B], NaN where nothing was scored in this segment.
        turn_ended, terminated, truncated: bool [B]. EOS or the environment terminates, a limit truncates.
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
        raise TypeError("a Segment is not a Gymnasium 5-tuple: use its fields")
