"""All that a run takes from the former run whose policy it continues."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from rlalign.config.schema import TrainConfig
from rlalign.continual.chain import Ancestor, Link, followed, manifest_chain, recorded_chain
from rlalign.continual.check import settings_in_use
from rlalign.continual.ewc import EWC
from rlalign.continual.fisher import diagonal_fisher
from rlalign.continual.former_environment import former_mdp
from rlalign.continual.former_weights import check_same_tensors, read_former_weights
from rlalign.continual.kept_optimizer import keep_moments
from rlalign.continual.previous_reference import previous_reference
from rlalign.continual.replay import with_replay
from rlalign.envs.mdp import TextMDP
from rlalign.errors import UserError
from rlalign.escaping.console import PlainConsole
from rlalign.policies.base import Policy, ReferenceScorer
from rlalign.storage.run_folder import read_config


@dataclass
class Continuation:
    """The parts of a run that come from former runs; without a parent there are none.

    Attributes:
        config: of the run.
        policy: of the run.
        console: prints notes.
        chain: of former runs, the parent first; the manifest of each checkpoint holds it.
        parent: the parent as it is found now; None: the policy is not that of a run.
        reference: the reference policy in place of the initial one; None: the initial one.
        second_reference: a second reference policy, for continual.anchor both; None: there is one only.
        ewc: the penalty of continual.ewc; None: there is none.
    """

    config: TrainConfig
    policy: Policy
    console: PlainConsole
    chain: Sequence[Ancestor] = ()
    parent: Link | None = None
    reference: ReferenceScorer | None = None
    second_reference: ReferenceScorer | None = None
    ewc: EWC | None = None

    def begin(self, optimizer: torch.optim.AdamW) -> None:
        """Set the state of the optimizer and compute the Fisher information, before the first update of a new run.

        Args:
            optimizer: of the policy's trained parameters, without any step.

        Raises:
            UserError: the trained tensors are not those of the former run, or its environment cannot be built.
        """
        continual = self.config.continual
        folder = self._former_folder
        kept = continual.optimizer == "kept"
        if folder is None or not (kept or self.ewc):
            return
        parameters = self.policy.trainable()
        setting = "continual.optimizer kept" if kept else f"continual.ewc {continual.ewc:g}"
        former = read_former_weights(folder, setting)
        if kept:
            keep_moments(former, parameters, optimizer)
            if former.is_best:
                self.console.warn(
                    f"continual.optimizer kept: '{folder}' ended with the weights of its best validation, and the "
                    "moments are those of its last step"
                )
        if self.ewc:
            check_same_tensors(former, parameters, f"continual.ewc {continual.ewc:g}")
            self.ewc.begin(self._fisher(folder))

    def with_replay(self, mdp: TextMDP) -> TextMDP:
        """Return the environment that the run samples from: its own, or with replay the mixture with the former one.

        Args:
            mdp: the run's own environment, bound to the policy's tokenizer.

        Raises:
            UserError: the former environment cannot be built.
        """
        folder, continual = self._former_folder, self.config.continual
        if folder is None or not continual.replay:
            return mdp
        former_config = read_config(folder)
        former = former_mdp(folder, former_config, self.policy, self.console, trust=self.config.trust_run)
        ends = " to 0 in the last step" if continual.replay_schedule == "linear" else ""
        self.console.print(f"replay: a share of {continual.replay:g}{ends} of the prompts from {former.id}")
        return with_replay(self.config, mdp, former_config, former)

    @property
    def _former_folder(self) -> Path | None:
        return None if self.parent is None else self.parent.path

    def _fisher(self, folder: Path) -> dict[str, torch.Tensor]:
        former = read_config(folder)
        samples = self.config.continual.ewc_samples
        mdp = former_mdp(folder, former, self.policy, self.console, trust=self.config.trust_run)
        try:
            fisher = diagonal_fisher(
                self.policy,
                mdp,
                samples=samples,
                sampling=former.rollout.sampling,
                sampler=self.config.rollout.sampler,
                seed=self.config.seed,
            )
        finally:
            mdp.reward.close()
        total = float(torch.stack([value.sum().double() for value in fisher.values()]).sum())
        self.console.print(
            f"ewc: Fisher information of {len(fisher)} tensors from {samples} completions of {mdp.id}, trace "
            f"{total:.3g}",
            soft_wrap=True,
        )
        return fisher


def continuation(
    config: TrainConfig, folder: Path, policy: Policy, console: PlainConsole, *, resumed: bool
) -> Continuation:
    """Return what a run takes from former runs; nothing if its policy is not that of a run.

    A run that is resumed has the chain that it recorded. A former run that is not as recorded is reported.

    Args:
        config: of the run, checked by `check_continual`.
        folder: of the run.
        policy: its initial policy.
        console: prints notes and warnings.
        resumed: the folder holds the run already.

    Raises:
        UserError: a former run that a setting reads is not as recorded.
    """
    stored = manifest_chain(folder) if resumed else None
    chain = recorded_chain(folder, config.policy) if stored is None else stored
    if not chain:
        return Continuation(config, policy, console)
    links = followed(chain, folder)
    used = settings_in_use(config)
    for i, link in enumerate(links):
        for problem in link.problems:
            if i == 0 and used and link.config_changed and not config.allow_change:
                raise UserError(f"{', '.join(used)}: {problem}; restore it, or insist with --allow-change")
            console.warn(problem)
    result = Continuation(config, policy, console, chain, links[0])
    continual = config.continual
    if continual.anchor != "new" and config.objective.needs_reference:
        previous = previous_reference(links, policy, trust=config.trust_run)
        if continual.anchor == "previous":
            result.reference = previous
        else:
            result.second_reference = previous
    if continual.ewc > 0:
        result.ewc = EWC(continual.ewc, policy.trainable())
    return result
