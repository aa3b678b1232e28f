"""Losses on recorded data against TRL's own trainers, on the same tiny model in float64: values, gradients, metrics.

Each trainer is an instance without __init__ that holds only the attributes which its loss reads. Its methods compute
the loss from token ids through the model's forward pass.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rlalign.algorithms import algorithm
from rlalign.objective import KL, Batch, Objective, Preference, compute_advantages, policy_loss, reference_point

trl = pytest.importorskip("trl")

P, PROMPT, WIDTH, V = 5, 3, 9, 11  # pairs, prompt tokens, columns, vocabulary
PAD = 0
BETA = 0.3


class Model(nn.Module):
    """A causal model: the mean of the embeddings so far, through one layer."""

    is_gradient_checkpointing = False  # TRL reads it

    def __init__(self, seed: int) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(seed)
        self.embedding = nn.Parameter(torch.randn(V, 6, dtype=torch.float64, generator=g))
        self.head = nn.Parameter(torch.randn(6, V, dtype=torch.float64, generator=g))

    def logits(self, ids: Tensor) -> Tensor:
        states = self.embedding[ids].cumsum(1) / torch.arange(1, ids.shape[1] + 1)[:, None]
        return torch.tanh(states) @ self.head

    def forward(self, input_ids: Tensor, labels: Tensor | None = None, **kwargs: Any) -> SimpleNamespace:
        """Return what TRL's fused head returns: log-probs of the labels, 0 where the label is -100."""
        logits = self.logits(input_ids)
        if labels is None:
            return SimpleNamespace(logits=logits)
        targets = labels[:, 1:]
        mask = targets != -100
        logp = logits[:, :-1].log_softmax(2)
        log_probs = logp.gather(2, targets.clamp(min=0)[..., None])[..., 0].where(mask, 0)
        return SimpleNamespace(
            log_probs=log_probs,
            entropy=-(logp.exp() * logp).sum(2),
            mean_logits=logits[:, :-1].mean(2),
            is_top1=logp.argmax(2) == targets,
            label_mask=mask,
            aux_loss=None,
        )


def instance(trainer: type, model: Model, **attributes: Any) -> Any:
    """Return a trainer without its __init__, with the attributes that its loss reads."""

    def same(x: Any) -> Any:
        return x

    accelerator = SimpleNamespace(
        device=torch.device("cpu"),
        num_processes=1,
        parallelism_config=None,
        gather=same,
        gather_for_metrics=same,
        unwrap_model=same,
    )
    item = object.__new__(trainer)
    item.__dict__.update(
        model=model,
        accelerator=accelerator,
        aux_loss_enabled=False,
        _metrics={"train": defaultdict(list)},
        _total_train_tokens=0,
        _tp_size=1,
        **attributes,
    )
    return item


def tokens(rows: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return ids and the mask of the completions, of unequal lengths, [rows, WIDTH] each."""
    g = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, WIDTH - PROMPT + 1, (rows,), generator=g)
    columns = torch.arange(WIDTH)
    ids = torch.randint(1, V, (rows, WIDTH), generator=g)
    ids = ids.where(columns < PROMPT + lengths[:, None], PAD)
    return ids, (columns >= PROMPT) & (columns < PROMPT + lengths[:, None])


def logprobs_of(model: Model, ids: Tensor) -> Tensor:
    """Return log pi of each token at its own column; 0 in the first column."""
    logp = model.logits(ids)[:, :-1].log_softmax(2).gather(2, ids[:, 1:, None])[..., 0]
    return torch.nn.functional.pad(logp, (1, 0))


def recorded(model: Model, reference: Model, ids: Tensor, mask: Tensor, rewards: Tensor, groups: Tensor) -> Batch:
    """Return our batch of the same tokens."""
    rows = torch.ones(len(ids), dtype=torch.bool)
    return Batch(
        action_mask=mask,
        rewards=rewards.double(),
        group_ids=groups,
        terminated=rows,
        truncated=~rows,
        logprobs=logprobs_of(model, ids),
        ref_logprobs=logprobs_of(reference, ids).detach(),
    )


def chosen_then_rejected(model: Model, reference: Model) -> tuple[Tensor, Tensor, Batch]:
    """Return ids and mask in TRL's order, first all chosen, then all rejected, and our batch of them."""
    ids, mask = tokens(2 * P, 0)
    ids[P:, :PROMPT] = ids[:P, :PROMPT]
    rewards = torch.tensor([1.0] * P + [0.0] * P)
    return ids, mask, recorded(model, reference, ids, mask, rewards, torch.arange(P).repeat(2))


def assert_same(o: Objective, batch: Batch, other: Tensor, model: Model) -> dict[str, float]:
    """Compare value and gradient to the model's parameters with those of TRL; return our metrics."""
    o.validate()
    loss = policy_loss(o, compute_advantages(o, batch))
    ours = loss.total / loss.count
    assert ours.item() == pytest.approx(other.item(), rel=1e-6)
    gradients = torch.autograd.grad(ours, list(model.parameters()))
    for a, b in zip(gradients, torch.autograd.grad(other, list(model.parameters())), strict=True):
        assert a.abs().max() > 1e-4
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-10)
    return {key: (total / n).item() for key, (total, n) in loss.metrics.items()}


