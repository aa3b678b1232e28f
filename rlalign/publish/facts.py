"""What a run folder holds for its card. Read from files: no code of the user is imported."""

from __future__ import annotations

import json
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
from rlalign.publish.data_licenses import data_notes
from rlalign.publish.former_runs import FormerRuns, former_runs, shareable_runs
from rlalign.publish.shareable_files import shared_base
from rlalign.publish.trained_parts import TrainedParts, trained_parts
from rlalign.storage import checkpoint
from rlalign.storage.jsonl import read_metrics
from rlalign.storage.run_folder import read_config


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
        data: environment or recorded data -> what is known about its data and their license (see `data_notes`).
        former: the former runs that the run continues.
        trained: the trained weights.
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
    data: Mapping[str, str] = field(default_factory=dict)
    former: FormerRuns = field(default_factory=FormerRuns)
    trained: TrainedParts = field(default_factory=TrainedParts)
    alarms: Mapping[str, Any] = field(default_factory=dict)
    advantage: Mapping[str, Any] = field(default_factory=dict)
    held_out: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)


def read_facts(folder: Path, mdp: TextMDP | None = None) -> Facts:
    """Return the facts of a run folder.

    Args:
        folder: of a finished run.
        mdp: its environment; None: its rewards' weights are left out, and notes about data of the user's environments.

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
    settings = _json(policy / adapter / "adapter_config.json") if adapter else {}
    card = _json(policy / "policy.json")
    former = former_runs(folder, config)
    return Facts(
        config=config,
        steps=int(rows[-1]["step"]) if rows else 0,
        evaluation=evaluation,
        base=_base(config, former),
        kind=str(card.get("kind") or "causal"),
        adapter=adapter,
        adapter_base=shared_base(str(settings.get("base_model_name_or_path") or ""), policy) if adapter else "",
        weights={} if mdp is None else dict(mdp.reward.weights),
        data=data_notes(config, mdp),
        former=former,
        trained=trained_parts(folder, config, settings, card),
        alarms=_json(folder / "report" / "alarms.json"),
        advantage=_json(folder / "report" / "advantage.json"),
        held_out=_json(folder / "report" / "held_out.json"),
        versions=checkpoint.versions(),
    )


def _base(config: TrainConfig, former: FormerRuns) -> BaseModel:
    """Return the origin of the initial policy; of a continued run with the license of the model that the chain began
    with, if the parent's card has none."""
    base = base_model(config.policy)
    if base.license or not former.origin:
        return base
    origin = base_model(former.origin)
    return replace(base, name=base.name or origin.name, license=origin.license, trained=origin.trained)


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
        data=shareable_values(facts.data),
        former=shareable_runs(facts.former),
        alarms=shareable_values(facts.alarms),
        advantage=shareable_values(facts.advantage),
        held_out=shareable_values(facts.held_out),
    )


def _json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; {} if it is missing or damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
