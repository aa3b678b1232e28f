"""Training of a transformer as a reward model, by TRL's RewardTrainer on pairs, or by regression on ratings.

Rows are tokenized here and passed to RewardTrainer as ids, because it appends the end mark to completions that were cut
and drops pairs that are too long without a word. It trains in float32: with its default, bf16, the scores in training
and those of the saved folder differ by as much as their standard deviation.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rlalign.errors import FaultError, UserError
from rlalign.reward_models.base_model import base_folder, form_of, load_base, separate_pad
from rlalign.reward_models.data import Pair, Rating
from rlalign.reward_models.settings import Settings
from rlalign.rewards.reward_model.manifest import Manifest
from rlalign.rewards.reward_model.probes import PROBES
from rlalign.rewards.reward_model.rendering import Renderer, Sample, template_digest
from rlalign.rewards.reward_model.transformer import TransformerScorer, load_transformer, most_tokens

_CENTERED = 2_000
"""Completions from which center and spread are computed."""
_SAME = 1e-4
"""Largest difference between trained and reloaded scores, in standard deviations."""


@dataclass(frozen=True)
class Trained:
    """A trained model in a folder.

    Attributes:
        manifest: its description, not written yet.
        losses: loss at each logged step.
        too_long: places of the rows that have more tokens than `max_length`.
    """

    manifest: Manifest
    losses: Sequence[float] = ()
    too_long: Sequence[str] = field(default_factory=tuple)


def train_transformer(
    rows: Sequence[Pair] | Sequence[Rating], settings: Settings, folder: Path, seed: int, *, quiet: bool = False
) -> Trained:
    """Train a model, merge its adapter in float32, and save model and tokenizer.

    Args:
        rows: pairs, or ratings for the objective "ratings".
        settings: of the training.
        folder: existing folder for the model.
        seed: of the head, the adapter and the order of the data.
        quiet: show no progress.

    Raises:
        UserError: the model cannot be used, or all rows are too long.
        FaultError: the saved folder does not score as the trained model.
    """
    base_folder(settings.model)  # a mistake in the name is reported before the heavy imports
    from rlalign.policies.device import hidden_progress_bars

    with hidden_progress_bars():
        return _trained(rows, settings, folder, seed, quiet=quiet)


def _trained(rows: Sequence[Any], settings: Settings, folder: Path, seed: int, *, quiet: bool) -> Trained:
    model, tokenizer = load_base(settings.model, seed=seed)
    samples = _samples(rows)
    messages = any(not isinstance(side, str) for s in samples for side in (s.prompt, s.completion))
    form = form_of(tokenizer, settings.form, messages=messages)
    separate_pad(model, tokenizer, form)
    limit = min(settings.max_length, most_tokens(model, tokenizer) or settings.max_length)
    renderer = Renderer(tokenizer, form, limit, settings.model)
    if settings.objective == "ratings":
        encoded, too_long = _encoded_ratings(rows, renderer, limit)
        points = np.array([row["labels"] for row in encoded])
        mean, spread = float(points.mean()), float(points.std()) or 1.0
        for row in encoded:
            row["labels"] = (row["labels"] - mean) / spread
    else:
        encoded, too_long = _encoded_pairs(rows, renderer, limit, margin=settings.margin)
        mean, spread = 0.0, 1.0
    if not encoded:
        raise UserError(f"max_length: expected rows of at most {limit} tokens, got none; use a larger max_length")
    trained, losses = _fit(model, tokenizer, encoded, settings, seed, quiet=quiet)
    merged = trained.merge_and_unload() if hasattr(trained, "merge_and_unload") else trained
    merged = merged.float()
    scorer = TransformerScorer(merged, renderer, _device(settings.device))
    scores = scorer.scores(samples[:_CENTERED])
    _save(merged, tokenizer, folder)
    reloaded = load_transformer_unchecked(folder, renderer, _device(settings.device))
    probes = reloaded.scores(PROBES)
    _check_reload(scorer.scores(PROBES), probes, folder)
    manifest = Manifest(
        "transformer", form, settings.objective, tuple(map(float, probes)), float(np.nanmean(scores)),
        float(np.nanstd(scores)) or 1.0, template_digest(tokenizer), tokenizer.pad_token_id, tokenizer.eos_token_id,
        _read_token(merged, renderer), limit, rating_mean=mean, rating_spread=spread,
    )  # fmt: skip
    return Trained(manifest, losses, too_long)


def load_transformer_unchecked(folder: Path, renderer: Renderer, device: str) -> TransformerScorer:
    """Return the model of a folder whose manifest is not written yet."""
    digest = template_digest(renderer.tokenizer)
    bare = Manifest("transformer", renderer.form, max_length=renderer.max_length, template_sha256=digest)
    return load_transformer(folder, bare, device)


def _samples(rows: Sequence[Any]) -> list[Sample]:
    samples: list[Sample] = []
    for row in rows:
        samples += [row.chosen, row.rejected] if isinstance(row, Pair) else [row.sample]
    return samples


def _encoded_pairs(
    rows: Sequence[Any], renderer: Renderer, limit: int, *, margin: bool
) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the rows of RewardTrainer, and the places of the pairs that are too long."""
    encoded: list[dict[str, Any]] = []
    too_long: list[str] = []
    for number, row in enumerate(rows, 1):
        chosen, rejected = renderer.all_ids(row.chosen), renderer.all_ids(row.rejected)
        if max(len(chosen), len(rejected)) > limit:
            too_long.append(row.place or f"pair {number}")
        elif chosen and rejected:
            entry: dict[str, Any] = {"chosen_ids": chosen, "rejected_ids": rejected}
            if margin:
                entry["margin"] = _margin(row, number)
            encoded.append(entry)
    return encoded, too_long


