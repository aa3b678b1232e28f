"""TextWorld-v0: text adventures that TextWorld, an optional package, makes and compiles on this machine.

The interpreter receives only commands that are possible in its present state: `save` writes no file, and `quit` asks no
question. The text of a game is therefore a function of these commands, and it is cached. An episode's state is a list
of commands, without a running interpreter.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from rlalign.assets import build_once, home
from rlalign.envs.builtin.arguments import check_integer
from rlalign.envs.mdp import TextMDP
from rlalign.envs.task_sources import ListSource
from rlalign.registry import import_optional
from rlalign.tokenizers import CharTokenizer
from rlalign.types import Split, Task, Tokenizer

_LIMITS = {"games": (3, 1000), "rooms": (1, 10), "objects": (1, 20), "quest": (1, 10)}  # one game per split at least
_ASCII = "".join(chr(i) for i in range(32, 127)) + "\n"


def score(state: list[dict[str, Any]], **columns: Any) -> list[float]:
    """Return the share of the game's points that each episode won."""
    return [float(s.get("score", 0.0)) for s in state]


def possible(state: list[dict[str, Any]], **columns: Any) -> list[float]:
    """Return the share of turns that were possible commands."""
    return [len(s["commands"]) / s["turns"] if s.get("turns") else 0.0 for s in state]


@dataclass(frozen=True)
class Game:
    """A game, identified by its number and size. Equal ones are equal on every machine."""

    number: int
    rooms: int
    objects: int
    quest: int

    def path(self) -> Path:
        """Return the compiled game. The first call compiles it, in a few seconds; later calls read the cache."""
        textworld = _textworld()
        size = f"{self.rooms}-{self.objects}-{self.quest}"
        folder = home() / "textworld" / textworld.__version__ / size / str(self.number)
        return (folder if folder.is_dir() else build_once(folder, self._compile)) / "game.z8"

    def _compile(self, folder: Path) -> None:
        textworld = _textworld()
        folder.mkdir()
        options = textworld.GameOptions()
        options.seeds = self.number
        options.path = str(folder / "game.z8")
        options.nb_rooms = self.rooms
        options.nb_objects = self.objects
        options.quest_length = self.quest
        textworld.generator.compile_game(textworld.generator.make_game(options), options)

    def walkthrough(self) -> list[str]:
        """Return commands that win the game."""
        description = json.loads(self.path().with_suffix(".json").read_text("utf-8"))
        commands: list[str] = description["metadata"]["walkthrough"]
        return commands


@dataclass(frozen=True)
class Scene:
    """The state of a game after some commands.

    Attributes:
        text: the last message of the game.
        score: the share of its points that the commands won.
        over: the game has ended.
        commands: the commands that are possible next.
    """

    text: str
    score: float
    over: bool
    commands: tuple[str, ...]


@lru_cache(maxsize=1 << 14)
def replay(game: Game, commands: tuple[str, ...] = ()) -> Scene:
    """Return the scene after a sequence of commands, each of which has to be possible at its place."""
    interpreter = _interpreter(game)
    observation = interpreter.reset()
    over = False
    text = f"{observation.objective}\n{observation.description}"
    for command in commands:
        observation, _, over = interpreter.step(command)
        text = observation.feedback
    # The interpreter appends its prompt, or the banner of the end; blank lines and indentation carry no content.
    text = re.sub(r"\s*\n\s*", "\n", re.split(r"\n>|\*\*\* The End", text)[0]).strip()
    text = text.encode("ascii", "replace").decode()  # the default tokenizer has ASCII characters only
    share = observation.score / observation.max_score
    return Scene(text, share, bool(over), tuple(observation.admissible_commands or ()))


@lru_cache(maxsize=64)
def _interpreter(game: Game) -> Any:
    textworld = _textworld()
    names = ("objective", "description", "feedback", "score", "max_score", "admissible_commands")
    with warnings.catch_warnings():
        # Jericho warns that it does not support the game, which is not one of its classics.
        warnings.simplefilter("ignore")
        return textworld.start(str(game.path()), textworld.EnvInfos(**dict.fromkeys(names, True)))


