# %% [markdown]
# # What the votes say
#
# The votes of a study are in its store. This tutorial plans a study, reads its report, and writes its preferences in
# the format of TRL, checked. [Feedback of people](collect_feedback.py) shows how votes are collected.
#
# **Needs:** the extra `feedback` (`pip install -c constraints.txt -e '.[feedback]'`). **Takes:** about 20 seconds on
# one core. **Runs as a script:** `python docs/tutorials/read_votes.py`. All files are written to a new temporary
# folder.

# %%
import json
import random
import tempfile
from pathlib import Path

from rlalign.cli import main
from rlalign.feedback.people import invite
from rlalign.feedback.simulate import draw_taste, simulate
from rlalign.feedback.store import Store
from rlalign.feedback.web.serve import in_background
from rlalign.preferences import read_preferences, split_by_group

FOLDER = Path(tempfile.mkdtemp())

# %% [markdown]
# ## The study
#
# Three writers answer the customers of a help desk: one is short, one polite, and one polite and long.

# %%
THINGS = "lamp phone parcel chair clock radio kettle jacket".split()
FAULTS = "broken late wrong loud torn heavy".split()

rows = []
for thing in THINGS:
    for fault in FAULTS:
        answers = {
            "short": f"We will send a new {thing}.",
            "polite": f"Sorry. We will send a new {thing}. Thank you.",
            "long": f"Sorry that your {thing} is {fault}. Please keep the "
            f"{thing} until we send a new one. Thank you for telling us.",
        }
        prompt = f"my {thing} is {fault}"
        for policy, text in answers.items():
            row = {"prompt": prompt, "policy": policy, "completion": text}
            rows.append(row)

lines = [json.dumps(row) + "\n" for row in rows]
(FOLDER / "completions.jsonl").write_text("".join(lines))
(FOLDER / "study.toml").write_text("""\
name = "Answers of a help desk"
completions = "completions.jsonl"
votes_per_item = 3
repeat_share = 0.1
""")

# %% [markdown]
# ## Plan
#
# Before the first vote: how many prompts and people does a difference need? A claim about this panel of people needs
# prompts. A claim about what other people would prefer needs people too.

# %%
status = main(["feedback", "plan", str(FOLDER / "study.toml")])
assert status == 0

# %% [markdown]
# ## Votes
#
# Six simulated people vote through the same server that real people would open. They like polite words, and a little
# the left side.

# %%
status = main(["feedback", "sample", str(FOLDER / "study.toml")])
assert status == 0
store = Store(FOLDER / "study.db")
links = store.write(lambda c: invite(c, 6, days=14)).result()


def score(text):
    """Return the number of polite words."""
    words = text.lower().replace(".", " ").split()
    return float(sum(word in {"sorry", "thank", "please"} for word in words))


rng = random.Random(0)
tastes = [draw_taste(rng, noise=1.5, side=0.3, length=0.0) for _ in links]
with in_background(store) as address:
    paths = [link.path for link in links]
    votes = simulate(address, paths, tastes, score, seed=0)
print(sum(votes), "votes of", len(votes), "people")

# %% [markdown]
# ## The report
#
# `rlalign feedback report study.db` writes one page, and all its numbers as JSON beside it:

# %%
status = main(["feedback", "report", str(FOLDER / "study.db")])
assert status == 0

# %% [markdown]
# Each estimate in the file has its interval, the numbers of prompts, people and votes behind it, its method and the
# paper of the method. There are two intervals. The one for *this panel* holds for the six people who voted. The one for
# the *population* says what other people like them would prefer. It is wider, and it is the headline from five people on.

# %%
report = json.loads((FOLDER / "report.json").read_text())["people"]
for pair in report["win_rates"]["pairs"]:
    of = pair[pair["headline"]]
    print(
        f"{pair['first']:7} {pair['second']:7} {100 * of['value']:5.1f} % "
        f"[{100 * of['low']:.1f}, {100 * of['high']:.1f}]  {of['prompts']} "
        f"prompts, {of['people']} people, {of['votes']} votes"
    )

# %% [markdown]
# The rank of a policy is a set: all places that agree with the intervals of all differences at once.

# %%
for policy in report["ranking"]["policies"]:
    print(policy["policy"], policy["best_rank"], "to", policy["worst_rank"])

# %% [markdown]
# Do people agree? Alpha is 1 for perfect agreement and 0 for agreement by chance. Is there a bias for a side?

# %%
alpha = report["agreement"]["alpha_ordinal"]
print(f"alpha {alpha['value']:.2f} [{alpha['low']:.2f}, {alpha['high']:.2f}]")
position = report["bias"]["position"]
of = position[position["headline"]]
print(f"left side {100 * of['value']:.1f} %, p = {position['p']:.3f}")

# %% [markdown]
# ## Preferences for training
#
# `rlalign feedback export` writes prompt, chosen and rejected, by majority of the votes of an item. Ties, and items
# that both are bad, are left out and counted.

# %%
status = main(
    ["feedback", "export", str(FOLDER / "study.db"), "--format", "trl"]
)
assert status == 0
path = FOLDER / "study.trl.jsonl"
print(path.read_text().splitlines()[0])

# %% [markdown]
# `rlalign feedback check` reads preference data from anywhere and names the rows that are wrong:

# %%
status = main(["feedback", "check", str(path)])
assert status == 0

# %% [markdown]
# Splits are by groups of prompts that are equal or nearly equal, never by pair. Else a model would be tested on prompts
# that it was trained on.

# %%
split = split_by_group(list(read_preferences(path)), test=0.25, seed=0)
print(len(split.train), "pairs for training,", len(split.test), "for the test")
store.close()

# %% [markdown]
# ## Next
#
# - [From votes to a policy](align_on_votes.py): a reward model, policies, and over-optimization
# - [What each statistic says](../concepts/feedback_statistics.md): equations, papers, and when there is no estimate
# - [Preference data](../concepts/preference_data.md): formats, checks and splits
# - [Judges that are language models](../concepts/llm_judges.md), beside people on the same items
