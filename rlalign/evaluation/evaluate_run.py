"""Evaluation of a finished run: on another split, other prompts, another environment, against another baseline."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

from rlalign.checks.data_pass import checked_mdp
from rlalign.config.instantiate import bind, build_mdp, build_policy
from rlalign.config.schema import OBJECT, TrainConfig
from rlalign.config.size_limits import check_evaluation
from rlalign.envs.chat_prompts import with_chat_template
from rlalign.envs.mdp import TextMDP
from rlalign.errors import UserError
from rlalign.evaluation.before_after import Comparison, write_comparison
from rlalign.evaluation.custom_metrics import with_custom_metrics
from rlalign.evaluation.evaluate import evaluate, held_out, held_out_sizes
from rlalign.log.custom_metrics import CustomMetrics, load_metrics
from rlalign.log.plots import plot_comparison
from rlalign.policies.base import Policy
from rlalign.policies.device import resolve_device
from rlalign.policies.factory import load, make_policy
from rlalign.policies.saved import saved_tokenizer
from rlalign.storage import checkpoint
from rlalign.storage.best_weights import BestWeights
from rlalign.storage.jsonl import nullable
from rlalign.storage.newest import newest


def evaluate_run(
    folder: Path,
    config: TrainConfig,
    *,
    split: str = "test",
    prompts: int | None = None,
    samples: int | None = None,
    env: str | TextMDP | None = None,
    rewards: Any = None,
    baseline: str | None = None,
    folds: int = 0,
    from_files: bool = False,
) -> Comparison:
    """Evaluate the initial policy of a run and the trained one on the same held-out prompts, and write the report.

    The initial policy is rebuilt from the configuration and the seed, as the run itself built it.

    Args:
        folder, config: the run folder and its configuration.
        split, prompts, samples: held-out tasks and completions per task; None: as in the configuration.
        env: another environment by name, scored with its own rewards; or the environment object that the run was
            trained with.
        rewards: rewards in place of those of `env`, or of the run; None: these.
        baseline: another run folder, policy folder or policy name in place of the initial policy.
        folds: disjoint parts of the prompts for a cross-validated estimate; 0: none.
        from_files: load the trained policy from `policy/`, with a baseline, where the initial policy cannot be built.

    Raises:
        UserError: for an unknown name or a number out of range.
    """
    prompts, samples = held_out_sizes(config, split, prompts, samples)
    if isinstance(env, str):
        # its own rewards, not those of the run: a reward for one task says nothing about another
        mdp = build_mdp(replace(config, env=env, rewards=()), rewards=rewards)
        tokenizer = saved_tokenizer(folder / "policy")
        if tokenizer is not None:  # the policy keeps the tokens that it was trained on
            mdp = mdp.with_tokenizer(tokenizer)
    else:
        mdp = build_mdp(config, env=env, rewards=rewards)
    check_evaluation(mdp, split, prompts, samples, early=True)
    unbound = mdp
    if from_files:
        policy = load(folder / "policy", tokenizer=mdp.tokenizer, device=resolve_device(config.device))
        mdp = bind(mdp, policy, config.rollout.chat_template)
    else:
        policy, mdp = build_policy(config, mdp)
    if config.on_bad_record == "drop":
        mdp = checked_mdp(config, mdp, policy)
    check_evaluation(mdp, split, prompts, samples)  # again, with the length of the prompts
    tasks = held_out(mdp, split, prompts)  # type: ignore[arg-type]  # checked above
    settings: dict[str, Any] = {
        "samples": samples,
        "sampling": config.rollout.sampling,
        "seed": config.seed,
        "sampler": config.rollout.sampler,
    }
    if folds and not 2 <= folds <= len(tasks):
        raise UserError(f"folds: expected 2 to {len(tasks)} for {len(tasks)} prompts, got {folds}; use more --prompts")
    own = CustomMetrics(
        load_metrics(
            [spec for spec in config.metrics if not spec.startswith(OBJECT)]
        ),  # an object is of another process
        lambda problem: warnings.warn(problem, stacklevel=2),
    )
    if baseline is None:
        before = evaluate(policy, mdp, tasks, **settings)
    else:
        other = make_policy(baseline, tokenizer=mdp.tokenizer, device=policy.device, seed=config.seed)
        other_mdp = with_chat_template(unbound.with_tokenizer(other.tokenizer), config.rollout.chat_template)
        before = evaluate(other, other_mdp, tasks, **settings)
    if not from_files:
        restore_trained(policy, folder)
    after = evaluate(policy, mdp, tasks, **settings)
    comparison = Comparison(with_custom_metrics(before, own), with_custom_metrics(after, own), folds)
    name = f"evaluation-{split}"  # evaluation.json is the run's own, which studies read
    write_comparison(folder, comparison, f"{name}.json")
    plot_comparison(nullable(comparison.to_dict()), folder / "report" / f"{name}.png")
    return comparison


def restore_trained(policy: Policy, folder: Path) -> None:
    """Load the trained weights of a run into its initial policy: those of the best validation or of the checkpoint.

    It is the newest that verifies. A damaged newer one is named in a warning and left as it is.

    Raises:
        UserError: the run has no checkpoint.
        FaultError: no checkpoint verifies.
    """
    checkpoint.latest(folder / "checkpoints")  # refuses a run without any
    found = newest(folder / "checkpoints", need=("policy", "progress"))
    assert found is not None
    for problem in found.damaged.values():
        warnings.warn(f"{problem}; the weights of {found.path.name} are evaluated", stacklevel=2)
    state = found.state
    policy.load_trainable(state["policy"])
    best_step = int(state["progress"].get("patience", {"step": 0})["step"])
    if not BestWeights(folder).restore(best_step, policy) and best_step:
        warnings.warn(
            f"'{folder}/best/step-{best_step}' is missing, so the weights of the last step are evaluated", stacklevel=2
        )
