"""Conversations as the tokens of a reward model, rendered by its own chat template and tokenizer.

A finished completion is followed by the end mark: the EOS token of a text, or what the chat template writes after the
last message, which often ends in a newline. A completion that a limit cut has neither. The ids of a policy are never
used: they lack that newline, and an answer may be the tokens of another tokenizer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlalign.errors import UserError
from rlalign.rewards.reward_model.manifest import Form
from rlalign.rewards.text import text_of

_MARK = "\ue000cut\ue001"  # private-use characters: no template and no answer has them
Message = Mapping[str, Any]
Side = str | Sequence[Message]
"""A text, or messages with `role` and `content`."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A prompt and a completion to be scored.

    Attributes:
        prompt: text or messages; empty if the completion begins with the prompt.
        completion: text, or the messages that follow the prompt.
        cut: a limit ended the completion, so that it has no end mark.
    """

    prompt: Side
    completion: Side
    cut: bool = False

    def messages(self) -> list[dict[str, Any]]:
        """Return the conversation; a plain prompt is a message of the user, a plain completion one of the assistant."""
        messages: list[dict[str, Any]] = []
        if not isinstance(self.prompt, str):
            messages += [dict(message) for message in self.prompt]
        elif self.prompt or isinstance(self.completion, str):
            messages.append({"role": "user", "content": self.prompt})
        if isinstance(self.completion, str):
            messages.append({"role": "assistant", "content": self.completion})
        else:
            messages += [dict(message) for message in self.completion]
        return messages

    def text(self) -> str:
        """Return prompt and completion as one text."""
        return text_of(self.prompt) + text_of(self.completion)


class Renderer:
    """Renders samples as token ids.

    Args:
        tokenizer: of transformers.
        form: "chat" or "text".
        max_length: largest number of tokens; the beginning of a longer conversation is left out. None: no limit.
        name: of the model, for messages.

    Raises:
        UserError: a form "chat" without a chat template.
    """

    def __init__(self, tokenizer: Any, form: Form, max_length: int | None = None, name: str = "") -> None:
        self.tokenizer = tokenizer
        self.form = form
        self.max_length = max_length
        self._name = name
        if form == "chat" and not tokenizer.chat_template:
            raise UserError(
                f"reward model '{name}': expected a chat template for conversations, got a tokenizer without one; use "
                "the model of a chat, or data whose prompts are texts"
            )

    def ids(self, sample: Sample) -> list[int]:
        """Return the token ids of a sample, at most `max_length`: the last ones.

        Raises:
            UserError: the chat template refuses the conversation.
        """
        ids = self.all_ids(sample)
        return ids if self.max_length is None else ids[-self.max_length :]

    def all_ids(self, sample: Sample) -> list[int]:
        """Return all token ids of a sample; see `ids`."""
        if self.form == "chat":
            # the template writes the special tokens itself, as in `apply_chat_template(tokenize=True)`
            return list(self.tokenizer(self.chat_text(sample), add_special_tokens=False)["input_ids"])
        eos = self.tokenizer.eos_token or ""
        text = sample.text()
        if sample.cut:
            ids = list(self.tokenizer(text)["input_ids"])
            while ids and eos and ids[-1] == self.tokenizer.eos_token_id:  # a tokenizer that appends it
                ids.pop()
            return ids
        # as RewardTrainer does: the EOS token is appended to the text unless it is there
        return list(self.tokenizer(text if text.endswith(eos) else text + eos)["input_ids"])

    def chat_text(self, sample: Sample) -> str:
        """Return the rendered conversation of a sample; a cut one ends with the content of its last message."""
        messages = sample.messages()
        if not sample.cut:
            return self._apply(messages)
        # A mark after the content finds its end. To search for the content itself would find "im" in "<|im_end|>".
        messages[-1]["content"] = text_of([messages[-1]]) + _MARK
        text, mark, _ = self._apply(messages).rpartition(_MARK)
        if not mark:
            raise UserError(
                f"reward model '{self._name}': expected a chat template that writes the last message, got one that "
                "does not; use a template that writes the messages of the assistant"
            )
        return text

    def read_token(self) -> str:
        """Return the last token of a finished completion, as text."""
        ids = self.ids(Sample("Hello.", "Good day."))
        return str(self.tokenizer.decode(ids[-1:])) if ids else ""

    def _apply(self, messages: list[dict[str, Any]]) -> str:
        try:
            return str(self.tokenizer.apply_chat_template(messages, tokenize=False))
        except Exception as error:  # of a template, which is a program
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            roles = ", ".join(str(message.get("role")) for message in messages)
            raise UserError(
                f"reward model '{self._name}': its chat template refuses a conversation of the roles {roles} "
                f"({reason}); use prompts that it accepts"
            ) from error


def template_digest(tokenizer: Any) -> str:
    """Return the sha256 of a tokenizer's chat template; empty without one."""
    template = tokenizer.chat_template
    if not template:
        return ""
    return hashlib.sha256(repr(template).encode("utf-8", "surrogatepass")).hexdigest()
