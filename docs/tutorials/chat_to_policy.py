# %% [markdown]
# # From a chat file to an aligned policy
#
# You have a file of conversations. A policy first imitates it (SFT), then learns from preferences (DPO), then from a
# reward (GRPO). Each run starts from the policy of the one before, and is measured on the same held-out prompts.
#
# **Needs:** rlalign alone. **Takes:** about 40 seconds on one core. **Runs as a script:**
# `python docs/tutorials/chat_to_policy.py`. All files are written to a new temporary folder.

# %%
import json
import random
import tempfile
from pathlib import Path

import torch

import rlalign

torch.set_num_threads(1)  # a small policy is faster on one thread
FOLDER = Path(tempfile.mkdtemp())

# %% [markdown]
# ## The file
#
# A shop answers questions about its goods. A conversation is a list of messages, as in OpenAI's format. The goods of
# the last lines are in no other line: they show whether the policy has learned the form of an answer or the lines.

# %%
COLORS = "red blue green black white pink".split()
THINGS = "hat coat shoe scarf glove belt sock shirt".split()
rng = random.Random(0)


def question(color: str, thing: str) -> dict[str, str]:
    """Return a customer's question as a message."""
    return {"role": "user", "content": f"do you have a {color} {thing}"}


conversations = []
for color in COLORS:
    for thing in THINGS:
        answer = rng.choice(
            [f"yes the {color} {thing} is here", f"no but we have a {thing}"]
        )
        messages = [
            question(color, thing),
            {"role": "assistant", "content": answer},
        ]
        conversations.append({"messages": messages})
rng.shuffle(conversations)
chat = FOLDER / "chat.jsonl"
chat.write_text("".join(json.dumps(row) + "\n" for row in conversations))
print(json.dumps(conversations[0]))

# %% [markdown]
# ## An environment for the measurements
#
# The prompts of the environment are the same questions. Its reward is 1 if the answer is polite, which no line of the
# file is. `sft` cannot learn that; the reward measures it from the start. The tokenizer has one id per word, so that
# training from scratch takes seconds. A language model brings its own.

# %%
WORDS = [
    *COLORS,
    *THINGS,
    *"do you have a yes no the is here but we sorry please user: assistant:".split(),
    "\n",
]


@rlalign.reward(texts=True)
def polite(prompts, completions, **columns):
    """Return 1 for an answer with "sorry" or "please" that is not longer than ten words."""
    found = ("sorry" in text or "please" in text for text in completions)
    short = (len(text.split()) <= 10 for text in completions)
    return [float(a and b) for a, b in zip(found, short, strict=True)]


prompts = [row["messages"][:1] for row in conversations]
rlalign.register_env(
    "tutorial/Shop-v0",
    source={
        "train": [{"prompt": p} for p in prompts[12:]],
        "validation": [{"prompt": p} for p in prompts[:12]],
    },
    tokenizer="words:" + " ".join(WORDS),
    rewards={polite: 1.0},
    max_new=12,
)

# %% [markdown]
# ## Imitate: SFT
#
# `data` names the file; its columns say that it holds demonstrations. The last line is the likelihood of held-out
# answers, with its interval.

# %%
COMMON = {
    "env": "tutorial/Shop-v0",
    "quiet": True,
    "evaluation__prompts": 12,
    "evaluation__samples": 8,
}
sft = rlalign.train(
    algorithm="sft",
    data=chat,
    policy="gru",
    output=FOLDER / "sft",
    steps=150,
    rollout__prompts=24,
    **COMMON,
)
print(sft.held_out["verdict"])
for sample in sft.comparison.samples(3):
    print(sample["before"][0], "->", sample["after"][0])

# %% [markdown]
# ## Prefer: DPO
#
# Somebody prefers answers that begin with "yes please" or "sorry". A preference is a prompt with a chosen and a
# rejected completion. The SFT policy is the start and the reference.

# %%
preferences = []
for row in conversations:
    user, answer = row["messages"]
    text = answer["content"]
    better = text.replace("yes", "yes please").replace("no", "sorry no")
    preferences.append({"prompt": [user], "chosen": better, "rejected": text})
prefs = FOLDER / "prefs.jsonl"
prefs.write_text("".join(json.dumps(row) + "\n" for row in preferences))
dpo = rlalign.train(
    algorithm="dpo", data=prefs, policy=FOLDER / "sft", output=FOLDER / "dpo", steps=40, rollout__prompts=16,
    learner__lr=2e-3, **COMMON,
)  # fmt: skip
print(dpo.held_out["verdict"])
print(dpo.comparison.verdict)

# %% [markdown]
# The accuracy on held-out pairs says that the policy finds the chosen answers more probable than the rejected ones,
# relative to its start. The reward says whether it also writes such answers. The two need not agree: DPO lowers the
# probability of rejected answers, and what takes their place may be a third kind.
#
# ## Reward: GRPO
#
# A reward scores what the policy writes: here, whether a short answer is about the thing that was asked for. The DPO
# policy is now the start and the reference, so that the KL of the first step is 0. `polite` is measured beside it.


# %%
@rlalign.reward(texts=True)
def on_topic(prompts, completions, **columns):
    """Return 1 for an answer of at most ten words that names the thing of the question."""
    things = (prompt.split("\n")[0].split()[-1] for prompt in prompts)
    pairs = zip(things, completions, strict=True)
    return [
        float(thing in text.split() and len(text.split()) <= 10)
        for thing, text in pairs
    ]


grpo = rlalign.train(
    algorithm="grpo", policy=FOLDER / "dpo", output=FOLDER / "grpo", steps=80, rollout__prompts=16,
    rewards=[(on_topic, 1.0), (polite, 0.0)], objective__kl__where="loss", objective__kl__coef=0.01,
    learner__lr=3e-3, **COMMON,
)  # fmt: skip
print(grpo.comparison.verdict)
politeness = grpo.comparison.differences["polite"]
print(
    f"polite: {politeness.mean:+.2f} (95 % CI [{politeness.low:+.2f}, {politeness.high:+.2f}])"
)
print(f"KL of the first step: {abs(grpo.metrics['rollout/kl'][0]):.3f} nats")
for sample in grpo.comparison.samples(3):
    print(sample["before"][0], "->", sample["after"][0])

# %% [markdown]
# The reward rises, and politeness falls: the policy lists goods, one of which is the right one. What a reward leaves
# out is lost, however it was learned before. A larger `kl.coef` keeps the policy nearer to the DPO policy, and
# `rewards=[on_topic, polite]` asks for both.
#
# ## The same on the command line
#
# Each call of `rlalign.train` is a command: `--algorithm sft --data chat.jsonl --output runs/sft`, then `--algorithm dpo
# --data prefs.jsonl --policy runs/sft`, and so on. [Recorded data](../concepts/recorded_data.md) has these commands, the
# columns, splits and measures.
