"""The card of a run as a file of its policy folder."""

from __future__ import annotations

from pathlib import Path

from rlalign.envs.mdp import TextMDP
from rlalign.publish.base_model import CARD
from rlalign.publish.card import card_of
from rlalign.publish.facts import read_facts
from rlalign.storage.atomic import write_atomic


def write_card(folder: Path, mdp: TextMDP | None = None) -> str:
    """Write `policy/README.md` of a run atomically and return its text.

    Args:
        folder: of a finished run.
        mdp: its environment; None: the card has no weights, and no note about data of the user's environments.

    Raises:
        UserError: the run is not finished.
        FaultError: the file cannot be written.
    """
    text = card_of(read_facts(folder, mdp), folder.resolve().name)
    write_atomic(folder / "policy" / CARD, text)
    return text
