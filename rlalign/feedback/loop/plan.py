"""The plan of a loop: study.toml with the table [loop]."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from rlalign.errors import UserError, did_you_mean
from rlalign.feedback.study import Study, checked_study, to_values
from rlalign.typecheck import check_fields, check_range, checked, flatten, hints_of

_FREE = ("rounds",)
"""Settings that may change between two calls: more rounds continue the loop."""


@dataclass(frozen=True, slots=True)
class LoopSettings:
    """The table [loop] of study.toml.

    Attributes:
        policy: initial policy: a name of `rlalign list policies`, a policy folder or a run folder.
        env: environment of the training and the measurements; empty: the prompts of the study.
        rounds: number of rounds.
        prompts: new prompts per round.
        voters: "people", who judge on the pages, or "simulated" ones.
        people: number of simulated people.
        reward: score by which simulated people judge; also the gold reward unless `gold` is set.
        noise: temperature of the choices of simulated people.
        side: their mean bias for the left side.
        length: their mean bias for length, per hundred characters.
        gold: reward that is measured and not trained; empty: `reward` with simulated people, none with real ones.
        algorithm: preset of the policy-gradient steps.
        steps: policy-gradient steps per round.
        train: further settings of the training by dotted name, such as "learner.lr".
        reward_model: settings of the reward model, such as model = "linear".
    """

    policy: str
    env: str = ""
    rounds: int = 3
    prompts: int = 32
    voters: Literal["people", "simulated"] = "people"
    people: int = 3
    reward: str = ""
    noise: float = 0.5
    side: float = 0.2
    length: float = 0.1
    gold: str = ""
    algorithm: str = "rloo"
    steps: int = 8
    train: Mapping[str, Any] = field(default_factory=dict)
    reward_model: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Plan:
    """A study with its loop.

    Attributes:
        study: the study of one round.
        loop: the table [loop].
        folder: of study.toml; paths in it are relative to this folder.
    """

    study: Study
    loop: LoopSettings
    folder: Path

    @property
    def gold(self) -> str:
        """The reward that is measured and not trained; empty: none."""
        return self.spec(self.loop.gold or (self.loop.reward if self.loop.voters == "simulated" else ""))

    @property
    def reward(self) -> str:
        """The score by which simulated people judge."""
        return self.spec(self.loop.reward)

    @property
    def prompts(self) -> Path:
        """The data file with the prompts of all rounds."""
        return self.folder / self.study.prompts

    def path(self, name: str) -> str:
        """Return a name of the plan; a path relative to study.toml becomes one of this process.

        A path may have a suffix: `env.py:Class`, `prompts.jsonl?train=NAME`.
        """
        file, suffix = _split_suffix(name)
        beside = self.folder / file
        return f"{beside}{suffix}" if file and beside.exists() else name

    def spec(self, name: str) -> str:
        """Return the spec of a reward; a file or folder relative to study.toml becomes an absolute path.

        A file ends in .py, and a folder has a `/`. The path is absolute, because it is part of a run folder, which may
        be read from another working folder, and because `rm` without a `/` would be no folder.
        """
        file, suffix = _split_suffix(name)
        beside = self.folder / file
        is_path = "/" in file or file.endswith(".py")
        return f"{beside.absolute()}{suffix}" if is_path and beside.exists() else name

    def digest(self) -> str:
        """Return the sha256 of the settings and the prompts, without the number of rounds."""
        loop = {key: value for key, value in dataclasses.asdict(self.loop).items() if key not in _FREE}
        content = json.dumps([to_values(self.study), loop], sort_keys=True).encode()
        return hashlib.sha256(content + self.prompts.read_bytes()).hexdigest()


def _split_suffix(name: str) -> tuple[str, str]:
    """Return the path of a spec, and what follows it: the attribute of a Python file, parameters, or a weight."""
    match = re.match(r"(.*?\.py)(:.*)$|([^?]*)(\?.*)$", name, re.DOTALL)
    if match is None:
        return name, ""
    return match[1] or match[3] or "", match[2] or match[4] or ""


def read_plan(path: Path) -> Plan:
    """Read study.toml with its table [loop] and check both.

    Raises:
        UserError: the file cannot be read, a setting is unknown, of another type, out of range or contradictory, or
            there are fewer prompts than the rounds need.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"'{path}' cannot be read ({error.strerror}); write it, with a table [loop]") from error
    except ValueError as error:  # of tomllib, or of a file that is not UTF-8
        raise UserError(f"'{path}' is no TOML file ({error}); mend it") from error
    table = content.pop("loop", None)
    if not isinstance(table, Mapping):
        raise UserError(
            f"'{path}': expected a table [loop] with the policy, got none; add [loop] and policy = \"tiny\""
        )
    for name in ("policies", "completions"):
        if content.get(name):
            raise UserError(f"'{name}': expected none in a loop, which samples its own policy; use policy under [loop]")
    # a study has a policy: the label under which people's answers to the present one are stored
    plan = Plan(checked_study({**content, "policies": ["policy"]}), _loop(table), path.parent)
    _check(plan)
    return plan


def _loop(table: Mapping[str, Any]) -> LoopSettings:
    names = [f.name for f in dataclasses.fields(LoopSettings)]
    values: dict[str, Any] = {}
    for name, value in table.items():
        if name not in names:
            raise UserError(f"unknown setting 'loop.{name}'.{did_you_mean(name, names)}")
        if name in ("train", "reward_model"):
            if not isinstance(value, Mapping):
                raise UserError(f"'loop.{name}': expected a table, got {value!r}; use [loop.{name}]")
            values[name] = flatten(value)
        else:
            values[name] = checked(hints_of(LoopSettings)[name], value, f"loop.{name}")
    if "policy" not in values:
        raise UserError("'loop.policy': expected the initial policy, got none; use policy = \"tiny\"")
    loop = LoopSettings(**values)
    check_fields(loop, "loop.")
    return loop


def _check(plan: Plan) -> None:
    from rlalign.feedback.prompts import read_prompts
    from rlalign.reward_models.settings import Settings

    study, loop = plan.study, plan.loop
    if study.kind != "pair":
        raise UserError(f"'kind': expected pair in a loop, got {study.kind}; leave it out")
    if not study.prompts:
        raise UserError("'prompts': expected a data file for all rounds, got none; use prompts = \"prompts.jsonl\"")
    for name, least in (("rounds", 1), ("prompts", 1), ("people", 1), ("steps", 1)):
        check_range(f"loop.{name}", getattr(loop, name), least=least)
    check_range("loop.noise", loop.noise, above=0)
    if loop.voters == "simulated" and not loop.reward:
        raise UserError("'loop.reward': expected the score by which simulated people judge, got none; use a reward")
    for name in ("rewards", "steps", "output", "resume", "policy", "env", "algorithm"):
        if name in loop.train:
            raise UserError(f"'loop.train.{name}': expected a setting of the loop itself, got it here; use loop.{name}")
    known = [f.name for f in dataclasses.fields(Settings)]
    for name in loop.reward_model:
        if name not in known:
            raise UserError(f"unknown setting 'loop.reward_model.{name}'.{did_you_mean(name, known)}")
    Settings(**loop.reward_model)
    needed = loop.rounds * loop.prompts
    count = len(read_prompts(plan.prompts, study.count))
    if count < needed:
        raise UserError(
            f"'{plan.prompts}': expected {needed} prompts for {loop.rounds} rounds of {loop.prompts}, got {count}; add "
            "prompts, or use fewer rounds"
        )
