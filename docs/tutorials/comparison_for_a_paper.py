# %% [markdown]
# # A comparison for a paper
#
# You want to write a sentence such as *"A learns faster than B"*. This tutorial goes from the question to that
# sentence: the number of seeds, the study, the verdict, and what may be written from it.
#
# **Needs:** rlalign alone. **Takes:** about 30 seconds on two cores. **Runs as a script:**
# `python docs/tutorials/comparison_for_a_paper.py`. All files are written to a new temporary folder.

# %%
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from rlalign.compare import build_cells, compare_study, read_results, read_study
from rlalign.compare.analysis.hypothesis_tests import detectable_difference

FOLDER = Path(tempfile.mkdtemp())

# %% [markdown]
# ## The question first
#
# On a task that a small policy learns from scratch (sort the letters of a string), after a fixed number of samples:
#
# 1. Does GRPO's division by the standard deviation of the group change the final reward?
# 2. Does PPO, which uses each rollout four times and trains a value function, end higher than GRPO?
#
# The measure is fixed before the first run: the mean reward on held-out prompts at the end of training. So is the test:
# two-sided, at 5 % for the *whole study*, corrected for the number of pairs.
#
# ## Power second
#
# Two runs of one algorithm differ by their seeds. Let $s$ be the standard deviation, over seeds, of the difference
# between two algorithms at one seed. With $S$ seeds its mean has the standard error $s / \sqrt{S}$. The smallest true
# difference that a $t$-test finds in 80 % of such studies follows from the non-central $t$ distribution. In units of
# $s$, for one pair and for three:


# %%
def detectable(seeds, pairs):
    """Return the smallest detectable difference in units of s."""
    return detectable_difference(1 / np.sqrt(seeds), seeds - 1, pairs)


print("seeds   one pair   three pairs")
for seeds in (3, 5, 8, 10, 20):
    print(
        f"{seeds:5}   {detectable(seeds, 1):8.2f}   {detectable(seeds, 3):11.2f}"
    )

# %% [markdown]
# With three seeds, only a difference of several standard deviations can be found. Five is the smallest number for which
# rlalign names a winner, and ten find differences half as large. Here we take five, to be finished in half a minute,
# and accept that only a large difference will be found.
#
# ## The study in a file
#
# A study is algorithms × environments × seeds. A file can be committed, and a reviewer can run it.
# `grpo-unscaled` is a variant: the preset `grpo` with one axis changed. We shorten the evaluation to save time.

# %%
study_file = FOLDER / "study.toml"
study_file.write_text(f"""\
algorithms = ["grpo", "grpo-unscaled", "ppo"]
envs = ["sort"]
policy = "gru"
seeds = 5
steps = 30
output = "{(FOLDER / "study").as_posix()}"

[settings]                          # of every run
"evaluation.every" = 6
"evaluation.prompts" = 32

[algorithm.grpo-unscaled]           # of one algorithm
preset = "grpo"
"objective.scale" = "none"
""")
study = read_study(study_file)
print(len(build_cells(study)), "runs, for example", build_cells(study)[0].name)

# %% [markdown]
# `read_study` returns a `Study`, which can be written in Python just as well:
# `Study(algorithms=("grpo", "ppo"), envs=("sort",), seeds=tuple(range(5)), steps=30)`.
#
# ## Run it
#
# In a terminal the command is `rlalign compare study.toml`. At one seed all algorithms have the same initial weights,
# the same order of prompts, the same held-out prompts and the same number of samples. Unequal budgets are refused.

# %%
command = [sys.executable, "-m", "rlalign", "compare", str(study_file)]
done = subprocess.run(command, capture_output=True, text=True, check=True)
print(done.stdout.splitlines()[0])

# %% [markdown]
# The command can be killed at any time, and the same command continues it. The call in Python does the same. All
# runs are finished now, so it runs none and only reads them:

# %%
results = compare_study(study, command="rlalign compare study.toml")
for sentence in results.verdict:
    print(textwrap.fill(sentence, 80))

# %% [markdown]
# ```{note}
# `compare_study` starts a process per run. A script that starts runs by it must do so under
# `if __name__ == "__main__":`, because each new process imports the script. A notebook and the command line need
# nothing.
# ```
#
# ## Read the verdict
#
# The text above comes first in every output. It is written from the tests, so that each of its sentences is supported
# by the data. The pairs behind it:

# %%
sort = results.environments["sort"]
for pair in sort.pairs:
    d = pair.difference
    print(f"{pair.a} - {pair.b}: {d.value:+.3f}")
    print(f"    95 % CI [{d.low:+.3f}, {d.high:+.3f}] by {d.method}")
    print(f"    p {pair.p:.4f}, after Holm {pair.p_holm:.4f}")
    print(f"    winner: {pair.winner or 'none'}")
    print(f"    smallest detectable difference {pair.detectable:.3f}")

