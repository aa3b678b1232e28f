# %% [markdown]
# # A reward of your own
#
# You write a reward as a plain function, train a policy with it, find out how the policy hacks it, and repair it.
# The policy is a small GRU from scratch, so that each training takes seconds. With a language model the steps are the
# same; only `policy="smollm2"` and the time differ.
#
# **Needs:** rlalign alone. **Takes:** about 20 seconds on one core. **Runs as a script:**
# `python docs/tutorials/own_reward.py`. All files are written to a new temporary folder.

# %%
import math
import tempfile
import textwrap
import time
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import torch

import rlalign
from rlalign.checks import check_reward
from rlalign.rewards import compose

torch.set_num_threads(1)  # a small policy is faster on one thread
FOLDER = Path(tempfile.mkdtemp())

# %% [markdown]
# ## The task
#
# Customers complain to a help desk, and the policy answers. A prompt is `my lamp is broken`. The column `thing` names
# what the complaint is about. The tokenizer has one id per word, which is what makes training from scratch fast.

# %%
THINGS = "parcel phone invoice lamp".split()
FAULTS = "late broken lost wrong dirty loud cold gone torn open wet old".split()
OTHERS = "my is we will send find repair your the new it today tomorrow"
POLITE = ["please", "sorry", "thank"]

complaints = [
    {"prompt": f"my {thing} is {fault}", "thing": thing}
    for thing in THINGS
    for fault in FAULTS
]
held_out = complaints[::3]
to_train_on = [row for row in complaints if row not in held_out]
rlalign.register_env(
    "tutorial/HelpDesk-v0",
    source={"train": to_train_on, "test": held_out},
    tokenizer="words:" + " ".join([*THINGS, *FAULTS, OTHERS, *POLITE, "you"]),
    max_new=8,
)
print(len(to_train_on), "prompts to train on,", len(held_out), "held out")

# %% [markdown]
# ## Write it
#
# We want polite answers. A reward receives keyword arguments, each a list with one entry per sample: `prompts`,
# `completions`, `completion_ids`, and every column of the tasks. It returns one number per sample. This is TRL's
# signature, so the function also runs in TRL's trainers.


# %%
@rlalign.reward("polite", timeout_s=5, range=(0.0, 1.0))
def polite(completions, **columns):
    """Return the share of polite words."""
    words = [text.split() for text in completions]
    return [sum(w in POLITE for w in text) / len(text) for text in words]


print(polite(completions=["sorry we will send it today", "please thank you"]))

# %% [markdown]
# ## Check it
#
# A policy generates texts that nobody expects. `check_reward` passes such texts to the reward: empty ones, huge ones,
# control characters, emoji, malformed JSON.

# %%
failed = [result for result in check_reward("polite") if not result.passed]
print(f"failed: {failed[0].name}\n{textwrap.fill(failed[0].detail, 80)}")

# %% [markdown]
# An empty text has no words, and the first check finds it. A second registration under the same name replaces the first.


# %%
@rlalign.reward("polite", timeout_s=5, range=(0.0, 1.0))
def polite(completions, **columns):
    """Return the share of polite words; 0 for an empty text."""
    words = [text.split() for text in completions]
    return [
        sum(w in POLITE for w in text) / max(len(text), 1) for text in words
    ]


assert all(result.passed for result in check_reward("polite"))

# %% [markdown]
# In a terminal, `rlalign check my.py:polite` runs the same checks on a function in a file.
#
# ## Say what you really want
#
# The share of polite words is a *proxy*. What we want is an answer about the right thing that is polite as well. For
# our small task we can write that down. It is measured in training and not trained on: its weight is 0. Under the name
# `gold` it is also what the [alarms](../concepts/evaluation.md#alarms) compare the reward with.


# %%
def things_in(text):
    """Return the things that a text names."""
    return [word for word in text.split() if word in THINGS]


def is_polite(text):
    """Return whether a text has a polite word."""
    return any(word in POLITE for word in text.split())


@rlalign.reward("gold", timeout_s=5, range=(0.0, 1.0))
def gold(completions, thing, **columns):
    """Return 1 for a polite text that names the right thing and no other."""
    values = []
    for text, own in zip(completions, thing, strict=True):
        right = set(things_in(text)) == {own}
        values.append(float(right and is_polite(text)))
    return values


