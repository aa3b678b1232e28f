"""Best-of-n of a finished run: its initial and its trained policy, for n = 1, 2, 4, ..., on held-out prompts."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rlalign.checks.data_pass import checked_mdp
from rlalign.config.instantiate import build_mdp, build_policy, with_own
from rlalign.config.schema import OBJECT, TrainConfig
from rlalign.config.size_limits import check_evaluation
from rlalign.envs.mdp import TextMDP
from rlalign.envs.mixture.parts import single
from rlalign.evaluation.before_after import paired_difference
from rlalign.evaluation.best_of_n_curve import BestOfNCurve, best_of_n_curve, check_best_of, sample
from rlalign.evaluation.evaluate import held_out, held_out_sizes
from rlalign.evaluation.evaluate_run import restore_trained
from rlalign.policies.base import Policy
from rlalign.rewards import compose
from rlalign.rewards.specs import resolve
from rlalign.storage.atomic import write_atomic
from rlalign.storage.jsonl import nullable
from rlalign.types import Task

FORMAT = 1


@dataclass(frozen=True)
class BestOf:
    """Best-of-n of the policies of a run.

    Attributes:
        split: of the held-out prompts.
        prompts: their number.
        selector: component -> weight of the reward that selects.
        curves: "initial" and "trained" -> best-of-n for several n.
        path: the JSON file.
    """

    split: str
    prompts: int
    selector: dict[str, float]
    curves: dict[str, BestOfNCurve]
    path: Path


def evaluate_best_of(
    folder: Path,
    config: TrainConfig,
    n: int,
    *,
    split: str = "test",
    prompts: int | None = None,
    samples: int | None = None,
    rewards: Any = None,
    env: TextMDP | None = None,
) -> BestOf:
    """Estimate best-of-n of the initial and the trained policy of a run, and write report/best-of-SPLIT.json.

    The rewards of the run are measured too, with weight 0, so that the true objective of what another reward keeps is
    known.

    Args:
        folder, config: the run folder and its configuration.
        n: largest n; at least 2.
        split, prompts: held-out tasks; None: as in the configuration.
        samples: completions per task, at least 4 n; None: 4 n.
        rewards: specs of the reward that selects, as for `rlalign.train`; None: the run's own.
        env: the environment object that the run was trained with; None: the one that the configuration names.

    Raises:
        UserError: for an unknown name or a number out of range.
    """
    prompts, _ = held_out_sizes(config, split, prompts, None)
    mdp = with_selector(config, rewards, env)
    samples = check_best_of(mdp, n, samples)
    check_evaluation(mdp, split, prompts, samples, early=True)
    policy, mdp = build_policy(config, mdp)
    if config.on_bad_record == "drop":
        mdp = checked_mdp(config, mdp, policy)
    check_evaluation(mdp, split, prompts, samples)  # again, with the length of the prompts
    tasks = held_out(mdp, split, prompts)  # type: ignore[arg-type]  # checked above
    initial = curve_of(policy, mdp, tasks, config, n, samples)
    restore_trained(policy, folder)
    curves = {"initial": initial, "trained": curve_of(policy, mdp, tasks, config, n, samples)}
    selector = {name: weight for name, weight in mdp.reward.weights.items() if weight}
    path = folder / "report" / f"best-of-{split}.json"
    best = BestOf(split, len(tasks), selector, curves, path)
    write_best_of(best)
    return best


def with_selector(config: TrainConfig, rewards: Any = None, env: TextMDP | None = None) -> TextMDP:
    """Return the environment of a run with the reward that selects, and the run's own rewards as metrics.

    Args:
        config: of the run.
        rewards: specs of the reward that selects; None: the run's own.
        env: an environment object in place of the configuration's name.
    """
    if rewards is None:
        return build_mdp(config, env=env)
    mdp = single(build_mdp(config, env=env, rewards=rewards), "best of n")
    chosen = resolve(with_own(mdp, rewards))
    names = {reward.name for reward, _ in chosen}
    specs = [spec for spec in config.rewards if not spec.removeprefix("+").startswith(OBJECT)]
    own = resolve(with_own(mdp, specs) if specs else list(mdp.rewards.items()))
    metrics = [(reward, 0.0) for reward, _ in own if reward.name not in names]
    return mdp.with_reward(compose([*chosen, *metrics]))


def curve_of(
    policy: Policy, mdp: TextMDP, tasks: list[Task], config: TrainConfig, n: int, samples: int
) -> BestOfNCurve:
    """Return best-of-n of a policy with the sampling distribution and the seed of a run."""
    sampling = config.rollout.sampling
    evaluation = sample(
        policy, mdp, tasks, samples=samples, sampling=sampling, seed=config.seed, sampler=config.rollout.sampler
    )
    return best_of_n_curve(evaluation, n, policy=policy, mdp=mdp, tasks=tasks, sampling=sampling)


def write_best_of(best: BestOf) -> None:
    """Write the JSON file of best-of-n atomically.

    Its `policies` hold per n the number of samples that one answer costs, the bound of the KL, the exact KL or null,
    and per metric the mean over prompts and the paired gain over n = 1 with its 95 % interval.
    """
    text = json.dumps(nullable(to_dict(best)), ensure_ascii=False, indent=1, allow_nan=False) + "\n"
    write_atomic(best.path, text)


def to_dict(best: BestOf) -> dict[str, Any]:
    """Return the content of the JSON file, see `write_best_of`."""
    return {
        "format": FORMAT,
        "split": best.split,
        "prompts": best.prompts,
        "selector": best.selector,
        "policies": {
            name: {"samples": curve.samples, "curve": [_point(curve, n) for n in curve.numbers]}
            for name, curve in best.curves.items()
        },
    }


def _point(curve: BestOfNCurve, n: int) -> dict[str, Any]:
    place = curve.numbers.index(n)
    metrics = {
        name: {
            "mean": curve.mean(name, n),
            "gain": asdict(paired_difference(values[0][:, None], values[place][:, None])),
        }
        for name, values in curve.metrics.items()
    }
    return {
        "n": n,
        "samples_per_answer": n,
        "kl_upper_bound": curve.kl_bounds[place],
        "kl_exact": None if curve.kl_exact is None else curve.kl_exact[place],
        "metrics": metrics,
    }
