"""A finished run, evaluated again: on another split, other prompts, another environment, against another baseline."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from rlalign.envs.mdp import TextMDP
from rlalign.evaluation.before_after import Comparison, write_comparison
from rlalign.evaluation.evaluate import evaluate, held_out
from rlalign.policies.base import Policy
from rlalign.policies.saved import saved_tokenizer
from rlalign.storage.jsonl import nullable
from rlalign.training.early_stopping import EarlyStopping

if TYPE_CHECKING:
    from rlalign.run import Run


def evaluate_run(
    run: Run,
    *,
    split: str = "test",
    prompts: int | None = None,
    samples: int | None = None,
    env: str | None = None,
    baseline: str | None = None,
    folds: int = 0,
) -> Comparison:
    """Evaluate a run's start and its result on the same held-out prompts and write the report.

    The start is rebuilt from the configuration and the seed, which is how the run itself got it.

    Args:
        run: the run.
        split, prompts, samples: held-out tasks, and completions of each; None: as the run's own evaluation.
        env: another environment than the run's.
        baseline: another run folder, policy folder or policy name in place of the start.
        folds: disjoint parts of the prompts for a cross-validated estimate; 0: none.
    """
    from rlalign.config.instantiate import build_mdp, build_policy
    from rlalign.errors import UserError
    from rlalign.log.plots import plot_comparison

    if split not in ("train", "validation", "test"):
        raise UserError(f"unknown split '{split}': use train, validation or test")
    config = run.config
    prompts = config.evaluation.prompts if prompts is None else prompts
    samples = config.evaluation.samples if samples is None else samples
    for name, value, least in (("prompts", prompts, 2), ("samples", samples, 1)):
        if value < least:
            raise UserError(f"{name} is {value}: it must be at least {least}")
    given, rewards = run.objects
    if env is None:
        mdp = build_mdp(config, env=given, rewards=rewards)
    else:
        mdp = build_mdp(replace(config, env=env), rewards=rewards)
        if (spoken := saved_tokenizer(run.folder / "policy")) is not None:  # the policy keeps its own tokens
            mdp = mdp.with_tokenizer(spoken)
    policy, mdp = build_policy(config, mdp)
    tasks = held_out(mdp, split, prompts)  # type: ignore[arg-type]  # checked above
    settings: dict[str, Any] = {
        "samples": samples,
        "sampling": config.rollout.sampling,
        "seed": config.seed,
        "sampler": config.rollout.sampler,
    }
    if folds and not 2 <= folds <= len(tasks):
        raise UserError(f"{folds} folds of {len(tasks)} prompts: give 2 or more, and --prompts for more prompts")
    if baseline is None:
        before = evaluate(policy, mdp, tasks, **settings)
    else:
        other = _baseline(baseline, mdp, policy.device, config.seed)
        before = evaluate(other, mdp.with_tokenizer(other.tokenizer), tasks, **settings)
    restore_trained(policy, run)
    comparison = Comparison(before, evaluate(policy, mdp, tasks, **settings), folds)
    name = f"evaluation-{split}"  # evaluation.json is the run's own, which studies are made of
    write_comparison(run.folder, comparison, f"{name}.json")
    plot_comparison(nullable(comparison.to_dict()), run.folder / "report" / f"{name}.png")
    return comparison


def _baseline(name: str, mdp: TextMDP, device: torch.device, seed: int) -> Policy:
    """The policy of a run folder, a policy folder or a name; its own reference is what it is now."""
    from rlalign.policies.factory import make_policy

    trained = Path(name) / "policy"
    return make_policy(str(trained) if trained.is_dir() else name, tokenizer=mdp.tokenizer, device=device, seed=seed)


def restore_trained(policy: Policy, run: Run) -> None:
    """Put the trained weights of a run's newest checkpoint into its freshly built policy."""
    from rlalign.storage import checkpoint

    state, _ = checkpoint.load(checkpoint.latest(run.folder / "checkpoints"), need=("policy", "progress"))
    policy.load_trainable(state["policy"])
    best = EarlyStopping(run.folder, run.config.evaluation.patience)
    best.load_state_dict(state["progress"].get("patience", best.state_dict()))
    best.restore(policy)
