"""Figures of a paper, by hand, by brute force, or by the library that defines them."""

import math
from itertools import combinations

import numpy as np
import pytest

from rlalign.errors import UserError
from rlalign.evaluation.text_metrics import (
    attempts,
    classification,
    distinct,
    families_of,
    fold_means,
    pass_at_k,
    report,
    spans,
    summary,
    translation,
)
from rlalign.rewards.builtin.labels import INVALID


@pytest.mark.parametrize(("n", "c"), [(1, 0), (1, 1), (5, 0), (5, 2), (6, 5), (6, 6)])
def test_pass_at_k_is_the_share_of_subsets_with_a_right_one(n, c):
    right = [True] * c + [False] * (n - c)
    for k in range(1, n + 1):
        subsets = list(combinations(right, k))
        assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))


def test_pass_at_k_refuses_more_attempts_than_samples():
    with pytest.raises(ValueError, match=r"pass@3 of 2"):
        pass_at_k(2, 1, 3)


def test_attempts():
    right = np.array([[True, False], [False, False], [True, True]])
    assert attempts(right, 1) == {"pass@1": pytest.approx(0.5), "avg@2": pytest.approx(0.5)}
    assert attempts(right, 2)["pass@2"] == pytest.approx(2 / 3)


def test_classification_with_an_invalid_class():
    answers = ["yes", "yes", "no", "no"]
    found = classification(["Yes", "no", " no", "maybe"], answers, [["yes", "no"]] * 4)
    # yes: precision 1, recall 1/2; no: precision 1/2, recall 1/2
    assert found.figures["accuracy"] == 0.5
    assert found.figures["precision_macro"] == pytest.approx((1 + 1 / 2) / 2)
    assert found.figures["recall_macro"] == pytest.approx(1 / 2)
    assert found.figures["f1_macro"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert found.figures["coverage"] == 0.75
    assert found.confusion == {"no": {"no": 1, "yes": 0, INVALID: 1}, "yes": {"no": 1, "yes": 1, INVALID: 0}}


def test_a_label_counts_once_it_is_wanted_or_said():
    answers, known = ["yes", "yes", "no", "no"], [["yes", "no", "perhaps", "never"]] * 4
    found = classification(["yes", "perhaps", "no", "no"], answers, known)
    assert found.figures["f1_macro"] == pytest.approx((2 / 3 + 1 + 0) / 3)  # "never" counts for nothing
    assert found.confusion["yes"] == {"never": 0, "no": 0, "perhaps": 1, "yes": 1, INVALID: 0}


def test_mcc_of_a_constant_answer_is_0_whatever_its_accuracy():
    found = classification(["a"] * 10, ["a"] * 9 + ["b"], [None] * 10)
    assert found.figures["accuracy"] == 0.9
    assert found.figures["mcc"] == 0.0


def test_translation_is_sacrebleus_corpus_score():
    import sacrebleu

    said, wanted = ["the cat sat on the mat", "a dog"], ["the cat sat on a mat", "a big dog"]
    found = translation(said, wanted)
    assert found.figures["bleu"] == pytest.approx(sacrebleu.corpus_bleu(said, [wanted]).score)
    assert found.figures["chrf"] == pytest.approx(sacrebleu.corpus_chrf(said, [wanted]).score)
    assert "tok:13a" in found.notes["bleu"]
    assert "tok:zh" in translation(["我喜欢"], ["我喜欢"]).notes["bleu"]


def test_translation_with_uneven_numbers_of_references():
    assert translation(["a b c d", "e f g h"], [["x", "a b c d"], "e f g h"]).figures["bleu"] == pytest.approx(100)


def test_summary_and_spans():
    assert summary(["a b", "c"], ["a b", "d"]).figures == {"rouge_1": 0.5, "rouge_2": 0.5, "rouge_l": 0.5}
    found = spans(["Li | person\nRome | person", "none"], ["Li | person\nRome | place", "Wu | person"]).figures
    assert found["span_precision"] == pytest.approx(1 / 2)
    assert found["span_recall"] == pytest.approx(1 / 3)
    assert found["span_f1_micro"] == pytest.approx(2 / 5)
    assert found["span_iou_mean"] == pytest.approx(1 / 4)


def test_distinct_and_folds():
    assert distinct(["a b a b", "a b"], 2) == pytest.approx(2 / 4)
    assert math.isnan(distinct(["a"], 2))
    means = fold_means(np.array([0.0, 10, 2, 20, np.nan]), 2)
    assert means.tolist() == [1.0, 15.0]


def test_rewards_speak_for_families():
    assert families_of(["bleu[tokenize=zh]", "span_iou", "vader"]) == ["translation", "spans"]
    found = report(["classification"], ["yes", "x"], ["yes", None], [None, None])
    assert found.figures["accuracy"] == 1.0
    with pytest.raises(UserError, match="Did you mean 'spans'"):
        report(["span"], ["yes"], ["yes"], [None])
    assert "accuracy" not in report(["classification"], ["yes"], [None], [None]).figures
