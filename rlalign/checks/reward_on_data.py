"""The checks of a reward on real data: prompts, references and sampled completions of an environment or a data file.

Each completion is scored in both forms in which a reward may receive it: as a text, and as a list of messages, which
TRL and this library pass if the prompt is a conversation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from rlalign.checks.invariant import TOLERANCE, CheckResult, run_check
from rlalign.checks.reward import FORMS, REMEDY
from rlalign.envs.episode import Episode
from rlalign.envs.mdp import TextMDP
from rlalign.envs.mixture.parts import single
from rlalign.envs.registration import make_mdp
from rlalign.envs.task_stream import TaskStream
from rlalign.envs.vector_env import TokenVectorEnv
from rlalign.errors import RewardError, UserError
from rlalign.rewards.text import shorten, text_of
from rlalign.typecheck import check_range
from rlalign.types import FloatArray, Sampling, Task

_GROUP = 4  # sampled completions per task


def check_reward_on_data(
    spec: Any, env: Any, *, policy: str = "gru", tasks: int = 16, seed: int = 0
) -> list[CheckResult]:
    """Run a reward on prompts, references and sampled completions of data (`rlalign check REWARD --env DATA`).

    Four completions per task are sampled from the policy. With them are scored the task's reference trajectory and that
    of the next task, if the environment knows any. A text prompt becomes a message of the user for the form of
    messages, and a conversation its contents for the form of texts.

    Args:
        spec: one spec of `rlalign.rewards.compose`.
        env: any argument of `rlalign.make_mdp`: a data file, the name of an environment, records.
        policy: samples the completions: a run folder, a policy folder or a name; by default a small random one.
        tasks: number of train tasks, at least 2.
        seed: of the tasks and of the sampling.

    Returns:
        A result per check, in a fixed order. A failure in the form that the data has fails; one in the other form is a
        warning.

    Raises:
        UserError: a name is unknown, or a prompt does not fit the environment.

    Example:
        >>> def contains(completions, answer, **columns):
        ...     return [float(right in completion) for completion, right in zip(completions, answer)]
        >>> rows = [{"prompt": [{"role": "user", "content": f"{i}+1="}], "answer": str(i + 1)} for i in range(9)]
        >>> [result.name for result in check_reward_on_data(contains, rows) if not result.passed]
        ['texts and messages score equally', 'scores differ']
    """
    # these import torch, which takes longer than --help
    from rlalign.config.instantiate import bind
    from rlalign.policies.factory import make_policy

    check_range("tasks", tasks, least=2)
    check_range("seed", seed, least=0)
    mdp = single(make_mdp(env, rewards=[spec]), "the check of a reward on data")
    sampler = make_policy(policy, tokenizer=mdp.tokenizer, seed=seed)
    mdp = bind(mdp, sampler)
    try:
        episodes = _episodes(mdp, sampler, TaskStream(mdp.source, "train", seed=seed).next(tasks), seed)
        return _results(mdp, episodes)
    finally:
        mdp.reward.close()


def _results(mdp: TextMDP, episodes: dict[str, list[Episode]]) -> list[CheckResult]:
    messages = not isinstance(episodes["sampled"][0].task.prompt, str)
    form, other = ("messages", "texts") if messages else ("texts", "messages")
    scores: dict[str, FloatArray] = {}

    def score_own_form() -> str:
        for kind, rows in episodes.items():
            try:
                scores[kind] = _score(mdp, rows)
            except (RewardError, UserError) as error:
                return f"{kind} completions: {error}" + (f"; likely cause: {REMEDY}" if messages else "")
        return ""

    results = [run_check(f"prompts and completions of the data can be scored, as {form}", score_own_form)]
    if not results[0].passed:
        return results
    difference, raised = _form_difference(mdp, episodes, scores, other)
    # A reward that raises on texts is one of messages, which these data are; another score is a mistake.
    passed = not difference or raised or not messages
    results.append(CheckResult(FORMS, passed, difference, warning=bool(difference)))
    results.append(run_check("scores differ", lambda: _all_equal(mdp, scores)))
    sampled = scores["sampled"]
    if results[-1].passed and np.ptp(sampled) <= TOLERANCE:  # NaN compares as false
        note = f"all {len(sampled)} sampled completions score {sampled[0]:g}; while that is so, a run learns nothing"
        results.append(CheckResult("scores of sampled completions differ", True, note, warning=True))
    means = ", ".join(f"{kind} {_mean(values):.3g}" for kind, values in scores.items())
    cut = sum(row.truncated for row in episodes.get("reference", []) if mdp.max_turns == 1)
    note = f"; {cut} references were cut at max_new, {mdp.max_new} tokens" if cut else ""
    results.append(CheckResult("mean scores", True, means + note, warning=bool(cut)))
    return results


def _mean(values: FloatArray) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if finite.size else float("nan")


def _form_difference(
    mdp: TextMDP, episodes: dict[str, list[Episode]], scores: dict[str, FloatArray], form: str
) -> tuple[str, bool]:
    """Return the first completion whose score in another form raises or differs (or ""), and whether it raised."""
    for kind, rows in episodes.items():
        try:
            other = _score(mdp, [_in_form(row, form) for row in rows])
        except (RewardError, UserError) as error:
            remedy = f"; {REMEDY}" if form == "messages" else ""
            return f"as {form} the {kind} completions cannot be scored: {error}{remedy}", True
        unequal = np.flatnonzero(~np.isclose(other, scores[kind], rtol=0, atol=1e-6, equal_nan=True))
        if unequal.size:
            i = int(unequal[0])
            text = shorten("\n".join(rows[i].texts))
            values = f"scores {scores[kind][i]:g}, and {other[i]:g} as {form}"
            return f"the {kind} completion {text} {values}: {REMEDY}", False
    return "", False


def _all_equal(mdp: TextMDP, scores: dict[str, FloatArray]) -> str:
    """Return a note if nothing can be learned from the scores, or an empty text."""
    values = np.concatenate(list(scores.values()))
    values = values[np.isfinite(values)]
    if not values.size:
        return "no completion has a score: every value is None or NaN, so nothing can be learned; read the function"
    if np.ptp(values) <= TOLERANCE:
        kinds = " and ".join(kind for kind in scores if kind != "other references")
        return (
            f"all {values.size} completions, {kinds}, score {values[0]:g}, so nothing can be learned; compare the "
            "format that the reward expects with the completions, and the names of its columns with the data's: "
            f"{', '.join(_columns(mdp)) or 'none'}"
        )
    return ""


def _columns(mdp: TextMDP) -> Sequence[str]:
    return list(mdp.source.get("train", 0).columns)


def _in_form(episode: Episode, form: str) -> Episode:
    """Return an episode whose prompt has the other form; the form of completions follows it."""
    prompt = episode.task.prompt
    changed: Any = text_of(prompt) if form == "texts" else [{"role": "user", "content": prompt}]
    return replace(episode, task=replace(episode.task, prompt=changed))


# ---- episodes ----


def _episodes(mdp: TextMDP, policy: Any, tasks: list[Task], seed: int) -> dict[str, list[Episode]]:
    """Return finished episodes by the origin of their turns, played without the reward."""
    import torch

    from rlalign.policies.factory import make_sampler
    from rlalign.rollout.collect import collect

    unscored = mdp.with_reward(None)
    env = TokenVectorEnv(unscored, len(tasks) * _GROUP)
    policy.begin_rollout()
    with torch.no_grad():
        collect(
            env,
            make_sampler("decode", policy),
            tasks,
            group_size=_GROUP,
            sampling=Sampling(),
            generator=torch.Generator(policy.device).manual_seed(seed),
            seed=seed,
        )
    episodes = {"sampled": env.episodes}
    turns = [mdp.reference_turns(task) for task in tasks]
    known = [i for i, texts in enumerate(turns) if texts]
    if known:
        references = [turns[i] or () for i in known]
        owners = [tasks[i] for i in known]
        episodes["reference"] = _play(unscored, owners, references, seed)
        # the references of the next tasks: wrong answers in the right format
        episodes["other references"] = _play(unscored, owners, references[1:] + references[:1], seed)
    return episodes


def _play(mdp: TextMDP, tasks: Sequence[Task], turns: Sequence[Sequence[str]], seed: int) -> list[Episode]:
    """Return the episodes in which the policy's turns are these texts; the last one is repeated until the end."""
    env = TokenVectorEnv(mdp, len(tasks))
    env.reset(seed=seed, options={"tasks": list(tasks)})
    number = 0
    while not env.done.all():
        rows = [mdp.tokenizer.encode(texts[min(number, len(texts) - 1)]) for texts in turns]
        rows = [[*ids, mdp.tokenizer.eos_id][: mdp.max_new] for ids in rows]
        tokens = np.zeros((len(rows), mdp.max_new), np.int64)
        for i, ids in enumerate(rows):
            tokens[i, : len(ids)] = ids
        env.step_tokens(tokens, np.where(env.done, 0, [len(ids) for ids in rows]))
        number += 1
    return env.episodes


def _score(mdp: TextMDP, episodes: list[Episode]) -> FloatArray:
    """Return the rewards of finished episodes, of group scope too; NaN where one failed."""
    total: FloatArray = mdp.score(episodes, [True] * len(episodes)).total
    if "group" in mdp.reward.scopes.values():
        ids: dict[int, int] = {}
        groups = [ids.setdefault(id(episode.task), len(ids)) for episode in episodes]
        scores = mdp.reward.score("group", *mdp.texts(episodes), **mdp.columns(episodes), group_ids=groups)
        total = total + scores.total
    return total
