"""The end of a run that has its results: the card is written, trackers get it with the plots, and it is uploaded.

None of that can lose the run: each failure is a warning that names the next step.
"""

from __future__ import annotations

from pathlib import Path

from rlalign.config.schema import TrainConfig
from rlalign.envs.mdp import TextMDP
from rlalign.errors import RLAlignError
from rlalign.escaping.console import PlainConsole
from rlalign.log.trackers import Tracker
from rlalign.publish.push import described, push
from rlalign.publish.written_card import write_card


def finish(config: TrainConfig, folder: Path, mdp: TextMDP, tracker: Tracker | None, console: PlainConsole) -> None:
    """Write the card, give the results to the trackers, and upload them if the run is configured so.

    Args:
        config: of the run.
        folder: the run folder, with its policy and its evaluation.
        mdp: the environment.
        tracker: the log; None: it is closed.
        console: of the run.
    """
    text = ""
    try:
        text = write_card(folder, mdp)
    except Exception as error:  # the run is complete, and a card can be written later
        console.warn(f"no card in '{folder / 'policy'}' ({type(error).__name__}: {error}); rlalign push writes it")
    if tracker is not None:
        plot = folder / "report" / "reward.png"
        tracker.finish(text, {"reward": plot} if plot.is_file() else {})
    if config.tracking.push is not None:
        _push(folder, config.tracking.push, console)


def _push(folder: Path, repo: str, console: PlainConsole) -> None:
    try:
        console.print(described(push(folder, repo)), soft_wrap=True)
    except RLAlignError as error:  # its message has the next step
        console.warn(str(error))
    except Exception as error:
        console.warn(
            f"the policy was not uploaded to '{repo}' ({type(error).__name__}: {error}); the run is complete: use "
            f"rlalign push {folder} {repo}"
        )
