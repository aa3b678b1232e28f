# %% [markdown]
# # Feedback of people
#
# You have completions of two policies and want people to judge them. This tutorial goes from a file of completions to
# the stored votes. Simulated people vote through the same server that real people would open, so that the whole path
# can be tried before anybody is invited.
#
# **Needs:** the extra `feedback` (`pip install -c constraints.txt -e '.[feedback]'`). **Takes:** about 10 seconds on
# one core. **Runs as a script:** `python docs/tutorials/collect_feedback.py`. All files are written to a new temporary
# folder.

# %%
import json
import math
import random
import statistics
import tempfile
from collections import Counter
from pathlib import Path

from rlalign.cli import main
from rlalign.feedback.people import invite
from rlalign.feedback.progress import progress, votes
from rlalign.feedback.simulate import Person, draw_taste, simulate
from rlalign.feedback.store import Store
from rlalign.feedback.web.serve import in_background

FOLDER = Path(tempfile.mkdtemp())

# %% [markdown]
# ## The completions
#
# A study samples the completions of its policies once, or reads them from a file with the columns `prompt`, `policy`
# and `completion`. We take a file, which needs no trained policy. Two writers answer the customers of a help desk. One
# writes short answers, the other one polite answers.

# %%
THINGS = "lamp phone parcel chair clock radio".split()
FAULTS = "broken late wrong loud torn".split()

rows = []
for thing in THINGS:
    for fault in FAULTS:
        answers = {
            "short": f"We will send a new {thing}.",
            "polite": f"Sorry that your {thing} is {fault}. We will send a new "
            f"{thing} today. Thank you for telling us.",
        }
        for policy, text in answers.items():
            prompt = f"my {thing} is {fault}"
            rows.append(
                {"prompt": prompt, "policy": policy, "completion": text}
            )

lines = [json.dumps(row) + "\n" for row in rows]
(FOLDER / "completions.jsonl").write_text("".join(lines))
print(lines[0] + lines[1])

# %% [markdown]
# ## The study
#
# `study.toml` describes the study. `rlalign new study study.toml` writes a commented template. For trained policies,
# `policies = ["runs/a", "runs/b"]` and `prompts = "prompts.jsonl"` replace `completions`.
#
# The practice item is shown first, with its explanation. The gold item has a known answer. It is mixed in, without
# a mark on the page. The rule for the end is written down before the first vote. Here it is the number of votes: each
# item needs three.

# %%
(FOLDER / "study.toml").write_text("""\
name = "Answers of a help desk"
completions = "completions.jsonl"
votes_per_item = 3
gold_share = 0.1

[[practice]]
prompt = "my bag is old"
completions = ["Sorry. We will repair your bag.", "bag bag bag"]
answer = "a"
explanation = "The second completion is no answer."

[[gold]]
prompt = "my door is cold"
completions = ["door cold", "Sorry. We will look at your door, thank you."]
answer = "b"
""")
status = main(["feedback", "sample", str(FOLDER / "study.toml")])
assert status == 0

# %% [markdown]
# In a terminal, the command is `rlalign feedback sample study.toml`. It writes `study.db`, which holds the completions,
# the items and, later, the votes. The completions do not change from here on.
#
# ## The people
#
# A person is a pseudonym and a link. The link is shown once, since the store holds its digest only. You keep the list
# of people and pseudonyms, outside of the store.

# %%
store = Store(FOLDER / "study.db")
links = store.write(lambda c: invite(c, 5, days=14)).result()
for link in links:
    print(link.pseudonym, " opens ", link.path[:8] + "…")

# %% [markdown]
# `rlalign feedback invite study.db --count 5` prints five links. They begin with `http://127.0.0.1:8321`. Give
# `--address` if people reach the server at another address or port.
#
# Here the people are simulated. Each has a taste: a weight for polite words, a small preference for long answers, and
# a preference for the answer on the left. The choices follow Davidson's model of paired comparisons with ties. We make
# the preference for the left side large, to see what it does.

# %%
POLITE = {"sorry", "thank"}


def score(text):
    """Return the number of polite words."""
    words = text.lower().replace(".", " ").split()
    return float(sum(word in POLITE for word in words))


rng = random.Random(0)
tastes = [draw_taste(rng, noise=2.0, side=1.5) for _ in links]
for link, taste in zip(links, tastes, strict=True):
    print(f"{link.pseudonym:18}", end=" ")
    print(f"polite words {taste.score:.2f}, left side {taste.side:.2f}")

# %% [markdown]
# ## Serve, and look at one item
#
# `in_background` serves the store on a free port of this machine. `rlalign feedback serve study.db` does the same in a
# terminal. A person agrees to the consent text, reads the guidelines and gets the first item, which is the practice
# item:

# %%
paths = [link.path for link in links]
with in_background(store) as address:
    person = Person(address, paths[0], tastes[0], score, seed=0)
    me = person.state()
    person.post("consent", version=me["consent_version"], agreed=True)
    person.post("guidelines", version=me["guidelines_version"])
    item = person.post("next")
    print("fields    ", ", ".join(item))
    print("prompt    ", item["prompt"][0]["text"])
    for completion in item["completions"]:
        print(f"{completion['label']}         ", completion["text"])
    print("policies  ", json.dumps(item).count("polite"))

    # the same item comes again until it is answered
    assert person.post("next")["lease"] == item["lease"]

