"""README.md of an adapter's folder, in place of the template with empty sections that peft writes."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

from rlalign.policies.adapter_kinds.names import stored_options

CARD = "README.md"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def write_adapter_card(folder: Path, quantization: str = "none", plain_nats: float | None = None) -> None:
    """Write README.md of a folder with adapter_config.json. It names the base only if that is a hub id.

    Args:
        folder: of the adapter.
        quantization: of the base in training: none, nf4 or int8.
        plain_nats: largest difference of a log-prob from the policy's over the base before quantization; None: not
            measured.
    """
    settings: dict[str, Any] = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    options = stored_options(settings)
    kind = "Adapter" if options is None else options.description
    base = str(settings.get("base_model_name_or_path") or "")
    is_hub_id = bool(_HUB_ID.fullmatch(base)) and not Path(base).is_dir()
    metadata = ["library_name: peft", "pipeline_tag: text-generation"]
    if is_hub_id:
        metadata.insert(0, f"base_model: {json.dumps(base)}")
    over = f"`{base}`" if is_hub_id else "the base that `adapter_config.json` names"
    lines = ["---", *metadata, "---", "", f"# {kind}", "", f"An adapter for peft over {over}, trained by rlalign."]
    if quantization != "none":
        lines.append(f"In training the base was stored in {quantization}.")
        if folder.name == "adapter":
            lines.append("The folder above this one holds the dequantized weights with the adapter added.")
    if plain_nats is not None and math.isfinite(plain_nats):
        lines.append(
            "Over the base before quantization the adapter gives another policy: its log-probs differ by up to "
            f"{plain_nats:.2g} nats."
        )
    lines += [
        "`PeftModel.from_pretrained(base, FOLDER)` loads this folder.",
        "The card of the run, `policy/README.md` of the run folder, describes the training and the results.",
    ]
    (folder / CARD).write_text("\n".join(lines) + "\n", encoding="utf-8")
