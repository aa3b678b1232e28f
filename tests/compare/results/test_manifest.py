"""The manifest: fingerprints of studies, and the commit of the source."""

from __future__ import annotations

from rlalign.compare.results.manifest import fingerprint
from rlalign.compare.study import Study, build_cells


def test_the_fingerprint_depends_on_the_settings_and_not_on_the_folder() -> None:
    study = Study(("rloo",), ("reverse",), seeds=(0, 1), output="a")
    elsewhere = Study(("rloo",), ("reverse",), seeds=(0, 1), output="b")
    by_id = Study(("rloo",), ("rlalign/Reverse-v0",), seeds=(0, 1), output="b")
    other = Study(("rloo",), ("reverse",), seeds=(0, 1), output="a", settings={"lr": 0.1})
    assert fingerprint(build_cells(study)) != fingerprint(build_cells(other))
    assert len({fingerprint(build_cells(s)) for s in (study, elsewhere)}) == 1
    assert build_cells(by_id)[0].name == build_cells(study)[0].name
