"""The steps of a round. Each finds its output if it is complete, and else makes it again.

    round-K/study.db       the pairs of the present policy for new prompts, then the votes
    round-K/reward_model/  trained on the votes of all rounds so far
    round-K/run/           a run folder: the policy-gradient steps from the policy of the round before

Each round has a store of its own: what people judged is complete evidence about one policy, with its digest, and can be
served, reported and exported alone; and a step that was interrupted leaves the stores of earlier rounds untouched.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rlalign.config.defaults import default_config, from_scratch
from rlalign.config.overrides import apply
from rlalign.config.schema import TrainConfig
from rlalign.errors import UserError
from rlalign.feedback.loop.plan import Plan
from rlalign.policies.options import AdapterOptions
from rlalign.preferences.pairs import text_of

Result = dict[str, Any]


class Waiting(Exception):  # no error: people still have to vote
    """Raised by a step that waits for people; the message is for the user."""


class Stopped(Exception):  # no error: a signal asked for it
    """Raised by a step that a signal stopped.

    Args:
        status: 128 + signal.
    """

    def __init__(self, status: int) -> None:
        self.status = status
        super().__init__(f"stopped with status {status}")


@dataclass(frozen=True, slots=True)
class Round:
    """A round of a loop.

    Attributes:
        plan: the plan.
        output: folder of the loop.
        number: from 1.
        enough: end the present vote with the votes that are there.
        quiet: print nothing.
    """

    plan: Plan
    output: Path
    number: int
    enough: bool = False
    quiet: bool = True

    def folder(self, number: int | None = None) -> Path:
        """Return the folder of a round; None: of this one."""
        return self.output / f"round-{number or self.number}"

    @property
    def store(self) -> Path:
        """The store of this round."""
        return self.folder() / "study.db"

    @property
    def policy(self) -> str:
        """The policy that this round samples and continues."""
        if self.number == 1:
            return self.plan.path(self.plan.loop.policy)
        # absolute: a run that is resumed from another working folder must name the same policy
        return str((self.folder(self.number - 1) / "run" / "policy").absolute())

    def config(self, rewards: tuple[str, ...] = ()) -> TrainConfig:
        """Return the configuration of the training of this round.

        The settings are those of the initial policy in all rounds: a policy that began from scratch stays one whose
        weights are all trained, with its learning rate and batch.

        Args:
            rewards: specs; without, the configuration serves to sample.
        """
        loop = self.plan.loop
        env = self.plan.path(loop.env) or str(self.plan.prompts)
        initial = self.plan.path(loop.policy)
        config = apply(default_config(env=env, policy=initial, algorithm=loop.algorithm), loop.train)
        if self.number > 1:
            config = replace(config, policy=self.policy)
            if from_scratch(initial) and config.model.adapter.resolved().kind == "none":
                config = replace(config, model=replace(config.model, adapter=AdapterOptions("none")))
        return replace(
            config, rewards=rewards, steps=loop.steps, seed=config.seed + self.number - 1,
            output=str(self.folder() / "run"),
        )  # fmt: skip


# ---- the steps ----


def sample(this: Round) -> Result:
    """Sample pairs of the present policy for new prompts into the store of the round."""
    from rlalign.config.instantiate import build_policy
    from rlalign.envs.registration import make_mdp
    from rlalign.feedback.sampling import Content, as_messages, make_store, sample_from, weights_digest

    if not this.store.is_file():
        study = replace(this.plan.study, seed=this.plan.study.seed + this.number)
        study = replace(study, sampling=replace(study.sampling, samples=max(study.sampling.samples, 2)))
        config = this.config()
        mdp = make_mdp(config.env)
        prompts = _new_prompts(this, mdp)
        limits = {"max_prompt": config.rollout.max_prompt, "max_new": config.rollout.max_new}
        policy, mdp = build_policy(config, mdp.with_limits(**limits))
        texts = [prompt for prompt, _ in prompts]
        completions = list(sample_from(study, policy, mdp, texts, number=0, sampling=config.rollout.sampling))
        folder = Path(config.policy)
        digest = weights_digest(folder) if folder.is_dir() else ""
        contents = [(as_messages(prompt), language) for prompt, language in prompts]
        _remove(scratch := this.folder() / "sampling.db")
        this.folder().mkdir(parents=True, exist_ok=True)
        label = f"round-{this.number - 1}" if this.number > 1 else "initial"
        make_store(scratch, study, this.plan.folder, Content([(label, digest)], contents, completions))
        os.replace(scratch, this.store)
    return {"items": _counts(this.store)["items"]}


def vote(this: Round) -> Result:
    """Collect the votes of the round: of simulated people, or wait for people.

    Raises:
        Waiting: people have not answered all items.
    """
    counts = _counts(this.store)
    if this.plan.loop.voters == "people":
        if counts["state"] != "complete" and counts["done_items"] < counts["items"] and not this.enough:
            raise Waiting(
                f"round {this.number}: {counts['votes']} of {counts['needed']} votes. Collect them with "
                f"rlalign feedback invite {this.store} --count 3 and rlalign feedback serve {this.store}, then run "
                "this command again (--enough takes the votes that are there)"
            )
    elif not counts["votes"]:  # votes appear with the whole store: see below
        _simulate(this)
        counts = _counts(this.store)
    return {"votes": counts["votes"], "needed": counts["needed"]}


def reward_model(this: Round) -> Result:
    """Train a reward model on the votes of all rounds so far."""
    from rlalign.preferences.near_duplicates import prompt_groups
    from rlalign.reward_models.data import read_pairs
    from rlalign.reward_models.settings import Settings
    from rlalign.reward_models.train import train_reward_model
    from rlalign.rewards.reward_model.manifest import FILE, read_manifest

    target = this.folder() / "reward_model"
    if not (target / FILE).is_file():  # the folder appears when it is complete
        pairs = [
            pair for number in range(1, this.number + 1) for pair in read_pairs(this.folder(number) / "study.db").rows
        ]
        # prompts of two rounds may be near-duplicates, and one group must not be divided
        groups = prompt_groups([_text(pair.chosen.prompt) for pair in pairs])
        pairs = [replace(pair, group=group, split="") for pair, group in zip(pairs, groups, strict=True)]
        for scratch in this.folder().glob(".tmp-rm-*"):  # of a training that was killed
            shutil.rmtree(scratch, ignore_errors=True)
        chosen = {"model": "linear", **this.plan.loop.reward_model}
        settings = Settings(**{**chosen, "model": this.plan.path(chosen["model"])})
        train_reward_model(pairs, target, settings, quiet=this.quiet)
    training = read_manifest(target).training
    return {"pairs": training["train"], "held_out": training["held_out"], "metrics": training["metrics"]}


def train(this: Round) -> Result:
    """Train the policy on the reward model for a few steps. An interrupted run continues from its checkpoint.

    Raises:
        Stopped: a signal ended the run.
    """
    from rlalign.api import train_config
    from rlalign.compare.records.run_records import finished
    from rlalign.compare.running.run_folders import prepare_run

    gold = this.plan.gold
    rewards = (str((this.folder() / "reward_model").absolute()), *([f"{gold}=0"] if gold else []))
    config = this.config(rewards)
    run = this.folder() / "run"
    if not finished(run):
        status = train_config(prepare_run(config), quiet=this.quiet).exit_status
        if status:
            raise Stopped(status)
    return {"steps": config.steps}


def measure(this: Round) -> Result:
    """Return the reward model's and the gold reward on held-out prompts, before and after the round."""
    import json

    from rlalign.rewards.specs import resolve

    evaluation = json.loads((this.folder() / "run" / "report" / "evaluation.json").read_text(encoding="utf-8"))
    metrics = evaluation["metrics"]
    result: Result = {"prompts": len(evaluation["samples"]), "proxy": _values(metrics["reward"])}
    if this.plan.gold:
        ((reward, _),) = resolve([this.plan.gold])
        # a component that has the name of another metric has a prefix
        name = next(name for name in (f"reward/{reward.name}", reward.name) if name in metrics)
        result["gold"] = _values(metrics[name])
    if "kl" in metrics:
        result["kl"] = metrics["kl"]["after"]
    return result


