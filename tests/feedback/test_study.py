"""study.toml: what is read, and what is refused with the name of the setting."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlalign.errors import UserError
from rlalign.feedback.study import from_values, read_study, text_of, to_values
from tests.feedback.conftest import CHECK, GOLD, PRACTICE, write_study


def test_a_study_survives_its_json_values(tmp_path: Path) -> None:
    study = read_study(write_study(tmp_path, 'kind = "pair"\ngold_share = 0.1\n' + PRACTICE + CHECK + GOLD))
    assert from_values(to_values(study)) == study
    assert study.practice[0].completions == ("4", "5")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("votes = 3", "unknown setting 'votes' of a study"),
        ("votes_per_item = 0", "votes_per_item"),
        ('kind = "pairs"', "kind"),
        ('kind = "rating"', "add .*scales"),
        ('languages = ["de"]', "expected some of en, zh"),
        ('selection = "best"', "unknown selection 'best'"),
        ("gold_share = 0.2", "expected gold questions"),
        ("gold_share = 0.9", "at most 0.5"),
        ('policies = ["runs/a"]', "got both"),
        ("practice = 3", "use \\[\\[practice\\]\\]"),
        (PRACTICE.replace('answer = "a"', 'answer = "c"'), "'practice.answer': expected one of"),
        (PRACTICE.replace('"4", "5"', '"4"'), "'practice.completions': expected 2"),
        (PRACTICE.replace('answer = "a"', ""), "'practice.answer'"),
        ("lease_minutes = 0", "lease_minutes"),
        ("items_per_person = -1", "items_per_person"),
        ('languages = ["en", "en"]', "got 'en' twice"),
        ('[[scales]]\nname = "help"', "leave the scales out"),
        (GOLD, "use gold_share = 0.1"),
        ('kind = "ranking"\n[stop]\nwidth = 3', "expected kind 'pair'"),
        ('kind = "rating"\n[[scales]]\nname = "help"\nlow = { zh = "x" }', "texts in en, got one in 'zh'"),
        ("[stop]\nsignificance = 0.05", "unknown setting 'stop.significance'"),
    ],
)
def test_a_wrong_setting_is_named(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        read_study(write_study(tmp_path, text))


def test_the_points_of_a_known_rating_may_be_a_number(tmp_path: Path) -> None:
    scales = '[[scales]]\nname = "help"\n[[gold]]\nprompt = "2 + 2 ="\ncompletions = ["4"]\nanswer = 5\n'
    study = read_study(write_study(tmp_path, f'kind = "rating"\ngold_share = 0.1\n{scales}'))
    assert study.gold[0].answer == "5"


def test_a_missing_or_broken_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none.toml' cannot be read"):
        read_study(tmp_path / "none.toml")
    (tmp_path / "broken.toml").write_text("name = ")
    with pytest.raises(UserError, match="no TOML file"):
        read_study(tmp_path / "broken.toml")
    (tmp_path / "empty.toml").write_text("")
    with pytest.raises(UserError, match="'name' of a study"):
        read_study(tmp_path / "empty.toml")


def test_a_file_of_a_language_is_preferred(tmp_path: Path) -> None:
    (tmp_path / "rules.md").write_text("Choose.")
    (tmp_path / "rules.zh.md").write_text("请选择。", encoding="utf-8")
    study = read_study(write_study(tmp_path, 'guidelines = "rules.md"\nlanguages = ["en", "zh"]'))
    assert text_of(study, "guidelines", tmp_path) == {"en": "Choose.", "zh": "请选择。"}
    missing = read_study(write_study(tmp_path, 'consent = "none.md"'))
    with pytest.raises(UserError, match="consent: "):
        text_of(missing, "consent", tmp_path)
