"""Reward from a trained sequence classifier."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from rlalign.errors import UserError, did_you_mean
from rlalign.rewards.device_placement import DeviceAware
from rlalign.rewards.function import reward
from rlalign.rewards.text import text_of

_BATCH = 32  # texts per forward pass


@reward("classifier", timeout_s=None, range=(0.0, 1.0))
@DeviceAware
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
    """Return the probability that a Hugging Face sequence classifier assigns to a label.

    Named as `classifier?model=PATH&label=POSITIVE`. Texts are truncated from the left to the length that the model
    accepts. Pickled weights and remote code are refused.

    Range: [0, 1]; for a model with one output, its sigmoid.
    Cost: one forward pass of the model per completion.
    Deterministic on one machine.
    Hacked by: texts far from the training data that the model mistakes for the label.

    Args:
        prompts: B texts or conversations, used if `with_prompt`.
        completions: B texts or conversations.
        model: folder or hub id with safetensors weights.
        label: name or index of one of the model's labels.
        with_prompt: classify the prompt followed by the completion instead of the completion alone.
        device: torch device; by default the policy's.
        columns: ignored.

    Raises:
        UserError: the model does not have the label.
    """
    pairs = zip(prompts, completions, strict=True)
    texts = [(text_of(prompt) if with_prompt else "") + text_of(completion) for prompt, completion in pairs]
    return _probabilities(texts, model, label, device or "cpu")


def _probabilities(texts: Sequence[str], path: str, label: str, device: str) -> list[float]:
    import torch

    tokenizer, network = _load(path, device)
    index = _label_index(network.config.id2label, label, path)
    # Tokenizers without a limit report a huge one, so the model's positions bound it too.
    max_length = min(tokenizer.model_max_length, getattr(network.config, "max_position_embeddings", 512))
    values: list[float] = []
    for start in range(0, len(texts), _BATCH):
        batch = list(texts[start : start + _BATCH])
        inputs = tokenizer(batch, padding=True, truncation=True, max_length=max_length, return_tensors="pt").to(device)
        with torch.no_grad():
            logits = network(**inputs).logits.double()
        multiclass = logits.shape[1] > 1
        values += (logits.softmax(1)[:, index] if multiclass else logits[:, 0].sigmoid()).tolist()
    return values


def _label_index(names: dict[int, str], label: str, path: str) -> int:
    if len(names) == 1:
        return 0
    indices = {name.casefold(): i for i, name in names.items()} | {str(i): i for i in names}
    if label.casefold() not in indices:
        raise UserError(f"reward 'classifier': '{path}' has no label '{label}'.{did_you_mean(label, names.values())}")
    return indices[label.casefold()]


@lru_cache(maxsize=2)
def _load(path: str, device: str) -> tuple[Any, Any]:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path, truncation_side="left", trust_remote_code=False)
    network = AutoModelForSequenceClassification.from_pretrained(path, use_safetensors=True, trust_remote_code=False)
    return tokenizer, network.to(device).eval()
