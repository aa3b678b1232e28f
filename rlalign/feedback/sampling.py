"""The completions of a study: sampled from its policies once, or read from a file; and the items made of them."""

from __future__ import annotations

import hashlib
import itertools
import json
import random
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from rlalign.errors import UserError
from rlalign.feedback import tables
from rlalign.feedback.prompts import read_prompts, training_prompts
from rlalign.feedback.store import Store, insert_returning_id, log_event, now_ms
from rlalign.feedback.study import LABELS, Example, Study, number_of_completions, text_of, to_values
from rlalign.feedback.tables import VERSION
from rlalign.preferences.near_duplicates import prompt_groups

_BATCH = 16  # prompts that are sampled together


@dataclass(frozen=True, slots=True)
class Completion:
    """A completion of a prompt.

    Attributes:
        prompt: number of the prompt.
        policy: number of the policy.
        text: the completion.
        tokens: number of sampled tokens; None if it was read from a file.
        cut: a limit ended it.
    """

    prompt: int
    policy: int
    text: str
    tokens: int | None
    cut: bool


@dataclass(frozen=True, slots=True)
class Content:
    """All that people judge in a study.

    Attributes:
        policies: label and digest of each policy.
        prompts: messages and language of each prompt.
        completions: all completions.
    """

    policies: Sequence[tuple[str, str]]
    prompts: Sequence[tuple[list[dict[str, str]], str]]
    completions: Sequence[Completion]


def make_store(location: str | Path, study: Study, folder: Path, content: Content) -> dict[str, int]:
    """Write a new store with the completions and the items of a study.

    Args:
        location: of the new store.
        study: the study.
        folder: of study.toml.
        content: prompts and completions.

    Returns:
        Numbers of `prompts`, `groups` of prompts, `completions` and `items`.
    """
    if study.stop.width and len(content.policies) < 2:
        raise UserError("'stop.width': expected two policies or more, whose win rates have intervals; use stop.votes")
    texts = {part: text_of(study, part, folder) for part in ("consent", "guidelines")}
    groups = prompt_groups([_plain(messages) for messages, _ in content.prompts])
    items = list(_items(study, content))
    if not items:
        raise UserError("the study has no item: no prompt has enough completions; add policies or samples")

    def fill(connection: sa.Connection) -> dict[str, int]:
        config = json.dumps(to_values(study))
        insert_returning_id(
            connection, tables.study, name=study.name, config_json=config, config_hash=_digest(config),
            texts_json=json.dumps(texts), schema_version=VERSION, created=now_ms(), seed=study.seed,
        )  # fmt: skip
        sampling = json.dumps({**to_values(study)["sampling"], "seed": study.seed})
        policies = [
            insert_returning_id(connection, tables.policy, label=label, folder_digest=mark, sampling_json=sampling)
            for label, mark in content.policies
        ]
        prompt_rows = [
            _prompt_row(messages, language, group, study.seed)
            for (messages, language), group in zip(content.prompts, groups, strict=True)
        ]
        prompts = _insert_all(connection, tables.prompt, prompt_rows)
        completion_rows = [
            _completion_row(prompts[c.prompt], policies[c.policy], c.text, c.tokens, cut=c.cut)
            for c in content.completions
        ]
        ids = _insert_all(connection, tables.completion, completion_rows)
        rng = random.Random(study.seed)
        rows = [
            {
                "kind": study.kind, "prompt_id": prompts[prompt],
                "completion_ids": json.dumps([ids[i] for i in members]), "needed": study.votes_per_item,
                "free": study.votes_per_item, "priority": 0.0, "place": rng.random(),
                "selection": "random" if study.selection == "uncertainty" else study.selection,
            }
            for prompt, members in items
        ]  # fmt: skip
        connection.execute(sa.insert(tables.item), rows)
        for kind in ("practice", "check", "gold"):
            for example in getattr(study, kind):
                _insert_example(connection, kind, example, study.seed)
        log_event(connection, "command line", "create", study.name)
        groups_of_prompts = len(set(groups))
        return {"prompts": len(prompts), "groups": groups_of_prompts, "completions": len(ids), "items": len(rows)}

    with Store(location, create=True) as store:
        try:
            return store.write(fill).result()
        except BaseException:
            store.close()
            if not store.postgres:  # half a store would be taken for one
                for suffix in ("", "-wal", "-shm"):
                    Path(f"{location}{suffix}").unlink(missing_ok=True)
            raise


