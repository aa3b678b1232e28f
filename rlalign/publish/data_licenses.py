"""The data that a policy was trained on, and what is known about their licenses, per environment."""

from __future__ import annotations

import inspect
import re

from rlalign.config.schema import OBJECT, TrainConfig
from rlalign.envs.mdp import TextMDP
from rlalign.envs.mixture.parts import parts_of
from rlalign.envs.mixture.spec import env_specs, short_names
from rlalign.envs.spec import find_env, is_registered

_DATA = re.compile(r"^Data:\s*(.*?)(?=^\w[\w ]*(?::|\.$)|\Z|\n\n)", flags=re.MULTILINE | re.DOTALL)


def data_notes(config: TrainConfig, mdp: TextMDP | None = None) -> dict[str, str]:
    """Return environment or recorded data -> what its documentation says about data and license; "": nothing.

    No code of the user is imported: without `mdp`, only environments of this library have a note.

    Args:
        config: of a run.
        mdp: its environment, or the mixture of its environments, as far as it is built.
    """
    notes: dict[str, str] = {}
    specs = env_specs(config.env)
    names = short_names([spec.removeprefix(OBJECT) for spec in specs])
    parts = {} if mdp is None else parts_of(mdp)
    if len(specs) == 1 and len(parts) > 1:  # a mixture that was passed as a Python object
        notes = {name: data_note(type(part)) for name, part in parts.items()}
    else:
        for spec, name in zip(specs, names, strict=True):
            head = spec.partition("?")[0]
            part = parts.get(name, parts.get(""))
            if part is not None:
                notes[name] = data_note(type(part))
            elif is_registered(head):
                env = find_env(head)
                notes[name] = data_note(env if isinstance(env, type) else type(env))
            else:
                notes[name] = ""
    if config.data and config.data != config.env:
        notes[config.data] = ""
    return notes


def data_note(env: type) -> str:
    """Return the sentence `Data: ...` of an environment's docstring; empty if it has none.

    Example:
        >>> from rlalign.envs.builtin.strings.reverse import Reverse
        >>> data_note(Reverse)
        'random strings, no license.'
    """
    match = _DATA.search(inspect.cleandoc(env.__doc__ or ""))
    return " ".join(match[1].split()) if match else ""
