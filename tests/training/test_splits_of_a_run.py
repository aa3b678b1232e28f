"""A run whose data lacks a split that it reads is refused before anything is written."""

import json

import pytest

import rlalign
from rlalign.errors import UserError

SMALL = {"steps": 1, "rollout__prompts": 2, "rollout__group_size": 2, "evaluation__prompts": 2, "quiet": True}
PATIENT = {"evaluation__every": 1, "evaluation__patience": 1}


@pytest.mark.parametrize(
    ("counts", "missing", "settings"),
    [
        ({"validation": 4, "test": 4}, "train", {}),
        ({"train": 2}, "validation", {}),  # too few prompts to cut the other splits from
        ({"train": 2, "validation": 4}, "test", PATIENT),
    ],
)
def test_an_empty_split_is_refused_before_the_run_begins(tmp_path, counts, missing, settings):
    lines = [{"prompt": f"{split} {i}", "split": split} for split, count in counts.items() for i in range(count)]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(UserError, match=f"expected {missing} tasks, got none"):
        rlalign.train(
            str(tmp_path / "data.jsonl"), "gru", rewards="length?target=3", output=tmp_path / "run", **SMALL, **settings
        )
    assert not (tmp_path / "run").exists()
