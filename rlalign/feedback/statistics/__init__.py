"""Statistics of judgements: what the votes of a study say, and how sure that is.

summary           all statistics of a study as JSON values, for the report
summary_policies  its parts about policies
judgments         votes as arrays, on the sides of policies
markdown          counts of Markdown elements
estimate          an estimate with its interval, method, source and numbers of prompts, people and votes
intervals         the interval for this panel of annotators, and that for their population
agreement         Krippendorff's alpha, kappa, self-consistency
reliability       accuracy on gold items, the model of Dawid and Skene, unreliable people
bias              position, length, speed
win_rates         win rates of pairs, rates of skips and of "both are bad"
likelihoods       comparisons with ties: Davidson, Rao and Kupper, Bradley and Terry
strengths         their fit, with terms for position, length and Markdown
plackett_luce     strengths from rankings
ratings           ordinal model of ratings, and a comparison of ranks
ranking           simultaneous intervals, rank sets, cycles
design            random design of a batch of items
weighting         weights that undo the selection of items
information       information of further votes, disagreement
judges            LLM judges beside people
power             sample size, and the smallest detectable difference
"""

from rlalign.feedback.statistics.estimate import Counts, Estimate, TwoEstimates
from rlalign.feedback.statistics.judgments import Judgments, judgments_from_rows, read_judgments
from rlalign.feedback.statistics.strengths import Refusal, Strengths, fit
from rlalign.feedback.statistics.summary import summarize

__all__ = [
    "Counts",
    "Estimate",
    "Judgments",
    "Refusal",
    "Strengths",
    "TwoEstimates",
    "fit",
    "judgments_from_rows",
    "read_judgments",
    "summarize",
]