STEPS: dict[str, Callable[[Round], Result]] = {
    "sample": sample, "vote": vote, "reward_model": reward_model, "train": train, "measure": measure,
}  # fmt: skip
"""Name -> step, in the order of `state.STEPS`."""


# ---- parts ----


def _values(metric: dict[str, Any]) -> Result:
    difference = metric["difference"]
    return {"before": metric["before"], "after": metric["after"], "low": difference["low"], "high": difference["high"]}


def _counts(location: Path) -> Result:
    from rlalign.feedback.progress import progress
    from rlalign.feedback.store import Store

    with Store(location) as store:
        return store.read(progress)


def _simulate(this: Round) -> None:
    """Let simulated people judge a copy of the store, which replaces the store when they are done."""
    from rlalign.feedback.people import invite
    from rlalign.feedback.simulate import answers, draw_taste, mark_simulated, reward_score, simulate
    from rlalign.feedback.store import Store
    from rlalign.feedback.web.serve import in_background

    loop = this.plan.loop
    _remove(copy := this.folder() / "voting.db")
    shutil.copy2(this.store, copy)
    seed = 1000 * (this.plan.study.seed + this.number)
    rng = random.Random(seed)
    tastes = [draw_taste(rng, noise=loop.noise, side=loop.side, length=loop.length) for _ in range(loop.people)]
    with Store(copy) as store, in_background(store) as address:
        study = store.study()
        links = store.write(lambda c: invite(c, loop.people, 1, actor="loop")).result()
        store.write(lambda c: mark_simulated(c, [link.pseudonym for link in links])).result()
        known = {**answers(study.practice), **answers(study.check)}
        simulate(address, [link.path for link in links], tastes, reward_score(this.plan.reward), known=known, seed=seed)
    if not _counts(copy)["votes"]:
        raise UserError("the simulated people left no vote; use more of them, or other items")
    os.replace(copy, this.store)


def _text(prompt: Any) -> str:
    return prompt if isinstance(prompt, str) else text_of([dict(message) for message in prompt])


def _remove(path: Path) -> None:
    """Remove a store that an interrupted step left."""
    for suffix in ("", "-wal", "-shm", ".lock"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)


def _new_prompts(this: Round, mdp: Any) -> list[tuple[Any, str]]:
    """Return the prompts of this round and their languages: no other round has them, and no evaluation.

    Raises:
        UserError: there are too few.
    """
    from rlalign.envs.encoded_prompts import is_finite
    from rlalign.feedback.prompts import read_prompts

    loop, study = this.plan.loop, this.plan.study
    held_out = set()
    if is_finite(mdp):
        for split in ("validation", "test"):
            held_out |= {str(mdp.source.get(split, i).prompt) for i in range(mdp.source.size(split))}
    prompts = [entry for entry in read_prompts(this.plan.prompts, study.count) if str(entry[0]) not in held_out]
    start = (this.number - 1) * loop.prompts
    if len(prompts) < start + loop.prompts:
        raise UserError(
            f"'{this.plan.prompts}': expected {start + loop.prompts} prompts that are not held out for evaluations, "
            f"got {len(prompts)}; add prompts, or use fewer per round"
        )
    return prompts[start : start + loop.prompts]
