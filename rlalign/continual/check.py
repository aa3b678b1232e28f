"""Checks of the settings of continued learning, before any weight is loaded."""

from __future__ import annotations

from pathlib import Path

from rlalign.algorithms import UNTRAINED
from rlalign.algorithms import algorithm as find_algorithm
from rlalign.config.schema import ContinualConfig, TrainConfig
from rlalign.continual.chain import parent_folder
from rlalign.errors import UserError
from rlalign.policies.model_files import ModelFiles, read_headers
from rlalign.storage import checkpoint
from rlalign.storage.run_folder import read_config

_SWITCHES = ("optimizer", "anchor", "replay", "ewc")
"""The settings that turn a part on; the others describe it."""


def settings_in_use(config: TrainConfig) -> dict[str, object]:
    """Return dotted name -> value of the settings that take something from a former run."""
    default = ContinualConfig()
    values = {name: getattr(config.continual, name) for name in _SWITCHES}
    return {f"continual.{name}": value for name, value in values.items() if value != getattr(default, name)}


def check_continual(config: TrainConfig) -> None:
    """Raise UserError if a setting of continued learning contradicts the rest of the configuration."""
    used = settings_in_use(config)
    if not used:
        return
    key, value = next(iter(used.items()))
    parent = parent_folder(config.policy)
    if parent is None:
        raise UserError(
            f"{key} {value}: expected the policy of a finished run, got '{config.policy}'; use --policy runs/NAME, or "
            "leave the setting out"
        )
    continual, preset = config.continual, find_algorithm(config.algorithm)
    former_mixing = read_config(parent).tasks.mixing
    anchored = continual.anchor != "new"
    tensors = "optimizer" if continual.optimizer == "kept" else "ewc" if continual.ewc else ""
    removed = _removed_ranks(parent) if tensors else ""
    for setting, refused, reason, fix in (
        (key, config.algorithm in UNTRAINED, f"{config.algorithm} trains nothing", "leave it out"),
        (f"continual.{tensors}", bool(removed), removed, "leave it out"),
        ("continual.anchor", anchored and bool(preset.teacher),
         f"the reference policy of {config.algorithm} is its teacher", "use --continual.anchor new"),
        ("continual.anchor", continual.anchor == "both" and config.objective.is_preference,
         f"loss {config.objective.loss} compares with one reference policy", "use new or previous"),
        ("continual.replay", continual.replay > 0 and bool(config.data),
         "the completions of --data were recorded, and replay samples", "use --continual.replay 0"),
        ("continual.replay", continual.replay > 0 and config.supervised.align_interval > 0,
         "supervised updates read the answers of the new environment alone", "use --supervised.align-interval 0"),
        ("continual.replay", continual.replay > 0 and config.tasks.temperature is not None,
         "tasks.temperature would change its share", "leave tasks.temperature out"),
        ("continual.replay", continual.replay > 0 and config.tasks.mixing != "weights",
         f"tasks.mixing {config.tasks.mixing} would change its share", "use --tasks.mixing weights"),
        ("continual.replay", continual.replay > 0 and preset.teacher == "samples",
         f"{config.algorithm} imitates samples of its teacher", "use --continual.replay 0"),
        *((f"continual.{name}", getattr(continual, name) > 0 and former_mixing != "weights",
           f"the environments of '{parent}' had no weights, but tasks.mixing {former_mixing}, whose shares follow a "
           "policy's success", fix) for name, fix in (
            ("replay", "use --continual.replay 0 and a mixture, as in --env 'new=0.8,former=0.2'"),
            ("ewc", "use --continual.ewc 0"))),
    ):  # fmt: skip
        if refused:
            raise UserError(f"{setting} {getattr(continual, setting.split('.')[1])}: {reason}; {fix}")


def _removed_ranks(parent: Path) -> str:
    """Return that the stored AdaLoRA adapter of a run has fewer ranks than its trained tensors; "" if it has not."""
    adapter = parent / "policy" / "adapter"
    checkpoints = checkpoint.complete(parent / "checkpoints")
    if not (adapter / "adapter_config.json").is_file() or not checkpoints:
        return ""
    settings = ModelFiles(str(adapter)).read_json("adapter_config.json") or {}
    if settings.get("peft_type") != "ADALORA":
        return ""
    stored, trained = (
        sum(tensor.shape[0] for name, tensor in read_headers([path], str(parent)).items() if "lora_E" in name)
        for path in (adapter / "adapter_model.safetensors", checkpoints[-1] / "policy.safetensors")
    )
    if stored >= trained:
        return ""
    return (
        f"the AdaLoRA adapter of '{parent}' is stored with the {stored} ranks that are left of {trained}, so that its "
        "tensors are not those that its checkpoint holds"
    )
