"""Exact gradients: what an objective's update is in expectation, as a number and not as a sample.

A token MDP small enough to be enumerated (V = 3 with EOS, horizon 4: 31 completions, a softmax table of 15 prefixes ×
3) gives J and its gradient in closed form, and the expectation of any objective's gradient by summing over every group
of completions with its probability. The objective runs through the same `advantages` and `policy_loss` as in training.

    relative error   |g - g*| / |g*|
    cosine           <g, g*> / |g| |g*|
    scale            <g, g*> / |g*|²

g* is the gradient of what the objective says it maximises: E[R], with its length penalty where it has one, minus beta ·
KL(pi‖ref) where it has a KL term.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import typing
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from rlalign.algorithms import ALGORITHMS, Algorithm, algorithm
from rlalign.errors import UserError
from rlalign.objective.batch import Batch
from rlalign.objective.formula import formula
from rlalign.objective.loss import advantages, likelihood_loss, policy_loss
from rlalign.objective.names import BASELINES, BUILT_IN_BASELINES, BUILT_IN_TRUSTS, LOSSES, TRUSTS
from rlalign.objective.shaping import overlong
from rlalign.objective.spec import KL, Objective, Trust
from rlalign.objective.state import ObjectiveState

EXACT = 1e-9
EOS = 0


class TokenMDP:
    """All completions of at most `horizon` tokens over `vocabulary` tokens, token 0 being EOS; M of them, T = horizon.

    Args:
        vocabulary, horizon: sizes.
        rewards: graded (uniform in [0, 1]), binary (0 or 1), or float [M] in the order of `tokens`.
        seed: of rewards and tables.

    Attributes:
        tokens: int64 [M, T]; 0 past the end.
        mask: bool [M, T].
        prefix: int64 [M, T], the index of the prefix that the token follows.
        terminated: bool [M], ended by EOS; the others were cut at the horizon.
        rewards: float64 [M].
        prefixes: list of the prefixes, in the order of a table's rows.
    """

    def __init__(
        self,
        vocabulary: int = 3,
        horizon: int = 4,
        rewards: Literal["graded", "binary"] | Tensor = "graded",
        seed: int = 0,
    ) -> None:
        self.vocabulary, self.horizon, self.seed = vocabulary, horizon, seed
        speaking = range(1, vocabulary)
        self.prefixes = [p for n in range(horizon) for p in itertools.product(speaking, repeat=n)]
        index = {p: i for i, p in enumerate(self.prefixes)}
        ended = [(*p, EOS) for p in self.prefixes]
        cut = list(itertools.product(speaking, repeat=horizon))
        self.completions = ended + cut
        m = len(self.completions)
        self.tokens = torch.zeros(m, horizon, dtype=torch.int64)
        self.mask = torch.zeros(m, horizon, dtype=torch.bool)
        self.prefix = torch.zeros(m, horizon, dtype=torch.int64)
        for i, completion in enumerate(self.completions):
            for t, token in enumerate(completion):
                self.tokens[i, t], self.mask[i, t] = token, True
                self.prefix[i, t] = index[completion[:t]]
        self.terminated = torch.arange(m) < len(ended)
        if isinstance(rewards, Tensor):
            self.rewards = rewards.double()
        else:
            drawn = torch.rand(m, dtype=torch.float64, generator=torch.Generator().manual_seed(seed + 1))
            self.rewards = drawn if rewards == "graded" else (drawn > drawn.median()).double()

    def table(self, seed: int, scale: float = 0.7) -> Tensor:
        """A random logit table, float64 [prefixes, V]."""
        generator = torch.Generator().manual_seed(1000 * self.seed + seed)
        return scale * torch.randn(len(self.prefixes), self.vocabulary, dtype=torch.float64, generator=generator)

    def logprobs(self, logits: Tensor) -> Tensor:
        """log pi of each token of each completion, [M, T], 0 off the mask; differentiable."""
        return logits.log_softmax(1)[self.prefix, self.tokens].where(self.mask, 0)

    def entropies(self, logits: Tensor) -> Tensor:
        """Entropy of the token distribution at each token, [M, T], 0 off the mask; differentiable."""
        logp = logits.log_softmax(1)
        return -(logp.exp() * logp).sum(1)[self.prefix].where(self.mask, 0)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Probability of each completion, [M]; sums to 1; differentiable."""
        return self.logprobs(logits).sum(1).exp()

    def value(self, logits: Tensor) -> Tensor:
        """J = E[R], a differentiable scalar."""
        value: Tensor = self.probabilities(logits) @ self.rewards
        return value

    def kl(self, logits: Tensor, reference: Tensor) -> Tensor:
        """KL(pi‖ref) of completions, a differentiable scalar."""
        p, q = self.logprobs(logits).sum(1), self.logprobs(reference).sum(1)
        divergence: Tensor = p.exp() @ (p - q)
        return divergence

    def gradient(self, logits: Tensor, reference: Tensor | None = None, beta: float = 0.0) -> Tensor:
        """Exact gradient of E[R] - beta · KL(pi‖ref) with respect to the table, [prefixes, V]."""
        at = logits.detach().requires_grad_()
        goal = self.value(at) - (beta * self.kl(at, reference) if reference is not None else 0.0)
        return torch.autograd.grad(goal, at)[0]

    def state_values(self, logits: Tensor) -> Tensor:
        """Exact V of each prefix, [prefixes]."""
        p = self.probabilities(logits).detach()
        mass, worth = torch.zeros(2, len(self.prefixes), dtype=torch.float64)
        for t in range(self.horizon):
            on = self.mask[:, t]
            mass.index_add_(0, self.prefix[on, t], p[on])
            worth.index_add_(0, self.prefix[on, t], (p * self.rewards)[on])
        result: Tensor = worth / mass
        return result

    @cached_property
    def _lookup(self) -> dict[tuple[int, ...], int]:
        return {c: i for i, c in enumerate(self.completions)}

    def greedy_reward(self, logits: Tensor) -> float:
        """Reward of the completion that takes the most probable token each time."""
        done: tuple[int, ...] = ()
        while len(done) < self.horizon and EOS not in done:
            done = (*done, int(logits[self.prefixes.index(done)].argmax()))
        return float(self.rewards[self._lookup[done]])

    def batch(
        self,
        logits: Tensor,
        *,
        reference: Tensor | None = None,
        values: Tensor | None = None,
        final_values: Tensor | None = None,
        sampler: Tensor | None = None,
        old: Tensor | None = None,
    ) -> Batch:
        """All M completions as a batch with gradient to `logits`.

        Tables: logits (pi), reference, sampler (what draws; pi if None) and old (the ratio's denominator; sampler if
        None). values: [prefixes]; final_values: [M], the value after the last token.
        """
        m = len(self.completions)
        logprobs = self.logprobs(logits)
        drawn = logprobs.detach() if sampler is None else self.logprobs(sampler)
        return Batch(
            action_mask=self.mask,
            rewards=self.rewards,
            group_ids=torch.zeros(m, dtype=torch.int64),
            terminated=self.terminated,
            truncated=~self.terminated,
            logprobs=logprobs,
            old_logprobs=drawn if old is None else self.logprobs(old),
            sampler_logprobs=drawn,
            ref_logprobs=None if reference is None else self.logprobs(reference),
            old_values=None if values is None else values[self.prefix].where(self.mask, 0),
            final_values=torch.zeros(m, dtype=torch.float64) if final_values is None else final_values,
            entropies=self.entropies(logits),
            greedy_rewards=torch.full((m,), self.greedy_reward(logits.detach()), dtype=torch.float64),
            max_length=self.horizon,
        )