texts = ["sorry we repair your lamp", "thank thank thank"]
print(gold(completions=texts, thing=["lamp", "lamp"]))

# %% [markdown]
# ## Train with it
#
# Several rewards form a weighted sum,
#
# $$R(x, y) = \sum_k w_k \, r_k(x, y),$$
#
# and each component is logged without its weight. `too_short` is built in: -1 for fewer than `words` words.

# %%
settings = {
    "env": "tutorial/HelpDesk-v0",
    "policy": "gru",
    "algorithm": "rloo",
    "evaluation__split": "test",
    "evaluation__samples": 8,
    "quiet": True,
}
hacked = rlalign.train(
    rewards=["polite", "too_short?words=4=0.5", "gold=0"],
    steps=50,
    output=FOLDER / "hacked",
    **settings,
)
print(hacked.comparison.verdict)

# %% [markdown]
# The verdict compares the policy before and after training, paired, on prompts that it was not trained on. If you
# looked at this number alone, you would stop here.
#
# ## See how it was hacked
#
# Read the samples before you believe a number.


# %%
def show(run, count=5):
    """Print a completion of some held-out prompts."""
    evaluation = run.comparison.after
    pairs = zip(evaluation.prompts, evaluation.completions, strict=True)
    for prompt, texts in list(pairs)[::3][:count]:
        print(f"{prompt:22} → {texts[0]}")


show(hacked)


# %% [markdown]
# The policy learns exactly what is paid. Polite words are paid, and every other word lowers the share. The curve of
# `gold` shows it as well: the two curves part.


# %% mystnb={"image": {"alt": "Training curves of the hacked policy: polite rises while gold stays low"}}
figure, axis = plt.subplots(figsize=(5.2, 2.8), layout="constrained")
axis.plot(hacked.metrics["reward/polite"], label="polite, which is paid")
axis.plot(hacked.metrics["reward/gold"], "--", label="gold, which is meant")
axis.set(xlabel="step", ylabel="mean over the step's samples")
axis.legend(frameon=False)
figure.savefig(FOLDER / "hacked.png")

# %% [markdown]
# The run raised alarms for known patterns of reward hacking. An alarm is not a proof: it says where to look.

# %%
for name in ("gold", "phrase", "length", "empty"):
    active = [
        step
        for step, value in enumerate(hacked.metrics[f"alarm/{name}"], 1)
        if value
    ]
    print(f"{name:7} {f'first at step {active[0]}' if active else 'never'}")

# %% [markdown]
# ## Repair it
#
# Three changes, each against something that the samples show:
#
# - *More polite words are better.* One is enough: `courteous` is 1 or 0.
# - *Nothing pays for the content.* `on_topic` reads the column `thing` and pays for naming it.
# - *The same word again and again.* `repetition` is built in, and negative.


# %%
@rlalign.reward("courteous", timeout_s=5, range=(0.0, 1.0))
def courteous(completions, **columns):
    """Return 1 for a text with a polite word, else 0."""
    return [float(is_polite(text)) for text in completions]


@rlalign.reward("on_topic", timeout_s=5, range=(0.0, 1.0))
def on_topic(completions, thing, **columns):
    """Return the share of the named things that is the right one."""
    values = []
    for text, own in zip(completions, thing, strict=True):
        named = things_in(text)
        values.append(named.count(own) / max(len(named), 1))
    return values


repaired = rlalign.train(
    rewards=[
        "courteous",
        "on_topic",
        "repetition=0.5",
        "too_short?words=4=0.5",
        "gold=0",
    ],
    steps=100,
    output=FOLDER / "repaired",
    **settings,
)
show(repaired)

# %% [markdown]
# `courteous>=0.9` in place of `courteous` would make it a constraint: its weight then grows until nine answers in ten
# are polite, and falls afterwards ([specs](../concepts/rewards.md#specs)).
#
# ## Compare
#
# The two runs have different rewards, so their rewards cannot be compared. `gold` can. `baseline` puts the hacked
# policy in the place of the initial one: same prompts, paired, with the 95 % interval over prompts.

