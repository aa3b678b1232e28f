# %% [markdown]
# # An algorithm of your own, checked by the oracle
#
# You change one axis of a published algorithm, predict the bias of the change with pen and paper, and let the oracle
# compute it exactly. The first version is biased, the second one is not. Then you train with it.
#
# **Needs:** rlalign alone. **Takes:** about 20 seconds on one core. **Runs as a script:**
# `python docs/tutorials/own_algorithm.py`. All files are written to a new temporary folder.

# %%
import dataclasses
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import torch

import rlalign
from rlalign import Objective
from rlalign.algorithms import Algorithm, algorithm, diff
from rlalign.objective import baseline
from rlalign.oracle import (
    Comparison,
    TokenMDP,
    compare,
    expected_gradient,
    projected_moments,
    report,
)

torch.set_num_threads(1)  # a small policy is faster on one thread
FOLDER = Path(tempfile.mkdtemp())

# %% [markdown]
# ## An algorithm is a point
#
# An objective has [eleven axes](../reference/algorithms.md#the-axes), and a preset is one value on each. Dr. GRPO, for
# instance, is GRPO with three differences:

# %%
grpo = algorithm("grpo").objective
for axis, (old, new) in diff(grpo, algorithm("dr_grpo").objective).items():
    print(f"{axis:14} {old} → {new}")

# %% [markdown]
# (`kl.coef` and `kl.estimator` have no effect once `kl.where` is `none`.)
#
# ## The question
#
# RLOO subtracts from the reward of each sample the mean reward of the *other* samples of its prompt. A mean follows
# outliers: one sample with a reward of 100 moves the baseline of all its neighbors. A median does not. Does a median
# keep the gradient right?
#
# A group has $G$ independent samples $y_1, \dots, y_G$ with rewards $r_1, \dots, r_G$. The update is
#
# $$g = \frac{1}{G} \sum_{i=1}^{G} (r_i - b_i) \, \nabla \log \pi(y_i), \qquad
# \mathbb{E}[g] = \nabla J - \mathbb{E}\left[ b_1 \nabla \log \pi(y_1) \right].$$
#
# The last term is 0 if $b_1$ is independent of $y_1$, since $\mathbb{E}[\nabla \log \pi(y_1)] = 0$.
#
# ## A first version
#
# The obvious choice is the median of the group. A baseline receives the returns of all $N$ samples of the batch, and
# returns one number per sample. `batch.group_ids` says which samples share a prompt. `batch.in_baseline` is false
# where a reward failed.


# %%
def peers(returns, batch):
    """Return each sample's group as a row of returns [N, N], others NaN."""
    same = (batch.group_ids[:, None] == batch.group_ids) & batch.in_baseline
    return returns.expand(len(returns), -1).where(same, torch.nan)


@baseline("group_median", compares_group=True)
def group_median(returns, batch):
    """Return the median of the group, own return included."""
    return torch.nanquantile(peers(returns, batch), 0.5, dim=1).nan_to_num()


# %% [markdown]
# ## Predict its bias
#
# The median includes the own reward, so $b_1$ depends on $y_1$. Condition on $y_1$ with $r_1 = r$, and write
# $h(r) = \mathbb{E}[b_1 \mid r_1 = r]$. Then
#
# $$\mathbb{E}[g] = \mathbb{E}\left[ (r - h(r)) \, \nabla \log \pi(y) \right].$$
#
# The update follows the gradient of another reward, $r - h(r)$, with $h$ held fixed. For the mean of the group,
# $h(r) = r/G + \text{const}$: the direction is right, and only a factor $(G-1)/G$ is lost. For the median of $G = 3$,
# $b_1$ is $r_1$ itself if it lies between the other two, and otherwise the nearer one of them. With $F$ the
# distribution function of the rewards, and where it is continuous,
#
# $$h'(r) = P(r_1 \text{ lies between } r_2 \text{ and } r_3) = 2 F(r) (1 - F(r)).$$
#
# So the slope of the effective reward is $1 - 2F(1-F)$: one half at the median, and 1 at the extremes. **Differences
# between ordinary samples count half as much as differences to extreme ones.** This leads to three predictions:
#
# 1. On graded rewards the direction is wrong, because $r - h(r)$ is not a linear function of $r$.
# 2. On rewards of 0 or 1 every function is linear. The direction is right, and the factor is $1 - 2p(1-p)$ with $p$
#    the probability of success.
# 3. With $G = 2$ the median is the mean, and nothing shows.
#
# ## Ask the oracle
#
# The oracle enumerates a token MDP that is small enough. It sums the update over every possible group, through the code
# that trains, and compares the result with the exact gradient. There is no sampling, so there is no noise.

