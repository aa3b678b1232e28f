"""The prompts of a study: those of a data file, or those that a policy was trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rlalign.errors import UserError


def read_prompts(path: Path, count: int) -> list[tuple[Any, str]]:
    """Return prompts and their languages (column `language`) from a data file."""
    from rlalign.envs.records.prompts import as_prompt, split_last_answer
    from rlalign.envs.records.readers import read_table

    prompts: list[tuple[Any, str]] = []
    table = read_table(path)
    for number, record in enumerate(table):
        if count and len(prompts) >= count:
            break
        try:
            value = record.get("prompt") or record.get("messages")
            if value is None:
                columns = ", ".join(map(str, record)) or "none"
                raise ValueError(f"expected a column 'prompt' or 'messages', got the columns {columns}; rename one")
            prompt, _ = split_last_answer(as_prompt(value))
        except ValueError as error:
            raise UserError(f"{path}, record {number + 1}: {error}") from error
        prompts.append((prompt, str(record.get("language") or "")))
    if not prompts:
        raise UserError(f"'{path}': expected prompts, got none; add records with a column prompt")
    return prompts


def training_prompts(folder: Path, count: int, *, trust_run: bool = False) -> list[tuple[Any, str]]:
    """Return the training prompts of a run's environment, without a language. Those held out for evaluations are none.

    Args:
        folder: run folder.
        count: number of prompts; 0: all.
        trust_run: run the code that the run's config.json names.

    Raises:
        UserError: the folder holds no run, or its environment has no last prompt and there is no count.
    """
    from rlalign.run import Run

    source = Run(folder, trust=trust_run).build_mdp().source
    size = source.size("train")
    if size is None and not count:
        raise UserError(
            f"'count': expected a number of prompts of '{folder}', whose environment has no last one, got 0; use "
            "count = 100, or a data file with prompts"
        )
    number = count if size is None else min(count or size, size)
    return [(source.get("train", i).prompt, "") for i in range(number)]
