"""TRL's SFTTrainer, DPOTrainer and KTOTrainer on recorded trajectories: token ids, masks and order are given.

TRL's own preparation tokenizes texts, masks prompts, cuts long rows and shuffles. Here it is left out: each trainer
reads the ids and the action masks of `rlalign.recorded`, in the order of the run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rlalign.rollout.recorded import Group, Trajectory

_IGNORED = -100
"""Label of a token that is not trained on."""


def sft_trainer(
    model: Any, groups: Sequence[Group], order: Sequence[int], arguments: Mapping[str, Any], **options: Any
) -> Any:
    """Return TRL's SFTTrainer, whose labels are the actions of the trajectories.

    Args:
        model: a transformers or peft model.
        groups: demonstrations, one trajectory each.
        order: numbers of the groups, in the order of training.
        arguments: of SFTConfig.
        options: of SFTTrainer.
    """
    from trl import SFTConfig, SFTTrainer

    rows = [{"input_ids": list(row.ids), "labels": _labels(row)} for row in _rows(groups)]
    trainer = _ordered(SFTTrainer)(model=model, args=SFTConfig(**arguments), train_dataset=_dataset(rows), **options)
    return _prepared(trainer, order)


def dpo_trainer(
    model: Any, groups: Sequence[Group], order: Sequence[int], arguments: Mapping[str, Any], **options: Any
) -> Any:
    """Return TRL's DPOTrainer. Log-probs of the reference are computed at once.

    Args:
        model: a transformers or peft model.
        groups: pairs, the chosen trajectory first.
        order: numbers of the groups, in the order of training.
        arguments: of DPOConfig.
        options: of DPOTrainer.
    """
    from trl import DPOConfig, DPOTrainer

    class PairTrainer(_ordered(DPOTrainer)):  # type: ignore[misc]  # untyped in TRL
        """DPOTrainer that needs no copy of the initial model."""

        def _precompute_ref_logps(self, dataset: Any, name: str, batch_size: int) -> Any:
            """Add the reference log-probs of the rows that are read; TRL's own version draws a bar and caches files."""
            needed = sorted(set(order))
            columns: dict[str, list[float]] = {
                f"ref_{side}_logps": [0.0] * len(dataset) for side in ("chosen", "rejected")
            }
            for start in range(0, len(needed), batch_size):
                part = needed[start : start + batch_size]
                batch = self._prepare_inputs(self.data_collator([dataset[i] for i in part]))
                results = self.compute_ref_log_probs(self.model, batch)
                for values, logprobs in zip(columns.values(), results, strict=True):
                    for i, value in zip(part, logprobs.tolist(), strict=True):
                        values[i] = value
            for column, values in columns.items():
                dataset = dataset.add_column(column, values)
            return dataset

    rows = []
    for chosen, rejected in groups:
        prompt, ids = _divided(chosen)
        rows.append({"prompt_ids": prompt, "chosen_ids": ids, "rejected_ids": _divided(rejected)[1]})
    trainer = PairTrainer(model=model, args=DPOConfig(**arguments), train_dataset=_dataset(rows), **options)
    return _prepared(trainer, order)


def kto_trainer(
    model: Any,
    groups: Sequence[Group],
    order: Sequence[int],
    arguments: Mapping[str, Any],
    *,
    processing_class: Any,
    **options: Any,
) -> Any:
    """Return TRL's KTOTrainer. Each batch pairs its prompts with the completions of the rows before them, as TRL does.

    TRL prepares these pairs for one fixed order of the data. Here the order is another one in each pass, so that they
    are made when a batch is read. Their reference log-probs depend on the batch and are computed in each step.

    Args:
        model: a transformers or peft model.
        groups: labeled completions, one trajectory each, with reward 1 or 0.
        order: numbers of the groups, in the order of training.
        arguments: of KTOConfig.
        processing_class: has the id of padding.
        options: of KTOTrainer; `ref_model` if the model has no adapter that can be turned off.
    """
    from trl import KTOConfig, KTOTrainer
    from trl.trainer.kto_trainer import DataCollatorForUnpairedPreference

    class Collator(DataCollatorForUnpairedPreference):  # type: ignore[misc]  # untyped in TRL
        """Adds mismatched completions to a batch."""

        def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
            """Return the tensors of a batch."""
            others = [examples[-1], *examples[:-1]]
            pairs = zip(examples, others, strict=True)
            mismatched = [{**row, "KL_completion_ids": other["completion_ids"]} for row, other in pairs]
            batch: dict[str, Any] = super().torch_call(mismatched)
            return batch

    rows = []
    for row in _rows(groups):
        prompt, completion = _divided(row)
        rows.append({"prompt_ids": prompt, "completion_ids": completion, "label": row.reward > 0})
    trainer = _ordered(KTOTrainer)(
        model=model,
        args=KTOConfig(**arguments),
        train_dataset=_dataset(rows),
        data_collator=Collator(pad_token_id=processing_class.pad_token_id),
        processing_class=processing_class,
        **options,
    )
    return _prepared(trainer, order)


TRAINERS: Mapping[str, Callable[..., Any]] = {"trl:sft": sft_trainer, "trl:dpo": dpo_trainer, "trl:kto": kto_trainer}


def _ordered(trainer: Any) -> Any:
    """Return a subclass of a trainer that reads rows of ids in the order that `_prepared` gives it."""

    class OrderedTrainer(trainer):  # type: ignore[misc]  # untyped in TRL
        """A trainer on rows that have ids already."""

        order: Sequence[int]

        def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
            return dataset

        def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Any:
            return self.order

    return OrderedTrainer


def _prepared(trainer: Any, order: Sequence[int]) -> Any:
    from transformers import PrinterCallback

    trainer.order = order
    trainer.remove_callback(PrinterCallback)
    return trainer


def _dataset(rows: list[dict[str, Any]]) -> Any:
    import datasets

    return datasets.Dataset.from_list(rows)


def _rows(groups: Sequence[Group]) -> list[Trajectory]:
    return [row for group in groups for row in group]


def _labels(row: Trajectory) -> list[int]:
    return [i if action else _IGNORED for i, action in zip(row.ids, row.actions, strict=True)]


def _divided(row: Trajectory) -> tuple[list[int], list[int]]:
    """Return the ids of the prompt and of the completion."""
    ids = list(row.ids)
    return ids[: row.prompt_length], ids[row.prompt_length :]
