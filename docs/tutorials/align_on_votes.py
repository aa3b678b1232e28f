# %% [markdown]
# # From votes to a policy
#
# People compare completions of a policy. A reward model is trained on their votes, and the policy is trained on the
# reward model. This tutorial takes each step once with a small policy and simulated people. Their true preference, the
# *gold* reward, is known here, so that we can see what each step loses, and when the policy begins to exploit the
# reward model.
#
# **Needs:** the extra `feedback` (`pip install -c constraints.txt -e '.[feedback]'`). **Takes:** about 50 seconds on
# one core. **Runs as a script:** `python docs/tutorials/align_on_votes.py`. All files are written to a new temporary
# folder.

# %%
import json
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt

import rlalign
from rlalign.cli import main
from rlalign.envs.builtin.reward_hacking.preference import gold_of
from rlalign.feedback.overoptimization import read_curves
from rlalign.reward_models.data import divide, read_pairs

FOLDER = Path(tempfile.mkdtemp())
GOLD = "rlalign.envs.builtin.reward_hacking.preference:gold"

# %% [markdown]
# ## The initial policy
#
# `Preference-v0` asks for a short note. Gold pays for up to four different good words, such as *clear* or *kind*, and
# subtracts something for bad and for repeated words. The policy is a tiny transformer with random weights: it writes
# random words. `best_of_n` trains nothing, so its run folder holds the policy as it begins.

# %%
base = rlalign.train(
    "Preference",
    "tiny",
    "best_of_n",
    rewards=[GOLD],
    evaluation__best_of=2,
    output=FOLDER / "base",
    quiet=True,
)
sample = base.comparison.samples(1)[0]
print(sample["prompt"], sample["before"][0])
print(f"gold {base.comparison.before.mean('reward'):.2f}")

# %% [markdown]
# ## The votes
#
# A study names the run folder. Without a file of prompts, it has the training prompts of the run's environment, none of
# which is in an evaluation. Four completions of a prompt make six pairs. `sample` writes the store, and `simulate` lets
# three people vote through the same interface that a browser uses. They choose by gold, with much noise.

# %%
(FOLDER / "study.toml").write_text("""\
name = "Which note is better?"
policies = ["base"]
votes_per_item = 1
sampling.samples = 4
""")
store = str(FOLDER / "study.db")
assert main(["feedback", "sample", str(FOLDER / "study.toml")]) == 0

people = "--people 3 --votes 150 --noise 0.25 --side 0 --length 0"
status = main(
    ["feedback", "simulate", store, "--reward", GOLD, *people.split()]
)
assert status == 0

# %% [markdown]
# With people, `rlalign feedback invite study.db --count 3` prints a link for each person, and
# `rlalign feedback serve study.db` serves the page. [Feedback of people](collect_feedback.py) shows that part.
#
# ## The reward model
#
# A linear model of words takes a second. `--model smollm2 --lora-r 8` trains a transformer in the same way. A fifth of
# the votes is held out, by prompt:

# %%
rm = str(FOLDER / "rm")
status = main(
    ["reward-model", "train", store, "--model", "linear", "--output", rm]
)
assert status == 0

# %% [markdown]
# How good can it be? The votes are noisy, so that gold has errors on them too. Its accuracy on the same votes is the
# mark to compare with:


# %%
def gold_difference(pair):
    """Return gold of the chosen note minus that of the rejected one."""
    chosen, rejected = pair.chosen.completion, pair.rejected.completion
    return gold_of(chosen.split()) - gold_of(rejected.split())


_, held_out = divide(read_pairs(store).rows, test=0.2)
differences = [gold_difference(pair) for pair in held_out]
right = sum((d > 0) + 0.5 * (d == 0) for d in differences)
print(f"accuracy of gold: {right / len(differences):.2f}")

# %% [markdown]
# ## The policy
#
# `rewards=[rm, f"{GOLD}=0"]` trains on the reward model. Gold has the weight 0: it is measured, and nothing is trained
# on it. With real people, put a reward there that you trust more than the model. In a terminal, the same is
# `rlalign train --env Preference --policy tiny --reward ./rm --reward NAME=0`.
#
# `objective__kl__coef` keeps the policy near its beginning:


