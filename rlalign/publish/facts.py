"""What a run folder holds for its card. Read from files: no code of the user is imported."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rlalign.config.schema import TrainConfig
from rlalign.config.shareable import shareable_config
from rlalign.envs.mdp import TextMDP
from rlalign.errors import UserError
from rlalign.escaping.shareable import shareable_spec, shareable_text, shareable_values
from rlalign.publish.base_model import BaseModel, base_model
from rlalign.publish.shareable_files import shared_base
from rlalign.storage import checkpoint
from rlalign.storage.jsonl import read_metrics
from rlalign.storage.run_folder import read_config

_DATA = re.compile(r"^Data:\s*(.*?)(?=^\w[\w ]*(?::|\.$)|\Z|\n\n)", flags=re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Facts:
    """The facts of a finished run.

    Attributes:
        config: its configuration.
        steps: steps done.
        evaluation: report/evaluation.json: verdict, metrics before and after, corpus, prompts.
        base: the initial policy.
        kind: causal, gru or tabular.
        adapter: its folder, `.` for virtual tokens, which are the policy folder itself; empty: there is none.
        adapter_base: what it is loaded over, as others find it (see `shareable_files.shared_base`).
        weights: reward component -> weight at the end; empty: not known.
        data_note: what the environment's documentation says about its data and their license.
        alarms: alarm -> its periods and message.
        advantage: the oracle's check of a custom advantage.
        held_out: metrics of held-out recorded data, before and after.
        versions: package -> version.
    """

    config: TrainConfig
    steps: int
    evaluation: Mapping[str, Any]
    base: BaseModel
    kind: str
    adapter: str = ""
    adapter_base: str = ""
    weights: Mapping[str, float] = field(default_factory=dict)
    data_note: str = ""
    alarms: Mapping[str, Any] = field(default_factory=dict)
    advantage: Mapping[str, Any] = field(default_factory=dict)
    held_out: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)


def read_facts(folder: Path, mdp: TextMDP | None = None) -> Facts:
    """Return the facts of a run folder.

    Args:
        folder: of a finished run.
        mdp: its environment; None: its rewards' weights and the note about its data are left out.

    Raises:
        UserError: the run has no policy or no evaluation yet.
    """
    policy = folder / "policy"
    evaluation = _json(folder / "report" / "evaluation.json")
    if not policy.is_dir() or "metrics" not in evaluation:
        raise UserError(f"'{folder}' is not finished; use rlalign train --resume {folder}")
    config = read_config(folder)
    rows = read_metrics(folder)
    adapter = next((name for name in ("adapter", ".") if (policy / name / "adapter_config.json").is_file()), "")
    settings = _json(policy / adapter / "adapter_config.json")
    return Facts(
        config=config,
        steps=int(rows[-1]["step"]) if rows else 0,
        evaluation=evaluation,
        base=base_model(config.policy),
        kind=str(_json(policy / "policy.json").get("kind") or "causal"),
        adapter=adapter,
        adapter_base=shared_base(str(settings.get("base_model_name_or_path") or ""), policy) if adapter else "",
        weights={} if mdp is None else dict(mdp.reward.weights),
        data_note="" if mdp is None else data_note(type(mdp)),
        alarms=_json(folder / "report" / "alarms.json"),
        advantage=_json(folder / "report" / "advantage.json"),
        held_out=_json(folder / "report" / "held_out.json"),
        versions=checkpoint.versions(),
    )


def shareable_facts(facts: Facts) -> Facts:
    """Return the facts as others may read them: without folders of this machine, passwords and keys."""
    base = replace(
        facts.base,
        text=shareable_text(facts.base.text),
        name=shareable_spec(facts.base.name),
        license=shareable_text(facts.base.license),
    )
    return replace(
        facts,
        config=shareable_config(facts.config),
        evaluation=shareable_values(facts.evaluation),
        base=base,
        weights=shareable_values(facts.weights),
        data_note=shareable_text(facts.data_note),
        alarms=shareable_values(facts.alarms),
        advantage=shareable_values(facts.advantage),
        held_out=shareable_values(facts.held_out),
    )


def data_note(env: type) -> str:
    """Return the sentence `Data: ...` of an environment's docstring; empty if it has none.

    Example:
        >>> from rlalign.envs.builtin.strings.reverse import Reverse
        >>> data_note(Reverse)
        'random strings, no license.'
    """
    match = _DATA.search(inspect.cleandoc(env.__doc__ or ""))
    return " ".join(match[1].split()) if match else ""


def _json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; {} if it is missing or damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