@pytest.fixture
def models() -> tuple[Model, Model]:
    """The policy and the reference."""
    model, reference = Model(1), Model(1)
    with torch.no_grad():
        for x, y in zip(reference.parameters(), Model(2).parameters(), strict=True):
            x += 0.3 * y
    return model, reference


def dpo_trainer(model: Model, reference: Model, loss_type: str, smoothing: float = 0.0) -> Any:
    from trl.trainer.dpo_trainer import DPOTrainer

    return instance(
        DPOTrainer,
        model,
        ref_model=reference,
        args=SimpleNamespace(gradient_checkpointing_kwargs=None),
        ld_alpha=None,
        precompute_ref_logps=False,
        f_divergence_type="reverse_kl",
        loss_types=[loss_type],
        loss_weights=[1.0],
        beta=BETA,
        label_smoothing=smoothing,
        use_weighting=False,
    )


def trl_loss(trainer: Any, model: Model, ids: Tensor, mask: Tensor) -> Tensor:
    """Return the loss of TRL's DPO trainer, which has chosen rows first."""
    inputs = {"input_ids": ids, "attention_mask": (ids != PAD).long(), "completion_mask": mask.long()}
    loss: Tensor = trainer._compute_loss(model, inputs, False)
    return loss


@pytest.mark.parametrize(("loss", "loss_type"), [("dpo", "sigmoid"), ("ipo", "ipo")])
def test_dpo_and_ipo_equal_trl(models: tuple[Model, Model], loss: str, loss_type: str) -> None:
    model, reference = models
    ids, mask, batch = chosen_then_rejected(model, reference)
    trainer = dpo_trainer(model, reference, loss_type)
    other = trl_loss(trainer, model, ids, mask)
    metrics = assert_same(Objective(loss=loss, kl=KL("reward", BETA)), batch, other, model)
    if loss == "ipo":  # TRL logs the rewards of dpo, which its loss does not compare
        return
    for theirs, key in {
        "rewards/accuracies": "accuracy",
        "rewards/margins": "margin",
        "rewards/chosen": "chosen_reward",
        "rewards/rejected": "rejected_reward",
        "logps/chosen": "chosen_logprob",
        "logps/rejected": "rejected_logprob",
    }.items():
        assert metrics[f"preference/{key}"] == pytest.approx(trainer._metrics["train"][theirs][0], rel=1e-6), key


