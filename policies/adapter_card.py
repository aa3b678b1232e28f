"""README.md of an adapter's folder, in place of the template with empty sections that peft writes."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlalign.assets import SMOLLM2_FOLDER, SMOLLM2_ID
from rlalign.policies.adapter_kinds.names import VIRTUAL_METHODS, stored_options

CARD = "README.md"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def write_adapter_card(folder: Path, measured: Mapping[str, Any]) -> None:
    """Write README.md of a folder with adapter_config.json. It names the base only if others find it by that name.

    Args:
        folder: of the adapter; the base may lie in `base/` beside it.
        measured: entries about the adapter in policy.json. If the base was quantized in training: `quantization`, nf4
            or int8, and `nats_over_plain_base`, the largest difference of a log-prob from the policy's over the base
            before quantization.
    """
    settings: dict[str, Any] = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    options = stored_options(settings)
    kind = "Adapter" if options is None else options.description
    base = str(settings.get("base_model_name_or_path") or "")
    is_hub_id = bool(_HUB_ID.fullmatch(base)) and not Path(base).is_dir()
    metadata = ["library_name: peft", "pipeline_tag: text-generation"]
    if is_hub_id:
        metadata.insert(0, f"base_model: {json.dumps(base)}")
    over = _base(folder, base, is_hub_id)
    lines = ["---", *metadata, "---", "", f"# {kind}", "", f"An adapter for peft over {over}."]
    if quantization := measured.get("quantization"):
        lines.append(f"In training the base was stored in {quantization}.")
        if folder.name == "adapter":
            lines.append("The folder above this one holds the dequantized weights with the adapter added.")
    plain_nats = measured.get("nats_over_plain_base")
    if plain_nats is not None and math.isfinite(plain_nats):
        lines.append(
            "Over the base before quantization the adapter gives another policy: its log-probs differ by up to "
            f"{plain_nats:.2g} nats."
        )
    lines += [
        "`PeftModel.from_pretrained(base, FOLDER)` loads this folder.",
        *([] if settings.get("peft_type") in VIRTUAL_METHODS else ["The merged weights, one folder up, need no base."]),
        "The card of the run, `policy/README.md` of the run folder, describes the training and the results.",
    ]
    (folder / CARD).write_text("\n".join(lines) + "\n", encoding="utf-8")


def _base(folder: Path, base: str, is_hub_id: bool) -> str:
    """Return the base of an adapter in words, without a folder of this machine."""
    name = Path(base).name
    if is_hub_id:
        return f"`{base}`"
    if name == "base" and any((place / "base").is_dir() for place in (folder, folder.parent)):
        return "the weights in `base/`, with which it was stored"
    if name == SMOLLM2_FOLDER:
        return (
            f"the policy `smollm2` of rlalign: the weights of {SMOLLM2_ID} in 4 bits (GGUF Q4_1), dequantized. Its "
            "distance from the policy was measured over these. The original on the Hub has other weights, over which "
            "the adapter is another policy"
        )
    return "a local folder, which `adapter_config.json` names and which is not a part of this one"
