"""A reward model that is a sequence classifier of transformers with one output."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from rlalign.errors import UserError
from rlalign.rewards.reward_model.manifest import Form, Manifest
from rlalign.rewards.reward_model.rendering import Renderer, Sample, template_digest
from rlalign.types import FloatArray

BATCH_TOKENS = 16_384
"""Tokens of a forward pass, padding included."""
BATCH_ROWS = 64
_UNKNOWN = 1_000_000
"""Tokenizers without a limit state a number beyond this one."""


class TransformerScorer:
    """Scores samples with a sequence classifier.

    Args:
        model: with one output and the id of a padding token.
        renderer: of its tokenizer.
        device: torch device.
    """

    def __init__(self, model: Any, renderer: Renderer, device: str = "cpu") -> None:
        self.model = model.to(device).eval()
        self.renderer = renderer
        self._device = device
        pad = model.config.get_text_config().pad_token_id
        self._pad = renderer.tokenizer.pad_token_id if pad is None else pad

    def scores(self, samples: Sequence[Sample]) -> FloatArray:
        """Return the scores of N samples, [N]."""
        return self.scores_of_ids([self.renderer.ids(sample) for sample in samples])

    def scores_of_ids(self, rows: Sequence[Sequence[int]]) -> FloatArray:
        """Return the scores of N rows of token ids, [N]; NaN for a row without tokens.

        Equal rows are scored once, and rows are sorted, so that the batches, and with them the last bits of the
        scores, do not depend on the order of the samples.
        """
        distinct = sorted({tuple(row) for row in rows if len(row)}, key=lambda row: (len(row), row))
        values: dict[tuple[int, ...], float] = {}
        start = 0
        while start < len(distinct):
            end = start + 1
            while (
                end < len(distinct)
                and end - start < BATCH_ROWS
                and len(distinct[end]) * (end - start + 1) <= BATCH_TOKENS
            ):
                end += 1
            batch = distinct[start:end]
            values.update(zip(batch, self._forward(batch), strict=True))
            start = end
        return np.array([values.get(tuple(row), np.nan) for row in rows], np.float64)

    def _forward(self, rows: Sequence[Sequence[int]]) -> list[float]:
        import torch

        width = len(rows[-1])
        # without a padding token only rows of one length reach this line together, or one row
        pad = 0 if self._pad is None else self._pad
        ids = torch.tensor([[*row, *[pad] * (width - len(row))] for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
        with torch.no_grad():
            logits = self.model(input_ids=ids.to(self._device), attention_mask=mask.to(self._device)).logits
        values: list[float] = logits.double().cpu().reshape(len(rows)).tolist()
        return values


def load_transformer(
    folder: Path, manifest: Manifest | None, device: str, form: Form | None = None
) -> TransformerScorer:
    """Return the model of a folder in float32, with its tokenizer.

    Args:
        folder: the folder.
        manifest: of the folder; None: RewardTrainer of TRL saved it.
        device: torch device.
        form: "text" or "chat", in place of the manifest's.

    Raises:
        UserError: the folder is no reward model, or its tokenizer is not that of the training.
    """
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    _check_files(folder)
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
        with _hidden_bars():
            model, info = AutoModelForSequenceClassification.from_pretrained(
                str(folder), dtype=torch.float32, use_safetensors=True, trust_remote_code=False,
                output_loading_info=True,
            )  # fmt: skip
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"'{folder}': expected a sequence classifier and its tokenizer, got a folder that cannot be loaded "
            f"({reason}); use a folder that `rlalign reward-model train` or RewardTrainer wrote"
        ) from error
    # transformers draws missing weights at random: the reward would be noise
    untrained = sorted(info["missing_keys"]) + sorted(name for name, *_ in info["mismatched_keys"])
    if untrained or model.config.num_labels != 1:
        what = f"{model.config.num_labels} labels" if model.config.num_labels != 1 else f"none for {untrained[0]}"
        raise UserError(
            f"'{folder}': expected the weights of a reward model with one output, got {what}; use a folder that "
            "`rlalign reward-model train` or RewardTrainer wrote, or the reward classifier?model=FOLDER"
        )
    if manifest is None:
        chosen: Form = form or ("chat" if tokenizer.chat_template else "text")
        # RewardTrainer does not store its `max_length`, by which it leaves out pairs and cuts none
        limit = most_tokens(model, tokenizer)
    else:
        chosen = form or manifest.form
        limit = manifest.max_length
        if template_digest(tokenizer) != manifest.template_sha256:
            raise UserError(
                f"'{folder}': expected the chat template of the training, got another one; restore the folder"
            )
    return TransformerScorer(model, Renderer(tokenizer, chosen, limit, str(folder)), device)


def most_tokens(model: Any, tokenizer: Any) -> int | None:
    """Return the number of tokens that a model can read, by its positions and its tokenizer; None: no limit."""
    stated = (getattr(model.config.get_text_config(), "max_position_embeddings", None), tokenizer.model_max_length)
    # model_max_length counts too: of the 514 positions of RoBERTa, two are never used
    limits = [int(limit) for limit in stated if limit is not None and 0 < limit <= _UNKNOWN]
    return min(limits, default=None)


@contextmanager
def _hidden_bars() -> Iterator[None]:
    """Hide the progress bars of transformers: a reward is loaded in the middle of a run."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # untyped in transformers
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]  # untyped in transformers


def _check_files(folder: Path) -> None:
    if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        raise UserError(
            f"'{folder}': expected a complete reward model, got an adapter, whose scores depend on how its base is "
            "loaded; merge it into its base in float32 (`merge_and_unload`), or train with `rlalign reward-model train`"
        )
    if not (folder / "config.json").is_file():
        raise UserError(
            f"'{folder}': expected reward_model.json or the config.json of a sequence classifier, got neither; use a "
            "folder that `rlalign reward-model train` or RewardTrainer wrote"
        )


def pads_with_eos(scorer: TransformerScorer) -> bool:
    """Return whether the padding token is the EOS token, so that a finished text scores as one that was cut."""
    tokenizer = scorer.renderer.tokenizer
    pad = scorer.model.config.get_text_config().pad_token_id
    return pad is not None and pad == tokenizer.eos_token_id
