"""`Trainer` equals the reference loop: the same random numbers, one row at a time, written independently."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rlalign.config.defaults import default_config
from rlalign.config.instantiate import build_mdp, build_policy
from rlalign.config.serialize import update
from rlalign.objective.last_action import on_last_action
from rlalign.policies.base import TokenScores
from rlalign.policies.tabular import TabularPolicy
from rlalign.rollout import sampled
from rlalign.training import reference_loop
from rlalign.training.trainer import Trainer

SETTINGS = {
    "rollout.prompts": 3,
    "rollout.group_size": 4,
    "evaluation.prompts": 2,
    "learner.lr": 0.05,
    "objective.kl.coef": 0.1,
    "objective.kl.target": 0.0,
    "rewards": ["token_match", "length?unit=characters&target=3=0.1"],
}


def config(tmp_path, algorithm, policy, steps, **changes):
    """Return the configuration of a small run with a KL term, with its coefficient and place set for all algorithms."""
    defaults = default_config("rlalign/Reverse-v0?max_length=3", policy, algorithm)
    where = {"reinforce": "reward", "rloo": "reward", "grpo": "loss", "ppo": "reward"}[algorithm]
    # ppo: sampled log-probs are the denominator of the ratio
    settings = {**SETTINGS, "objective.kl.where": where, "learner.old_logprobs": "sampler", "steps": steps}
    return update(defaults, {**settings, "output": str(tmp_path), **changes})


class Float64(TabularPolicy):
    """The table in float64 throughout; `TabularPolicy` computes log-probs in float32 as all policies do."""

    def score(self, tokens, lengths, action_mask, sampling, *, entropy=False, values=False):
        rows = self.rows(tokens)[:, :-1]
        logprobs = self._logprobs(self.table, tokens, rows)
        scores = TokenScores(torch.where(action_mask, logprobs, 0))
        if not values:
            return scores
        last = self.rows(tokens).gather(1, lengths[:, None]).squeeze(1)
        return replace(scores, values=torch.where(action_mask, self.values[rows], 0), final_values=self.values[last])

    def reference_logprobs(self, tokens, lengths, action_mask, sampling):
        logprobs = self._logprobs(self.reference, tokens, self.rows(tokens)[:, :-1])
        return torch.where(action_mask, logprobs, 0)

    def _logprobs(self, table, tokens, rows):
        return torch.log_softmax(table[rows], -1).gather(-1, tokens[..., None]).squeeze(-1)


def run_trainer(settings, tmp_path, policy, mdp):
    """Train the policy in place."""
    trainer = Trainer(settings, tmp_path, policy, mdp, quiet=True)
    trainer.run()
    trainer.close()


@pytest.mark.parametrize("algorithm", ["reinforce", "rloo", "grpo", "ppo"])
def test_weights_are_equal_after_five_steps_in_float64(tmp_path, monkeypatch, algorithm):
    torch.manual_seed(0)
    changes = {"learner.epochs": 2, "learner.minibatches": 3} if algorithm == "ppo" else {}
    settings = config(tmp_path, algorithm, "tabular", 5, **changes)
    mdp = build_mdp(settings)
    value_head = algorithm == "ppo"
    trained, plain = (Float64(mdp.tokenizer, 3, seed=1, scale=0.5, value_head=value_head) for _ in range(2))

    def in_float64(*args, **options):
        rollout = collect(*args, **options)
        scores = trained.score(rollout.tokens, rollout.lengths, rollout.action_mask, settings.rollout.sampling)
        # the rewards before Rollout rounds them to float32
        total = sum(mdp.reward.weights[name] * values for name, values in rollout.components.items())
        rewards = on_last_action(total, rollout.action_mask)
        return replace(rollout, rewards=rewards, sampler_logprobs=scores.logprobs.detach())

    collect = sampled.collect
    monkeypatch.setattr(sampled, "collect", in_float64)
    run_trainer(settings, tmp_path, trained, mdp)

    def forward(tokens):
        return plain.table[plain.rows(tokens[None])[0, 1:]]

    def value(tokens):
        return plain.values[plain.rows(tokens[None])[0, 1:]]

    def reference(tokens):
        return plain.reference[plain.rows(tokens[None])[0, 1:]]

    parameters = list(plain.trainable().values())
    if algorithm == "ppo":
        returns = list(reference_loop.train_ppo(forward, value, reference, parameters, mdp, settings))
    else:
        returns = list(reference_loop.train(forward, reference, parameters, mdp, settings))
    assert len(returns) == 5
    for name, weight in trained.trainable().items():
        other = plain.trainable()[name]
        assert (weight - other).abs().max() < 1e-10, name
        assert (weight - (plain.reference if name == "table" else 0)).abs().max() > 0.05  # the weights have changed


def plain_forward(policy, tokens):
    """Return logits [L, V] and last hidden states [L, d] from the plain module: torch's GRU, or transformers' model."""
    if hasattr(policy, "model"):
        output = policy.model(input_ids=tokens[None], use_cache=False, output_hidden_states=True)
        return output.logits[0], output.hidden_states[-1][0]
    states = policy.body.gru(policy.body.embedding(tokens[None]))[0][0]
    return policy.body.head(states), states


@pytest.mark.parametrize("algorithm", ["reinforce", "rloo", "grpo", "ppo"])
@pytest.mark.parametrize("policy", ["gru", "tiny"])
def test_the_first_gradients_are_equal_in_float32(tmp_path, monkeypatch, algorithm, policy):
    gradients = []

    def step(optimizer, *_):
        """Record the gradient instead of taking the step."""
        grads = [p.grad for group in optimizer.param_groups for p in group["params"]]
        gradients.append([g.clone() for g in grads])

    settings = config(tmp_path, algorithm, policy, 1, **{"learner.max_grad_norm": 1e9, "model.dtype": "float32"})
    settings = replace(settings, model=replace(settings.model, value=settings.objective.value.kind))
    built, mdp = build_policy(settings, build_mdp(settings))
    names = list(built.trainable())
    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    run_trainer(settings, tmp_path, built, mdp)

    def forward(tokens):
        return plain_forward(built, tokens)[0]

    def value(tokens):
        return built.value_head(plain_forward(built, tokens)[1])

    parameters = list(built.trainable().values())
    initial = {name: p.detach().clone() for name, p in built.trainable().items()}
    if algorithm == "ppo":
        list(reference_loop.train_ppo(forward, value, forward, parameters, mdp, settings))
    else:
        # before training, the policy equals its reference
        list(reference_loop.train(forward, forward, parameters, mdp, settings))
    assert all(torch.equal(initial[name], p) for name, p in built.trainable().items())
    ours, plain = gradients[0], gradients[settings.learner.epochs * settings.learner.minibatches]
    norm = torch.stack([g.norm() for g in plain]).norm()
    assert norm > 0
    for name, a, b in zip(names, ours, plain, strict=True):
        assert (a - b).norm() < 1e-6 * max(1.0, float(norm)), name


def test_the_reference_loop_has_at_most_80_lines():
    first, ppo = Path(reference_loop.__file__).read_text(encoding="utf-8").split("# ---- ppo ----")
    assert sum(bool(line.strip()) for line in first.splitlines()) <= 80
    assert sum(bool(line.strip()) for line in ppo.splitlines()) <= 40