def _textworld() -> Any:
    return import_optional("textworld", "textworld")


class GameSource:
    """Tasks whose prompt is the first scene of a game. Game numbers are split before any game is made."""

    def __init__(self, games: int, rooms: int, objects: int, quest: int) -> None:
        self._size = (rooms, objects, quest)
        self._numbers = ListSource([f"game {number}" for number in range(games)])

    def size(self, split: Split) -> int:
        """Return the number of games of a split."""
        return self._numbers.size(split)

    def get(self, split: Split, index: int) -> Task:
        """Return game `index` of a split."""
        number = int(str(self._numbers.get(split, index).prompt).removeprefix("game "))
        game = Game(number, *self._size)
        return Task(replay(game).text + "\n", {"game": [number, *self._size]}, split, index)


class TextWorld(TextMDP):
    """Text adventures of a chosen size.

    A turn is a command such as `take key`. The reply to an impossible command lists the possible ones, at the cost of a
    turn.

    State: the adventure so far.
    Action: a character.
    Reward: the share of points, plus 0.2 · share of possible commands.
    Data: made by TextWorld (MIT), an optional package that brings its interpreter (Jericho, GPL-2) and compiler (Inform
        7, Artistic 2.0). Its installation compiles the interpreter on Linux and needs gcc and make.
    Splits: disjoint by games.

    Args:
        games: number of games, 3 to 1000; each takes seconds to make, once.
        rooms: number of rooms of a game, 1 to 10.
        objects: number of objects of a game, 1 to 20.
        quest: number of commands that win a game, 1 to 10.
        kwargs: see TextMDP.
    """

    id = "rlalign/TextWorld-v0"
    description = "a text adventure made by TextWorld (textworld?rooms=2&quest=2): multi-turn, optional package"
    rewards: ClassVar[Mapping[str, float]] = {
        "rlalign.envs.builtin.multi_turn.textworld:score": 1.0,
        "rlalign.envs.builtin.multi_turn.textworld:possible": 0.2,
    }
    gold_score = 1.2
    max_prompt = 1536
    max_new = 80
    max_reply = 1024

    def __init__(self, *, games: int = 20, rooms: int = 1, objects: int = 2, quest: int = 1, **kwargs: Any) -> None:
        _textworld()  # a missing package is reported before a wrong argument
        arguments = {"games": games, "rooms": rooms, "objects": objects, "quest": quest}
        for name, value in arguments.items():
            check_integer(f"TextWorld {name}", value, *_LIMITS[name])
        defaults: dict[str, Any] = {
            "source": GameSource(games, rooms, objects, quest),
            "max_turns": 2 * quest + 2,  # leaves room for as many wrong turns as the quest has commands, and two more
        }
        super().__init__(**defaults | kwargs)

    def default_tokenizer(self) -> Tokenizer:
        """Return a tokenizer of printable ASCII."""
        return CharTokenizer(_ASCII)

    def reference_turns(self, task: Task) -> list[str]:
        """Return the walkthrough."""
        return Game(*task.columns["game"]).walkthrough()

    def reply(
        self, task: Task, turn_ids: Sequence[int], state: dict[str, Any], rng: np.random.Generator
    ) -> Sequence[int] | None:
        """Return the message of the game, cut at max_reply, or None once the game is over."""
        game = Game(*task.columns["game"])
        history = state.setdefault("commands", [])
        state["turns"] = state.get("turns", 0) + 1
        scene = replay(game, tuple(history))
        possible_commands = {command.casefold(): command for command in scene.commands}
        turn = self.tokenizer.decode(turn_ids).strip().casefold()
        if turn not in possible_commands:
            return self.tokenizer.encode(f"possible: {', '.join(scene.commands)}\n")[: self.max_reply]
        history.append(possible_commands[turn])
        scene = replay(game, tuple(history))
        state["score"] = scene.score
        return None if scene.over else self.tokenizer.encode(scene.text + "\n")[: self.max_reply]