def expected_gradient(
    objective: Objective,
    mdp: TokenMDP,
    logits: Tensor,
    *,
    group_size: int = 2,
    state: ObjectiveState | None = None,
    sampler: Tensor | None = None,
    **tables: Any,
) -> Tensor:
    """Exact expectation of the ascent direction -grad(total / count) over all groups of completions, [prefixes, V].

    The batch is one group of `group_size` independent completions. Groups are summed as multisets with their
    multinomial probability: losses do not depend on the order of rows. `tables` go to `TokenMDP.batch`.
    """
    at = logits.detach().requires_grad_()
    goal = 0 * at.sum()
    for p, gain in _groups(objective, mdp, at, group_size, state, sampler, tables):
        goal = goal + p * gain
    return torch.autograd.grad(goal, at)[0]


def projected_moments(
    objective: Objective,
    mdp: TokenMDP,
    logits: Tensor,
    directions: Tensor,
    *,
    group_size: int = 2,
    state: ObjectiveState | None = None,
    sampler: Tensor | None = None,
    **tables: Any,
) -> tuple[Tensor, Tensor]:
    """Exact mean [D] and standard deviation [D] of one group's update along directions [D, prefixes, V].

    For statistical tests of a training path: with the exact sigma, rare prefixes cannot fool the test.
    """
    at = logits.detach().requires_grad_()
    first, second = torch.zeros(2, len(directions), dtype=torch.float64)
    for p, gain in _groups(objective, mdp, at, group_size, state, sampler, tables):
        along = directions.flatten(1) @ torch.autograd.grad(gain, at, retain_graph=True)[0].flatten()
        first, second = first + p * along, second + p * along.square()
    return first, (second - first.square()).sqrt()