# %% [markdown]
# - **The interval** is paired by seed and prompt, and valid for new seeds *and* new prompts.
# - **Holm's correction** multiplies the smallest of $m$ p-values by $m$, the next one by $m - 1$, and so on. The
#   probability of *any* false claim in the study stays below 5 %.
# - **The smallest detectable difference** tells two kinds of "no claim" apart. A true difference of this size would
#   have been found in 80 % of such studies. Smaller ones may exist.
#
# Where does the variation come from? More prompts reduce one part of it, only more seeds the other.

# %%
for name, algorithm in sort.algorithms.items():
    mean, spread = algorithm.mean, algorithm.spread
    print(
        f"{name:13} {mean.value:.2f} [{mean.low:.2f}, {mean.high:.2f}]",
        end="   ",
    )
    print(f"sd: seeds {spread.seeds:.2f}", end=", ")
    print(f"prompts {spread.prompts:.2f}, rest {spread.rest:.2f}")

# %% [markdown]
# ## The learning curves
#
# The same comparison against another budget can have another answer. PPO makes four passes over each rollout, so it
# makes more optimizer steps with the same samples.

# %% mystnb={"image": {"alt": "Held-out reward of three algorithms over samples and over optimizer updates"}}
figure, axes = plt.subplots(
    1, 2, figsize=(8, 3), layout="constrained", sharey=True
)
for axis, budget in zip(axes, ("samples", "updates"), strict=True):
    for name, algorithm in sort.algorithms.items():
        x = np.mean(
            [getattr(curve, budget) for curve in algorithm.curves], axis=0
        )
        rewards = np.array(
            [curve.reward for curve in algorithm.curves], dtype=float
        )
        line = axis.plot(x, rewards.mean(0), label=name)[0]
        axis.plot(
            x, rewards.T, color=line.get_color(), linewidth=0.5, alpha=0.5
        )
    axis.set(xlabel=budget)
axes[0].set_ylabel("held-out reward")
axes[0].legend(frameon=False)
figure.savefig(FOLDER / "curves.png")

# %% [markdown]
# Each thin line is a seed. The measure was fixed before, so the curves may suggest the next question, and they do not
# change the answer to this one.
#
# ## How many seeds next time
#
# Now $s$ is known, roughly: an estimate from five seeds is uncertain, and its 95 % interval reaches from 0.6 to 2.9
# times the estimate. How many seeds find a difference of 0.1? The search starts at five, the smallest number for
# which a winner is named. This is for planning a *new* study: adding seeds until $p < 0.05$ is not allowed, because
# each look at the data is another test.

# %%
wanted = 0.1
for pair in sort.pairs:
    s = pair.detectable / detectable(5, pairs=3)
    seeds = next(n for n in range(5, 10_000) if s * detectable(n, 3) <= wanted)
    print(f"{pair.a} - {pair.b}: about {seeds} seeds")

# %% [markdown]
# ## What may be written
#
# From these data, exactly the sentences that the pairs state:

# %%
for pair in sort.pairs:
    print(textwrap.fill(f"- {pair.sentence}", 80, subsequent_indent="  "))

# %% [markdown]
# | may be written | may not be written |
# |---|---|
# | "A ended Δ above B on sort after 30 steps, 95 % CI …, corrected p …, 5 seeds" for a pair with a winner | "A is better than B": one task, one policy, one learning rate |
# | "no difference can be claimed; the study had 80 % power to find …" for a pair without one | "A and B are equal", or "A is slightly better (not significant)" |
# | the number of runs that crashed; a crashed run is scored as the initial policy | a table without them |
# | "at the same number of samples" | "faster", without the budget against which it is measured |
#
# One learning rate was used for all. An algorithm can lose because this rate suits another one. `[tune]` in the
# file gives each algorithm the same search first, with a seed and with prompts that no comparison uses.
#
# ## What to publish
#
# The folder of the study contains everything that a table or a figure needs.

# %%
for path in sorted((FOLDER / "study").iterdir()):
    print(path.name)

manifest = read_results(FOLDER / "study").manifest
for package in ("rlalign", "torch"):
    print(f"{package} {manifest.versions[package]}")
print(f"fingerprint of all settings {manifest.fingerprint[:16]}…")

# %% [markdown]
# Publish these with the paper:
#
# - `study.toml` and the command, `rlalign compare study.toml`: the whole study in one line;
# - `results.json`, which has every number, each seed's rewards and learning curve, the versions, the machine and the
#   fingerprint of the settings. `rlalign report FOLDER` draws the report from it again, without the runs;
# - `report.html`, one file without any links to other files, as supplementary material;
# - the version or commit of rlalign, [as the citation of the software](../project/citing.md), and the
#   [paper of each preset](../reference/algorithms.md).
#
# On one machine, runs on the CPU repeat bit for bit with the same versions and threads, and a repetition of the study has
# the same numbers. On another machine it has not: [a table](../concepts/runs.md#reproducibility) states what to expect.
#
# ## Next
#
# - [Comparing](../concepts/comparing.md): every interval and test, with its measured coverage
# - [The standing study](../results/study.md): ten seeds, eight algorithms and six environments
# - [How to cite](../project/citing.md)
# - [An algorithm of your own](own_algorithm.py): the change of one axis, checked without any seed
# - [API reference of comparison](../reference/api/compare.md)
