"""Whole runs of sft, dpo, ipo and kto beside TRL's trainers: the weights after 10 steps from the same start.

Two kinds of peers: trl:NAME reads our token ids in our order, and the oracles below get texts or messages and tokenize,
mask, pair and pack them by TRL's own code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rlalign.api import train_config
from rlalign.config.defaults import default_config
from rlalign.config.instantiate import build_mdp, build_policy
from rlalign.config.schema import TrainConfig
from rlalign.config.serialize import update
from rlalign.escaping.console import PlainConsole
from rlalign.integrations.trl.offline_settings import offline_arguments
from rlalign.integrations.trl.offline_trainers import dpo_trainer
from rlalign.integrations.trl.tokenizer import TrlTokenizer
from rlalign.policies.causal import CausalPolicy
from rlalign.recorded.read import RecordedData
from rlalign.rollout.recorded import GroupOrder
from rlalign.run import Run
from rlalign.storage import checkpoint
from rlalign.training.recorded_run import load_data
from rlalign.training.rng import task_seed
from tests.integrations.trl.word_model import (
    MARKED_TEMPLATE,
    chat_rows,
    environment,
    label_rows,
    preference_rows,
    word_model,
    write,
)

STEPS, ROWS = 10, 4
TOLERANCE = 1e-5
"""Largest distance of two results, as a share of the distance from the start.

Both compute in float32: rounding gives 3e-7 to 2e-6. The smallest other difference that is tried, a beta of 0.101 in
place of 0.1, gives 4e-5, since AdamW does not depend on the scale of the gradient; a weight of 1.01 in KTO gives 5e-3.
"""


def configuration(folder: Path, algorithm: str, rows: Sequence[Mapping[str, Any]], **changes: Any) -> TrainConfig:
    """Return a run of all weights on a model of words; `__` in the name of a change is a dot."""
    model = folder / "model"
    if not model.is_dir():
        word_model(model, MARKED_TEMPLATE)
    settings = {
        "data": str(write(folder / "data.jsonl", list(rows))), "output": str(folder / algorithm.replace(":", "-")),
        "rewards": ["length?target=3"], "steps": STEPS, "rollout.prompts": ROWS, "model.adapter.kind": "none",
        "learner.lr": 1e-3, "learner.weight_decay": 0.1, "evaluation.prompts": 2,
    }  # fmt: skip
    config = default_config(str(environment(folder)), str(model), algorithm)
    return update(config, {**settings, **{key.replace("__", "."): value for key, value in changes.items()}})


def weights_of(config: TrainConfig) -> Mapping[str, Tensor]:
    """Train, and return the weights after the last step."""
    run = train_config(config, quiet=True)
    state, _ = checkpoint.load(checkpoint.latest(run.folder / "checkpoints"), need=("policy",))
    weights: Mapping[str, Tensor] = state["policy"]
    return weights


def start(config: TrainConfig) -> tuple[CausalPolicy, RecordedData, list[int]]:
    """Return the initial policy, its data, and the order of the rows in all steps."""
    policy, mdp = build_policy(config, build_mdp(config))
    _, data = load_data(config, policy, mdp, PlainConsole(quiet=True))
    assert isinstance(policy, CausalPolicy)
    assert data is not None
    order = GroupOrder(len(data.train), task_seed(config.seed)).next(STEPS * config.rollout.prompts)
    return policy, data, order


def distance(config: TrainConfig, ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> float:
    """Return ‖ours - theirs‖ / ‖ours - initial weights‖."""
    initial = start(config)[0].trainable()
    assert ours.keys() == theirs.keys() == initial.keys()
    apart = sum(float((ours[name] - theirs[name].detach()).square().sum()) for name in ours)
    moved = sum(float((ours[name] - initial[name].detach()).square().sum()) for name in ours)
    assert moved > 0
    return (apart / moved) ** 0.5


@pytest.mark.parametrize(
    ("algorithm", "rows", "changes"),
    [
        ("sft", chat_rows(), {}),
        ("sft", chat_rows(), {"recorded__turns": "last", "learner__micro_batch": 2}),
        ("dpo", preference_rows(chat=True), {"learner__micro_batch": 4}),
        ("dpo", preference_rows(chat=False), {"objective__loss": "ipo", "objective__kl__coef": 0.3}),
        # far from the start, where the reference point matters: at h = z0 = 0 the slope of the sigmoid is flat
        ("kto", label_rows(), {"objective__kl__coef": 1.0, "learner__lr": 0.01}),
    ],
    ids=["sft", "sft, last turn", "dpo", "ipo", "kto"],
)
def test_a_run_and_its_peer_of_trl_end_at_the_same_weights(tmp_path, algorithm, rows, changes) -> None:
    """The peer reads the same ids in the same order: loss, gradient and optimizer step are TRL's."""
    configs = [configuration(tmp_path, name, rows, **changes) for name in (algorithm, f"trl:{algorithm}")]
    ours, theirs = map(weights_of, configs)
    assert distance(configs[0], ours, theirs) < TOLERANCE
    losses = [Run(str(config.output)).metrics["train/loss"] for config in configs]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    if algorithm == "kto":
        points = [Run(str(config.output)).metrics["preference/reference_point"] for config in configs]
        assert points[0] == pytest.approx(points[1], rel=1e-4, abs=1e-6)
        assert max(points[0]) > 0.05


def test_ipo_as_a_preset_is_dpo_with_its_loss(tmp_path) -> None:
    rows = preference_rows(chat=False)
    preset = configuration(tmp_path, "ipo", rows)
    peer = configuration(tmp_path, "trl:dpo", rows, objective__loss="ipo")
    assert distance(preset, weights_of(preset), weights_of(peer)) < TOLERANCE