def _groups(
    objective: Objective,
    mdp: TokenMDP,
    at: Tensor,
    group_size: int,
    state: ObjectiveState | None,
    sampler: Tensor | None,
    tables: dict[str, Any],
) -> Iterator[tuple[Tensor, Tensor]]:
    """(probability, -total/count) of every multiset of completions; those that leave no row in the loss are skipped."""
    everything = mdp.batch(at, sampler=sampler, **tables)
    p = mdp.probabilities(at if sampler is None else sampler).detach()
    for rows in itertools.combinations_with_replacement(range(len(p)), group_size):
        index = torch.tensor(rows)
        orders = math.factorial(group_size) / math.prod(math.factorial(n) for n in Counter(rows).values())
        group = advantages(objective, everything[index], state)
        loss = policy_loss(objective, group, state, measure=False)
        if loss.count > 0:
            total = loss.total / loss.count
            if objective.data.nll_coef:
                likely = likelihood_loss(objective, group)
                total = total + likely.total / likely.count.clamp(min=1)
            yield orders * p[index].prod(), -total


def difficulty_weight(objective: Objective, p: float, group_size: int) -> float:
    """c such that on 0/1 rewards of success probability p the expected gradient is c · grad p (before aggregation).

    c = E[A | r = 1] - E[A | r = 0], the other group_size - 1 rewards binomial; the advantages are the objective's own.
    """
    n, c = group_size - 1, 0.0
    for k in range(n + 1):
        weight = math.comb(n, k) * p**k * (1 - p) ** (n - k)
        for own in (0.0, 1.0):
            rewards = torch.tensor([own] + [1.0] * k + [0.0] * (n - k), dtype=torch.float64)
            one = torch.ones(group_size, dtype=torch.bool)
            batch = Batch(
                action_mask=one[:, None],
                rewards=rewards,
                group_ids=torch.zeros(group_size, dtype=torch.int64),
                terminated=one,
                truncated=~one,
                max_length=1,
            )
            c += (2 * own - 1) * weight * float(advantages(objective, batch).need("advantages", "c")[0, 0])
    return c


