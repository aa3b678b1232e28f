"""The presets that learn from a teacher: reverse KL on the policy's samples, forward KL on the teacher's.

`bias` states what the expected gradient is; tests/exact/test_distillation.py shows it by enumeration.
"""

from __future__ import annotations

from rlalign.algorithms.definitions import Algorithm, register_algorithm
from rlalign.objective.spec import KL, Credit, Objective

for _algorithm in (
    Algorithm(
        "distill",
        Objective(credit=Credit("reward_to_go"), kl=KL("reward", 1.0)),
        "Gu et al. 2023",
        "2306.08543",
        "On-policy distillation: the policy gradient of the reverse KL(pi‖teacher) on the policy's own samples. The "
        "reward of a token is log teacher - log pi, and each token is credited with the rewards from it on; "
        "credit.gamma 0 credits it with its own alone, as in on-policy GKD (Agarwal et al. 2023, arXiv 2306.13649). "
        "distill.reward_coef adds the environment's reward.",
        "Exact: the gradient of -KL(pi‖teacher) of whole completions, plus reward_coef · E[R]. With credit.gamma 0 "
        "biased: each token's own KL, without the effect of a token on the states after it.",
        teacher="scores",
    ),
    Algorithm(
        "seq_kd",
        Objective(aggregation="token_global"),
        "Kim and Rush 2016",
        "1606.07947",
        "Sequence-level distillation: the policy imitates completions that the teacher samples, by the mean of -log pi "
        "over their tokens. The paper imitates the teacher's most probable completion; samples give the forward KL.",
        "The gradient of the forward KL(teacher‖pi) per token, up to the teacher's entropy. The token mean divides by "
        "a length that depends on the samples; with aggregation sequence_sum the gradient is exact.",
        teacher="samples",
    ),
):
    register_algorithm(_algorithm)
