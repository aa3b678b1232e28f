"""Recorded texts as token ids: the prompt as a rollout's context, each answer as the policy would generate it.

A completion has the ids of its text, then the id that ends a turn. A completion that was cut has no end, so that the
policy does not learn to stop there. A conversation of several answers is one row if the ids of each next prompt begin
with all ids before it, as in ChatML. Some chat templates rewrite earlier turns (they drop the reasoning of earlier
answers). Then each answer is a row of its own, with the prompt that the policy would read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rlalign.envs.encoded_prompts import encoded_alone
from rlalign.envs.mdp import TextMDP
from rlalign.errors import RecordError, UserError
from rlalign.rollout.recorded import Trajectory
from rlalign.tokenizers import HFTokenizer
from rlalign.types import Prompt, Task


@dataclass(frozen=True, slots=True)
class Encoder:
    """Encodes recorded texts for one policy.

    Attributes:
        mdp: bound to the policy's tokenizer; a plain prompt gets the chat template if the run's prompts get it.
        plain_end: id that ends a turn after a plain prompt (EOS).
        chat_end: id that ends a turn of a conversation.
        stop_ids: all ids that end a turn.
        positions: most token ids that the model reads; None: no limit.
    """

    mdp: TextMDP
    plain_end: int
    chat_end: int
    stop_ids: frozenset[int]
    positions: int | None = None

    @classmethod
    def of(cls, mdp: TextMDP, positions: int | None = None) -> Encoder:
        """Return the encoder of an environment that is bound to a policy's tokenizer."""
        plain, conversation = end_of_turn(mdp)
        return cls(mdp, plain, conversation, mdp.stop_ids, positions)

    def completion(
        self, prompt: Prompt, text: str, *, place: str, cut: bool = False, name: str = "completion", reward: float = 1.0
    ) -> Trajectory:
        """Return a prompt and its completion as a trajectory.

        Args:
            prompt: text or messages.
            text: of the completion.
            place: file and row.
            cut: a limit ended the completion.
            name: of the column, for messages.
            reward: of the trajectory.

        Raises:
            RecordError: the prompt or the completion cannot be encoded, or the model cannot read that many tokens.
        """
        context, shown = self._context(prompt, place)
        answer = self._answer(context, shown, text, place, name, ended=not cut)
        if not answer:
            raise RecordError(place, f"expected a completion in '{name}', got an empty one that was cut; leave it out")
        self._check_length(len(context), len(answer), place, name)
        return Trajectory(
            ids=[*context, *answer],
            actions=[False] * len(context) + [True] * len(answer),
            reward=reward,
            truncated=cut,
            prompt=prompt,
            completion=text,
            place=place,
        )

    def conversation(
        self, messages: Sequence[dict[str, Any]], *, place: str, turns: str = "all", cut: bool = False
    ) -> list[Trajectory]:
        """Return a conversation as trajectories whose actions are the assistant's answers.

        Args:
            messages: with `role` and `content`; the assistant wrote the last one, or later ones are left out.
            place: file and row.
            turns: all: every answer is trained on; last: the last one.
            cut: a limit ended the last answer.

        Returns:
            One trajectory; or one per answer if the chat template rewrites earlier turns.

        Raises:
            RecordError: there is no answer, a message cannot be encoded, or the model cannot read that many tokens.
        """
        answers = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
        if not answers:
            raise RecordError(place, "expected an answer of the assistant in the messages, got none; leave it out")
        if answers[0] == 0:
            raise RecordError(place, "expected a message before the assistant's answer, got the answer alone")
        if turns == "last":
            answers = answers[-1:]
        rows: list[Trajectory] = []
        ids: list[int] = []
        actions: list[bool] = []
        texts: list[str] = []
        prompt: list[dict[str, Any]] = []

        def end_row(*, truncated: bool = False) -> None:
            completion = "\n".join(texts)
            rows.append(
                Trajectory(ids, actions, truncated=truncated, prompt=prompt, completion=completion, place=place)
            )

        for number in answers:
            before = list(messages[:number])
            context, shown = self._context(before, place)
            if ids and context[: len(ids)] != ids:
                end_row()
                ids, actions, texts = [], [], []
            if not ids:
                prompt = before
            text = _content(messages[number], place)
            ended = not (cut and number == answers[-1])
            answer = self._answer(context, shown, text, place, "messages", ended=ended)
            if not answer:
                raise RecordError(place, "expected a last answer, got an empty one that was cut; leave it out")
            self._check_length(len(context), len(answer), place, "messages")
            actions = [*actions, *[False] * (len(context) - len(ids)), *[True] * len(answer)]
            ids = [*context, *answer]
            texts.append(text)
        end_row(truncated=cut)
        return rows

    def _context(self, prompt: Prompt, place: str) -> tuple[list[int], Prompt]:
        """Return the ids of a prompt, and the prompt as the tokenizer gets it."""
        task = Task(prompt, {}, place=place)
        context = encoded_alone(self.mdp, task)
        if isinstance(context, RecordError):
            raise context
        return context, self.mdp.policy_prompt(task)

    def _answer(
        self, context: list[int], prompt: Prompt, text: str, place: str, name: str, *, ended: bool
    ) -> list[int]:
        """Return the ids of an answer after its prompt (see `_context`), with its end unless a limit cut it."""
        try:
            ids = self._continuation(context, prompt, text)
        except UserError as error:  # a character that the tokenizer of a policy from scratch does not have
            raise RecordError(place, f"'{name}': {error}") from error
        if not self.stop_ids.isdisjoint(ids[:-1]):
            raise RecordError(
                place, f"expected a text without tokens that end a turn in '{name}', got one before its end; divide it"
            )
        # published completions often hold the text of the end already
        has_end = bool(ids) and ids[-1] in self.stop_ids
        if not ended or has_end:
            return ids
        return [*ids, self.plain_end if isinstance(prompt, str) else self.chat_end]

    def _continuation(self, context: list[int], prompt: Prompt, text: str) -> list[int]:
        """Return the ids of a text after a prompt."""
        tokenizer = self.mdp.tokenizer
        if isinstance(tokenizer, HFTokenizer) and tokenizer.adds_blank and text:
            # alone, the text would begin with a blank that it does not have
            answer = {"role": "assistant", "content": text}
            together = tokenizer.encode_prompt(prompt + text if isinstance(prompt, str) else [*prompt, answer])
            ids = together[len(context) :]
            if together[: len(context)] == context and tokenizer.decode_raw(ids).strip() == text.strip():
                return ids
        return tokenizer.encode(text)

    def _check_length(self, context: int, answer: int, place: str, name: str) -> None:
        if self.positions is not None and context + answer > self.positions:
            raise RecordError(
                place,
                f"expected at most {self.positions} tokens, as the model reads, got {context} of the prompt and "
                f"{answer} of '{name}'; leave it out, or use --on-bad-record drop",
            )


def _content(message: dict[str, Any], place: str) -> str:
    content = message.get("content")
    if message.get("tool_calls") or not isinstance(content, str):
        raise RecordError(
            place,
            "expected a text as the assistant's answer, got calls of tools or another content, which are not trained "
            "on; write the call into the text, or leave it out",
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
