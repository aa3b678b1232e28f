"""Games-v0: a single-player game of TextArena, an optional package.

The games draw from Python's and numpy's global random generators. Each game here has its own states for them, which are
installed during a call and removed after it. Games that run at the same time therefore do not influence each other or
other code.
"""

from __future__ import annotations

import contextlib
import io
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from rlalign.envs.builtin.arguments import check_several_turns
from rlalign.envs.mdp import TextMDP
from rlalign.envs.task_sources import ProceduralSource
from rlalign.errors import MissingExtraError, UnknownNameError, UserError
from rlalign.registry import import_optional
from rlalign.types import Split, Task

# Turns on which some games raise: nothing, empty or open brackets, large numbers, other scripts, many letters.
_MALFORMED = ("", "[]", "[ ]", "\x00", "[🙂]", "[-1e999]", "[[", "[a b c d]", "[99999 99999]", "x" * 300)


def score(state: list[dict[str, Any]], **columns: Any) -> list[float]:
    """Return the reward of each game at its end; 0 for a game that did not end within the turns."""
    return [s.get("score", 0.0) for s in state]


def won(state: list[dict[str, Any]], **columns: Any) -> list[float]:
    """Return 1 for each game that ended with the largest reward."""
    return [float(s.get("score", 0.0) >= 1) for s in state]


class Game:
    """One game in progress.

    Args:
        name: as TextArena registers it.
        seed: of all randomness of the game.

    Attributes:
        text: messages of the game since the last action.
        score: reward of the game, None before its end.
    """

    def __init__(self, name: str, seed: int) -> None:
        self._python_state: Any = random.Random(seed).getstate()
        self._numpy_state: Any = np.random.RandomState(seed).get_state()
        with self._own_random_state():
            self._env = _textarena().make(f"{name}-raw")
            self._env.reset(num_players=1, seed=seed)
        self.text = self._read_messages()
        self.score: float | None = None

    def act(self, action: str) -> None:
        """Take a turn, then update `text`, and `score` if the game is over."""
        with self._own_random_state():
            done, _ = self._env.step(action)
            if done:
                rewards, _ = self._env.close()
                self.score = float((rewards or {}).get(0, 0.0))
        self.text = self._read_messages()

    def _read_messages(self) -> str:
        player, messages = self._env.get_observation()
        return "\n".join(text for speaker, text, _ in messages if speaker != player)

    @contextlib.contextmanager
    def _own_random_state(self) -> Iterator[None]:
        python_state = random.getstate()
        numpy_state = np.random.get_state()  # noqa: NPY002  # the games draw from the global generator
        random.setstate(self._python_state)
        np.random.set_state(self._numpy_state)  # noqa: NPY002  # the games draw from the global generator
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # some games print
                yield
        finally:
            self._python_state = random.getstate()
            self._numpy_state = np.random.get_state()  # noqa: NPY002  # the games draw from the global generator
            random.setstate(python_state)
            np.random.set_state(numpy_state)  # noqa: NPY002  # the games draw from the global generator

    def __getstate__(self) -> dict[str, Any]:
        return {}  # a reward in another process reads the rest of the episode's state; a game is not sent to it


def _textarena() -> Any:
    try:
        return import_optional("textarena", "games")
    except ImportError as error:  # textarena raises it for a missing dependency of its own, which the extra installs
        raise MissingExtraError("textarena", "games") from error


def game_names() -> list[str]:
    """Return the names of TextArena's games, for one player or more."""
    registry: Mapping[str, Any] = _textarena().envs.registration.ENV_REGISTRY
    return sorted(name.removesuffix("-raw") for name in registry if name.endswith("-raw"))


def screen(name: str) -> None:
    """Check that a game has one player and accepts malformed turns.

    Raises:
        UnknownNameError: TextArena has no such game.
        UserError: the game raised; the message gives the reason.
    """
    if name not in game_names():
        raise UnknownNameError("game of TextArena", name, game_names())
    try:
        for text in _MALFORMED:
            game = Game(name, 0)
            for _ in range(4):
                if game.score is None:
                    game.act(text)
    except Exception as error:  # each game raises exceptions of its own kind
        reason = (str(error).strip().splitlines() or [""])[0] or "it needs data or players that are missing"
        raise UserError(
            f"Games: expected a game for one player that accepts any turn, got '{name}' "
            f"({type(error).__name__}: {reason.strip('*')}); use another name"
        ) from error


class GameSource:
    """Tasks whose prompt is the first text of a game. Seeds are split before any game is set up."""

    def __init__(self, name: str, seed: int) -> None:
        self._name = name
        self._seeds = ProceduralSource(lambda rng: {"prompt": name, "seed": int(rng.integers(2**31))}, seed=seed)

    def size(self, split: Split) -> None:
        """Return None: the number of tasks is unbounded."""
        return None

    def get(self, split: Split, index: int) -> Task:
        """Return game `index` of a split."""
        columns = self._seeds.get(split, index).columns
        return Task(Game(self._name, columns["seed"]).text + "\n", columns, split, index)


class Games(TextMDP):
    """A single-player game of TextArena.

    A turn without brackets is put into brackets: `5` becomes `[5]`.

    State: the rules, turns and messages of the game.
    Action: a token.
    Reward: the reward that the game gives at its end.
    Data: TextArena (MIT), an optional package.
    Splits: disjoint by the seeds of games.

    Args:
        name: a game for one player, as TextArena registers it; a game that fails the screening is refused.
        seed: of the family of tasks.
        kwargs: see TextMDP.
    """

    id = "rlalign/Games-v0"
    description = "a single-player game of TextArena (games?name=FrozenLake-v0): multi-turn, optional package"
    rewards: ClassVar[Mapping[str, float]] = {
        "rlalign.envs.builtin.multi_turn.games:score": 1.0,
        "rlalign.envs.builtin.multi_turn.games:won": 0.0,
    }
    max_prompt = 2048
    max_new = 8
    max_turns = 10
    max_reply = 512

    def __init__(self, *, name: str = "GuessTheNumber-v0", seed: int = 0, **kwargs: Any) -> None:
        screen(name)
        self.name = name
        defaults: dict[str, Any] = {"source": GameSource(name, seed)}
        super().__init__(**defaults | kwargs)
        check_several_turns("Games", self.max_turns)

    def reply(
        self, task: Task, turn_ids: Sequence[int], state: dict[str, Any], rng: np.random.Generator
    ) -> Sequence[int] | None:
        """Return the messages of the game, cut at max_reply, or None once the game is over."""
        game = state.get("game") or Game(self.name, task.columns["seed"])
        state["game"] = game
        turn = self.tokenizer.decode(turn_ids).strip()
        game.act(turn if "[" in turn else f"[{turn}]")
        if game.score is not None:
            state["score"] = game.score
            return None
        return self.tokenizer.encode(game.text + "\n")[: self.max_reply]
