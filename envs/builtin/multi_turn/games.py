"""Games-v0: a single-player game of TextArena, an optional package.

The games draw from Python's global random generators. Each game here has states of its own for them, put in place for
the length of a call, so that games played at once do not disturb each other or anything else.
"""

from __future__ import annotations

import contextlib
import io
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from rlalign.envs.mdp import TextMDP
from rlalign.envs.task_sources import ProceduralSource
from rlalign.errors import MissingExtraError, UnknownNameError, UserError
from rlalign.types import Split, Task

_MALFORMED = ("", "[]", "[ ]", "\x00", "[🙂]", "[-1e999]", "[[", "[a b c d]", "[99999 99999]", "x" * 300)


def score(state: list[dict[str, Any]], **columns: Any) -> list[float]:
    """What the game paid when it ended; 0 when the turns were used up first."""
    return [s.get("score", 0.0) for s in state]


def won(state: list[dict[str, Any]], **columns: Any) -> list[float]:
    """1 when the game paid all it can."""
    return [float(s.get("score", 0.0) >= 1) for s in state]


class Game:
    """One game under way.

    Args:
        name: as TextArena registers it.
        seed: of everything random in it.
    """

    def __init__(self, name: str, seed: int) -> None:
        self._states = random.Random(seed).getstate(), np.random.RandomState(seed).get_state()
        with self._own_randomness():
            self._env = _textarena().make(f"{name}-raw")
            self._env.reset(num_players=1, seed=seed)
        self.said = self._heard()
        self.score: float | None = None

    def act(self, action: str) -> None:
        """Take a turn; `said` is what the game says then, and `score` a number when it is over."""
        with self._own_randomness():
            done, _ = self._env.step(action)
            if done:
                rewards, _ = self._env.close()
                self.score = float((rewards or {}).get(0, 0.0))
        self.said = self._heard()

    def _heard(self) -> str:
        player, messages = self._env.get_observation()
        return "\n".join(text for speaker, text, _ in messages if speaker != player)

    @contextlib.contextmanager
    def _own_randomness(self) -> Iterator[None]:
        others = random.getstate(), np.random.get_state()  # noqa: NPY002  # the global generator is the game's
        random.setstate(self._states[0])
        np.random.set_state(self._states[1])  # noqa: NPY002  # the global generator is the game's
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # some games print
                yield
        finally:
            self._states = random.getstate(), np.random.get_state()  # noqa: NPY002 - the global one is what the game draws from
            random.setstate(others[0])
            np.random.set_state(others[1])  # noqa: NPY002  # the global generator is the game's

    def __getstate__(self) -> dict[str, Any]:
        return {}  # a reward in another process sees the rest of the state; the game itself stays here


def _textarena() -> Any:
    try:
        import textarena
    except ImportError as error:
        raise MissingExtraError("Games", "textarena", "games") from error
    return textarena


def names() -> list[str]:
    """The games that TextArena has, for one player or more."""
    registry: Mapping[str, Any] = _textarena().envs.registration.ENV_REGISTRY
    return sorted(name.removesuffix("-raw") for name in registry if name.endswith("-raw"))


def screen(name: str) -> None:
    """Raise UserError with the reason unless the game can be played alone and survives malformed turns."""
    if name not in names():
        raise UnknownNameError("game of TextArena", name, names())
    try:
        for text in _MALFORMED:
            game = Game(name, 0)
            for _ in range(4):
                if game.score is None:
                    game.act(text)
    except Exception as error:  # each game has its own ways of failing
        reason = (str(error).strip().splitlines() or [""])[0] or "it needs data or players that are not here"
        raise UserError(f"Games: '{name}' is left out: {type(error).__name__}: {reason.strip('*')}") from error


class GameSource:
    """The opening words of games by their seeds, which are split before any game is set up."""

    def __init__(self, name: str, seed: int) -> None:
        self._name = name
        self._seeds = ProceduralSource(lambda rng: {"prompt": name, "seed": int(rng.integers(2**31))}, seed=seed)

    def size(self, split: Split) -> None:
        """Unbounded."""
        return None

    def get(self, split: Split, index: int) -> Task:
        """Game `index` of a split."""
        columns = self._seeds.get(split, index).columns
        return Task(Game(self._name, columns["seed"]).said + "\n", columns, split, index)


class Games(TextMDP):
    """State: the rules, turns and what the game said. Action: a token. Reward: what the game pays at its end.

    A turn without brackets is put into them, as `5` into `[5]`. Data: TextArena (MIT), which is an optional package.
    Splits: disjoint by the seeds of games.

    Args:
        name: a game for one player, as TextArena registers it; one that fails the screening is refused.
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

        super().__init__(**{"source": GameSource(name, seed), **kwargs})
        if self.max_turns < 2:
            raise UserError("Games: max_turns is 1, which is no game: give at least 2")

    def reply(
        self, task: Task, turn_ids: Sequence[int], state: dict[str, Any], rng: np.random.Generator
    ) -> Sequence[int] | None:
        """What the game says, cut to max_reply, or None when it is over."""
        game = state.setdefault("game", None) or Game(self.name, task.columns["seed"])
        state["game"] = game
        said = self.tokenizer.decode(turn_ids).strip()
        game.act(said if "[" in said else f"[{said}]")
        if game.score is not None:
            state["score"] = game.score
            return None
        return self.tokenizer.encode(game.said + "\n")[: self.max_reply]
