"""A folder of transformers with the merged weights, the tokenizer and the adapter beside them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from rlalign.policies.adapter_card import write_adapter_card
from rlalign.policies.device import hidden_progress_bars
from rlalign.policies.model_digests import write_digests
from rlalign.policies.tokenizer_facts import TOKENIZER_FILES
from rlalign.publish.base_model import CARD
from rlalign.publish.shareable_files import shareable_files

_COMPANIONS = (
    *TOKENIZER_FILES, "special_tokens_map.json", "added_tokens.json", "merges.txt", "chat_template.jinja",
    "generation_config.json", "policy.json",
)  # fmt: skip
"""Files beside the weights that go along: the tokenizer, its chat template, the ids that end a turn, and the card of
this library, which lets `rlalign train --policy` read a tokenizer that transformers cannot express."""


def write_hf(source: Path, folder: Path, max_shard_size: str) -> None:
    """Write the weights of a transformers folder in their stored dtype, and its companions.

    Args:
        source: the folder with merged weights.
        folder: the folder to write, which exists.
        max_shard_size: largest weight file, such as 5GB; larger weights are split, with an index.
    """
    from transformers import AutoModelForCausalLM

    with hidden_progress_bars():
        model = AutoModelForCausalLM.from_pretrained(source, use_safetensors=True)
        model.save_pretrained(folder, max_shard_size=max_shard_size)
    copy_companions(source, folder)
    write_digests(folder)


def copy_companions(source: Path, folder: Path, *, only_card: bool = False) -> None:
    """Copy the tokenizer, the generation settings and the card of a policy folder.

    Args:
        source: the policy folder.
        folder: the folder to write.
        only_card: for a GGUF file, which holds the rest.
    """
    if (source / CARD).is_file():
        shutil.copyfile(source / CARD, folder / CARD)
    if only_card:
        return
    for name in _COMPANIONS:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
    _write_shareable(source, folder, "policy.json")
    for path in source.glob("chat_templates/*.jinja"):
        target = folder / "chat_templates" / path.name
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, target)


def copy_adapter(source: Path, folder: Path, final: Path) -> tuple[Path, str] | None:
    """Copy the adapter of a policy folder to `adapter/`, and its base to `base/` if it lies in that policy folder.

    Args:
        source: the policy folder.
        folder: the folder to write.
        final: the path that `folder` gets later, which adapter_config.json names as the place of the base.

    Returns:
        The copied adapter, and the base to load it over, as a path or hub id; None without an adapter.
    """
    if not (source / "adapter" / "adapter_config.json").is_file():
        return None
    shutil.copytree(source / "adapter", folder / "adapter")
    policy_card = source / "policy.json"
    card = json.loads(policy_card.read_text(encoding="utf-8")) if policy_card.is_file() else {}
    measured = (card.get("measured") or {}).get("adapter") or {}
    path = folder / "adapter" / "adapter_config.json"
    settings: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    base = str(settings["base_model_name_or_path"])
    if (source / "base").is_dir() and Path(base).name == "base":
        shutil.copytree(source / "base", folder / "base")
        settings["base_model_name_or_path"] = str(final.resolve() / "base")
        path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        base = str(folder / "base")
    # of a run of before, the adapter has the template that peft wrote
    write_adapter_card(folder / "adapter", measured)
    return folder / "adapter", base


def _write_shareable(source: Path, folder: Path, name: str) -> None:
    """Write a file that names the base of the adapter as others read it; nothing if the policy folder has none."""
    if (source / name).is_file():
        (folder / name).write_bytes(shareable_files(source, [name])[name])
