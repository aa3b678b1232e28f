"""Round trip of results.json, and errors of damaged files of studies and searches."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlalign.cli import main
from rlalign.compare.results.results_json import from_json, to_json
from rlalign.compare.tuning.search_results import SearchResults, write_search, write_trials
from rlalign.config.schema import TrainConfig
from rlalign.errors import UserError

EXAMPLE = Path(__file__).parents[2] / "data" / "results.json"


def test_the_worked_example_is_read_and_written_unchanged() -> None:
    text = EXAMPLE.read_text(encoding="utf-8")
    assert to_json(from_json(json.loads(text))) == text
    with pytest.raises(UserError, match="format 1"):
        from_json({})


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("results.json", "{", "results.json' is damaged"),
        ("results.json", b"\xff", "results.json' is damaged"),
        ("results.json", '{"format": 1}', "does not follow the schema"),
        ("results.json", "nonsense", "does not follow the schema"),
        ("trials.json", "{", "trials.json' is damaged"),
        ("search.json", "{", "search.json' is damaged"),
    ],
)
def test_the_error_of_a_damaged_file_is_one_line_that_names_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, text: str | bytes, message: str
) -> None:
    if name != "results.json":
        write_search(tmp_path, {}, TrainConfig(), 0)
        write_trials(tmp_path, SearchResults({}, TrainConfig(), [], None))
    if text == "nonsense":
        text = json.dumps({**json.loads(EXAMPLE.read_text()), "nonsense": 1})
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    assert main(["report", str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert len(err.splitlines()) == 1