# %% mystnb={"image": {"alt": "Training curves of gold under the first and under the repaired reward"}}
figure, axis = plt.subplots(figsize=(5.2, 2.8), layout="constrained")
axis.plot(hacked.metrics["reward/gold"], "--", label="gold, first reward")
axis.plot(repaired.metrics["reward/gold"], label="gold, repaired reward")
axis.set(xlabel="step", ylabel="mean over the step's samples")
axis.legend(frameon=False)
figure.savefig(FOLDER / "comparison.png")

comparison = repaired.evaluate(split="test", baseline=str(hacked.folder))
difference = comparison.differences["gold"]
print(f"gold, hacked policy     {comparison.before.mean('gold'):.2f}")
print(f"gold, repaired reward   {comparison.after.mean('gold'):.2f}")
print(f"difference              {difference.mean:+.2f}")
print(
    f"95 % CI                 [{difference.low:+.2f}, {difference.high:+.2f}]"
)

# %% [markdown]
# The interval is over 16 prompts of one run each. It says how these two policies differ, not how the two rewards
# differ on average: that takes several seeds, as in [A comparison for a paper](comparison_for_a_paper.py).
#
# Now read the samples of the repaired policy once more. They name the thing and are polite, and they are not sentences.
# Nothing in the reward asks for a sentence. A repair moves the optimum; it does not end the search for the next hack.
# That is why samples are printed beside every number.
#
# ## When a reward fails
#
# Rewards fail in long runs: a server is slow, a parser hangs. A function with `timeout_s` runs in a worker process of
# its own, which is killed at the timeout. This works in notebooks and in scripts, without a
# `if __name__ == "__main__"` guard, because a function of a notebook or script is sent to its worker by value, with
# the names that it uses.


# %%
@rlalign.reward("slow", timeout_s=0.5, retries=0, on_error="drop")
def slow(completions, **columns):
    """Hang."""
    time.sleep(60)


def score(reward, completions):
    """Return the scores of some completions and the warnings that they raised."""
    ids = [[0] for _ in completions]
    with (
        compose([reward]) as composed,
        warnings.catch_warnings(record=True) as caught,
    ):
        warnings.simplefilter("always")
        scores = composed.score(
            "episode", ["?"] * len(completions), completions, ids
        )
        print(f"totals {scores.total}, valid {scores.valid}")
        print(f"failures {composed.failures}")
    for warning in caught:
        print(textwrap.fill(str(warning.message), 80))


start = time.perf_counter()
score(slow, ["sorry", "please"])
print(f"{time.perf_counter() - start:.1f} s instead of 60")

# %% [markdown]
# A failure is never a 0. `on_error="drop"` leaves the samples out of the gradient, the baseline and the means. Without
# it, the run saves a checkpoint and stops, and `rlalign train --resume` continues it when the function is corrected.
# A single sample has two ways not to have a value: `None` means that the reward does not apply, NaN that it failed.


# %%
@rlalign.reward("partial", timeout_s=5)
def partial(completions, **columns):
    """Return None for an empty text, NaN for a certain one, and else 1."""
    values = {"": None, "lamp?": math.nan}
    return [values.get(text, 1.0) for text in completions]


score(partial, ["sorry", "", "lamp?"])

# %% [markdown]
# Alone, a reward that does not apply leaves the sample without any reward, and so the sample is invalid. Beside another
# component, the sample keeps that component's value. NaN invalidates the sample in any case.
#
# ## From the notebook to a file
#
# `config.json` of these runs names the rewards by name only, and another process does not know them. For experiments
# that others repeat, put the functions into a file:
#
# ```console
# $ rlalign new reward polite      # writes polite.py and its test
# $ rlalign check polite.py:polite
# $ rlalign train --env sentiment --policy gru --reward polite.py:polite --reward too_short=0.5
# ```
#
# ## Next
#
# - [Rewards](../concepts/rewards.md): all specs, and what happens when a reward fails
# - [Evaluation and alarms](../concepts/evaluation.md)
# - [Built-in rewards](../reference/rewards.md), each with its hack
# - [An environment of your own](own_environment.py): several turns, and a reward that reads the state
# - [API reference of rewards](../reference/api/rewards.md)
