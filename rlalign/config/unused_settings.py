"""Settings that were changed and that nothing reads. Such a setting is easily mistaken for an experiment."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from rlalign.algorithms import BEST_OF_N, OFFLINE_AXES, axes, learns_from_data
from rlalign.algorithms import algorithm as find_algorithm
from rlalign.config.defaults import default_config, from_scratch
from rlalign.config.schema import OBJECT, TrainConfig
from rlalign.config.serialize import differences
from rlalign.envs.mixture.spec import MixtureSpec
from rlalign.objective.preference_settings import READS
from rlalign.policies.adapter_kinds.names import requested_difference, stored_options
from rlalign.policies.options import AdapterOptions


def unused_settings(config: TrainConfig) -> dict[str, str]:
    """Return dotted key -> reason, for settings without effect that differ from the defaults of the configuration."""
    base = default_config(config.env, config.policy, config.algorithm, config.data)
    changed = differences(base, config)
    return {key: reason for key, reason in unread(config).items() if key in changed}


def cautions(config: TrainConfig) -> list[str]:
    """Return sentences about settings that are read and do not do what their value suggests."""
    learner = config.learner
    updates = config.steps * learner.epochs * learner.minibatches
    sentences = []
    if learner.warmup > updates:
        sentences.append(
            f"learner.warmup {learner.warmup} is longer than the {updates} updates of the run, so the learning rate "
            f"ends at {learner.lr * updates / learner.warmup:.3g} and never reaches learner.lr {learner.lr:g}"
        )
    mixture = MixtureSpec.parse(config.env)
    never = [] if mixture is None else mixture.never_drawn(config.steps)
    sentences += [f"no step of the {config.steps} draws from the environment '{n}'; use more --steps" for n in never]
    return sentences


def unread(config: TrainConfig) -> dict[str, str]:
    """Return dotted key -> reason, for every setting that this configuration does not read."""
    prefixed = ((f"{where}." if where else "", names, reason) for where, names, reason in _unread(config))
    return {f"{where}{name}": reason for where, names, reason in prefixed for name in names.split()}


def _unread(c: TrainConfig) -> Iterator[tuple[str, str, str]]:
    """Yield (section, names, reason) for the settings that this configuration does not read."""
    o = c.objective
    updates = c.steps * c.learner.epochs * c.learner.minibatches
    if o.is_preference:
        read = {"loss", "kl.where", "kl.coef", *(f"preference.{name}" for name in READS[o.loss])}
        yield "objective", " ".join(axis for axis in axes(o) if axis not in read), f"loss {o.loss} does not read it"
    elif o.loss == "surrogate":
        yield "objective", " ".join(axis for axis in axes(o) if axis.startswith("preference.")), "loss is surrogate"
    if o.trust.kind in _TRUST:
        unread = {name for names in _TRUST.values() for name in names.split()} - set(_TRUST[o.trust.kind].split())
        yield "objective.trust", " ".join(unread), f"objective.trust.kind is {o.trust.kind}"
    if o.kl.where == "none":
        yield "objective.kl", "estimator level importance target horizon", "there is no KL term"
    elif o.kl.coef == 0 and o.kl.target == 0:
        yield "objective.kl", "where estimator level importance horizon", "objective.kl.coef is 0"
    elif o.kl.target == 0:
        yield "objective.kl", "horizon", "objective.kl.target is 0, so the coefficient is fixed"
    if o.value.kind == "none":
        yield "objective.value", "coef clip lr", "objective.value.kind is none"
    if o.value.kind != "head":
        yield "model", "value_detached", f"objective.value.kind is {o.value.kind}"
    if o.credit.kind != "gae":
        yield (
            "objective.credit",
            "lambda_actor lambda_critic length_alpha bootstrap",
            "objective.credit.kind is not gae",
        )
    elif o.credit.length_alpha > 0:
        yield "objective.credit", "lambda_actor", "objective.credit.length_alpha determines it"
    if o.credit.kind == "trajectory":
        yield "objective.credit", "gamma", "objective.credit.kind is trajectory"
    if o.off_policy.kind == "none":
        yield "objective.off_policy", "level low high delta", "objective.off_policy.kind is none"
    if o.baseline != "ema":
        yield "objective", "ema_decay", f"objective.baseline is {o.baseline}"
    if o.filter.overlong == 0:
        yield "objective.filter", "overlong_penalty", "objective.filter.overlong is 0"
    if o.regularizer.nll_coef == 0:
        yield "objective.regularizer", "nll_above", "objective.regularizer.nll_coef is 0"
    if not o.filter.dynamic_sampling:
        yield "rollout", "max_draws", "objective.filter.dynamic_sampling is off"
    yield from _unread_on_data(c)
    yield from _unread_of_teacher(c)
    yield from _unread_of_order(c)
    if not c.supervised.align_interval:
        yield "supervised", "weight", "supervised.align_interval is 0"
    elif c.supervised.weight == 0:
        yield "supervised", "align_interval", "supervised.weight is 0"
    if updates == c.steps and c.learner.old_logprobs == "recompute":
        yield "learner", "old_logprobs", "each rollout is used once"
    if c.algorithm != BEST_OF_N:
        yield "evaluation", "best_of", "the algorithm is not best_of_n"
    if c.learner.warmup >= updates:
        yield "learner", "lr_schedule", f"all {updates} updates are warm-up"
    yield from _unread_of_model(c)
    if c.algorithm in OFFLINE_AXES:
        others = " ".join(axis for axis in axes(o) if axis not in OFFLINE_AXES[c.algorithm].split())
        yield "objective", others, f"{c.algorithm} reads {OFFLINE_AXES[c.algorithm] or 'no axis'} alone"
    if not learns_from_data(c.algorithm):
        yield "", "data", f"{c.algorithm} samples its own completions"
    if not c.data:
        yield "recorded", "kind turns max_length held_out", "there is no --data"
    yield from _unread_of_continual(c)
    if c.tracking.wandb == "off" and not c.tracking.mlflow and not c.tracking.trackers:
        yield "tracking", "project", "no tracker is selected that has projects"


def _unread_on_data(c: TrainConfig) -> Iterator[tuple[str, str, str]]:
    if not c.data or not learns_from_data(c.algorithm):
        return
    kind = find_algorithm(c.algorithm).data
    if not kind:
        yield "rollout", "group_size", "a step reads all recorded completions of rollout.prompts prompts"
    if kind in ("demonstrations", "labels"):
        yield "rollout", "group_size", "a step reads rollout.prompts rows, each of which is a group"
    if c.objective.is_preference:
        yield "learner", "old_logprobs", f"loss {c.objective.loss} has no ratio"
    yield "rollout", "max_draws", "the completions were recorded"
    if c.recorded.kind != "demonstrations" and kind != "demonstrations":
        yield "recorded", "turns", "the data is no demonstrations"


def _unread_of_teacher(c: TrainConfig) -> Iterator[tuple[str, str, str]]:
    teacher = find_algorithm(c.algorithm).teacher
    if not teacher:
        yield "", "teacher", f"{c.algorithm} learns from no teacher; use --algorithm distill or seq_kd"
    if teacher != "scores":
        yield "distill", "reward_coef", f"{c.algorithm} adds no environment reward to a teacher's"


def _unread_of_continual(c: TrainConfig) -> Iterator[tuple[str, str, str]]:
    if not c.objective.needs_reference:
        yield "continual", "anchor", "the objective has no KL term and no other use of a reference policy"
    if c.continual.replay == 0:
        yield "continual", "replay_schedule", "continual.replay is 0"
    if c.continual.ewc == 0:
        yield "continual", "ewc_samples", "continual.ewc is 0"


def _unread_of_order(c: TrainConfig) -> Iterator[tuple[str, str, str]]:
    pools = "success easy hard medium_share decay"
    if c.data and learns_from_data(c.algorithm):
        yield "tasks", f"order {pools}", "the data has an order of its own"
    elif c.algorithm == BEST_OF_N:
        yield "tasks", f"order mixing temperature {pools}", f"{c.algorithm} takes no training tasks"
    elif c.tasks.order in ("shuffled", "sequential") and c.tasks.mixing == "weights":
        yield "tasks", pools, "neither tasks.order nor tasks.mixing is difficulty"
    if not c.env.startswith(OBJECT) and MixtureSpec.parse(c.env) is None:
        yield "tasks", "mixing temperature", "there is one environment"


def _unread_of_model(c: TrainConfig) -> Iterator[tuple[str, str, str]]:
    scratch = from_scratch(c.policy)
    settings = _adapter_settings(c.policy)
    yield from _unread_of_adapter(c, stored_options(settings), "none" if scratch else "lora")
    if not settings:
        yield "model", "on_adapter", "the policy is not the folder of an adapter"
    if c.policy in ("gru", "tabular"):
        yield "model", "dtype layers gradient_checkpointing base", f"a {c.policy} policy does not read it"
    if scratch:
        yield "model", "trust_remote_code", "the policy starts from scratch"
    else:
        yield "model", "hidden_size layers", "the policy is pretrained"


def _unread_of_adapter(
    c: TrainConfig, stored: AdapterOptions | None, default: Literal["none", "lora"]
) -> Iterator[tuple[str, str, str]]:
    adapter = c.model.adapter
    continued = stored is not None and c.model.on_adapter != "merge" and not requested_difference(stored, adapter)
    if stored is not None and continued:
        own = f"the policy folder has an adapter of its own, {stored.description}"
        if adapter.kind is None and adapter.r is None:
            yield "model.adapter", "alpha targets tokens", own
            return
        if adapter.targets == "all-linear":
            yield "model.adapter", "targets", own
        adapter = stored
    adapter = adapter.resolved(default)
    if adapter.kind == "none":
        yield "model.adapter", "alpha targets tokens", "no adapter is trained"
    elif adapter.is_virtual:
        yield "model.adapter", "r alpha targets", f"model.adapter.kind is {adapter.kind}"
    elif not adapter.is_low_rank:
        yield "model.adapter", "r alpha tokens", f"model.adapter.kind is {adapter.kind}"
    else:
        yield "model.adapter", "tokens", f"model.adapter.kind is {adapter.kind}"


def _adapter_settings(policy: str) -> Mapping[str, Any]:
    """Return the content of adapter_config.json of a policy folder, or of the policy of a run folder; {} without one.

    A file that cannot be read is refused where the policy is built.
    """
    folder = Path(policy).expanduser()
    for path in (folder / "adapter_config.json", folder / "policy" / "adapter_config.json"):
        if path.is_file():
            with suppress(OSError, ValueError):
                settings = json.loads(path.read_text(encoding="utf-8"))
                return settings if isinstance(settings, dict) else {}
    return {}


# The settings that each built-in trust region reads; a trust region of the user's own may read any.
_TRUST = {
    "none": "",
    "clip": "low high",
    "dual_clip": "low high dual",
    "stopgrad_cap": "low high",
    "soft_gate": "tau_pos tau_neg",
    "log_clip": "low high",
    "divergence_mask": "divergence delta",
}
