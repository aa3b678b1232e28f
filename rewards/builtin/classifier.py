"""Reward from a trained sequence classifier."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Any

from rlalign.errors import UserError, did_you_mean
from rlalign.rewards.device_placement import DeviceAware
from rlalign.rewards.function import reward
from rlalign.rewards.text import text_of

_BATCH = 32  # texts per forward pass
_SCORES = ("auto", "probability", "raw")


@reward("classifier", timeout_s=None)
@DeviceAware
def classifier(
    prompts: Sequence[Any],
    completions: Sequence[Any],
    *,
    model: str,
    label: str = "1",
    score: str = "auto",
    with_prompt: bool = False,
    device: str | None = None,
    **columns: Any,
) -> list[float]:
    """Return the probability that a Hugging Face sequence classifier assigns to a label, or a reward model's score.

    Named as `classifier?model=PATH&label=POSITIVE`. A model with one output is a reward model: its output is the
    reward, because a sigmoid flattens the scores of a Bradley-Terry model. Texts are truncated from the left to the
    length that the model accepts. Pickled weights, remote code and models without a trained head are refused.

    Range: [0, 1] for a probability; unbounded for a raw score.
    Cost: one forward pass of the model per completion.
    Deterministic on one machine.
    Hacked by: texts far from the training data that the model mistakes for the label.

    Args:
        prompts: B texts or conversations, used if `with_prompt`.
        completions: B texts or conversations.
        model: folder or hub id with safetensors weights.
        label: name or index of one of the model's labels.
        score: auto: raw for a model with one output or for a regression, else the probability. probability: softmax
            over the labels, or the sigmoid for one output and for independent labels. raw: the output before either.
        with_prompt: classify the prompt followed by the completion instead of the completion alone.
        device: torch device; by default the policy's.
        columns: ignored.

    Raises:
        UserError: the model does not have the label, has no trained head, or `score` is unknown.
    """
    if score not in _SCORES:
        raise UserError(f"reward 'classifier': unknown score '{score}'.{did_you_mean(score, _SCORES)}")
    pairs = zip(prompts, completions, strict=True)
    texts = [(text_of(prompt) if with_prompt else "") + text_of(completion) for prompt, completion in pairs]
    return _values(texts, model, label, score, device or "cpu")


def _values(texts: Sequence[str], path: str, label: str, score: str, device: str) -> list[float]:
    import torch

    tokenizer, network = _load(path, device)
    config = network.config
    index = _label_index(config.id2label, label, path)
    if score == "auto":
        score = "raw" if len(config.id2label) == 1 or config.problem_type == "regression" else "probability"
    independent = len(config.id2label) == 1 or config.problem_type == "multi_label_classification"
    # Tokenizers without a limit report a huge one, so the model's positions bound it too.
    positions = getattr(config.get_text_config(), "max_position_embeddings", 512)
    encode = partial(tokenizer, truncation=True, max_length=min(tokenizer.model_max_length, positions))
    values: list[float] = []
    can_pad = tokenizer.pad_token is not None
    size = _BATCH if can_pad else 1
    for start in range(0, len(texts), size):
        batch = list(texts[start : start + size])
        inputs = encode(batch, padding=can_pad, return_tensors="pt").to(device)
        with torch.no_grad():
            logits = network(**inputs).logits.double().cpu()
        if score == "probability":
            logits = logits.sigmoid() if independent else logits.softmax(1)
        values += logits[:, index].tolist()
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
    network, info = AutoModelForSequenceClassification.from_pretrained(
        path, use_safetensors=True, trust_remote_code=False, output_loading_info=True
    )
    # transformers draws them at random: the reward would be noise
    untrained = sorted(info["missing_keys"]) + sorted(name for name, *_ in info["mismatched_keys"])
    if untrained:
        names = ", ".join(untrained[:4])
        raise UserError(
            f"reward 'classifier': expected a trained sequence classifier, got '{path}' without {names}; use a folder "
            "that AutoModelForSequenceClassification wrote"
        )
    if network.config.get_text_config().pad_token_id is None and tokenizer.pad_token_id is not None:
        # a decoder's head reads the last token that is not padding
        network.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    return tokenizer, network.to(device).eval()