def test_conservative_dpo_equals_trl(models: tuple[Model, Model]) -> None:
    """TRL's loss of type aot is conservative DPO on margins sorted over the batch; one pair needs no sorting."""
    model, reference = models
    ids, mask, batch = chosen_then_rejected(model, reference)
    trainer = dpo_trainer(model, reference, "aot", smoothing=0.2)
    losses = [trl_loss(trainer, model, ids[i::P], mask[i::P]) for i in range(P)]
    o = Objective(loss="dpo", kl=KL("reward", BETA), preference=Preference(label_smoothing=0.2))
    assert_same(o, batch, torch.stack(losses).mean(), model)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_simpo_equals_trl(models: tuple[Model, Model], smoothing: float) -> None:
    from trl.experimental.cpo.cpo_trainer import CPOTrainer

    model, reference = models
    ids, mask, batch = chosen_then_rejected(model, reference)
    trainer = instance(
        CPOTrainer,
        model,
        loss_type="simpo",
        beta=2.5,
        simpo_gamma=0.8,
        label_smoothing=smoothing,
        alpha=0.0,
        cpo_alpha=0.0,
        is_encoder_decoder=False,
        pad_token_id=PAD,
    )
    inputs = {}
    for name, part in (("chosen", slice(0, P)), ("rejected", slice(P, 2 * P))):
        inputs[f"{name}_input_ids"] = ids[part]
        inputs[f"{name}_attention_mask"] = (ids[part] != PAD).long()
        inputs[f"{name}_labels"] = ids[part].masked_fill(~mask[part], -100)
    other, theirs = trainer.get_batch_loss_metrics(model, inputs)
    o = Objective(loss="simpo", preference=Preference(scale=2.5, margin=0.8, label_smoothing=smoothing))
    metrics = assert_same(o, replace(batch, ref_logprobs=None), other, model)
    for key, name in {"accuracies": "accuracy", "margins": "margin", "chosen": "chosen_reward"}.items():
        assert metrics[f"preference/{name}"] == pytest.approx(theirs[f"rewards/{key}"], rel=1e-6)


@pytest.mark.parametrize("swapped", [False, True])  # z0 is at its bound 0, or above it
def test_kto_equals_trl(models: tuple[Model, Model], swapped: bool) -> None:
    from trl.trainer.kto_trainer import KTOTrainer

    model, reference = models
    if swapped:
        model, reference = reference, model
    ids, mask = tokens(2 * P, 3)
    mismatched, mismatched_mask = tokens(2 * P, 4)
    labels = torch.rand(2 * P, generator=torch.Generator().manual_seed(0)) < 0.6
    trainer = instance(
        KTOTrainer,
        model,
        ref_model=reference,
        args=SimpleNamespace(gradient_checkpointing_kwargs=None),
        calculate_KL=True,
        precompute_ref_logps=False,
        loss_type="kto",
        beta=BETA,
        desirable_weight=1.3,
        undesirable_weight=0.7,
    )
    inputs = {
        "input_ids": ids,
        "attention_mask": (ids != PAD).long(),
        "completion_mask": mask.long(),
        "KL_input_ids": mismatched,
        "KL_attention_mask": (mismatched != PAD).long(),
        "KL_completion_mask": mismatched_mask.long(),
        "label": labels,
    }
    other = trainer._compute_loss(model, inputs, False)
    z0 = reference_point(logprobs_of(model, mismatched), logprobs_of(reference, mismatched), mismatched_mask)
    assert (z0 > 0) == swapped
    batch = recorded(model, reference, ids, mask, labels, torch.arange(2 * P))
    batch = replace(batch, reference_point=z0.expand(2 * P))
    preference = Preference(desirable_weight=1.3, undesirable_weight=0.7)
    metrics = assert_same(Objective(loss="kto", kl=KL("reward", BETA), preference=preference), batch, other, model)
    theirs = trainer._metrics["train"]
    assert metrics["preference/reference_point"] == pytest.approx(theirs["kl"][0], abs=1e-12)
    assert metrics["preference/chosen_reward"] == pytest.approx(theirs["rewards/chosen"][0], rel=1e-6)
    assert metrics["preference/rejected_logprob"] == pytest.approx(theirs["logps/rejected"][0], rel=1e-6)


def test_sft_equals_trl(models: tuple[Model, Model]) -> None:
    from trl.trainer.sft_trainer import SFTTrainer

    model, reference = models
    ids, mask = tokens(2 * P, 5)
    trainer = instance(
        SFTTrainer,
        model,
        args=SimpleNamespace(loss_type="nll", average_tokens_across_devices=False),
        compute_loss_func=None,
        label_smoother=None,
    )
    labels = ids.masked_fill(~mask, -100)
    inputs = {"input_ids": ids, "attention_mask": (ids != PAD).long(), "labels": labels}
    other = trainer.compute_loss(model, inputs)
    batch = recorded(model, reference, ids, mask, torch.ones(2 * P), torch.arange(2 * P))
    assert_same(algorithm("sft").objective, replace(batch, ref_logprobs=None), other, model)
