"""The keys of metrics.jsonl and of report/evaluation.json with their meanings: the source of the documentation.

A word in capitals in a key stands for a name: NAME for a reward component, KEY for a metric of an evaluation, ENV for
an environment of a mixture, K for a number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rlalign.log.metric_row import Metric as Metric
from rlalign.log.recorded_keys import RECORDED

_OWN = "rlalign's own trainer"
_POLICY = f"{_OWN}, except while only the value is trained"
_CRITIC = "objective.value.kind head or model"
_REFERENCE = "objective.kl.where reward or loss"
_RATIO = "objective.ratio other than none"
_OWN_METRIC = "runs with --metric; not after the function has failed"
_FAILED = "steps with at least one"
_DISTILL = "algorithm distill"
_SEQ_KD = "algorithm seq_kd"
_MIXTURE = "several environments"
_POOLS = "tasks.order or tasks.mixing difficulty"
_TRUE_OBJECTIVE = "a component of weight 0 is the environment's true objective"

METRICS: Mapping[str, tuple[Metric, ...]] = {
    "reward": (
        Metric("reward/mean", "mean reward of the step's completions: the weighted sum of the components"),
        Metric("reward/std", "standard deviation of the reward over the step's completions"),
        Metric(
            "reward/ci95",
            "half the width of the 95 % interval of reward/mean, 1.96 · std / sqrt(n); samples of one prompt count as "
            "independent",
        ),
        Metric("reward/invalid", "share of completions without a valid reward, in [0, 1]"),
        Metric(
            "reward/NAME",
            "mean of a component, unweighted, over the completions that have it; NAME_component for a component called "
            "mean, std, ci95 or invalid",
        ),
        Metric(
            "reward/NAME/weight",
            "weight of a component in this step; for a constraint plus or minus its multiplier",
            "components with a schedule or a constraint",
        ),
        Metric("reward/NAME/raised", "number of calls that raised an exception, retried ones included", _FAILED),
        Metric("reward/NAME/timeout", "number of calls that were killed at timeout_s, retried ones included", _FAILED),
        Metric("reward/NAME/died", "number of calls whose worker process died, retried ones included", _FAILED),
        Metric("reward/NAME/nan", "number of samples for which the function returned NaN", _FAILED),
        Metric(
            "reward/NAME/none", "number of samples for which the function returned None: it does not apply", _FAILED
        ),
        Metric(
            "reward/NAME/log/KEY",
            "mean over the step of the values that the function passed to `log_metric` as KEY",
            "functions that take TRL's log_metric",
        ),
        Metric("reward/NAME/huge", "number of samples with a value above 1e6 or below -1e6", _FAILED),
    ),
    "rollout": (
        Metric("rollout/length", "mean length of a completion, in tokens of the policy"),
        Metric("rollout/tokens", "number of tokens of the step's completions, sampled or recorded"),
        Metric("rollout/dropped_records", "number of records left out so far", "on_bad_record is drop"),
        Metric("rollout/truncated", "share of completions that were cut at the length limit, in [0, 1]"),
        Metric(
            "rollout/entropy",
            "entropy of the policy, nats per token: the mean of -log pi over the sampled tokens; by TRL's trainers the "
            "exact mean over tokens",
        ),
        Metric("rollout/signal", "share of groups with nonzero reward variance, in [0, 1]"),
        Metric(
            "rollout/zero_variance",
            "share of groups whose rewards are all equal, among groups with two valid samples or more, in [0, 1]",
        ),
        Metric(
            "rollout/kl",
            "KL to the reference policy, nats per completion: mean of Σ (log pi - log ref) over the sampled tokens; by "
            "TRL's trainers TRL's estimate per token times rollout/length",
            f"{_REFERENCE}, without a teacher",
        ),
        Metric(
            "rollout/kl_new",
            "KL to the policy that the run starts from, nats per completion; rollout/kl is the mean of this and "
            "rollout/kl_previous",
            "continual.anchor both",
        ),
        Metric(
            "rollout/kl_previous",
            "KL to the reference policy of the former run, nats per completion",
            "continual.anchor both",
        ),
        Metric(
            "rollout/teacher_kl",
            "reverse KL to the teacher, nats per completion: mean of Σ (log pi - log teacher) over the sampled tokens",
            _DISTILL,
        ),
        Metric(
            "rollout/teacher_kl_token", "the same per token: the sum over all sampled tokens by their number", _DISTILL
        ),
        Metric(
            "rollout/teacher_entropy",
            "entropy of the teacher, nats per token: the mean of -log teacher over its samples; in place of "
            "rollout/entropy",
            _SEQ_KD,
        ),
        Metric(
            "rollout/length_correlation",
            "Pearson's r of reward and length, each minus the mean of its group, in [-1, 1]; NaN if one does not vary",
        ),
        Metric("rollout/duplicates", "share of completions that were also sampled for another prompt, in [0, 1]"),
        Metric(
            "rollout/common_word",
            "largest share of completions (last turns) that contain the same word, minus that word's share of "
            "reference answers, in [-1, 1]",
        ),
        Metric("rollout/empty", "share of completions without a word outside of tags and code fences, in [0, 1]"),
        Metric("rollout/best", "largest reward of a sample in the step"),
        Metric("rollout/gold", "mean of the component that measures the true objective", _TRUE_OBJECTIVE),
        Metric("rollout/gold_std", "standard deviation of that component over the completions", _TRUE_OBJECTIVE),
        Metric("rollout/gold_gap", "reward/mean minus rollout/gold", _TRUE_OBJECTIVE),
        Metric(
            "rollout/draws", "number of rollouts sampled in the step; more than 1 only with filter.dynamic_sampling"
        ),
    ),
    "train": (
        Metric("train/loss", "total loss, mean over the step's updates; it does not measure progress"),
        Metric("train/grad_norm", "Euclidean norm of the gradient before clipping, mean over updates"),
        Metric("train/lr", "learning rate, mean over updates", _OWN),
        Metric("train/skipped", "share of the step's updates that were skipped, as they were not finite", _OWN),
        Metric(
            "train/pg_loss",
            "policy-gradient part of the loss: without KL, entropy bonus and value loss",
            _POLICY,
        ),
        Metric(
            "train/stop_kl",
            "1: the KL passed evaluation.stop_kl and training ended; else 0",
            "evaluation.stop_kl above 0, in steps that measured the KL",
        ),
        Metric("train/stage", "number of the stage of environments that begins, in its first step", "runs with stages"),
        Metric(
            "train/stop_callback",
            "1: a callback ended training; else 0",
            "runs with a callback that has should_stop",
        ),
        Metric(
            "train/mismatch",
            "mean of |log pi - log pi_sampler|, nats per token; in the first update of a rollout from rounding alone",
            _POLICY,
        ),
        Metric(
            "train/mismatch_max",
            "largest |log pi - log pi_sampler| of a token, nats, mean over updates",
            _POLICY,
        ),
        Metric("train/ratio", "mean importance ratio pi/old over tokens", f"{_OWN}; {_RATIO}"),
        Metric("train/ratio_max", "largest importance ratio of a token, mean over updates", f"{_OWN}; {_RATIO}"),
        Metric(
            "train/clip_fraction",
            "share of tokens on which the trust region acts, in [0, 1]",
            f"{_RATIO}, with a trust region that reports it",
        ),
        Metric(
            "train/off_policy_weight",
            "mean weight of the off-policy correction over tokens",
            "objective.off_policy.kind other than none",
        ),
        Metric(
            "train/kl",
            "KL to the reference policy, which is the teacher if there is one, at the time of the update, nats per "
            "completion: mean of Σ (log pi - log ref)",
            f"{_OWN}; {_REFERENCE}",
        ),
        Metric(
            "train/forward_kl",
            "forward KL(teacher‖pi), nats per token, before the update: train/pg_loss - rollout/teacher_entropy",
            _SEQ_KD,
        ),
        Metric(
            "train/kl_k3",
            "the same by the estimator k3, nats per token; never negative",
            f"{_OWN}; {_REFERENCE}",
        ),
        Metric(
            "train/kl_clamped",
            "share of tokens whose log pi - log ref is below -20, where k3 is clamped",
            f"{_OWN}; {_REFERENCE}",
        ),
        Metric("train/kl_coef", "KL coefficient beta of the step's updates", "objective.kl.target above 0"),
        Metric(
            "train/entropy",
            "exact entropy of the policy, nats per token, mean over updates",
            f"{_OWN}; objective.regularizer.entropy_coef other than 0",
        ),
        Metric(
            "train/positive_nll",
            "mean of -log pi over the tokens of samples with a reward above nll_above, nats",
            "objective.regularizer.nll_coef other than 0",
        ),
        Metric(
            "train/ewc",
            "penalty of elastic weight consolidation, lambda/2 · Σ F (theta - theta_start)², at the time of the "
            "update; part of train/loss",
            "continual.ewc above 0",
        ),
        Metric(
            "train/orthogonality",
            "penalty of AdaLoRA, ½ times the mean over its matrices A and B of ‖A Aᵀ - I‖ or ‖Bᵀ B - I‖, at the time "
            "of the update; part of train/loss",
            "model.adapter.kind adalora, with a new adapter",
        ),
        Metric("train/value_loss", "½ (V - R)², mean over tokens, without its coefficient", _CRITIC),
        Metric("train/value", "mean value V over tokens", _CRITIC),
        Metric("train/return", "mean return R over tokens, on which the value is trained", _CRITIC),
        Metric(
            "train/return_squared",
            "mean of R² over tokens; the explained variance is 1 - value_error_squared / (return_squared - return²)",
            _CRITIC,
        ),
        Metric("train/value_error_squared", "mean of (V - R)² over tokens", _CRITIC),
    ),
    **RECORDED,
    "supervised": (
        Metric(
            "supervised/nll",
            "mean of -log pi over the tokens of the reference answers, nats",
            "steps with a supervised update",
        ),
        Metric(
            "supervised/grad_norm",
            "Euclidean norm of the supervised gradient before clipping",
            "steps with a supervised update",
        ),
        Metric("supervised/skipped", "1: the supervised update was skipped, as it was not finite", "only then"),
    ),
    "eval": (
        Metric(
            "eval/KEY",
            "mean over the held-out prompts of a metric of report/evaluation.json, such as eval/reward",
            "steps that evaluation.every divides",
        ),
    ),
    "env": (
        Metric("env/ENV/share", "share of the step's completions that are of this environment", _MIXTURE),
        Metric(
            "env/ENV/reward/KEY",
            "the metric reward/KEY of the completions of this environment alone, such as env/sort/reward/mean",
            f"{_MIXTURE}, steps that have a completion of it",
        ),
        Metric(
            "env/ENV/rollout/KEY",
            "the metric rollout/KEY of the completions of this environment alone: length, tokens, truncated, signal, "
            "entropy",
            f"{_MIXTURE}, steps that have a completion of it",
        ),
        Metric(
            "env/ENV/eval/KEY",
            "the metric eval/KEY over the held-out prompts of this environment alone",
            f"{_MIXTURE}, steps that evaluation.every divides",
        ),
    ),
    "tasks": (
        Metric("tasks/easy", "number of tasks in the easy pool; with tasks.mixing of environments", _POOLS),
        Metric("tasks/medium", "number in the medium pool", _POOLS),
        Metric("tasks/hard", "number in the hard pool", _POOLS),
    ),
    "best_of_n": (
        Metric("best_of_n/samples_per_answer", "completions that one answer costs, n", "algorithm best_of_n"),
        Metric(
            "best_of_n/samples_per_prompt", "completions per held-out prompt of the estimates", "algorithm best_of_n"
        ),
        Metric(
            "best_of_n/kl_upper_bound",
            "log n - (n - 1)/n, an upper bound of the KL to the base policy, nats per completion",
            "algorithm best_of_n",
        ),
    ),
    "metric": (
        Metric(
            "metric/NAME",
            "what the function of --metric returned: a number, or its mean over the completions",
            _OWN_METRIC,
        ),
        Metric("metric/NAME/KEY", "the same for an entry of the dictionary that it returned", _OWN_METRIC),
    ),
    "alarm": (
        Metric("alarm/length", "1: completions run to the length limit, and longer ones had higher rewards; else 0"),
        Metric("alarm/phrase", "1: nearly all completions share a word that few had at the start; else 0"),
        Metric("alarm/empty", "1: most completions are empty or bare markup, and the reward has risen; else 0"),
        Metric("alarm/gold", "1: the reward rises and the true objective does not follow; else 0", _TRUE_OBJECTIVE),
        Metric("alarm/kl", "1: the policy is more than 3 nats per token from its reference; else 0", _REFERENCE),
        Metric("alarm/entropy", "1: entropy is lost while the reward is far below its best sample; else 0"),
    ),
    "time": (
        Metric("time/rollout", "seconds of sampling and scoring", f"{_OWN}; TRL's trainers on samples"),
        Metric("time/reward", "seconds of scoring alone, a part of time/rollout", _OWN),
        Metric("time/prepare", "seconds of advantages and of log-probs that were not computed while scoring", _OWN),
        Metric("time/update", "seconds of the updates of the rollout; supervised updates do not count"),
        Metric("time/step", "seconds of rollout, preparation and updates; evaluations do not count"),
        Metric("time/tokens_per_s", "rollout/tokens divided by time/step"),
    ),
}
"""Stage -> rows, for the keys of metrics.jsonl besides `step`, the number of the step from 1."""

EVALUATION: Mapping[str, tuple[Metric, ...]] = {
    "metrics": (
        Metric("reward", "reward of a completion: the weighted sum of its components"),
        Metric("NAME", "a component, unweighted"),
        Metric("reward/NAME", "a component with the name of another metric of this table"),
        Metric("length", "tokens of a completion"),
        Metric(
            "kl",
            "KL to the initial policy, nats per completion: Σ (log pi - log ref) over the sampled tokens",
        ),
        Metric("fluency", "mean log-prob per token under the initial policy, nats; at most 0"),
        Metric("entropy", "entropy of the policy, nats per token: the mean of -log pi over the sampled tokens"),
        Metric("distinct_2", "share of pairs of words in a completion that are different; NaN below two words"),
        Metric("truncated", "1: the completion was cut at the length limit; else 0"),
        Metric(
            "teacher_kl",
            "reverse KL to the teacher, nats per completion: Σ (log pi - log teacher) over the sampled tokens",
            "runs with a teacher",
        ),
        Metric("teacher_kl_token", "the same divided by the tokens of the completion", "runs with a teacher"),
        Metric("metric/NAME", "what the function of --metric returned for a completion", "runs with --metric"),
        Metric("metric/NAME/KEY", "the same for an entry of the dictionary that it returned", "runs with --metric"),
    ),
    "corpus": (
        Metric("distinct_1_corpus", "share of words that are different, over all completions together"),
        Metric("distinct_2_corpus", "share of pairs of words that are different, over all completions together"),
        Metric(
            "pass@K",
            "success rate in K attempts, 1 - C(n-c, K) / C(n, K), mean over prompts; K is 1 and the number of "
            "completions per prompt",
            "answers are right or wrong: a gold score, or a verifier among the rewards",
        ),
        Metric("avg@K", "share of correct completions; K is the number of completions per prompt", "as for pass@K"),
        Metric("accuracy", "share of completions that are the right label", "family classification"),
        Metric("precision_macro", "precision, mean over labels", "family classification"),
        Metric("recall_macro", "recall, mean over labels", "family classification"),
        Metric("f1_macro", "F1, mean over labels", "family classification"),
        Metric("mcc", "Matthews' correlation coefficient, in [-1, 1]", "family classification"),
        Metric("coverage", "share of completions that are a label", "family classification"),
        Metric("bleu", "corpus BLEU by sacrebleu, 0 to 100", "family translation"),
        Metric("chrf", "corpus chrF by sacrebleu, 0 to 100", "family translation"),
        Metric("rouge_1", "ROUGE-1 F1 against the best reference, mean over completions", "family summary"),
        Metric("rouge_2", "ROUGE-2 F1 against the best reference, mean over completions", "family summary"),
        Metric("rouge_l", "ROUGE-L F1 against the best reference, mean over completions", "family summary"),
        Metric("metric/NAME", "the one number that the function of --metric returned", "runs with --metric"),
        Metric("metric/NAME/KEY", "the same for an entry of the dictionary that it returned", "runs with --metric"),
        Metric("span_precision", "precision over all spans of the corpus", "family spans"),
        Metric("span_recall", "recall over all spans of the corpus", "family spans"),
        Metric("span_f1_micro", "F1 over all spans of the corpus", "family spans"),
        Metric("span_iou_mean", "intersection over union of the spans, mean over completions", "family spans"),
    ),
}
"""Part of report/evaluation.json -> rows. `metrics` has a value per completion, `corpus` one per policy."""


def rows_of(key: str, rows: Sequence[Metric] | None = None) -> list[Metric]:
    """Return the rows that describe a key: one, or none for an unknown key.

    A key without placeholder has priority: `reward/mean` is not described by `reward/NAME`.

    Args:
        key: a key of metrics.jsonl, or of a part of report/evaluation.json.
        rows: the rows to search; None: all of METRICS. For an evaluation `EVALUATION["metrics"]` or
            `EVALUATION["corpus"]`.

    Example:
        >>> [row.key for row in rows_of("reward/vader/weight")]
        ['reward/NAME/weight']
    """
    if rows is None:
        rows = [row for stage in METRICS.values() for row in stage]
    return [row for row in rows if row.key == key] or [row for row in rows if row.pattern.fullmatch(key)]
