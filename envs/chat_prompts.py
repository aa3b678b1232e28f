"""Plain-text prompts as user messages, for policies with a chat template."""

from __future__ import annotations

import copy
from typing import Literal, TypeVar

from rlalign.envs.longest_prompt import limit_of_data
from rlalign.envs.mdp import TextMDP
from rlalign.envs.mixture.mixture import Mixture
from rlalign.errors import UserError
from rlalign.types import Prompt

Mode = Literal["auto", "on", "off"]
E = TypeVar("E", bound=TextMDP)


def with_chat_template(mdp: E, mode: Mode) -> E:
    """Return the environment with prompts for its tokenizer: plain texts, or user messages in the chat template.

    Limits grow with the template: `max_prompt` by its tokens, and `max_new` to the environment's `chat_max_new`, if it
    has one and the user has set no limit.

    Args:
        mdp: an environment, bound to the policy's tokenizer.
        mode: on; off; or auto, on for an environment of `questions` and a tokenizer with a chat template; for each
            environment of a mixture.

    Raises:
        UserError: the mode is on, and the tokenizer has no chat template or the environment has several turns.
    """
    if isinstance(mdp, Mixture):
        return mdp.map(lambda part: with_chat_template(part, mode))
    has_template = bool(getattr(mdp.tokenizer, "has_chat_template", False))
    if mode == "off" or (mode == "auto" and not (mdp.questions and has_template and mdp.max_turns == 1)):
        return mdp
    if not has_template:
        raise UserError(
            "rollout.chat_template: expected a policy whose tokenizer has a chat template, got one without; use "
            "--rollout.chat-template off"
        )
    if mdp.max_turns > 1:
        raise UserError(
            f"rollout.chat_template: expected an environment of one turn, got {mdp.id} with {mdp.max_turns} turns, "
            "whose messages are plain text; use --rollout.chat-template off"
        )
    chat = copy.copy(mdp)
    chat.chat = True
    if not limit_of_data(mdp):  # which is measured with the template
        chat.max_prompt = mdp.max_prompt + len(mdp.tokenizer.encode_prompt([{"role": "user", "content": ""}]))
    chat.max_new = max(mdp.max_new, mdp.chat_max_new or 0)
    return chat


def prompt_like(mdp: TextMDP, text: str) -> Prompt:
    """Return a text as a prompt of the form that an environment's tasks have.

    If these are messages, it is a user message after the system message of the first task.
    """
    example = mdp.source.get("train", 0).prompt
    if isinstance(example, str):
        return text
    system = [message for message in example[:1] if message["role"] == "system"]
    return [*system, {"role": "user", "content": text}]