def _margin(row: Pair, number: int) -> float:
    if row.margin is None:
        raise UserError(
            f"{row.place or f'pair {number}'}: expected a margin, got none; use data with the column margin, a study "
            "by majority, or leave --margin out"
        )
    return row.margin


def _encoded_ratings(rows: Sequence[Any], renderer: Renderer, limit: int) -> tuple[list[dict[str, Any]], list[str]]:
    encoded: list[dict[str, Any]] = []
    too_long: list[str] = []
    for number, row in enumerate(rows, 1):
        ids = renderer.all_ids(row.sample)
        if len(ids) > limit:
            too_long.append(row.place or f"rating {number}")
        elif ids:
            encoded.append({"input_ids": ids, "labels": row.points})
    return encoded, too_long


def _fit(
    model: Any, tokenizer: Any, encoded: list[dict[str, Any]], settings: Settings, seed: int, *, quiet: bool
) -> tuple[Any, list[float]]:
    """Return the trained model, with its adapter if it has one, and the logged losses."""
    import datasets
    from transformers import PrinterCallback, ProgressCallback, Trainer, TrainingArguments
    from trl import RewardConfig, RewardTrainer

    from rlalign.reward_models.progress import ProgressBar

    peft_config = _adapter(model, settings) if settings.lora_r else None
    with tempfile.TemporaryDirectory(prefix="rlalign-rm-") as scratch, warnings.catch_warnings():
        common: dict[str, Any] = {
            "output_dir": scratch, "num_train_epochs": settings.epochs, "learning_rate": settings.rate,
            "per_device_train_batch_size": settings.batch_size, "seed": seed, "data_seed": seed, "bf16": False,
            "fp16": False, "gradient_checkpointing": False, "save_strategy": "no", "report_to": "none",
            "logging_steps": 1, "disable_tqdm": quiet, "use_cpu": _device(settings.device) == "cpu",
            "lr_scheduler_type": "linear", "dataloader_pin_memory": False,
        }  # fmt: skip
        data = datasets.Dataset.from_list(encoded)
        # RewardConfig sets a setting of transformers that is deprecated; its user can do nothing about it
        warnings.filterwarnings("ignore", message=".*gradient_checkpointing", category=FutureWarning)
        if settings.objective == "ratings":
            if peft_config is not None:
                from peft import get_peft_model

                model = get_peft_model(model, peft_config)
            model.config.problem_type = "regression"
            arguments = TrainingArguments(**common)
            collator = _RatingCollator(tokenizer.pad_token_id)
            trainer: Any = Trainer(model=model, args=arguments, train_dataset=data, data_collator=collator)
        else:
            # rows that are too long were left out and reported, so RewardTrainer's own silent filter is off
            config = RewardConfig(**common, max_length=None, center_rewards_coefficient=settings.center_coef or None)
            trainer = RewardTrainer(
                model=model, args=config, train_dataset=data, processing_class=tokenizer, peft_config=peft_config
            )
        trainer.remove_callback(PrinterCallback)  # prints a dictionary per step
        if not quiet:
            trainer.remove_callback(ProgressCallback)
            trainer.add_callback(ProgressBar)
        trainer.train()
        losses = [float(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]
        return trainer.accelerator.unwrap_model(trainer.model), losses


def _adapter(model: Any, settings: Settings) -> Any:
    """Return LoRA on all linear layers but the head, whose weights are all trained and saved with the adapter."""
    from peft import LoraConfig, TaskType

    heads = [name for name, _ in model.named_children() if name in ("score", "classifier", "classification_head")]
    return LoraConfig(
        r=settings.lora_r, lora_alpha=2 * settings.lora_r, lora_dropout=0.0, target_modules="all-linear",
        modules_to_save=heads or ["score"], task_type=TaskType.SEQ_CLS,
    )  # fmt: skip


class _RatingCollator:
    """Pads token ids on the right.

    Args:
        pad: id of the padding token.
    """

    def __init__(self, pad: int) -> None:
        self._pad = pad

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return input ids [B, L], attention mask [B, L] and labels [B] of rows."""
        import torch

        width = max(len(row["input_ids"]) for row in rows)
        gaps = [width - len(row["input_ids"]) for row in rows]
        ids = [[*row["input_ids"], *[self._pad] * gap] for row, gap in zip(rows, gaps, strict=True)]
        mask = [[1] * (width - gap) + [0] * gap for gap in gaps]
        labels = torch.tensor([row["labels"] for row in rows], dtype=torch.float32)
        return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask), "labels": labels}


def _save(model: Any, tokenizer: Any, folder: Path) -> None:
    try:
        model.save_pretrained(str(folder), safe_serialization=True)
        tokenizer.save_pretrained(str(folder))
    except OSError as error:
        raise FaultError(f"'{folder}' cannot be written ({error.strerror}); use another folder") from error


def _check_reload(trained: Any, reloaded: Any, folder: Path) -> None:
    """Raise FaultError if the saved folder does not score as the model in memory."""
    limit = max(_SAME * float(np.std(trained)), 4e-6 * float(np.abs(trained).max()))
    difference = float(np.abs(trained - reloaded).max())
    if not difference <= limit:
        raise FaultError(
            f"'{folder}': expected the saved model to score as the trained one, got a difference of {difference:.2g}, "
            f"allowed {limit:.2g}; this is an error of the versions of transformers or peft: use those of "
            "constraints.txt"
        )


def _read_token(model: Any, renderer: Renderer) -> str:
    """Return the token at which a decoder reads the score; "pooled" for a model that reads another one."""
    from transformers.modeling_layers import GenericForSequenceClassification

    is_decoder = isinstance(model, GenericForSequenceClassification) or hasattr(model, "score")
    return renderer.read_token() if is_decoder else "pooled"


def _device(name: str) -> str:
    import torch

    if name != "auto":
        return name
    return "cuda" if torch.cuda.is_available() else "cpu"