def _items(study: Study, content: Content) -> Iterator[tuple[int, list[int]]]:
    """Return the prompt and the completions of each item.

    A pair has completions of two policies, or two completions of the only policy. Equal texts are no item: no answer to
    them says anything. Empty texts are left out.
    """
    by_prompt: dict[int, list[int]] = defaultdict(list)
    for i, completion in enumerate(content.completions):
        if completion.text.strip():
            by_prompt[completion.prompt].append(i)
    _, most = number_of_completions(study.kind)
    for prompt, members in by_prompt.items():
        policies = {content.completions[i].policy for i in members}
        if study.kind == "rating":
            yield from ((prompt, [i]) for i in members)
        elif study.kind == "pair":
            for a, b in itertools.combinations(members, 2):
                first, second = content.completions[a], content.completions[b]
                if len(policies) > 1 and first.policy == second.policy:
                    continue
                if first.text != second.text:
                    yield prompt, [a, b] if first.policy <= second.policy else [b, a]
        else:
            unique = list({content.completions[i].text: i for i in members}.values())
            rng = random.Random(f"{study.seed}:{prompt}")
            rng.shuffle(unique)
            if len(unique) > 1:
                yield prompt, sorted(unique[:most])


def _prompt_row(messages: list[dict[str, str]], language: str, group: int, seed: int) -> dict[str, Any]:
    # the split is that of the group, so that near-duplicates stay together
    test = random.Random(f"{seed}:split:{group}").random() < 0.2
    return {
        "group_id": group, "split": "test" if test else "train",
        "messages_json": json.dumps(messages, ensure_ascii=False), "language": language, "source": "study",
    }  # fmt: skip


def _completion_row(prompt: int, policy: int | None, text: str, tokens: int | None, *, cut: bool) -> dict[str, Any]:
    return {
        "prompt_id": prompt, "policy_id": policy, "text": text, "tokens": tokens,
        "finish": "length" if cut else "stop", "digest": _digest(text),
    }  # fmt: skip


def _insert_all(connection: sa.Connection, table: sa.Table, rows: list[dict[str, Any]]) -> list[int]:
    """Insert rows, many by one statement, and return their ids in the order of the rows."""
    statement = sa.insert(table).returning(table.c.id, sort_by_parameter_order=True)
    return list(connection.execute(statement, rows).scalars())


def _insert_example(connection: sa.Connection, kind: str, example: Example, seed: int) -> None:
    (prompt,) = _insert_all(connection, tables.prompt, [_prompt_row(as_messages(example.prompt), "", -1, seed)])
    rows = [_completion_row(prompt, None, text, None, cut=False) for text in example.completions]
    ids = _insert_all(connection, tables.completion, rows)
    insert_returning_id(
        connection, tables.item, kind=kind, prompt_id=prompt, completion_ids=json.dumps(ids), needed=0, free=0,
        place=0.0, selection=kind, answer=example.answer, explanation=example.explanation,
    )  # fmt: skip


# ---- completions ----


def sample(study: Study, folder: Path, *, trust_run: bool = False) -> Content:
    """Sample the completions of the policies for the prompts, or read them from the file of the study.

    Args:
        study: the study.
        folder: of study.toml; paths are relative to it.
        trust_run: run the code that config.json files of other people's run folders name.

    Raises:
        UserError: a file or a policy cannot be used.
    """
    if study.completions:
        return _read_completions(study, folder / study.completions)
    if study.prompts:
        prompts = read_prompts(folder / study.prompts, study.count)
    else:
        prompts = training_prompts(folder / study.policies[0], study.count, trust_run=trust_run)
    completions: list[Completion] = []
    policies = []
    for number, name in enumerate(study.policies):
        path = folder / name
        policies.append((name, weights_digest(path / "policy")))
        completions += _sample_policy(study, path, number, [prompt for prompt, _ in prompts], trust_run=trust_run)
    return Content(policies, [(as_messages(prompt), language) for prompt, language in prompts], completions)


def _sample_policy(
    study: Study, folder: Path, number: int, prompts: Sequence[Any], *, trust_run: bool
) -> Iterator[Completion]:
    """Sample from the policy of a run. The same study gives the same completions on the same machine."""
    from rlalign.run import Run

    trained = Run(folder, trust=trust_run)
    yield from sample_from(
        study, trained.policy, trained.build_mdp(), prompts, number=number, sampling=trained.config.rollout.sampling
    )