# %%
median = Objective(baseline="group_median")
for size in (2, 3):
    for rewards in ("graded", "binary"):
        c = compare(median, rewards, group_size=size, horizon=3)
        print(f"G = {size}, {rewards}  cosine {c.cosine:.6f}", end="  ")
        print(f"scale {c.scale:.4f}  {c.verdict}")

# %% [markdown]
# The verdicts agree with the predictions. The factor can be checked to all digits:

# %%
mdp = TokenMDP(rewards="binary", horizon=3)
p = float(mdp.value(mdp.table(1)))  # table(1) holds the logits of the policy
factor = compare(median, "binary", group_size=3, horizon=3).scale
print(f"1 - 2p(1-p)  {1 - 2 * p * (1 - p):.12f}")
print(f"oracle       {factor:.12f}")
assert abs(factor - (1 - 2 * p * (1 - p))) < 1e-10

# %% [markdown]
# The same holds for the bias on graded rewards. Compute $h$ by enumeration, and put $r - h(r)$ in the place of the reward. The
# exact gradient of *that* reward must be the expected update of the biased algorithm:

# %%
mdp = TokenMDP(rewards="graded", horizon=3)
logits = mdp.table(1)
probability = mdp.probabilities(logits)
pairs = probability[:, None] * probability  # of the other two samples
r = mdp.rewards
triples = torch.broadcast_tensors(r[:, None, None], r[:, None], r)
h = (torch.stack(triples).median(0).values * pairs).sum((1, 2))

effective = TokenMDP(rewards=r - h, horizon=3).gradient(logits)
update = expected_gradient(median, mdp, logits, group_size=3)
error = Comparison.of(update, effective).relative_error
print(f"relative error of the prediction: {error:.1e}")
assert error < 1e-10

# %% [markdown]
# The bias is now understood completely. It is not a defect of the implementation: this algorithm maximizes something
# else.
#
# ## Correct it
#
# The median of the *others* does not depend on $y_1$. One line changes: a sample is no longer its own peer.


# %%
@baseline("median_of_others", compares_group=True)
def median_of_others(returns, batch):
    """Return the median of the group's other samples."""
    others = peers(returns, batch).fill_diagonal_(torch.nan)
    return torch.nanquantile(others, 0.5, dim=1).nan_to_num()


rows = report(["group_median", "median_of_others"], group_size=4, horizon=2)
for row in rows:
    for rewards, c in (("graded", row.graded), ("binary", row.binary)):
        print(f"{row.algorithm.name:16}  {rewards}  {c.verdict:18}", end="  ")
        print(f"relative error {c.relative_error:.1e}")
assert max(rows[1].graded.relative_error, rows[1].binary.relative_error) < 1e-10

# %% [markdown]
# Exact: the expected update *is* the gradient. We took $G = 4$, because with $G = 3$ the median of the two others is
# their mean, and the algorithm would be RLOO. Shorter completions keep the number of groups small.
#
# ## Its variance
#
# The purpose of a baseline is a smaller variance, and the verdict says nothing about that. The same enumeration
# computes the variance of the update, here summed over all directions: for uniform rewards, and with one rare
# completion whose reward is 5.

# %%
mdp = TokenMDP(horizon=2)
logits = mdp.table(1)
directions = torch.eye(logits.numel(), dtype=torch.float64).reshape(
    -1, *logits.shape
)
with_outlier = mdp.rewards.clone()
with_outlier[mdp.probabilities(logits).argmin()] = 5.0

