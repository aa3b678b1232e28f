"""Text metrics against hand computations, enumeration, or the library that defines them."""

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
def test_pass_at_k_is_the_share_of_subsets_with_a_correct_sample(n, c):
    correct = [True] * c + [False] * (n - c)
    for k in range(1, n + 1):
        subsets = list(combinations(correct, k))
        assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))


def test_pass_at_k_rejects_more_attempts_than_samples():
    with pytest.raises(ValueError, match=r"pass@3 of 2"):
        pass_at_k(2, 1, 3)


def test_attempts():
    correct = np.array([[True, False], [False, False], [True, True]])
    assert attempts(correct, 1) == {"pass@1": pytest.approx(0.5), "avg@2": pytest.approx(0.5)}
    assert attempts(correct, 2)["pass@2"] == pytest.approx(2 / 3)


def test_classification_with_an_invalid_class():
    answers = ["yes", "yes", "no", "no"]
    result = classification(["Yes", "no", " no", "maybe"], answers, [["yes", "no"]] * 4)
    # yes: precision 1, recall 1/2; no: precision 1/2, recall 1/2
    assert result.figures["accuracy"] == 0.5
    assert result.figures["precision_macro"] == pytest.approx((1 + 1 / 2) / 2)
    assert result.figures["recall_macro"] == pytest.approx(1 / 2)
    assert result.figures["f1_macro"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert result.figures["coverage"] == 0.75
    assert result.confusion == {"no": {"no": 1, "yes": 0, INVALID: 1}, "yes": {"no": 1, "yes": 1, INVALID: 0}}


def test_a_label_counts_if_it_is_an_answer_or_a_prediction():
    answers = ["yes", "yes", "no", "no"]
    labels = [["yes", "no", "perhaps", "never"]] * 4
    result = classification(["yes", "perhaps", "no", "no"], answers, labels)
    assert result.figures["f1_macro"] == pytest.approx((2 / 3 + 1 + 0) / 3)  # "never" does not count
    assert result.confusion["yes"] == {"never": 0, "no": 0, "perhaps": 1, "yes": 1, INVALID: 0}


def test_mcc_of_a_constant_answer_is_0_at_any_accuracy():
    result = classification(["a"] * 10, ["a"] * 9 + ["b"], [None] * 10)
    assert result.figures["accuracy"] == 0.9
    assert result.figures["mcc"] == 0.0


def test_translation_is_the_corpus_score_of_sacrebleu():
    import sacrebleu

    texts = ["the cat sat on the mat", "a dog"]
    references = ["the cat sat on a mat", "a big dog"]
    result = translation(texts, references)
    assert result.figures["bleu"] == pytest.approx(sacrebleu.corpus_bleu(texts, [references]).score)
    assert result.figures["chrf"] == pytest.approx(sacrebleu.corpus_chrf(texts, [references]).score)
    assert "tok:13a" in result.notes["bleu"]
    assert "tok:zh" in translation(["我喜欢"], ["我喜欢"]).notes["bleu"]


def test_translation_with_uneven_numbers_of_references():
    assert translation(["a b c d", "e f g h"], [["x", "a b c d"], "e f g h"]).figures["bleu"] == pytest.approx(100)


def test_summary_and_spans():
    assert summary(["a b", "c"], ["a b", "d"]).figures == {"rouge_1": 0.5, "rouge_2": 0.5, "rouge_l": 0.5}
    figures = spans(["Li | person\nRome | person", "none"], ["Li | person\nRome | place", "Wu | person"]).figures
    assert figures["span_precision"] == pytest.approx(1 / 2)
    assert figures["span_recall"] == pytest.approx(1 / 3)
    assert figures["span_f1_micro"] == pytest.approx(2 / 5)
    assert figures["span_iou_mean"] == pytest.approx(1 / 4)


def test_distinct_and_folds():
    assert distinct(["a b a b", "a b"], 2) == pytest.approx(2 / 4)
    assert math.isnan(distinct(["a"], 2))
    means = fold_means(np.array([0.0, 10, 2, 20, np.nan]), 2)
    assert means.tolist() == [1.0, 15.0]


def test_reward_components_select_families():
    assert families_of(["bleu[tokenize=zh]", "span_iou", "vader"]) == ["translation", "spans"]
    result = report(["classification"], ["yes", "x"], ["yes", None], [None, None])
    assert result.figures["accuracy"] == 1.0
    with pytest.raises(UserError, match="Did you mean 'spans'"):
        report(["span"], ["yes"], ["yes"], [None])
    assert "accuracy" not in report(["classification"], ["yes"], [None], [None]).figures
