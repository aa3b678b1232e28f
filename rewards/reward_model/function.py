"""The reward of a spec that names a folder or a URL: `./rm`, `runs/rm?how=min`, `http://127.0.0.1:8000/score`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlalign.errors import UserError
from rlalign.rewards.function import RewardFunction
from rlalign.rewards.reward_model.manifest import FILE
from rlalign.rewards.reward_model.rendering import Sample


def is_url(name: str) -> bool:
    """Return whether the name of a reward is the URL of a server."""
    return name.startswith(("http://", "https://"))


def is_folder(name: str) -> bool:
    """Return whether the name of a reward is the path of a folder: it has a `/` and no `:`, as `file.py:attr` has."""
    return "/" in name and ":" not in name and not name.endswith(".py")


def reward_of(name: str) -> RewardFunction:
    """Return the reward of a folder or a URL. No weight is loaded before the first call.

    Args:
        name: a path with a `/`, or a URL.

    Raises:
        UserError: there is no such folder, or it holds no reward model.
    """
    if is_url(name):
        from rlalign.rewards.reward_model.remote import RemoteReward

        return RewardFunction("reward_server", RemoteReward(name), timeout_s=None)
    from rlalign.rewards.reward_model.folder import is_reward_model

    path = Path(name).expanduser()
    if not path.is_dir() or not is_reward_model(path):
        what = f"a folder without {FILE}" if path.is_dir() else "no folder"
        raise UserError(
            f"reward '{name}': expected the folder of a reward model, got {what}; use rlalign reward-model train, or a "
            "name of `rlalign list rewards`"
        )
    return RewardFunction(path.resolve().name, FolderReward(name), timeout_s=None)


class FolderReward:
    """Score of a reward model in a folder.

    Each conversation is rendered again by the model's own template and tokenizer. A completion that a limit cut
    (`truncated`) has no end mark. An episode of several turns is a conversation whose environment messages are those
    of the user; its last turn counts as finished.

    Range: unbounded; Bradley-Terry scores are known up to a constant.
    Cost: one forward pass of the model per completion.
    Deterministic on one machine.
    Hacked by: texts far from its training data (Gao et al., arXiv 2210.10760).

    Args:
        folder: path of the folder.
        device: torch device of the calls.
    """

    def __init__(self, folder: str, device: str = "cpu") -> None:
        self._folder = folder
        self._device = device

    def bind(self, policy: Any) -> FolderReward:
        """Return the same reward on the policy's device."""
        return type(self)(self._folder, str(policy.device))

    def __call__(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        truncated: Sequence[bool] | None = None,
        turns: Sequence[Sequence[str]] | None = None,
        replies: Sequence[Sequence[str]] | None = None,
        *,
        how: str = "",
        coef: float | None = None,
        form: str = "",
        centered: bool = False,
        device: str | None = None,
        **columns: Any,
    ) -> list[float]:
        """Return the scores of B completions.

        Args:
            prompts: B texts or conversations.
            completions: B texts or conversations.
            truncated: B flags; None: all completions are finished.
            turns: of each episode, its turns.
            replies: of each episode, the messages of the environment after its turns.
            how: mean, min or penalised, of an ensemble; empty: that of its reward_model.json.
            coef: weight of the members' disagreement for penalised; None: that of its reward_model.json.
            form: text or chat; empty: that of the model.
            centered: subtract the mean score of the training completions.
            device: torch device; by default the policy's.
            columns: ignored.

        Raises:
            UserError: the folder is no reward model, or its scores are not those of its training.
        """
        from rlalign.rewards.reward_model.ensemble import EnsembleScorer
        from rlalign.rewards.reward_model.folder import cached_scorer

        if form not in ("", "text", "chat"):
            raise UserError(f"reward '{self._folder}': expected form text or chat, got '{form}'; use form=chat")
        scorer, manifest = cached_scorer(self._folder, device or self._device, form or None)  # type: ignore[arg-type]
        samples = samples_of(prompts, completions, truncated, turns, replies)
        if isinstance(scorer, EnsembleScorer):
            values = scorer.combined(scorer.member_scores(samples), how or None, coef)
        elif how or coef is not None:
            raise UserError(
                f"reward '{self._folder}': expected an ensemble for how and coef, got one model; leave them out"
            )
        else:
            values = scorer.scores(samples)
        if centered and manifest is not None and not isinstance(scorer, EnsembleScorer):  # an ensemble is centered
            values = values - manifest.center
        return [float(value) for value in values]


def samples_of(
    prompts: Sequence[Any],
    completions: Sequence[Any],
    truncated: Sequence[bool] | None,
    turns: Sequence[Sequence[str]] | None,
    replies: Sequence[Sequence[str]] | None,
) -> list[Sample]:
    """Return prompts and completions as samples; see `FolderReward`."""
    samples = []
    for i, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        cut = bool(truncated[i]) if truncated is not None else False
        if turns is not None and len(turns[i]) > 1:
            answers = list(replies[i]) if replies is not None else []
            messages = [{"role": "assistant", "content": turns[i][0]}]
            for turn, answer in zip(turns[i][1:], answers, strict=False):
                messages += [{"role": "user", "content": answer}, {"role": "assistant", "content": turn}]
            samples.append(Sample(prompt, messages))
        else:
            samples.append(Sample(prompt, completion, cut))
    return samples