for title, rewards in (("uniform", mdp.rewards), ("outlier", with_outlier)):
    small = TokenMDP(horizon=2, rewards=rewards)
    for name in ("none", "leave_one_out", "median_of_others"):
        _, deviation = projected_moments(
            Objective(baseline=name), small, logits, directions, group_size=4
        )
        variance = float(deviation.square().sum())
        print(f"{title}  {name:16}  variance {variance:.4f}")

# %% [markdown]
# Without outliers the mean is the better baseline. With the outlier the median is, as intended, but by little: most of
# the variance then comes from the update of the outlier itself, which no baseline removes.
#
# ## Register it
#
# An algorithm is a row of data. We take RLOO and replace one axis. From here on the name works as any preset's.

# %%
rloo = algorithm("rloo")
rlalign.register_algorithm(
    Algorithm(
        name="rloo_median",
        objective=dataclasses.replace(
            rloo.objective, baseline="median_of_others"
        ),
        paper="this tutorial",
        arxiv="",
        description="RLOO with the median of the other samples as baseline.",
        bias="Exact: the other samples are independent of the row's own.",
    )
)
print(diff(rloo.objective, algorithm("rloo_median").objective))

# %% [markdown]
# ## Train with it
#
# We train it beside the preset that it came from, with the same seed: the same initial weights, the same prompts in the
# same order. We train RLOO with a second seed as well.

# %%
runs = {}
for label, name, seed in (
    ("rloo, seed 0", "rloo", 0),
    ("rloo, seed 1", "rloo", 1),
    ("rloo_median, seed 0", "rloo_median", 0),
):
    runs[label] = rlalign.train(
        env="sort",
        policy="gru",
        algorithm=name,
        seed=seed,
        steps=80,
        output=FOLDER / label,
        quiet=True,
    )
    print(f"{label}:\n    {runs[label].comparison.verdict}")

# %% mystnb={"image": {"alt": "Training reward over steps of two seeds of RLOO and one of the median baseline"}}
figure, axis = plt.subplots(figsize=(6, 3), layout="constrained")
for (label, run), style in zip(runs.items(), ("-", "--", "-"), strict=True):
    axis.plot(run.metrics["reward/mean"], style, label=label)
axis.set(xlabel="step", ylabel="reward")
axis.legend(frameon=False)
figure.savefig(FOLDER / "curves.png")

# %% [markdown]
# What do these curves show about the baseline? Nothing. The two curves of RLOO differ as well, and there the algorithm is
# the same. The difference between two runs is
#
# $$\Delta = \underbrace{\mu_{\text{median}} - \mu_{\text{rloo}}}_{\text{the question}} + \;
# \varepsilon_{\text{median}} - \varepsilon_{\text{rloo}},$$
#
# with one $\varepsilon$ per run, and one seed gives no estimate of their size. A difference between algorithms takes
# several seeds and a test. The oracle's result is of another kind: it holds for every seed.
#
# ## From the notebook to a file
#
# A comparison starts its runs in other processes, which do not know names that were registered here. Put the baseline
# into a file:
#
# ```python
# # median.py
# import torch
#
# from rlalign.objective import baseline
#
#
# @baseline("median_of_others", compares_group=True)
# def median_of_others(returns, batch):
#     """Return the median of the group's other samples."""
#     same = (batch.group_ids[:, None] == batch.group_ids) & batch.in_baseline
#     rows = returns.expand(len(returns), -1).where(same, torch.nan)
#     others = rows.fill_diagonal_(torch.nan)
#     return torch.nanquantile(others, 0.5, dim=1).nan_to_num()
# ```
#
# and name it by its path:
#
# ```console
# $ rlalign oracle --objective median.py:median_of_others --group-size 3 --horizon 3
# $ rlalign train --env sort --policy gru --algorithm rloo --objective.baseline median.py:median_of_others
# ```
#
# ## Next
#
# - [The objective](../concepts/objective.md): the axes in formulas, and what the oracle proves
# - [Algorithms](../reference/algorithms.md): the exact bias of every preset, and all values of the axes
# - [A comparison for a paper](comparison_for_a_paper.py): how many seeds, and what they allow you to write
# - [API reference of the oracle](../reference/api/algorithms.md) and of [objectives](../reference/api/objective.md)
