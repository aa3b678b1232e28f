# %% [markdown]
# # An environment of your own, with several turns
#
# You write a bargaining game as a text MDP, play it by hand with Gymnasium, let the checks find two mistakes in it,
# train a policy on it, and watch the policy bargain.
#
# **Needs:** rlalign alone. **Takes:** about 20 seconds on one core. **Runs as a script:**
# `python docs/tutorials/own_environment.py`. All files are written to a new temporary folder.

# %%
import tempfile
import textwrap
from collections import Counter, defaultdict
from pathlib import Path

import gymnasium
import torch

import rlalign
from rlalign.checks import check_env
from rlalign.rollout.generation import generate
from rlalign.tokenizers import as_tokenizer

torch.set_num_threads(1)  # a small policy is faster on one thread
FOLDER = Path(tempfile.mkdtemp())

# %% [markdown]
# ## The game
#
# A seller asks a price $p$ and has a secret: the least amount $\ell < p$ that he accepts. The buyer, which is the
# policy, makes up to four offers. An offer of at least $\ell$ buys the thing. After any other offer the seller replies
# `no`, or `almost` if one more would have been enough.
#
# | | in general | here |
# |---|---|---|
# | state | the context, and a hidden dictionary | `lamp 7`, offers and replies so far; $\ell$ is hidden |
# | action | a token; a *turn* runs until EOS or a limit | a number, then EOS |
# | transition | appends the token, and after a turn the environment's message | `no` or `almost` |
# | reward | the score of the episode, on its last token | the share of the possible discount, minus 0.05 per offer |
#
# ## Tasks
#
# A task source can be a function of a random generator. It returns a record with a prompt; its other entries are
# columns, which `reply` and the rewards read. Tasks are divided into disjoint splits by their content.

# %%
THINGS = ("lamp", "chair", "radio", "clock", "table", "vase")


def make_task(rng):
    """Return a thing, its price, and the least amount that buys it."""
    price = int(rng.integers(4, 9))
    least = int(rng.integers(1, price))
    return {
        "prompt": f"{rng.choice(THINGS)} {price}\n",
        "price": price,
        "least": least,
    }


# %% [markdown]
# ## Rewards
#
# A reward reads what it needs by name: `price` and `least` are columns, `state` is the dictionary that `reply` fills,
# and `turns` has the texts of the policy's turns. With $a$ the amount that was paid,
#
# $$R = \frac{p - a}{p - \ell} - 0.05 \cdot \text{offers}.$$


# %%
def discount(state, price, least, **columns):
    """Return the share of the possible discount; 0 if nothing was bought."""
    values = []
    for s, p, lowest in zip(state, price, least, strict=True):
        values.append((p - s["paid"]) / (p - lowest) if "paid" in s else 0.0)
    return values


def offers(turns, **columns):
    """Return the number of offers."""
    return [float(len(texts)) for texts in turns]


# %% [markdown]
# ## The environment
#
# `reply` is the transition after a turn. It receives ids and returns a text or ids: a context is never tokenized
# again. `None` ends the episode. Everything that must be remembered goes into `state`, and all randomness comes from `rng`.
#
# `reference_turns` is the trajectory of a buyer who knows the secret: one offer, $\ell$. No episode scores more, so
# its reward is the `gold_score`, $1 - 0.05$. Checks play this trajectory, and supervised steps imitate it.


# %%
@rlalign.env("tutorial/Market-v0")
class Market(rlalign.TextMDP):
    """Buy a thing for as little as its seller accepts."""

    source = make_task
    rewards = {discount: 1.0, offers: -0.05}
    gold_score = 0.95
    max_prompt, max_new, max_turns, max_reply = 3, 2, 4, 2

    def default_tokenizer(self):
        """Return a tokenizer with one id per word."""
        numbers = "1 2 3 4 5 6 7 8"
        things = " ".join(THINGS)
        return as_tokenizer(f"words:{numbers} no almost what? \n {things}")

    def reply(self, task, turn_ids, state, rng):
        """Return the seller's words, or None once he accepts."""
        text = self.tokenizer.decode(turn_ids)
        least = task.columns["least"]
        if not text.isdigit() or int(text) > task.columns["price"]:
            return "what?\n"
        if int(text) >= least:
            state["paid"] = int(text)
            return None
        near = int(text) == least - 1
        return "almost\n" if near else "no\n"

    def reference_turns(self, task):
        """Return the one offer of a buyer who knows the secret."""
        return [str(task.columns["least"])]


# %% [markdown]
# The limits count token ids. The longest prompt is a thing, a number and a line break: 3. A turn ends at
# EOS or after 2 ids. After 4 turns without a purchase the episode is *truncated*; a
# purchase *terminates* it. Any text is a valid turn: to a text
# that is not an offer the seller replies `what?`.
#
# ## Play it by hand
#
# The decorator registers the class with Gymnasium. There an action is one token, and `reset` accepts a task.


# %%
def play(task, turns):
    """Play given turns; print the episode and how it ended."""
    env = gymnasium.make("tutorial/Market-v0", render_mode="ansi").unwrapped
    env.reset(seed=0, options={"task": task})
    tokenizer = env.mdp.tokenizer
    for text in turns:
        for token in [*tokenizer.encode(text), tokenizer.eos_id]:
            _, reward, terminated, truncated, info = env.step(token)
    print(env.render().strip().replace("\n", " | "))
    print(f"    reward {reward:.2f} of {info['reward_components']}")
    print(f"    terminated {terminated}, truncated {truncated}")


