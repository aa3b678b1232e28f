"""Writing a causal policy so that other programs load it, and measuring what was written.

Each part is loaded back by its own loader (transformers for the folder, peft for the adapter) and compared with the
policy, in float32 and on the same tokens. Rounding merged weights to the dtype of the base can lose the update: at a
learning rate of 1e-6 most of it lies below the resolution of bfloat16.

Over a quantized base, the merged weights are the sum of the adapter and of the dequantized weights, which the policy
computes with. The original weights plus the adapter would be another policy. The adapter names the original base, and
is compared over that base in the same quantization; its distance over the base itself is written beside it.
"""

from __future__ import annotations

import gc
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from rlalign.errors import FaultError
from rlalign.policies.adapter_card import write_adapter_card
from rlalign.policies.adapter_kinds.rank_schedule import stored_ranks
from rlalign.policies.export_measure import Distance, Exportable, Measure
from rlalign.policies.lora import hidden_peft_warnings, merge_adapters, not_adaptable
from rlalign.policies.quantized_base import quantize_base
from rlalign.policies.weight_dtype import cast_weights, float32_copy


def export(policy: Exportable, folder: Path, held_out: Sequence[Sequence[int]] = ()) -> dict[str, Any]:
    """Write the weights of a policy, and its adapter if it has one; return what was measured, as JSON values.

    Args:
        policy: the policy.
        folder: of the weights, which exists. The adapter is written to `adapter/`, and its base to `base/` if needed.
        held_out: token ids of contexts to compare on.

    Returns:
        `bound` and `tokens` of the comparison; `dtype`, `nats` and `cosine` of the weights; `reason` if they are not in
        the dtype of the base, or if config.json lost the id of padding; `adapter` with `nats` and `base`, if there is
        one. Virtual tokens have no merged weights: `nats` and `cosine` are then those of the adapter in the folder.

    Raises:
        FaultError: the weights that were loaded back are another model's. Earlier weights in the folder remain.
    """
    measure = Measure(policy, held_out)
    measured: dict[str, Any] = {"bound": measure.bound, "tokens": measure.num_tokens, "held_out": bool(held_out)}
    for stale in ("adapter", "base"):  # of an earlier policy
        if not _is_source(folder / stale, policy):
            shutil.rmtree(folder / stale, ignore_errors=True)
    if policy.virtual is not None:
        return measured | _write_virtual(policy, folder, measure)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (folder / name).unlink(missing_ok=True)
    if policy.has_adapter:
        measured["adapter"] = _write_adapter(policy, folder, measure)
    measured |= _write_weights(policy, folder, measure)
    return measured


def _is_source(folder: Path, policy: Exportable) -> bool:
    """Return True for the folder that the policy's base was loaded from."""
    return bool(policy.lm.name_or_path) and folder.resolve() == Path(policy.lm.name_or_path).resolve()


# ---- the complete model ----


def _write_weights(policy: Exportable, folder: Path, measure: Measure) -> dict[str, Any]:
    """Write the merged weights in the base's dtype, or in float32 if the base's dtype loses something."""
    # written beside the weights of an earlier policy, which are replaced only by weights that were compared
    partial = folder / "tmp-weights"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        dtype, reason = _write_merged(policy, partial, measure)
        distance = measure.distance(_load(str(partial), policy))
        if not distance.is_policy and _remove_padding_id(partial):
            # Youtu sets the embedding of this id to zero whenever it is loaded, also after the row was trained
            distance = measure.distance(_load(str(partial), policy))
            reason = "; ".join(filter(None, (reason, "without pad_token_id, whose embedding is loaded as zero")))
        if not (distance.loses_nothing or (dtype == torch.float32 and distance.is_policy)):
            raise FaultError(
                f"'{folder}': expected weights within {measure.bound:.1g} nats of the policy, got weights that are off "
                f"by {distance}; they are not saved: use the last checkpoint, or the adapter if there is one"
            )
        _replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    measured = {"dtype": str(dtype).removeprefix("torch."), "nats": distance.nats, "cosine": distance.cosine}
    return measured | ({"reason": reason} if reason else {})


def _write_merged(policy: Exportable, folder: Path, measure: Measure) -> tuple[torch.dtype, str]:
    """Write the merged weights; return their dtype, and the reason if it is not that of the base."""
    model = float32_copy(policy.model)
    lm = merge_adapters(model) if policy.has_adapter else model
    dtype, reason = torch.float32, ""
    # written before the weights are rounded in place, because another float32 model might not fit into memory
    lm.save_pretrained(folder)
    if policy.stored_dtype != torch.float32:
        cast_weights(lm, policy.stored_dtype)
        cast_weights(lm, torch.float32)
        distance = measure.distance(lm)
        if distance.loses_nothing:
            dtype = policy.stored_dtype
            cast_weights(lm, dtype)  # exact, because the weights were rounded to it before
            shutil.rmtree(folder)
            lm.save_pretrained(folder)
        else:
            word = str(policy.stored_dtype).removeprefix("torch.")
            reason = f"in {word} the weights would be off by {distance}"
    del model, lm
    gc.collect()  # peft models contain cycles, and loading the weights needs the memory
    return dtype, reason


