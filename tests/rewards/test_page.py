"""docs/rewards.md has a row for every built-in reward, as its docstring says."""

from pathlib import Path

from rlalign.evaluation.text_metrics import FAMILIES
from rlalign.log.alarms import ALARMS
from rlalign.registry import REWARDS

PAGE = (Path(__file__).parents[2] / "docs" / "rewards.md").read_text(encoding="utf-8")


def test_every_reward_alarm_and_family_is_on_the_page():
    rows = {line.split("|")[1].strip().strip("`") for line in PAGE.splitlines() if line.startswith("| ")}
    missing = {*REWARDS._paths, *ALARMS, *FAMILIES} - rows
    assert not missing, "run: python benchmarks/rewards.py"
