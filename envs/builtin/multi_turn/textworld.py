"""TextWorld-v0: a text adventure that TextWorld, an optional package, makes and compiles on this machine.

The interpreter gets only commands that are possible in its present state: `save` writes no file, `quit` asks nothing,
and what a game says is a function of those commands, which is remembered. So an episode's state is a list of texts.
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
from rlalign.envs.builtin import corpora
from rlalign.envs.mdp import TextMDP
from rlalign.envs.task_sources import ListSource
from rlalign.tokenizers import CharTokenizer
from rlalign.types import Split, Task, Tokenizer

_MOST = {"games": 1000, "rooms": 10, "objects": 20, "quest": 10}
_ASCII = "".join(chr(i) for i in range(32, 127)) + "\n"


def score(state: list[dict[str, Any]], **columns: Any) -> list[float]:
    """The share of the game's points that was won."""
    return [float(s.get("score", 0.0)) for s in state]


def possible(state: list[dict[str, Any]], **columns: Any) -> list[float]:
    """The share of turns that were commands which the game could follow."""
    return [len(s["commands"]) / s["turns"] if s.get("turns") else 0.0 for s in state]


@dataclass(frozen=True)
class Game:
    """A game by its number and size; equal ones are equal on every machine."""

    number: int
    rooms: int
    objects: int
    quest: int

    def path(self) -> Path:
        """The compiled game, made when it is first asked for: a few seconds, then it lies in the cache."""
        textworld = _textworld()
        size = f"{self.rooms}-{self.objects}-{self.quest}"
        folder = home() / "textworld" / textworld.__version__ / size / str(self.number)
        return (folder if folder.is_dir() else build_once(folder, self._make)) / "game.z8"

    def _make(self, folder: Path) -> None:
        textworld = _textworld()
        folder.mkdir()
        options = textworld.GameOptions()
        options.seeds, options.path = self.number, str(folder / "game.z8")
        options.nb_rooms, options.nb_objects, options.quest_length = self.rooms, self.objects, self.quest
        textworld.generator.compile_game(textworld.generator.make_game(options), options)

    def walkthrough(self) -> list[str]:
        """The commands that win it."""
        found: list[str] = json.loads(self.path().with_suffix(".json").read_text("utf-8"))["metadata"]["walkthrough"]
        return found


@dataclass(frozen=True)
class Scene:
    """What a game says after some commands, the share of its points that they won, and what can be done next."""

    said: str
    score: float
    over: bool
    commands: tuple[str, ...]


@lru_cache(maxsize=1 << 14)
def scene(game: Game, commands: tuple[str, ...] = ()) -> Scene:
    """The scene after commands that were possible, one after the other."""
    interpreter = _interpreter(game)
    seen, over = interpreter.reset(), False
    said = f"{seen.objective}\n{seen.description}"
    for command in commands:
        seen, _, over = interpreter.step(command)
        said = seen.feedback
    text = re.sub(r"\s*\n\s*", "\n", re.split(r"\n>|\*\*\* The End", said)[0]).strip()
    text = text.encode("ascii", "replace").decode()  # the default tokenizer's letters
    return Scene(text, seen.score / seen.max_score, bool(over), tuple(seen.admissible_commands or ()))


@lru_cache(maxsize=64)
def _interpreter(game: Game) -> Any:
    textworld = _textworld()
    names = ("objective", "description", "feedback", "score", "max_score", "admissible_commands")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the game is none of the classics which the interpreter knows by heart
        return textworld.start(str(game.path()), textworld.EnvInfos(**dict.fromkeys(names, True)))


def _textworld() -> Any:
    return corpora.package("TextWorld", "textworld", "textworld")


class GameSource:
    """The opening scenes of games by their numbers, which are split before any game is made."""

    def __init__(self, games: int, rooms: int, objects: int, quest: int) -> None:
        self._size = (rooms, objects, quest)
        self._numbers = ListSource([f"game {number}" for number in range(games)])

    def size(self, split: Split) -> int:
        """Number of games of a split."""
        return self._numbers.size(split)

    def get(self, split: Split, index: int) -> Task:
        """Game `index` of a split."""
        number = int(str(self._numbers.get(split, index).prompt).removeprefix("game "))
        game = Game(number, *self._size)
        return Task(scene(game).said + "\n", {"game": [number, *self._size]}, split, index)


class TextWorld(TextMDP):
    """State: the adventure so far. Action: a character. Reward: 1 for all points, 0.2 for turns that can be followed.

    A turn is a command, `take key`. One that is not possible is answered by those that are, and costs a turn.
    Data: made by TextWorld (MIT), which is an optional package, as are the interpreter (Jericho, GPL-2) and the
    compiler (Inform 7, Artistic 2.0) that it brings. Splits: disjoint by games.

    Args:
        games: how many there are; each takes seconds to make, once.
        rooms, objects, quest: of a game: its rooms, its objects, and the commands that win it.
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
        _textworld()
        given = {"games": games, "rooms": rooms, "objects": objects, "quest": quest}
        for name, value in given.items():
            corpora.within("TextWorld", name, value, 3 if name == "games" else 1, _MOST[name])
        source = GameSource(games, rooms, objects, quest)
        super().__init__(**{"source": source, "max_turns": 2 * quest + 2, **kwargs})

    def default_tokenizer(self) -> Tokenizer:
        """Printable ASCII."""
        return CharTokenizer(_ASCII)

    def reference_turns(self, task: Task) -> list[str]:
        """The walkthrough."""
        return Game(*task.columns["game"]).walkthrough()

    def reply(
        self, task: Task, turn_ids: Sequence[int], state: dict[str, Any], rng: np.random.Generator
    ) -> Sequence[int] | None:
        """What the game says, cut to max_reply, or None when it is over."""
        game, done = Game(*task.columns["game"]), state.setdefault("commands", [])
        state["turns"] = state.get("turns", 0) + 1
        before = scene(game, tuple(done))
        possible = {command.casefold(): command for command in before.commands}
        said = self.tokenizer.decode(turn_ids).strip().casefold()
        if said not in possible:
            return self.tokenizer.encode(f"possible: {', '.join(before.commands)}\n")[: self.max_reply]
        done.append(possible[said])
        now = scene(game, tuple(done))
        state["score"] = now.score
        return None if now.over else self.tokenizer.encode(now.said + "\n")[: self.max_reply]
