"""`evaluate_reward_model`, refits, seen prompts and the picture."""

from __future__ import annotations

import json

import pytest

from rlalign.errors import UserError
from rlalign.reward_models import Settings, evaluate_reward_model
from rlalign.reward_models.data import divide, read_pairs
from rlalign.reward_models.flipped import flip, refit_flipped
from rlalign.reward_models.picture import draw_reliability
from tests.reward_models.tiny import notes, write_rows


def test_other_data_is_measured_and_seen_prompts_are_counted(tmp_path, linear, pairs_file):
    other = write_rows(tmp_path / "o.jsonl", [{**row, "prompt": f"New {i}"} for i, row in enumerate(notes(60, seed=9))])
    result = evaluate_reward_model(linear, other)
    assert result.seen == 0
    assert result.metrics.pairs == 60
    assert result.metrics.accuracy.value > 0.6
    assert set(result.metrics.by_annotator) == {"p0", "p1", "p2"}
    json.dumps(result.to_json(), allow_nan=False)
    train, _ = divide(read_pairs(pairs_file).rows, test=0.2)
    assert evaluate_reward_model(linear, pairs_file).seen == len(train)


def test_split_and_ratings_are_checked(linear, pairs_file):
    with pytest.raises(UserError, match="expected one of the data's, got 'test'; use all, or one of none"):
        evaluate_reward_model(linear, pairs_file, split="test")
    with pytest.raises(UserError, match="expected a model of ratings"):
        evaluate_reward_model(linear, pairs_file, ratings=True)


def test_flip_exchanges_the_share(pairs_file):
    rows = read_pairs(pairs_file).rows
    changed = flip(rows, 0.25, 0)
    exchanged = [(a, b) for a, b in zip(rows, changed, strict=True) if a != b]
    assert len(exchanged) == 40
    assert all((a.chosen, a.rejected) == (b.rejected, b.chosen) for a, b in exchanged)
    assert flip(rows, 0.0, 0) == list(rows)


def test_refit_on_all_labels_flipped_is_wrong_where_the_fit_is_right(pairs_file):
    train, held_out = divide(read_pairs(pairs_file).rows, test=0.3)
    none, all_ = refit_flipped(train, held_out, Settings(model="linear"), (0.0, 1.0))
    assert none.accuracy.value > 0.6
    assert all_.accuracy.value == pytest.approx(1 - none.accuracy.value)  # no pair has equal scores


@pytest.mark.pictures
def test_picture_is_written(tmp_path, linear, pairs_file):
    bins = evaluate_reward_model(linear, pairs_file).metrics.reliability
    assert draw_reliability(bins, tmp_path / "r.svg").read_text().count("<svg") == 1
    with pytest.raises(UserError, match=r"got '.gif'"):
        draw_reliability(bins, tmp_path / "r.gif")