task = rlalign.Task("lamp 7\n", {"price": 7, "least": 4})
play(task, ["2", "3", "4"])
play(task, ["7"])
play(task, ["1", "lamp", "1", "1"])

# %% [markdown]
# The reward of an episode comes with its last token, and it is 0 on all others. The last episode was truncated: nothing
# was bought, and four offers cost 0.2.
#
# ## Check it
#
# `check_env` plays a hundred scripted episodes in three views of the environment, one token at a time, one column at a
# time and whole turns, and compares them. It also checks the tasks, the splits and the reference trajectory.

# %%
for result in check_env(rlalign.make_mdp(Market)):
    print("passed" if result.passed else "FAILED", result.name)

# %% [markdown]
# ## Two mistakes that the checks find
#
# A mistake of design first. The discount below reads the amount with a default, `state.get("paid", 0)`. A buyer
# who buys nothing then pays nothing, which is the largest discount of all.


# %%
def discount_with_default(state, price, least, **columns):
    """Return the share of the discount, wrong if nothing was bought."""
    values = []
    for s, p, lowest in zip(state, price, least, strict=True):
        values.append((p - s.get("paid", 0)) / (p - lowest))
    return values


def failures(mdp):
    """Print the checks that an environment fails."""
    for result in check_env(mdp):
        if not result.passed:
            print(f"{result.name}:")
            print(textwrap.indent(textwrap.fill(result.detail, 76), "    "))


class RewardedTruncation(Market):
    """The market with the wrong discount."""

    rewards = {discount_with_default: 1.0, offers: -0.05}


failures(rlalign.make_mdp(RewardedTruncation))

# %% [markdown]
# Random episodes score more than the buyer who knows the secret. A policy would find this too: it would never buy.
# This is why a `gold_score` is worth its line.
#
# Now a mistake of programming: the seller remembers the number of offers on `self`. One object serves many episodes at
# once, so the episodes share the memory.


# %%
class SharedMemory(Market):
    """The market with a seller who loses patience."""

    refused = 0

    def reply(self, task, turn_ids, state, rng):
        """Return the seller's words, or None at every third call."""
        self.refused += 1
        if self.refused % 3 == 0:
            return None
        return super().reply(task, turn_ids, state, rng)


failures(rlalign.make_mdp(SharedMemory))

# %% [markdown]
# `state["refused"] = state.get("refused", 0) + 1` would be correct. No check can find a reply that contains the
# answer, such as `no, 4 at least`: this is a valid MDP, but not the intended one. It shows in the samples, in which the
# second offer repeats the number of the reply.
#
# ## Train
#
# The entropy bonus keeps the offers varied for a while. Without it, a policy may settle early on one sequence of offers.

# %% mystnb={"image": {"alt": "Learning curve of the run: reward over steps"}}
run = rlalign.train(
    env="tutorial/Market-v0",
    policy="gru",
    algorithm="rloo",
    steps=120,
    learner__lr=0.01,
    objective__regularizer__entropy_coef=0.005,
    evaluation__split="test",
    evaluation__samples=8,
    output=FOLDER / "market",
    quiet=True,
)
print(run.comparison.verdict)
run  # a notebook shows its learning curve

# %% [markdown]
# ## Watch it bargain
#
# `generate` completes a prompt with the trained policy. The environment is deterministic, so its turns can be played
# again, this time with the seller's words. The tasks are from the test split.

# %%
mdp = run.build_mdp()


def bargain(task, seed):
    """Return the policy's offers."""
    sampling = run.config.rollout.sampling
    episode = generate(
        run.policy, mdp, task.prompt, task.columns, sampling=sampling, seed=seed
    )
    return episode.text.split("\n")


for index in range(4):
    task = mdp.source.get("test", index)
    play(task, bargain(task, seed=index))

# %% [markdown]
# A good buyer raises an offer by one after `almost` and by more after `no`. Does this policy use the replies, or has it
# learned a fixed sequence? Fix the price. After the same first offer, the contexts then differ in the reply (and in the
# thing, which does not matter). Count the second offers.

# %%
second_offers = defaultdict(Counter)
for thing in THINGS:
    for least in range(1, 8):
        columns = {"price": 8, "least": least}
        turns = bargain(rlalign.Task(f"{thing} 8\n", columns), seed=least)
        if turns[0].isdigit() and int(turns[0]) < least:
            reply = "almost" if int(turns[0]) == least - 1 else "no"
            second_offers[turns[0], reply][turns[1]] += 1
for (first, reply), counts in sorted(second_offers.items()):
    print(f"{first} {reply:6} then {dict(sorted(counts.items()))}")

# %% [markdown]
# If the second offers after `almost` and after `no` are the same, the policy ignores the replies. If they differ, it
# bargains. The reward curve does not show which of the two it is; counting the samples does.
#
# ## From the notebook to a file
#
# In a file, the same class works with every command, and in runs that other processes start:
#
# ```console
# $ rlalign new env market --turns 4                              # writes market.py and its test
# $ rlalign check market.py:Market
# $ rlalign train --env market.py:Market --policy gru
# $ rlalign train --env market.py:Market --policy smollm2        # the same game for a language model
# ```
#
# ## Next
#
# - [Text generation as an MDP](../concepts/mdp.md): the definition, the views and the invariants
# - [Environments](../concepts/environments.md): tasks, splits, tokenizers and limits
# - [Built-in environments](../reference/environments.md), and [what a small policy learns on them](../results/environments.md)
# - [An algorithm of your own](own_algorithm.py)
# - [API reference of environments](../reference/api/environments.md)
