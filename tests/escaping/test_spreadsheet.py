"""Cells of CSV files that a spreadsheet program must not run."""

import csv

import pytest

from rlalign.compare.output.results_csv import write_csv
from rlalign.escaping.spreadsheet import cell


@pytest.mark.parametrize("text", ["=1+1", "+cmd", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "\n=1", " =1", "=", "-", "--x"])
def test_a_formula_becomes_a_text(text):
    assert cell(text) == f"'{text}"


@pytest.mark.parametrize("value", ["grpo", "-0.5", "+1e-05", "a=b", "", "'", 1, -1.5, None, True, "-inf", "nan"])
def test_numbers_and_other_texts_stay(value):
    assert cell(value) == value


def test_a_lone_surrogate_can_be_written():
    assert cell("\ud800") == "\\ud800"


def test_results_csv_holds_no_formula(monkeypatch, tmp_path):
    rows = [{"env": "=HYPERLINK(1)", "algorithm": "@a", "reward": -0.5}]
    monkeypatch.setattr("rlalign.compare.output.results_csv.csv_rows", lambda _: rows)
    with open(write_csv(tmp_path, None)) as file:  # type: ignore[arg-type]  # the rows above stand for the results
        assert list(csv.DictReader(file)) == [{"env": "'=HYPERLINK(1)", "algorithm": "'@a", "reward": "-0.5"}]
