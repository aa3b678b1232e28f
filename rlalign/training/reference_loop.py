"""Training in one page, one row and one token at a time: read this first. `Trainer` ends at the same weights (tested).

Prompt → rollout → reward → advantage → loss → step → log. N rows = P prompts × G samples, T actions in a row. Left out:
batches, caches, temperature, several turns, bootstrapping, failing rewards, schedules, adaptive KL, checkpoints.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, log_softmax

from rlalign.config.schema import TrainConfig
from rlalign.envs.mdp import TextMDP
from rlalign.envs.task_stream import TaskStream
from rlalign.envs.token_env import TokenEnv
from rlalign.training.rng import RngStreams
from rlalign.types import Task

Forward = Callable[[Tensor], Tensor]  # token ids [L] -> logits [L, V] of the next token; a value function returns [L]


class Row(NamedTuple):
    tokens: Tensor  # int64 [L]: the prompt and T actions
    rewards: Tensor  # [T], minus the KL estimate of each token where the objective has it in the reward
    sampler_logprobs: Tensor  # [T], under the policy that sampled
    ref_logprobs: Tensor  # [T], under the reference policy


def action_logprobs(policy: Forward, tokens: Tensor, count: int) -> Tensor:
    logits = policy(tokens[:-1])[-count:]  # logits at t belong to the token at t + 1
    return log_softmax(logits, -1).gather(-1, tokens[-count:, None]).squeeze(-1)


@torch.no_grad()
def sample(policy: Forward, reference: Forward, mdp: TextMDP, task: Task, uniforms: Tensor, kl_coef: float) -> Row:
    env = TokenEnv(mdp)  # the MDP, one token per step
    env.reset(options={"task": task})
    earned: list[float] = []
    terminated = truncated = False
    while not (terminated or truncated):
        cdf = policy(torch.tensor(env.context))[-1].softmax(-1).double().cumsum(-1)
        action = int(torch.searchsorted(cdf, uniforms[len(earned)] * cdf[-1], right=True))  # inverse CDF
        _, reward, terminated, truncated, _ = env.step(action)
        earned.append(reward)
    tokens = torch.tensor(env.context)
    logprobs, ref_logprobs = (action_logprobs(model, tokens, len(earned)) for model in (policy, reference))
    rewards = torch.tensor(earned, dtype=logprobs.dtype) - kl_coef * (logprobs - ref_logprobs)  # the estimator k1
    return Row(tokens, rewards, logprobs, ref_logprobs)


def rollouts(
    policy: Forward, reference: Forward, mdp: TextMDP, config: TrainConfig, rng: RngStreams
) -> Iterator[list[Row]]:
    tasks = TaskStream(mdp.source, "train", seed=rng.task_seed)
    kl_coef = config.objective.kl.coef if config.objective.kl.where == "reward" else 0.0
    for _ in range(config.steps):
        batch = [task for task in tasks.next(config.rollout.prompts) for _ in range(config.rollout.group_size)]
        uniforms = torch.rand(mdp.max_new, len(batch), dtype=torch.float64, generator=rng.sampler)
        yield [sample(policy, reference, mdp, task, u, kl_coef) for task, u in zip(batch, uniforms.T, strict=True)]


def train(
    policy: Forward, reference: Forward, parameters: list[Tensor], mdp: TextMDP, config: TrainConfig
) -> Iterator[float]:
    """Train with reinforce, rloo or grpo while the result is iterated; yield the mean return of each step."""
    objective = config.objective
    optimizer = torch.optim.AdamW(parameters, lr=config.learner.lr, weight_decay=0.0)
    average = None  # reinforce: moving average of the mean return
    for rows in rollouts(policy, reference, mdp, config, RngStreams(config.seed, torch.device("cpu"))):
        returns = torch.stack([row.rewards.sum() for row in rows])  # [N]
        groups = returns.view(-1, config.rollout.group_size)  # [P, G]
        if config.algorithm == "reinforce":  # reward to go minus the moving average, at first the other rows' mean
            others = (returns.sum() - returns) / (len(rows) - 1)
            baseline = others if average is None else torch.full_like(returns, average)
            advantages = [row.rewards.flip(0).cumsum(0).flip(0) - b for row, b in zip(rows, baseline, strict=True)]
        elif config.algorithm == "rloo":  # return minus the mean of the other samples of the prompt
            advantages = list((groups - (groups.sum(1, keepdim=True) - groups) / (groups.shape[1] - 1)).flatten())
        elif config.algorithm == "grpo":  # return standardized within the group
            std = groups.std(1, keepdim=True) + objective.scale_eps
            advantages = list(((groups - groups.mean(1, keepdim=True)) / std).flatten())
        mean = returns.mean().item()
        average = mean if average is None else objective.ema_decay * average + (1 - objective.ema_decay) * mean
        optimizer.zero_grad()
        for row, advantage in zip(rows, advantages, strict=True):
            logprobs = action_logprobs(policy, row.tokens, len(row.rewards))
            loss = -(advantage * logprobs).sum()
            if config.algorithm == "grpo":  # token mean, k3 in the loss; used once: the ratio is 1, no clip acts
                ratio = (logprobs - logprobs.detach()).exp()
                k1 = logprobs - row.ref_logprobs
                loss = (objective.kl.coef * (torch.expm1(-k1) + k1) - advantage * ratio).mean()
            (loss / len(rows)).backward()
        torch.nn.utils.clip_grad_norm_(parameters, config.learner.max_grad_norm)
        optimizer.step()
        yield mean


# ---- ppo ----


def gae(rewards: Tensor, values: Tensor, gamma: float, lam: float) -> Tensor:
    advantages = torch.zeros_like(rewards)
    advantage, following = torch.zeros(2, dtype=values.dtype)  # the episode has ended: the value after it is 0
    for t in reversed(range(len(rewards))):
        advantage = rewards[t] + gamma * following - values[t] + gamma * lam * advantage
        following = values[t]
        advantages[t] = advantage
    return advantages


def train_ppo(
    policy: Forward, value: Forward, reference: Forward, parameters: list[Tensor], mdp: TextMDP, config: TrainConfig
) -> Iterator[float]:
    """Train with ppo, several epochs per rollout; yield the mean return of each step."""
    credit, trust, critic = config.objective.credit, config.objective.trust, config.objective.value
    rng = RngStreams(config.seed, torch.device("cpu"))
    optimizer = torch.optim.AdamW(parameters, lr=config.learner.lr, weight_decay=0.0)
    for rows in rollouts(policy, reference, mdp, config, rng):
        with torch.no_grad():
            values = [value(row.tokens[:-1])[-len(row.rewards) :] for row in rows]  # V(s_t) before each action
        raw = [gae(r.rewards, v, credit.gamma, credit.lambda_actor) for r, v in zip(rows, values, strict=True)]
        actions = torch.cat(raw)  # whitened over all actions of the batch
        advantages = [(a - actions.mean()) / (actions.std() + config.objective.scale_eps) for a in raw]
        targets = [gae(r.rewards, v, credit.gamma, credit.lambda_critic) + v for r, v in zip(rows, values, strict=True)]
        for _ in range(config.learner.epochs):
            for minibatch in torch.randperm(len(rows), generator=rng.shuffle).chunk(config.learner.minibatches):
                optimizer.zero_grad()
                for i in minibatch.tolist():
                    logprobs = action_logprobs(policy, rows[i].tokens, len(rows[i].rewards))
                    ratio = (logprobs - rows[i].sampler_logprobs).exp()
                    clipped = ratio.clamp(1 - trust.low, 1 + trust.high)
                    gain = torch.minimum(ratio * advantages[i], clipped * advantages[i])
                    new = value(rows[i].tokens[:-1])[-len(gain) :]
                    near = values[i] + (new - values[i]).clamp(-critic.clip, critic.clip)
                    error = torch.maximum((new - targets[i]).square(), (near - targets[i]).square()) / 2
                    loss = (critic.coef * error - gain).sum() / sum(len(rows[j].rewards) for j in minibatch)
                    loss.backward()  # type: ignore[no-untyped-call]  # untyped in torch
                torch.nn.utils.clip_grad_norm_(parameters, config.learner.max_grad_norm)
                optimizer.step()
        yield sum(float(row.rewards.sum()) for row in rows) / len(rows)
