"""Evaluation of a finished run: on another split, other prompts, another environment, against another baseline."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from rlalign.config.instantiate import build_mdp, build_policy
from rlalign.config.schema import TrainConfig
from rlalign.envs.mdp import TextMDP
from rlalign.errors import UserError
from rlalign.evaluation.before_after import Comparison, write_comparison
from rlalign.evaluation.evaluate import evaluate, held_out
from rlalign.log.plots import plot_comparison
from rlalign.policies.base import Policy
from rlalign.policies.factory import make_policy
from rlalign.policies.saved import saved_tokenizer
from rlalign.storage import checkpoint
from rlalign.storage.best_weights import BestWeights
from rlalign.storage.jsonl import nullable
from rlalign.typecheck import check_range


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
) -> Comparison:
    """Evaluate the initial policy of a run and the trained one on the same held-out prompts, and write the report.

    The initial policy is rebuilt from the configuration and the seed, as the run itself built it.

    Args:
        folder, config: the run folder and its configuration.
        split, prompts, samples: held-out tasks and completions per task; None: as in the configuration.
        env: another environment by name, or the environment object that the run was trained with.
        rewards: the reward objects that the run was trained with.
        baseline: another run folder, policy folder or policy name in place of the initial policy.
        folds: disjoint parts of the prompts for a cross-validated estimate; 0: none.

    Raises:
        UserError: for an unknown name or a number out of range.
    """
    if split not in ("train", "validation", "test"):
        raise UserError(f"unknown split '{split}': use train, validation or test")
    prompts = config.evaluation.prompts if prompts is None else prompts
    samples = config.evaluation.samples if samples is None else samples
    check_range("prompts", prompts, least=2)
    check_range("samples", samples, least=1)
    if isinstance(env, str):
        mdp = build_mdp(replace(config, env=env), rewards=rewards)
        tokenizer = saved_tokenizer(folder / "policy")
        if tokenizer is not None:  # the policy keeps the tokens that it was trained on
            mdp = mdp.with_tokenizer(tokenizer)
    else:
        mdp = build_mdp(config, env=env, rewards=rewards)
    policy, mdp = build_policy(config, mdp)
    tasks = held_out(mdp, split, prompts)  # type: ignore[arg-type]  # checked above
    settings: dict[str, Any] = {
        "samples": samples,
        "sampling": config.rollout.sampling,
        "seed": config.seed,
        "sampler": config.rollout.sampler,
    }
    if folds and not 2 <= folds <= len(tasks):
        raise UserError(f"folds: expected 2 to {len(tasks)} for {len(tasks)} prompts, got {folds}; use more --prompts")
    if baseline is None:
        before = evaluate(policy, mdp, tasks, **settings)
    else:
        other = _baseline(baseline, mdp, policy.device, config.seed)
        before = evaluate(other, mdp.with_tokenizer(other.tokenizer), tasks, **settings)
    restore_trained(policy, folder)
    comparison = Comparison(before, evaluate(policy, mdp, tasks, **settings), folds)
    name = f"evaluation-{split}"  # evaluation.json is the run's own, which studies read
    write_comparison(folder, comparison, f"{name}.json")
    plot_comparison(nullable(comparison.to_dict()), folder / "report" / f"{name}.png")
    return comparison


def _baseline(name: str, mdp: TextMDP, device: torch.device, seed: int) -> Policy:
    """Return the policy of a run folder, a policy folder or a name; its reference is the policy itself."""
    trained = Path(name) / "policy"
    return make_policy(str(trained) if trained.is_dir() else name, tokenizer=mdp.tokenizer, device=device, seed=seed)


def restore_trained(policy: Policy, folder: Path) -> None:
    """Load the trained weights of a run into its initial policy: the newest checkpoint's, or the best validation's."""
    state, _ = checkpoint.load(checkpoint.latest(folder / "checkpoints"), need=("policy", "progress"))
    policy.load_trainable(state["policy"])
    best_step = int(state["progress"].get("patience", {"step": 0})["step"])
    BestWeights(folder).restore(best_step, policy)