@dataclass(frozen=True)
class Comparison:
    """An expected gradient against the exact one: see the module's head. `residual` is what no factor explains."""

    relative_error: float
    cosine: float
    scale: float
    residual: float

    @classmethod
    def of(cls, gradient: Tensor, exact: Tensor) -> Comparison:
        """Compare two gradients of one shape."""
        g, e = gradient.flatten(), exact.flatten()
        size, scale = float(g.norm() * e.norm()), float(g @ e / (e @ e))
        return cls(
            relative_error=float((g - e).norm() / e.norm()),
            cosine=float(g @ e) / size if size > 0 else 0.0,
            scale=scale,
            residual=float((g - scale * e).norm() / e.norm()),
        )

    @property
    def verdict(self) -> str:
        """exact, exact up to a factor, zero, or biased with its angle."""
        if self.relative_error < EXACT:
            return "exact"
        if self.residual < EXACT:
            return "zero" if abs(self.scale) < EXACT else f"exact × {self.scale:.4g}"
        return f"biased, {math.degrees(math.acos(max(-1.0, min(1.0, self.cosine)))):.1f}° off"


@dataclass(frozen=True)
class Row:
    """What the oracle says of one algorithm, on policy: with rewards in [0, 1] and with 0/1 rewards."""

    algorithm: Algorithm
    group_size: int
    graded: Comparison
    binary: Comparison


def report(
    which: str | Iterable[str] | Objective = "all", *, group_size: int = 2, horizon: int = 4, seed: int = 0
) -> list[Row]:
    """Rows for preset names, `all`, an Objective, or the `file.py:name` of an objective, baseline, trust or loss.

    The critic of objectives with values is wrong on purpose (exact values plus noise).
    """
    for name, value in (("group_size", group_size), ("horizon", horizon)):
        if value < 1:
            raise UserError(f"{name} is {value}: it must be at least 1")
    if isinstance(which, Objective):
        chosen = [Algorithm("objective", which, "", "", "", "")]
    elif which == "all":
        chosen = [algorithm(name) for name in ALGORITHMS]
    else:
        chosen = [_resolve(name) for name in ([which] if isinstance(which, str) else which)]
    return [
        Row(
            item,
            group_size,
            compare(item.objective, "graded", group_size=group_size, horizon=horizon, seed=seed),
            compare(item.objective, "binary", group_size=group_size, horizon=horizon, seed=seed),
        )
        for item in chosen
    ]


def compare(
    objective: Objective,
    rewards: Literal["graded", "binary"] = "graded",
    *,
    group_size: int = 2,
    horizon: int = 4,
    seed: int = 0,
) -> Comparison:
    """An objective's expected first update, on policy, against the exact gradient."""
    objective.validate(group_size=group_size)
    mdp = TokenMDP(rewards=rewards, horizon=horizon, seed=seed)
    logits, reference = mdp.table(1), mdp.table(2)
    noise = mdp.table(3)[:, 0]
    gradient = expected_gradient(
        objective,
        mdp,
        logits,
        group_size=group_size,
        reference=reference if objective.needs_reference else None,
        values=mdp.state_values(logits) + 0.3 * noise if objective.needs_values else None,
    )
    beta = objective.kl.coef if objective.needs_reference else 0.0
    if objective.data.overlong:
        d, length = objective.data, mdp.mask.sum(1).double()
        mdp.rewards = mdp.rewards + overlong(length, mdp.horizon, d.overlong, d.overlong_penalty)
    return Comparison.of(gradient, mdp.gradient(logits, reference, beta))


def kl_suite(*, horizon: int = 4, seed: int = 0) -> dict[str, tuple[Comparison, Comparison]]:
    """Every way to put the KL in: name -> (against -grad KL(pi‖ref), against -grad KL(ref‖pi)), with zero reward."""
    mdp = TokenMDP(horizon=horizon, seed=seed)
    mdp.rewards = torch.zeros_like(mdp.rewards)
    logits, reference = mdp.table(1), mdp.table(2)
    forward = mdp.gradient(logits, reference, 1.0)
    at = logits.clone().requires_grad_()
    backward = -torch.autograd.grad(mdp.kl(reference, at), at)[0]
    ways = [KL("reward", 1.0, k) for k in ("k1", "k2", "k3")]
    ways += [
        KL("loss", 1.0, k, level, weight)
        for k in ("k1", "k2", "k3")
        for level in ("token", "sequence")
        for weight in ("none", "token", "sequence")
    ]
    out = {}
    for kl in ways:
        g = expected_gradient(Objective(kl=kl), mdp, logits, group_size=1, reference=reference)
        name = f"{kl.estimator} in the {kl.where}"
        name += f", {kl.level}" if kl.where == "loss" else ""
        name += f", × {kl.importance} ratio" if kl.importance != "none" else ""
        out[name] = (Comparison.of(g, forward), Comparison.of(g, backward))
    return out