def _remove_padding_id(folder: Path) -> bool:
    """Remove the ids of padding from config.json; return False if there are none. The tokenizer's files keep them."""
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    removed = [part.pop("pad_token_id", None) for part in (config, config.get("text_config") or {})]
    if removed == [None] * len(removed):
        return False
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return True


def _load(name: str, policy: Exportable, **settings: Any) -> Any:
    """Return a stored model on the CPU, its weights cast to float32."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(
        name, dtype=torch.float32, trust_remote_code=policy.options.trust_remote_code, **settings
    )


def _replace(source: Path, folder: Path) -> None:
    """Move the files of `source` to `folder`, in place of all weights that are there."""
    for old in (*folder.glob("model*.safetensors"), folder / "model.safetensors.index.json"):
        old.unlink(missing_ok=True)
    for path in source.iterdir():
        path.replace(folder / path.name)


# ---- the adapter ----


def _write_adapter(policy: Exportable, folder: Path, measure: Measure) -> dict[str, Any]:
    """Write the adapter to `adapter/`; return its base and its distance, or the reason why it is not saved."""
    distance, entries = _write_over_base(policy, folder, folder / "adapter", measure)
    if distance.is_policy:
        return {**entries, "nats": distance.nats}
    shutil.rmtree(folder / "adapter")
    shutil.rmtree(folder / "base", ignore_errors=True)
    return {"base": None, "nats": None, "reason": f"off by {distance} when it is loaded over its base; not saved"}


def _write_virtual(policy: Exportable, folder: Path, measure: Measure) -> dict[str, Any]:
    """Write virtual tokens as the folder itself, which is then that of an adapter."""
    distance, entries = _write_over_base(policy, folder, folder, measure)
    if not distance.is_policy:
        raise FaultError(
            f"'{folder}': expected an adapter within {measure.bound:.1g} nats of the policy, got one that is off by "
            f"{distance}; use the last checkpoint"
        )
    for name in (
        "config.json",
        "model.safetensors.index.json",
        *(path.name for path in folder.glob("model*.safetensors")),
    ):
        (folder / name).unlink(missing_ok=True)  # of an earlier policy
    measured = {"dtype": "float32", "nats": distance.nats, "cosine": distance.cosine}
    return {**measured, "adapter": {**entries, "nats": distance.nats}}


def _write_over_base(
    policy: Exportable, folder: Path, adapter: Path, measure: Measure
) -> tuple[Distance, dict[str, Any]]:
    """Write the adapter over the base that it was loaded from, or over a copy of it in `base/`.

    A copy is needed for a model from scratch, if the stored base is in another dtype than the frozen weights, and if it
    is in `folder`, where the merged weights replace it. A copy of a quantized base holds the dequantized weights.

    Returns:
        The distance of the last attempt, and what is known about its base.
    """
    name = policy.lm.name_or_path
    own_base = str(folder / "base")
    source = str(Path(name).resolve()) if name and Path(name).is_dir() else name
    if _is_source(folder, policy):
        source = ""
    distance = Distance(float("inf"), None)
    entries: dict[str, Any] = {}
    for base in filter(None, (source, own_base)):
        if base == own_base:
            _write_base(policy, folder / "base")
        config = policy.model.peft_config["default"]
        config.base_model_name_or_path = base if base != own_base else str((folder / "base").resolve())
        with hidden_peft_warnings(), stored_ranks(policy.model):
            policy.model.save_pretrained(adapter)
        entries = {"base": config.base_model_name_or_path}
        quantized = policy.options.base != "none" and base != own_base
        distance = _adapter_distance(policy, base, adapter, measure, quantized=quantized)
        if quantized:
            plain = _adapter_distance(policy, base, adapter, measure)
            entries |= {"quantization": policy.options.base, "nats_over_plain_base": plain.nats}
        write_adapter_card(adapter, entries)
        if distance.is_policy:
            break
    return distance, entries


def _write_base(policy: Exportable, folder: Path) -> None:
    """Write the frozen weights without the adapter, in their own dtype."""
    with hidden_peft_warnings():
        model = float32_copy(policy.model)
        lm = model.get_base_model() if policy.virtual is not None else model.unload()
    cast_weights(lm, policy.compute_dtype)
    lm.save_pretrained(folder)


def _adapter_distance(
    policy: Exportable, base: str, adapter: Path, measure: Measure, *, quantized: bool = False
) -> Distance:
    """Load a base and an adapter with peft, and return their distance; the base in the policy's quantization or not."""
    from peft import PeftModel

    try:
        with hidden_peft_warnings():
            revision = None if Path(base).is_dir() else policy.model.peft_config["default"].revision
            lm = _load(base, policy, revision=revision)
            if quantized:
                cast_weights(lm.requires_grad_(False), policy.compute_dtype)
                quantize_base(lm, policy.options.base, not_adaptable(lm))
                lm = float32_copy(lm)
            model = PeftModel.from_pretrained(lm, adapter, torch_device="cpu").eval()
    except Exception:  # a base that has moved, was resized or whose configuration was repaired fails in many ways
        return Distance(float("inf"), None)
    return measure.distance(model)
