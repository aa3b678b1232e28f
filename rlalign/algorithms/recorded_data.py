"""The presets that learn from recorded data: the point of each on the axes, and the optimum of its loss.

Nothing is sampled, so that there is no on-policy bias to compute. `bias` states where the loss is smallest if the data
cover all completions; tests/exact/test_preference_optima.py shows it on an enumerated world.
"""

from __future__ import annotations

from rlalign.algorithms.definitions import Algorithm, register_algorithm
from rlalign.objective.spec import KL, Objective

for _algorithm in (
    Algorithm(
        "sft",
        Objective(aggregation="token_global"),
        "Ouyang et al. 2022",
        "2203.02155",
        "Supervised fine-tuning: the policy gradient with reward 1 on recorded completions, without baseline and "
        "ratio, which is the mean of -log pi over their tokens.",
        "The gradient of the negative log-likelihood per token; its optimum is the distribution of the demonstrations.",
        group_size=1,
        data="demonstrations",
    ),
    Algorithm(
        "dpo",
        Objective(loss="dpo", kl=KL("reward", 0.1)),
        "Rafailov et al. 2023",
        "2305.18290",
        "Direct preference optimization: logistic regression on pairs of completions, with the implicit reward "
        "beta · log pi/ref. beta is kl.coef; preference.label_smoothing above 0 is conservative DPO.",
        "Optimum, on Bradley-Terry preferences of a reward r: pi ∝ ref · exp(r / beta), which also maximizes E[r] - "
        "beta · KL(pi‖ref). Pairs without noise have no optimum: the margin grows without bound.",
        group_size=2,
        data="pairs",
    ),
    Algorithm(
        "ipo",
        Objective(loss="ipo", kl=KL("reward", 0.1)),
        "Azar et al. 2023",
        "2310.12036",
        "Identity preference optimization: squared error of the difference of log-ratios to 1 / (2 beta), so that "
        "pairs without noise have a finite optimum. The log-ratios are means over tokens, as in the authors' "
        "experiments; preference.length_normalized false: sums, as in the paper's equation.",
        "Optimum, if both completions of a pair come from one distribution mu: log pi/ref (per token) = P(y "
        "preferred to mu) / beta + constant, for any preferences, not only Bradley-Terry.",
        group_size=2,
        data="pairs",
    ),
    Algorithm(
        "kto",
        Objective(loss="kto", kl=KL("reward", 0.1)),
        "Ethayarajh et al. 2024",
        "2402.01306",
        "Kahneman-Tversky optimization: completions that are labeled desirable or undesirable, without pairs. The "
        "value of a completion is a sigmoid of beta · (log pi/ref - z0), with z0 the policy's KL to the reference.",
        "No finite optimum with z0 fixed: the loss is linear in the value, so that each completion is raised without "
        "bound where w_d P(desirable) > w_u P(undesirable), and lowered elsewhere.",
        group_size=1,
        data="labels",
    ),
    Algorithm(
        "simpo",
        Objective(loss="simpo"),
        "Meng et al. 2024",
        "2405.14734",
        "Simple preference optimization: logistic regression on pairs with the mean log-prob per token as reward and "
        "a target margin, without a reference. preference.scale is the paper's beta, preference.margin its gamma.",
        "Optimum with margin 0, on Bradley-Terry preferences of a reward r: scale · log pi / |y| = r + constant, for "
        "any reference. A margin above 0 moves the rewards of a pair further apart than its preferences say.",
        group_size=2,
        data="pairs",
    ),
):
    register_algorithm(_algorithm)
