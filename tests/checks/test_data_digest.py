"""The digest of a run's data changes with all that decides which records are dropped."""

from pathlib import Path
from typing import Any

import rlalign
from rlalign.checks.data_pass import data_digest
from rlalign.config.schema import TrainConfig
from rlalign.envs.mdp import TextMDP


def made(**columns: Any) -> TextMDP:
    rows = [{"prompt": f"{i}=", "answer": str(i), **columns} for i in range(10)]
    return rlalign.make_mdp(TextMDP, source=rows, rewards="exact_match")


def test_a_repaired_reward_file_repeats_the_pass(tmp_path: Path) -> None:
    path = tmp_path / "mark.py"
    config = TrainConfig(rewards=(f"{path}:f",))
    digests = []
    for code in ("a.isdigit()", "str(a).isdigit()", "a.isdigit()"):
        path.write_text(f"def f(completions, answer):\n    return [float({code}) for a in answer]\n")
        digests.append(data_digest(config, made(), None))
    assert digests[0] == digests[2] != digests[1]


def test_columns_with_keys_of_several_types_have_a_digest() -> None:
    tables = ({1: 2, "b": 3}, {1: 2, "b": 4}, {(1, 2): 3})
    assert len({data_digest(TrainConfig(), made(table=table), None) for table in tables}) == 3