def test_conservative_dpo_ends_at_the_weights_of_trl(tmp_path) -> None:
    """TRL's loss of type aot is conservative DPO on margins sorted over the batch; one pair needs no sorting."""
    rows = preference_rows(chat=False)
    config = configuration(tmp_path, "dpo", rows, objective__preference__label_smoothing=0.2)
    policy, data, order = start(config)
    arguments = offline_arguments(configuration(tmp_path, "trl:dpo", rows), cpu=True, bf16=False) | {
        "loss_type": ["aot"], "label_smoothing": 0.2, "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": ROWS, "output_dir": str(tmp_path / "oracle"),
    }  # fmt: skip
    _, mdp = build_policy(config, build_mdp(config))
    dpo_trainer(
        policy.model, data.train, order, arguments, processing_class=TrlTokenizer(mdp.tokenizer),
        optimizers=optimizer(config, policy),
    ).train()  # fmt: skip
    assert distance(config, weights_of(config), policy.trainable()) < TOLERANCE


@pytest.mark.parametrize("packing", [False, True])
def test_sft_ends_at_the_weights_of_trl_with_its_own_masks_and_packing(tmp_path, packing) -> None:
    """The oracle finds the assistant's tokens by the marks of the chat template; packed, a step is one long row."""
    import datasets
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer, pack_dataset

    rows = chat_rows()
    config = configuration(tmp_path, "sft", rows)
    policy, data, order = start(config)
    arguments: dict[str, Any] = {
        **common(config), "output_dir": str(tmp_path / "oracle"), "max_length": None, "assistant_only_loss": True,
    }  # fmt: skip
    train = [row for row in rows if row["split"] == "train"]
    assert len(train) == len(data.train)
    messages = datasets.Dataset.from_list([{"messages": train[i]["messages"]} for i in order])
    tokenizer = AutoTokenizer.from_pretrained(config.policy)
    trainer = SFTTrainer(
        model=policy.model, args=SFTConfig(**arguments), train_dataset=messages, processing_class=tokenizer,
        optimizers=optimizer(config, policy),
    )  # fmt: skip
    actions = [[i if a else -100 for i, a in zip(r.ids, r.actions, strict=True)] for (r,) in data.train]
    assert [list(labels) for labels in trainer.train_dataset["labels"]] == [actions[i] for i in order]
    if packing:
        columns = trainer.train_dataset.select_columns(["input_ids", "labels"])
        steps = [columns.select(range(start, start + ROWS)) for start in range(0, len(order), ROWS)]
        packed = datasets.concatenate_datasets([pack_dataset(step, seq_length=1000, strategy="bfd") for step in steps])
        assert len(packed) == STEPS
        policy = start(config)[0]
        arguments |= {
            "packing": True, "per_device_train_batch_size": 1, "assistant_only_loss": False,
            "dataset_kwargs": {"skip_prepare_dataset": True},
        }  # fmt: skip
        trainer = SFTTrainer(
            model=policy.model, args=SFTConfig(**arguments), train_dataset=packed, processing_class=tokenizer,
            optimizers=optimizer(config, policy),
        )  # fmt: skip
    trainer.train()
    assert distance(config, weights_of(config), policy.trainable()) < TOLERANCE


def test_kto_ends_at_the_weights_of_trl_with_its_own_pairs(tmp_path) -> None:
    """The oracle pairs prompts with other completions in its own preparation, one batch per step."""
    import datasets
    from transformers import AutoTokenizer
    from trl import KTOConfig, KTOTrainer

    rows = label_rows()
    weights = {"desirable_weight": 0.7, "undesirable_weight": 1.3}
    settings = {f"objective__preference__{name}": value for name, value in weights.items()}
    config = configuration(tmp_path, "kto", rows, objective__kl__coef=1.0, learner__lr=0.01, **settings)
    policy, _, order = start(config)
    train = [{k: v for k, v in row.items() if k != "split"} for row in rows if row["split"] == "train"]
    trainer = KTOTrainer(
        model=policy.model, ref_model=start(config)[0].model,
        args=KTOConfig(
            **common(config), **weights, output_dir=str(tmp_path / "oracle"), beta=config.objective.kl.coef,
            max_length=None,
        ),
        train_dataset=datasets.Dataset.from_list([train[i] for i in order]),
        processing_class=AutoTokenizer.from_pretrained(config.policy), optimizers=optimizer(config, policy),
    )  # fmt: skip
    trainer.train()
    assert distance(config, weights_of(config), policy.trainable()) < TOLERANCE
    points = [row["kl"] for row in trainer.state.log_history if "kl" in row]
    assert Run(str(config.output)).metrics["preference/reference_point"] == pytest.approx(points, rel=1e-4, abs=1e-6)
    assert max(points) > 0.05


def common(config: TrainConfig) -> dict[str, Any]:
    """Return the arguments of all oracles."""
    return {
        "per_device_train_batch_size": ROWS, "max_steps": STEPS, "max_grad_norm": config.learner.max_grad_norm,
        "bf16": False, "use_cpu": True, "gradient_checkpointing": False, "logging_steps": 1, "report_to": "none",
        "save_strategy": "no", "train_sampling_strategy": "sequential", "disable_tqdm": True,
    }  # fmt: skip


def optimizer(config: TrainConfig, policy: CausalPolicy) -> tuple[Any, Any]:
    """Return the run's optimizer and its constant schedule."""
    ln = config.learner
    adamw = torch.optim.AdamW(
        list(policy.trainable().values()), lr=ln.lr, betas=(ln.beta1, ln.beta2), weight_decay=ln.weight_decay
    )
    return adamw, torch.optim.lr_scheduler.LambdaLR(adamw, lambda step: 1.0)