# %%
def align(name, kl):
    """Return a run of RLOO on the reward model."""
    return rlalign.train(
        "Preference",
        "tiny",
        "rloo",
        rewards=[rm, f"{GOLD}=0"],
        steps=24,
        objective__kl__coef=kl,
        evaluation__every=3,
        evaluation__samples=3,
        output=FOLDER / name,
        quiet=True,
    )


def show(run):
    """Print proxy, gold and KL before and after, with gold's interval."""
    for name in ("reward", "gold", "kl"):
        before, after = run.comparison.means(name)
        print(f"{name:7} {before:6.2f} -> {after:6.2f}")
    gain = run.comparison.differences["gold"]
    print(f"gold {gain.mean:+.2f} [{gain.low:+.2f}, {gain.high:+.2f}]")


near = align("near", kl=0.1)
show(near)
assert near.comparison.differences["gold"].mean > 0

# %% [markdown]
# The interval is over held-out prompts of this one run. A claim about the method needs several seeds: `rlalign compare`
# runs them.
#
# ## Over-optimization
#
# Without KL, the same reward model is optimized as far as it goes:

# %%
free = align("free", kl=0.0)
show(free)

# %% [markdown]
# The proxy is much higher than before, and gold is not: the policy writes what the model overrates. `rlalign feedback
# overoptimization` fits both against the KL and names the turning point. The validations of the run, at every third
# step, are its points:

# %%
page = str(FOLDER / "overoptimization.html")
run = str(FOLDER / "free")
assert main(["feedback", "overoptimization", run, "--output", page]) == 0

# %% mystnb={"image": {"alt": "Proxy and gold reward over the KL of the run without a KL term"}}
curves, _ = read_curves([FOLDER / "free"])
curve = curves[0]
figure, axis = plt.subplots(figsize=(6, 3), layout="constrained")
axis.plot(curve.kl, curve.proxy, "o-", label="proxy")
axis.plot(curve.kl, curve.gold, "s-", label="gold")
axis.set(xlabel="KL to the initial policy, nats", ylabel="change of reward")
axis.legend(frameon=False)
figure.savefig(FOLDER / "curve.png")

# %% [markdown]
# `--evaluation.stop-kl 6` ends a training at a KL budget, and `--objective.kl.coef` weighs the KL against the reward.
# Both need a value, which earlier runs like these give.
#
# ## Without training
#
# Best-of-n draws n completions and keeps the one that the reward model prefers. Its KL cannot be larger than
# log n - (n - 1)/n, so that it exploits the model little:

# %%
best = near.best_of(8, split="validation")
report = json.loads(best.path.read_text())
for point in report["policies"]["initial"]["curve"]:
    gold = point["metrics"]["gold"]["mean"]
    bound = point["kl_upper_bound"]
    print(f"n = {point['n']:2}   gold {gold:.2f}   KL at most {bound:.2f}")

# %% [markdown]
# ## Direct preference optimization
#
# `trl:dpo` trains on the votes themselves, without a reward model. They are exported as preferences first. Its result
# depends on the number of votes, since it never samples the policy:

# %%
prefs = str(FOLDER / "prefs.jsonl")
assert main(["feedback", "export", store, "--output", prefs]) == 0
dpo = rlalign.train(
    "Preference",
    "tiny",
    "trl:dpo",
    rewards=[rm, f"{GOLD}=0"],
    data=prefs,
    steps=20,
    output=FOLDER / "dpo",
    quiet=True,
)
show(dpo)

# %% [markdown]
# ## Next
#
# - [From votes to policies](../results/preference_road.md): the same road with five kinds of noise and five seeds
# - [Reward models](../concepts/reward_models.md): transformers, ensembles, ratings, and what else is measured
# - [Over-optimization](../concepts/overoptimization.md): forms, intervals and best-of-n
# - [Online feedback](../concepts/online_feedback.md): the next round of votes is about the trained policy