def _resolve(spec: str) -> Algorithm:
    """A preset, or a user's own: an Algorithm, an Objective, or a function that is a baseline, trust region or loss."""
    if ":" not in spec:
        if spec in ALGORITHMS or spec not in [*BASELINES, *TRUSTS, *LOSSES]:
            return algorithm(spec)
        if spec in BASELINES:
            return Algorithm(spec, Objective(baseline=spec), "", "", "", "")
        if spec in TRUSTS:
            return Algorithm(spec, Objective(ratio="token", trust=Trust(spec)), "", "", "", "")
        return Algorithm(spec, Objective(loss=spec), "", "", "", "")
    found: Any = ALGORITHMS.get(spec)
    if isinstance(found, Algorithm | Objective):
        return algorithm(spec)
    if not callable(found):
        raise UserError(
            f"'{spec}' is a {type(found).__name__}: give an objective, a baseline, a trust region or a loss"
        )
    first = found.__code__.co_varnames[0] if hasattr(found, "__code__") and found.__code__.co_argcount else ""
    made = {
        "returns": Objective(baseline=spec),
        "x": Objective(ratio="token", trust=Trust(spec)),
        "objective": Objective(loss=spec),
    }
    if first not in made:
        raise UserError(
            f"'{spec}' is none of baseline(returns, batch), trust region(x, trust), loss(objective, batch): "
            "name its parameters so"
        )
    return Algorithm(spec, made[first], "", "", "An axis value of your own.", "")


def text(rows: Sequence[Row]) -> str:
    """The report as a plain table."""
    lines = [f"{'algorithm':24} {'rewards in [0, 1]':^38}   {'rewards 0 or 1':^38}"]
    lines.append(f"{'':24} {'rel. error':>10} {'cosine':>8} {'verdict':<18}   {'rel. error':>10} {'cosine':>8} verdict")
    for row in rows:
        parts = [f"{c.relative_error:10.2e} {c.cosine:8.5f} {c.verdict:<18}" for c in (row.graded, row.binary)]
        lines.append(f"{row.algorithm.name:24} {'   '.join(parts)}".rstrip())
    return "\n".join(lines)


