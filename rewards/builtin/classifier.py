"""A trained sequence classifier as reward."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from rlalign.errors import UserError, did_you_mean
from rlalign.rewards.device_placement import Placed
from rlalign.rewards.function import reward
from rlalign.rewards.text import text_of

_BATCH = 32


@reward("classifier", timeout_s=None, range=(0.0, 1.0))
@Placed
def classifier(
    prompts: Sequence[Any],
    completions: Sequence[Any],
    *,
    model: str,
    label: str = "1",
    with_prompt: bool = False,
    device: str | None = None,
    **columns: Any,
) -> list[float]:
    """Probability that a Hugging Face sequence classifier gives a label: `classifier?model=PATH&label=POSITIVE`.

    `model` is a folder or hub id with safetensors weights (pickles and remote code are refused), `label` a name or
    index of its labels. It reads the completion, after the prompt if `with_prompt`, cut from the left to what the model
    takes. It runs on the policy's device unless `device` names another. Range: [0, 1]; a model with one output: its
    sigmoid. Cost: one forward of the model for each completion. Deterministic on one machine.
    Hacked by: whatever the model mistakes for the label, far from its training data.
    Raises UserError for an unknown label.
    """
    texts = [(text_of(p) if with_prompt else "") + text_of(c) for p, c in zip(prompts, completions, strict=True)]
    return _probabilities(texts, model, label, device or "cpu")


def _probabilities(texts: Sequence[str], path: str, label: str, device: str) -> list[float]:
    import torch

    tokenizer, network = _load(path, device)
    index = _label_index(network.config.id2label, label, path)
    most = min(tokenizer.model_max_length, getattr(network.config, "max_position_embeddings", 512))
    values: list[float] = []
    for start in range(0, len(texts), _BATCH):
        batch = list(texts[start : start + _BATCH])
        inputs = tokenizer(batch, padding=True, truncation=True, max_length=most, return_tensors="pt").to(device)
        with torch.no_grad():
            logits = network(**inputs).logits.double()
        several = logits.shape[1] > 1
        values += (logits.softmax(1)[:, index] if several else logits[:, 0].sigmoid()).tolist()
    return values


def _label_index(names: dict[int, str], label: str, path: str) -> int:
    found = {name.casefold(): i for i, name in names.items()} | {str(i): i for i in names}
    if len(names) == 1:
        return 0
    if label.casefold() not in found:
        raise UserError(f"'{path}' has no label '{label}'.{did_you_mean(label, names.values())}")
    return found[label.casefold()]


@lru_cache(maxsize=2)
def _load(path: str, device: str) -> tuple[Any, Any]:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path, truncation_side="left", trust_remote_code=False)
    network = AutoModelForSequenceClassification.from_pretrained(path, use_safetensors=True, trust_remote_code=False)
    return tokenizer, network.to(device).eval()
