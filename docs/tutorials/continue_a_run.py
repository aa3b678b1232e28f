# %% [markdown]
# # A second task without losing the first
#
# A run can start from the policy of a former run. A policy that learns a second task may forget the first one. This
# tutorial trains two tasks one after the other, measures what was forgotten, and tries a remedy: replay of former
# prompts.
#
# **Needs:** rlalign alone. **Takes:** about 25 seconds on one core. **Runs as a script:**
# `python docs/tutorials/continue_a_run.py`. All files are written to a new temporary folder.

# %%
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import torch

import rlalign
from rlalign.evaluation.mean_interval import mean_interval

torch.set_num_threads(1)  # a small policy is faster on one thread
FOLDER = Path(tempfile.mkdtemp())

# %% [markdown]
# ## Two tasks
#
# The first task sorts the letters a to d, the second one reverses strings of e to h. The letters tell the tasks apart,
# so that one policy can do both. Both environments get the same tokenizer, because a policy has one. There are 80 strings
# of two or three letters per task; a tenth of them is held out, with eight samples each.

# %%
LETTERS = "tokenizer=chars:abcdefgh>"
SORT = f"sort?alphabet=abcd&max_length=3&{LETTERS}"
REVERSE = f"reverse?alphabet=efgh&max_length=3&{LETTERS}"


def train(name, env, policy, **settings):
    """Return a run of RLOO without a KL term, 128 samples per step."""
    return rlalign.train(
        env,
        policy,
        "rloo",
        seed=1,
        learner__lr=3e-3,
        rollout__prompts=16,
        rollout__group_size=8,
        objective__kl__coef=0.0,
        evaluation__samples=8,
        output=FOLDER / name,
        quiet=True,
        **settings,
    )


first = train("sort", SORT, "gru", steps=100)
print(first.comparison.verdict)

# %% [markdown]
# ## The second task, naively
#
# The new run starts from the folder of the first one. The optimizer is fresh, and the reference policy would be the new
# start if there were a KL term.

# %%
naive = train("naive", REVERSE, first.folder, steps=150)
print(naive.comparison.verdict)

# %% [markdown]
# The verdict is about the task of this run. It says nothing about sorting. The matrix of tasks and stages does: each
# policy of the chain on the same held-out prompts of each task. In a terminal, the same is
# `rlalign evaluate runs/naive --env SORT,REVERSE`.

# %%
TASKS = [SORT, REVERSE]
matrices = {"naive": naive.transfer_matrix(TASKS)}


def show(matrix):
    """Print the mean reward of each task after each stage."""
    print("        " + "  ".join(f"{name:>8}" for name in matrix.stages))
    for name, row in zip(("sort", "reverse"), matrix.cells, strict=True):
        print(f"{name:8}" + "  ".join(f"{cell.mean:8.2f}" for cell in row))
    lost = matrix.forgetting[0]
    print(f"forgetting {lost.mean:.2f} [{lost.low:.2f}, {lost.high:.2f}]")


show(matrices["naive"])

# %% [markdown]
# Forgetting is the best former stage minus the last one. Its interval is over held-out prompts, for these policies.
#
# ## Replay
#
# `continual.replay` takes a share of the prompts of each step from the former run's environment, with its rewards. The
# former run is found by the folder that was given as policy.

# %%
replay = train(
    "replay", REVERSE, first.folder, steps=150, continual__replay=0.1
)
matrices["replay"] = replay.transfer_matrix(TASKS)
show(matrices["replay"])

# %% [markdown]
# Both runs were evaluated on the same held-out prompts, so that their difference on each task is paired by prompt:

# %%
for k, task in enumerate(("sort", "reverse")):
    last = [matrices[name].rewards[k][-1] for name in ("naive", "replay")]
    gain = mean_interval(last[1] - last[0])
    print(f"{task:8} {gain.mean:+.2f} [{gain.low:+.2f}, {gain.high:+.2f}]")

# %% [markdown]
# Replay costs samples: a tenth of the prompts is not of the new task. The metrics of the training are kept for each
# environment, here the mean reward of the last ten steps:

# %%
for name, values in replay.metrics.items():
    if name.startswith("env/") and name.endswith("reward/mean"):
        late = [value for value in values[-10:] if value is not None]
        print(f"{name}: {sum(late) / len(late):.2f}")

# %% [markdown]
# If all tasks are known in advance, one run can train on them: `--env 'SORT=0.5,REVERSE=0.5'` draws prompts of both in
# exact shares, and `--env SORT@0,REVERSE@100` trains one after the other.

# %% mystnb={"image": {"alt": "Reward of both tasks at the end of each of the two runs"}}
figure, axis = plt.subplots(figsize=(6, 3), layout="constrained")
for i, task in enumerate(("sort", "reverse")):
    ends = [matrix.cells[i][-1] for matrix in matrices.values()]
    means = [end.mean for end in ends]
    error = [[e.mean - e.low for e in ends], [e.high - e.mean for e in ends]]
    places = [k + 0.3 * i for k in range(len(ends))]
    axis.bar(places, means, 0.3, yerr=error, label=f"{task} at the end")
axis.set_xticks([k + 0.15 for k in range(len(matrices))], list(matrices))
axis.set(ylabel="reward")
axis.legend(frameon=False)
figure.savefig(FOLDER / "ends.png")

# %% [markdown]
# This is one seed, so that it shows how to measure, not how much replay helps.
# [Continued learning](../concepts/continual.md) has ten seeds, and elastic weight consolidation and two reference
# policies besides.
#
# ## Next
#
# - [Continued learning](../concepts/continual.md): what is taken from the former run, anchors of the KL, EWC
# - [Order of tasks](../concepts/task_order.md): mixtures, stages, difficulty
# - [A policy for other engines](export_a_policy.py): the trained policy outside of this library