def sample_from(
    study: Study, policy: Any, mdp: Any, prompts: Sequence[Any], *, number: int, sampling: Any
) -> Iterator[Completion]:
    """Sample the completions of a policy. The same study and number give the same completions on the same machine.

    Args:
        study: number of samples, their limits and the seed.
        policy: the policy.
        mdp: an environment, bound to the policy's tokenizer, that formats the prompts.
        prompts: texts or messages.
        number: of the policy in the study.
        sampling: the distribution, unless the study has another temperature.
    """
    import torch

    from rlalign.envs.vector_env import TokenVectorEnv
    from rlalign.policies.factory import make_sampler
    from rlalign.rollout.collect import collect
    from rlalign.types import Sampling, Task

    mdp = mdp.with_reward(None)
    tasks = [Task(prompt, {}, "test", i) for i, prompt in enumerate(prompts)]
    longest = max(len(mdp.tokenizer.encode_prompt(mdp.policy_prompt(task))) for task in tasks)
    limits = {"max_prompt": max(mdp.max_prompt, longest)}
    if study.sampling.max_new:
        limits["max_new"] = study.sampling.max_new
    mdp = mdp.with_limits(**limits)
    if study.sampling.temperature:
        sampling = Sampling(study.sampling.temperature, sampling.top_k, sampling.top_p)
    sampler = make_sampler("decode", policy)
    group = study.sampling.samples
    for start in range(0, len(tasks), _BATCH):
        part = tasks[start : start + _BATCH]
        policy.begin_rollout()
        seed = _seed(study.seed, number, start)
        with torch.no_grad():
            rollout = collect(
                TokenVectorEnv(mdp, len(part) * group), sampler, part, group_size=group, sampling=sampling,
                generator=torch.Generator(policy.device).manual_seed(seed), seed=seed,
            )  # fmt: skip
        for i, text in enumerate(rollout.completions):
            # `max_turns` truncates an episode of several turns, whose last turn is finished
            cut = bool(rollout.truncated[i]) and mdp.max_turns == 1
            yield Completion(start + i // group, number, text, int(rollout.num_actions[i]), cut)


def _seed(*numbers: int) -> int:
    return int(hashlib.sha256(repr(numbers).encode()).hexdigest()[:8], 16)


def weights_digest(folder: Path) -> str:
    """Return the digest of the weights in a policy folder."""
    content = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        content.update(path.read_bytes())
    return content.hexdigest()[:32]


def _read_completions(study: Study, path: Path) -> Content:
    """Read a file of prompt, policy and completion; optional columns are language and finish ("length": cut)."""
    from rlalign.envs.records.prompts import as_prompt
    from rlalign.envs.records.readers import read_table

    prompts: dict[str, int] = {}
    contents: list[tuple[list[dict[str, str]], str]] = []
    policies: dict[str, int] = {}
    completions = []
    for number, record in enumerate(read_table(path)):
        where = f"{path}, record {number + 1}"
        for column in ("prompt", "policy", "completion"):
            if record.get(column) in (None, "") and not (column == "completion" and record.get(column) == ""):
                raise UserError(f"{where}: expected a value in '{column}', got none; add it")
        try:
            messages = as_messages(as_prompt(record["prompt"]))
        except ValueError as error:
            raise UserError(f"{where}: {error}") from error
        if not isinstance(record["completion"], str):
            raise UserError(f"{where}: expected a text in 'completion', got {type(record['completion']).__name__}")
        key = json.dumps(messages)
        if key not in prompts:
            if study.count and len(prompts) >= study.count:
                continue
            prompts[key] = len(prompts)
            contents.append((messages, str(record.get("language") or "")))
        policy = policies.setdefault(str(record["policy"]), len(policies))
        cut = record.get("finish") == "length"
        text = _checked_text(record["completion"], where)
        completions.append(Completion(prompts[key], policy, text, None, cut))
    if not completions:
        raise UserError(f"'{path}': expected records of prompt, policy and completion, got none")
    return Content([(label, "") for label in policies], contents, completions)


def as_messages(prompt: Any) -> list[dict[str, str]]:
    """Return a prompt as messages; a plain text has the role "text"."""
    if isinstance(prompt, str):
        return [{"role": "text", "content": _checked_text(prompt, "a prompt")}]
    if not isinstance(prompt, list | tuple) or not all(isinstance(m, Mapping) and "content" in m for m in prompt):
        raise UserError(f"expected a prompt as a text or as messages, got {prompt!r}")
    return [
        {"role": str(m.get("role") or "user"), "content": _checked_text(str(m["content"]), "a prompt")} for m in prompt
    ]


def _plain(messages: Sequence[Mapping[str, str]]) -> str:
    """Return the text by which prompts are compared: without the system's messages, which prompts share."""
    users = [m for m in messages if m["role"] != "system"]
    return "\n".join(m["content"] for m in users or messages)


def named_policies(study: Study, content: Content, words: Sequence[str] = ()) -> list[str]:
    """Return warnings for completions that name a policy, or one of some words: people would know who wrote them.

    Args:
        study: the study.
        content: its completions.
        words: words of the user, such as names of models.
    """
    names = [Path(label).name for label, _ in content.policies] + list(words)
    warnings = []
    for name in dict.fromkeys(n for n in names if len(n) > 2):
        pattern = re.compile(rf"(?<!\w){re.escape(name)}(?!\w)", re.IGNORECASE)
        hits = [c for c in content.completions if pattern.search(c.text)]
        if hits:
            example = hits[0].text[max(0, pattern.search(hits[0].text).start() - 20) :][:60]  # type: ignore[union-attr]  # it matched
            warnings.append(f"{len(hits)} completions contain '{name}', such as {example!r}")
    return warnings


def empty_completions(content: Content) -> int:
    """Return the number of completions that are empty or only blanks; they are in no item."""
    return sum(not completion.text.strip() for completion in content.completions)


def _checked_text(text: str, where: str) -> str:
    """Return a text that every database stores; raise UserError for NUL and lone surrogates."""
    if "\x00" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise UserError(f"{where}: expected a text, got one with a NUL character or half a character; remove it")
    return text


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


__all__ = ["LABELS", "Completion", "Content", "as_messages", "make_store", "named_policies", "sample"]