def markdown(horizon: int = 4) -> str:
    """docs/algorithms.md: for every preset its formula, source, axes and proven bias; then the KL suite."""
    rows, suite = report("all", horizon=horizon), kl_suite(horizon=horizon)
    lines = [
        "# Algorithms",
        "",
        "Generated by `python -m rlalign.oracle > docs/algorithms.md`; do not edit.",
        "",
        "Every number compares the exact expectation of the first, on-policy update (all groups of two completions",
        "of an enumerable token MDP, float64, by the functions that training calls) with the exact gradient of what",
        "the preset maximises: E[R], with its length penalty if it has one, minus beta · KL(pi‖ref) if it has a KL",
        "term. *Scale* is the length of the update's projection on it. The critics are wrong on purpose (exact values",
        "plus noise). A trust region shows nothing of itself here: at the first update the ratio is 1, and where a",
        "rollout is used once (`learner.epochs` and `learner.minibatches` 1) it is never anything else.",
        "",
        "| algorithm | source | rewards in [0, 1] | cosine | scale | rewards 0/1 | cosine | scale |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| [{r.algorithm.name}](#{r.algorithm.name}) | {_source(r.algorithm)} | "
        + " | ".join(f"{c.verdict} | {c.cosine:.4f} | {c.scale:.4f}" for c in (r.graded, r.binary))
        + " |"
        for r in rows
    ]
    lines += ["", "Difficulty weight c(p, G) of the group's spread on 0/1 rewards: the gradient is c · grad p.", ""]
    lines += ["| G | p = 0.01 | p = 0.1 | p = 0.5 |", "|---|---|---|---|"]
    spread = Objective(baseline="group_mean", scale="group_std", scale_eps=0.0)
    for size in (2, 4, 8, 16):
        lines.append(
            f"| {size} | " + " | ".join(f"{difficulty_weight(spread, p, size):.3f}" for p in (0.01, 0.1, 0.5)) + " |"
        )
    for r in rows:
        a = r.algorithm
        lines += ["", f"## {a.name}", "", f"{a.description} {_source(a)}.", "", "```", *formula(a.objective), "```", ""]
        differing = ", ".join(f"`{k} {v}`" for k, v in _own_axes(a.objective).items())
        lines += [f"Axes: {differing or 'the defaults'}.", "", a.bias]
    lines += [
        "",
        "## The axes",
        "",
        "Any axis of a preset can be changed alone (`--objective.baseline leave_one_out`).",
        "",
    ]
    lines += ["| axis | values, the default first |", "|---|---|"]
    lines += [f"| {name} | {' · '.join(values)} |" for name, values in _choices(Objective()).items()]
    lines += ["", *_OWN, "", "## The KL term", ""]
    lines += ["Zero reward, beta = 1: the expected update against -grad KL(pi‖ref) and -grad KL(ref‖pi).", ""]
    lines += ["| estimate | along KL(pi‖ref) | cosine | along KL(ref‖pi) | cosine |", "|---|---|---|---|---|"]
    for name, (forward, backward) in suite.items():
        lines.append(
            f"| {name} | {forward.verdict} | {forward.cosine:.4f} | {backward.verdict} | {backward.cosine:.4f} |"
        )
    return "\n".join(lines) + "\n"


def _source(a: Algorithm) -> str:
    return f"{a.paper}, [{a.arxiv}](https://arxiv.org/abs/{a.arxiv})" if a.arxiv else a.paper


_OWN = (
    "A baseline, trust region or loss of your own is a function, named on the command line as `file.py:function` or by",
    "the name it was registered under, and it goes through the oracle like any other (`rlalign oracle --objective",
    "file.py:function`):",
    "",
    "```python",
    "from rlalign.objective import baseline, custom_loss, trust_region",
    "",
    '@baseline("half")                        # returns [N] -> [N] or [N, T]',
    "def half(returns, batch):",
    "    return 0.5 + 0 * returns",
    "",
    '@trust_region("one_sided")               # -> gain [N, T], to be maximised',
    "def one_sided(x, trust):",
    "    return x.ratio.clamp(max=1 + trust.high) * x.advantages",
    "",
    '@custom_loss("plain")                    # -> loss of each token [N, T], to be minimised',
    "def plain(objective, batch):",
    "    return -batch.advantages * batch.logprobs",
    "```",
)


def _choices(part: Any, where: str = "") -> dict[str, list[str]]:
    """Axis -> its named values, the default first."""
    named = {"baseline": BUILT_IN_BASELINES, "trust.kind": BUILT_IN_TRUSTS}
    hints = typing.get_type_hints(type(part))
    out: dict[str, list[str]] = {}
    for f in dataclasses.fields(part):
        name, value = where + f.name, getattr(part, f.name)
        if dataclasses.is_dataclass(value):
            out |= _choices(value, f"{name}.")
        elif (values := named.get(name, typing.get_args(hints[f.name]))) and isinstance(value, str):
            out[name] = [value, *(v for v in values if v != value)]
    return out


def _own_axes(objective: Objective) -> dict[str, Any]:
    from rlalign.algorithms import diff

    return {key: new for key, (_, new) in diff(Objective(), objective).items()}


if __name__ == "__main__":
    print(markdown(), end="")
