"""docs/rewards.md has a row for every built-in reward, alarm and metric family."""

from pathlib import Path

from rlalign.evaluation.text_metrics import FAMILIES
from rlalign.log.alarms import ALARMS
from rlalign.registry import REWARDS

PAGE = (Path(__file__).parents[2] / "docs" / "rewards.md").read_text(encoding="utf-8")


def test_page_lists_every_reward_alarm_and_family():
    rows = {line.split("|")[1].strip().strip("`") for line in PAGE.splitlines() if line.startswith("| ")}
    missing = {*REWARDS.built_in, *ALARMS, *FAMILIES} - rows
    assert not missing, "run: python benchmarks/rewards.py"
