"""The cores that a container may use."""

from __future__ import annotations

from pathlib import Path

from rlalign.compare.running.machine_capacity import usable_cores


def test_the_quota_of_a_container_limits_the_cores(tmp_path: Path) -> None:
    quota = tmp_path / "cpu.max"
    quota.write_text("50000 100000\n")
    assert usable_cores(quota) == 0.5
    quota.write_text("max 100000\n")
    assert usable_cores(quota) == usable_cores(tmp_path / "none") >= 1
