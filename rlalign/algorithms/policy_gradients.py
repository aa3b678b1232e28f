"""The presets that sample their own completions: the point of each on the axes, and the bias of its expected gradient.

A preset names only the axes on which it differs from the plain policy gradient. `rlalign oracle` computes its `bias`.
"""

from __future__ import annotations

from typing import Any

from rlalign.algorithms.definitions import Algorithm, register_algorithm
from rlalign.objective.spec import KL, Credit, Filter, Objective, Regularizer, Trust, Value

_CLIP = Trust("clip", 0.2, 0.2)
_CLIP_HIGHER = Trust("clip", 0.2, 0.28)
_GSPO = Trust("clip", 3e-4, 4e-4)
_GROUP: dict[str, Any] = {"baseline": "group_mean", "scale": "group_std", "ratio": "token"}
_KL_IN_REWARD = KL("reward", 0.03)

for _algorithm in (
    Algorithm(
        "reinforce",
        Objective(baseline="ema", credit=Credit("reward_to_go"), kl=_KL_IN_REWARD),
        "Williams 1992",
        "",
        "The policy gradient with a moving-average baseline: theta += alpha · grad log p(a|s) · (r - b).",
        "Exact: the baseline does not depend on its own row.",
    ),
    Algorithm(
        "remax",
        Objective(baseline="greedy", kl=_KL_IN_REWARD),
        "Li et al. 2023",
        "2310.10505",
        "REINFORCE whose baseline is the reward of one greedy completion of the same prompt.",
        "Exact: the greedy completion does not depend on the sampled one.",
        group_size=1,
    ),
    Algorithm(
        "rloo",
        Objective(baseline="leave_one_out", kl=_KL_IN_REWARD),
        "Ahmadian et al. 2024",
        "2402.14740",
        "REINFORCE whose baseline is the mean reward of the other samples of the prompt; KL in the reward.",
        "Exact: the other samples are independent of the row's own.",
    ),
    Algorithm(
        "grpo",
        Objective(**_GROUP, trust=_CLIP, aggregation="sequence_mean", kl=KL("loss", 0.04, "k3")),
        "Shao et al. 2024",
        "2402.03300",
        "PPO's clipped ratio without a critic: rewards are standardized within the group, each completion's token "
        "losses are averaged, and k3 in the loss keeps the policy near the reference.",
        "Biased: 1/|y| favors short good completions and long bad ones; the group's standard deviation weighs prompts "
        "by difficulty (on 0/1 rewards by c(p, G), near 1/sqrt(p(1-p))); k3 in the loss has the gradient of "
        "KL(ref‖pi).",
    ),
    Algorithm(
        "dr_grpo",
        Objective(baseline="group_mean", ratio="token", trust=_CLIP, aggregation="constant"),
        "Liu et al. 2025",
        "2503.20783",
        "GRPO without the two divisions that bias it: by the group's standard deviation and by the length of the "
        "completion.",
        "Exact up to the factor (G-1)/(G · L_max) on the first update.",
    ),
    Algorithm(
        "dapo",
        Objective(
            **_GROUP,
            trust=_CLIP_HIGHER,
            aggregation="token_global",
            filter=Filter(dynamic_sampling=True, overlong=0.2),
        ),
        "Yu et al. 2025",
        "2503.14476",
        "GRPO with a larger clip range above 1 than below, one token mean over the batch, no groups of equal rewards, "
        "a length penalty near the limit, and no KL.",
        "Biased: the token mean divides by a sum of lengths that depends on the samples, the group's standard "
        "deviation weighs prompts, and groups of equal rewards leave the mean, so that the others weigh more.",
    ),
    Algorithm(
        "gspo",
        Objective(**{**_GROUP, "ratio": "sequence_geomean"}, trust=_GSPO, aggregation="sequence_mean"),
        "Zheng et al. 2025",
        "2507.18071",
        "One ratio per completion, the geometric mean of its token ratios, clipped to a very narrow interval.",
        "Biased: the first update is exactly GRPO's sequence_mean gradient, with 1/|y| and the group's standard "
        "deviation.",
    ),
    Algorithm(
        "gmpo",
        Objective(
            **{**_GROUP, "ratio": "sequence_geomean"}, trust=Trust("log_clip", 0.4, 0.4), aggregation="sequence_mean"
        ),
        "Zhao et al. 2025",
        "2507.20673",
        "The geometric mean of token ratios, each clipped to (e^-0.4, e^0.4) before the mean.",
        "Biased: the first update is GSPO's, with 1/|y| and the group's standard deviation.",
    ),
    Algorithm(
        "cispo",
        Objective(**_GROUP, trust=Trust("stopgrad_cap", 1.0, 4.0), aggregation="token_global"),
        "MiniMax 2025",
        "2506.13585",
        "Clips the importance weight instead of the update, so that each token keeps its gradient. The cap is 1 + "
        "high, here 5, with no floor; TRL's epsilon_high is the cap c itself, so that high = c - 1.",
        "Biased: the token mean and the group's standard deviation, as in dapo; the weight is exact until the cap "
        "acts.",
    ),
    Algorithm(
        "sapo",
        Objective(**_GROUP, trust=Trust("soft_gate"), aggregation="sequence_mean"),
        "Gao et al. 2025",
        "2511.20347",
        "A smooth gate instead of the clip: the gradient of tokens far from the old policy fades instead of becoming "
        "0, faster for negative advantages.",
        "Biased: the first update is GRPO's sequence_mean gradient, with 1/|y| and the group's standard deviation.",
    ),
    Algorithm(
        "luspo",
        Objective(**{**_GROUP, "ratio": "sequence_geomean"}, trust=_GSPO, aggregation="sequence_sum"),
        "Liu et al. 2026",
        "2602.05261",
        "GSPO with each completion's loss multiplied by its length, which removes the length bias.",
        "Biased by the group's standard deviation alone: on 0/1 rewards exact up to the difficulty weight c(p, G).",
    ),
    Algorithm(
        "dppo",
        Objective(**_GROUP, trust=Trust("divergence_mask"), aggregation="token_global"),
        "Qi et al. 2026",
        "2602.04879",
        "Masks tokens by the distance of their probability from the sampler's, not by their ratio, so that rare tokens "
        "are not masked first. The ratio's denominator is the sampler itself, so that its numerical error counts too.",
        "Biased: the token mean and the group's standard deviation, as in dapo.",
        old_logprobs="sampler",
    ),
    Algorithm(
        "reinforce_pp",
        Objective(
            scale="whiten",
            credit=Credit("reward_to_go"),
            ratio="token",
            trust=_CLIP,
            aggregation="token_global",
            kl=_KL_IN_REWARD,
        ),
        "Hu 2025",
        "2501.03262",
        "PPO without a critic: reward to go, KL in the reward, advantages whitened over the batch's tokens.",
        "Biased: whitening subtracts a mean that includes the own sample and divides by a random standard deviation, "
        "and the token mean divides by a random length; both biases fade as the batch grows.",
        group_size=1,
    ),
    Algorithm(
        "reinforce_pp_baseline",
        Objective(
            baseline="group_mean",
            scale="whiten",
            ratio="token",
            trust=_CLIP,
            aggregation="token_global",
            kl=KL("loss", 0.01, "k2"),
        ),
        "Hu et al. 2025",
        "2501.03262",
        "The group's mean as baseline, then whitening over the whole batch instead of the group; k2 in the loss.",
        "Biased: whitening and the token mean, as in reinforce_pp; k2 per token has the gradient of each token's KL "
        "alone.",
    ),
    Algorithm(
        "lite_ppo",
        Objective(baseline="group_mean", scale="batch_std", ratio="token", trust=_CLIP, aggregation="token_global"),
        "Liu et al. 2025",
        "2508.08221",
        "Mean of the group, standard deviation of the batch, and token mean: the two techniques that mattered in a "
        "study of many.",
        "Biased: one random standard deviation for all prompts, and the token mean.",
    ),
    Algorithm(
        "opo",
        Objective(baseline="length_weighted_group_mean"),
        "Hao et al. 2025",
        "2505.23585",
        "Strictly on-policy gradient with the variance-optimal baseline: the group's mean weighted by length.",
        "Biased: the baseline includes the own sample, with a weight that grows with its length.",
    ),
    Algorithm(
        "maxrl",
        Objective(baseline="group_mean", scale="group_mean"),
        "Tajwar et al. 2026",
        "2602.02710",
        "(r - m)/m with m the group's mean reward, 0 if m = 0: follows the log-likelihood of success. Rewards >= 0.",
        "Exact for another objective on 0/1 rewards: the likelihood's expansion to order G-1, Σ_k (1-p)^k, k < G-1, "
        "times the gradient of p; it tends to grad log p.",
    ),
    Algorithm(
        "ppo",
        Objective(
            baseline="value",
            scale="whiten",
            credit=Credit("gae", bootstrap=False),
            ratio="token",
            trust=_CLIP,
            aggregation="token_global",
            kl=KL("reward", 0.05, target=6.0),
            value=Value("head", clip=0.2),
        ),
        "Schulman et al. 2017",
        "1707.06347",
        "Clipped token ratios, GAE advantages from a learned value, whitened over the batch, and several passes over "
        "each rollout; beta of the KL in the reward adapts to a target as in 1909.08593. A truncated episode has its "
        "full reward at the limit, so that it is not bootstrapped (otherwise use --objective.credit.bootstrap true).",
        "Biased: lambda < 1 with a wrong value, whitening, and the token mean. With lambda = 1, no scale and "
        "sequence_sum it is exact for any value.",
        epochs=4,
    ),
    Algorithm(
        "vc_ppo",
        Objective(
            baseline="value",
            credit=Credit("gae", lambda_actor=0.95, lambda_critic=1.0, bootstrap=False),
            ratio="token",
            trust=_CLIP,
            aggregation="token_global",
            value=Value("head", clip=0.2, pretrain_steps=10),
        ),
        "Yuan et al. 2025",
        "2503.01491",
        "PPO whose value is first trained alone, and from Monte-Carlo returns (lambda 1), while the policy keeps "
        "lambda 0.95. Truncated episodes are not bootstrapped, as in ppo.",
        "Biased: lambda < 1 with a wrong value, and the token mean.",
        epochs=2,
    ),
    Algorithm(
        "vapo",
        Objective(
            baseline="value",
            credit=Credit("gae", lambda_critic=1.0, length_alpha=0.05, bootstrap=False),
            ratio="token",
            trust=_CLIP_HIGHER,
            aggregation="token_global",
            value=Value("head", clip=0.2, pretrain_steps=10),
            regularizer=Regularizer(nll_coef=0.1),
        ),
        "Yue et al. 2025",
        "2504.05118",
        "VC-PPO with a lambda that grows with the completion's length, a higher ratio ceiling, one token mean over the "
        "batch, and the log-likelihood of samples with positive reward. alpha is meant for long chains of thought: "
        "up to 1/alpha = 20 tokens lambda is 0. Truncated episodes are not bootstrapped, as in ppo.",
        "Biased: lambda < 1 with a wrong value (0 at the oracle's four tokens), the token mean, and the likelihood "
        "term, which is another objective.",
        epochs=2,
    ),
):
    register_algorithm(_algorithm)