# %% [markdown]
# The answer of the server names no policy: the study is blind. Nobody else gets this place of the item for
# `lease_minutes`. If the person leaves, the place is free again afterwards.
#
# ## Votes
#
# The people work at the same time. After 12 answers each, we look at the counts:

# %%
with in_background(store) as address:
    simulate(address, paths, tastes, score, seed=1, most=12)
    counts = store.read(progress)
    print(f"{counts['votes']} of {counts['needed']} votes", end=", ")
    print(f"{counts['done_items']} of {counts['items']} items complete")

    simulate(address, paths, tastes, score, seed=2)
    counts = store.read(progress)
    print(f"{counts['votes']} of {counts['needed']} votes", end=", ")
    print(f"{counts['done_items']} of {counts['items']} items complete")

# %% [markdown]
# These are counts of votes, and no result. Looking at results and stopping when they please makes every interval too
# narrow. The administrator's page therefore counts its views and the exports. The view after *Pause*, *Resume* and
# *Revoke* is one, too.
#
# ## The stored votes
#
# The administrator's page exports the votes as JSON lines and as CSV. `pandas.read_json("votes.jsonl", lines=True)`
# reads the exported file. The same rows in Python:

# %%
with store.snapshot() as connection:
    rows = list(votes(connection))
for name in ("prompt", "policies", "choice", "annotator", "gold", "comment"):
    print(f"{name:10} {rows[0][name]}")
print("all names ", ", ".join(rows[0]))

# %% [markdown]
# `policies` and `completions` are in the order on the screen, so `choice` "a" is the first one. A policy is named as
# in the file, or by its path in `study.toml`. The practice item is not exported. Gold items and repetitions are
# exported with a mark, and the counts above leave them out. A skip is stored, and the item is given to somebody else.

# %%
judged = [row for row in rows if not row["gold"] and row["choice"] != "skip"]
print(Counter(row["choice"] for row in judged))
gold = [row for row in rows if row["gold"]]
print(f"{len(gold)} answers to the gold item")
per_item = Counter(row["item"] for row in judged)
assert set(per_item.values()) == {3}


def won(row, side):
    """Return 1 if a side won, 1/2 for a tie, else 0."""
    return {"ab"[side]: 1.0, "tie": 0.5, "bad": 0.5}.get(row["choice"], 0.0)


left = statistics.fmean(won(row, 0) for row in judged)
polite = statistics.fmean(
    won(row, row["policies"].index("polite")) for row in judged
)
print(f"left side {left:.2f}, polite {polite:.2f}")

# %% [markdown]
# The left side wins too often, as it must with these people. This favors neither policy, because each is on the left
# about equally often for each person. It pulls both shares towards one half.
#
# The tastes are known here, so the expected share is known too. For each stored vote, take the probability that the
# model gives, with the sides as they were on the screen:


# %%
def expected(row, taste):
    """Return the expected value of `won` for the left side."""
    utilities = [
        taste.score * score(text)
        + taste.length * len(text) / 100
        + taste.side * (side == 0)
        for side, text in enumerate(row["completions"])
    ]
    gap = (utilities[0] - utilities[1]) / taste.temperature
    a, b = math.exp(gap / 2), math.exp(-gap / 2)
    return (a + taste.ties / 2) / (a + b + taste.ties)


known = {
    link.pseudonym: taste for link, taste in zip(links, tastes, strict=True)
}
shares = []
for row in judged:
    value = expected(row, known[row["annotator"]])
    shares.append(value if row["policies"][0] == "polite" else 1 - value)
print(f"expected {statistics.fmean(shares):.2f}, observed {polite:.2f}")
assert abs(statistics.fmean(shares) - polite) < 0.2

# %% [markdown]
# This is a share, and no claim. Votes of one person are alike, and so are votes on one prompt. An interval over votes
# as if they were independent is much too narrow: with three people, such a nominal 95 % interval covered 36 to 53 % in
# simulated studies.
#
# ## Withdraw
#
# A person can withdraw at any time, on the pages of the work or by your command. The votes leave counts and exports, and others get
# the items:

# %%
name = links[0].pseudonym
status = main(["feedback", "withdraw", str(FOLDER / "study.db"), name])
assert status == 0
print(store.read(progress)["votes"], "votes are left")
with store.snapshot() as connection:
    assert all(row["annotator"] != name for row in votes(connection))
store.close()

# %% [markdown]
# [An overview for an ethics board](../project/feedback_ethics.md) lists what is stored about a person, and what
# `withdraw`, `forget` and `erase` delete.
#
# ## With real people
#
# On one machine, three commands are enough. `serve` prints the administrator's link, and `invite` the personal ones:
#
# ```bash
# rlalign feedback sample study.toml
# rlalign feedback invite study.db --count 5
# rlalign feedback serve study.db
# ```
#
# People on other machines need HTTPS. A proxy such as nginx or Caddy provides it, and forwards to the server on the
# same machine. The links then name the public address:
#
# ```bash
# rlalign feedback serve study.db --secure
# rlalign feedback invite study.db --count 20 --address https://study.example.org
# ```
#
# Do not use the store of a trial for the study: the votes of simulated people are stored as those of people. Sample
# into another file with `--store`.
#
# ## Next
#
# - [Feedback of people](../concepts/feedback.md): every setting, how items are given, and how to serve a study
# - [An overview for an ethics board](../project/feedback_ethics.md)
# - [The commands](../reference/command_line.md#rlalign-feedback)
# - [A reward of your own](own_reward.py)
