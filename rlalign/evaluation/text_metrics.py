"""Text metrics: pass@k, classification, translation, summarization, spans, diversity, and cross-validation folds.

Pure functions. Corpus-level metrics come from the libraries that define them (sacrebleu, rouge-score, scikit-learn).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rlalign.errors import UserError, did_you_mean
from rlalign.rewards.builtin.labels import INVALID, parse_label
from rlalign.rewards.builtin.spans import mean_iou, parse_spans, spans_of
from rlalign.rewards.columns import text_of_value, texts_of
from rlalign.rewards.text import words
from rlalign.types import BoolArray, FloatArray

FAMILIES: dict[str, tuple[str, ...]] = {
    "classification": ("label_match", "label_valid"),
    "translation": ("bleu", "chrf"),
    "summary": ("rouge",),
    "spans": ("span_f1", "span_iou"),
}
"""Family of metrics -> the rewards whose presence in an environment selects it."""


@dataclass(frozen=True)
class Report:
    """Corpus-level metrics of one policy. `a | b` joins two reports.

    Attributes:
        figures: name -> value. `rlalign.log.metric_keys.EVALUATION` describes each name.
        confusion: true label -> predicted label -> count, for classification; empty for other families. The label of a
            completion that is not a label is `(invalid)`.
        notes: name of a figure -> how it was computed, such as sacrebleu's signature.
    """

    figures: dict[str, float] = field(default_factory=dict)
    confusion: dict[str, dict[str, int]] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)

    def __or__(self, other: Report) -> Report:
        return Report(self.figures | other.figures, self.confusion | other.confusion, self.notes | other.notes)


def families_of(components: Iterable[str]) -> list[str]:
    """Return the families that reward components select, such as translation for `bleu[tokenize=zh]`."""
    names = {name.partition("[")[0] for name in components}
    return [family for family, rewards in FAMILIES.items() if names.intersection(rewards)]


def report(families: Sequence[str], texts: Sequence[str], answers: Sequence[Any], labels: Sequence[Any]) -> Report:
    """Compute distinct-1 and distinct-2 of all completions, and the metrics of some families of those with an answer.

    Args:
        families: names of families: classification, translation, summary, spans.
        texts: n completions.
        answers: n reference answers, None for a completion without one. Translation and summary accept lists of
            references, spans the text or the list of the spans.
        labels: n lists of permitted labels, None for a task without its own list; only classification reads them.

    Returns:
        `distinct_1_corpus` and `distinct_2_corpus`, joined with the report of each family. A family has no figures if
        no completion has an answer.

    Raises:
        UserError: for an unknown family.

    Example:
        >>> report(["spans"], ["Marie Curie | person"], ["Marie Curie | person"], [None]).figures["span_f1_micro"]
        1.0
    """
    for family in families:
        if family not in FAMILIES:
            raise UserError(f"unknown family of metrics '{family}'.{did_you_mean(family, FAMILIES)}")
    result = Report({f"distinct_{n}_corpus": distinct(texts, n) for n in (1, 2)})
    rows = [i for i, answer in enumerate(answers) if answer is not None]
    if not rows:
        return result
    predictions = [texts[i] for i in rows]
    references = [answers[i] for i in rows]
    label_lists = [labels[i] for i in rows]
    for family in families:
        if family == "classification":
            result |= classification(predictions, references, label_lists)
        elif family == "translation":
            result |= translation(predictions, references)
        elif family == "summary":
            result |= summary(predictions, references)
        elif family == "spans":
            result |= spans(predictions, references)
    return result


# ---- success in k attempts ----


def pass_at_k(n: int, c: int, k: int) -> float:
    """Return the probability that k of n samples, drawn without replacement, contain one of the c correct samples.

    The unbiased estimate of the success rate in k attempts::

        pass@k = 1 - C(n-c, k) / C(n, k)

    Source: Chen et al., Evaluating large language models trained on code, arXiv 2107.03374.

    Args:
        n: number of samples of a prompt.
        c: number of correct samples among them.
        k: number of attempts.

    Raises:
        ValueError: unless 1 <= k <= n.

    Example:
        >>> pass_at_k(n=4, c=1, k=2)
        0.5
    """
    if not 1 <= k <= n:
        raise ValueError(f"pass@{k} of {n} samples: expected k in 1..{n}, got {k}")
    return 1.0 - math.comb(n - c, k) / math.comb(n, k)


def attempts(correct: BoolArray, k: int) -> dict[str, float]:
    """Return pass@k and avg@n of bool [P, n]: means over prompts of `pass_at_k` and of the share of correct samples."""
    n = correct.shape[1]
    chances = [pass_at_k(n, int(c), k) for c in correct.sum(1)]
    return {f"pass@{k}": float(np.mean(chances)), f"avg@{n}": float(correct.mean())}


# ---- families ----


def classification(texts: Sequence[str], answers: Sequence[Any], labels: Sequence[Any]) -> Report:
    """Compute accuracy, macro precision, recall and F1, MCC, coverage (share of valid labels), and confusion.

    A completion that is not a label counts as a class of its own, which is always wrong. Macro figures are means over
    the labels that occur among the answers or the predictions, as in scikit-learn. All figures are in [0, 1], except
    MCC, Matthews' correlation coefficient, in [-1, 1].

    Args:
        texts: n completions. A label is recognized without regard to case and surrounding whitespace.
        answers: n true labels.
        labels: n lists of permitted labels; None: the labels that occur among the answers.

    Returns:
        Figures `accuracy`, `precision_macro`, `recall_macro`, `f1_macro`, `mcc` and `coverage`, and the confusion of
        true and predicted labels.

    Example:
        >>> figures = classification(["yes", "no", "maybe"], ["yes", "yes", "no"], [None, None, None]).figures
        >>> round(figures["accuracy"], 2), round(figures["coverage"], 2)
        (0.33, 0.67)
    """
    from sklearn import metrics

    true_labels = [_normalized(answer) for answer in answers]
    answer_labels = sorted(set(true_labels))
    label_lists = [answer_labels if entry is None else texts_of(entry) for entry in labels]
    all_labels = set(answer_labels)
    for entry in label_lists:
        all_labels.update(_normalized(name) for name in entry)
    predicted: list[str] = []
    for text, entry in zip(texts, label_lists, strict=True):
        label = parse_label(text, [*entry, *answer_labels])
        predicted.append(label if label == INVALID else _normalized(label))
    scored_labels = sorted({*true_labels, *predicted} - {INVALID})
    precision, recall, f1, _ = metrics.precision_recall_fscore_support(
        true_labels, predicted, labels=scored_labels, average="macro", zero_division=0
    )
    figures = {
        "accuracy": float(metrics.accuracy_score(true_labels, predicted)),
        "precision_macro": float(precision),
        "recall_macro": float(recall),
        "f1_macro": float(f1),
        "mcc": float(metrics.matthews_corrcoef(true_labels, predicted)),
        "coverage": float(np.mean([label != INVALID for label in predicted])),
    }
    counts = Counter(zip(true_labels, predicted, strict=True))
    rows = sorted(all_labels)
    columns = [*rows, INVALID]
    return Report(figures, {row: {column: counts[row, column] for column in columns} for row in rows})


def _normalized(label: Any) -> str:
    """Return the text of a label, without surrounding whitespace and case."""
    return text_of_value(label).strip().casefold()


def translation(texts: Sequence[str], answers: Sequence[Any]) -> Report:
    """Compute corpus BLEU and chrF (0 to 100) with sacrebleu, and note their signatures.

    BLEU uses sacrebleu's `zh` tokenizer if most references contain Chinese characters, otherwise `13a`. Sources:
    Papineni et al. 2002 (BLEU); Popović 2015 (chrF); Post, arXiv 1804.08771 (sacrebleu).

    Args:
        texts: n completions.
        answers: n references, each a text or a list of texts.

    Returns:
        Figures `bleu` and `chrf`, and their signatures as notes.
    """
    from sacrebleu.metrics import BLEU, CHRF

    references = [texts_of(answer) for answer in answers]
    # sacrebleu reads stream i as the i-th reference of each text. Repeating a reference changes neither score.
    streams = [
        [row[i] if i < len(row) else row[-1] for row in references] for i in range(max(len(row) for row in references))
    ]
    chinese = np.mean([any("\u4e00" <= ch <= "\u9fff" for ch in row[0]) for row in references]) > 0.5
    bleu = BLEU(tokenize="zh" if chinese else "13a")
    chrf = CHRF()
    figures = {
        "bleu": float(bleu.corpus_score(list(texts), streams).score),
        "chrf": float(chrf.corpus_score(list(texts), streams).score),
    }
    return Report(figures, notes={"bleu": str(bleu.get_signature()), "chrf": str(chrf.get_signature())})


def summary(texts: Sequence[str], answers: Sequence[Any]) -> Report:
    """Compute mean ROUGE-1, ROUGE-2 and ROUGE-L F1, each against the best reference, on words of any script.

    Source: Lin, ROUGE: a package for automatic evaluation of summaries, 2004.

    Args:
        texts: n completions.
        answers: n references, each a text or a list of texts.

    Returns:
        Figures `rouge_1`, `rouge_2` and `rouge_l`, in [0, 1].
    """
    from rlalign.rewards.builtin.overlap import rouge

    kinds = {"rouge1": "rouge_1", "rouge2": "rouge_2", "rougeL": "rouge_l"}
    scores = {name: rouge.function(list(texts), list(answers), kind=kind) for kind, name in kinds.items()}
    return Report({name: float(np.mean(values)) for name, values in scores.items()})


def spans(texts: Sequence[str], answers: Sequence[Any]) -> Report:
    """Compute precision, recall and F1 over all spans of the corpus (micro), and the mean IoU of the texts.

    Two spans match if text and label are equal. A span that is predicted twice matches twice only if it is in the
    answer twice.

    Args:
        texts: n completions, one span `text | label` per line; the single line `none` means no span.
        answers: n answers in the same format, or lists of (text, label) pairs.

    Returns:
        Figures `span_precision`, `span_recall`, `span_f1_micro` and `span_iou_mean`, in [0, 1]. Without a span on
        either side the prediction is perfect, 1.
    """
    pairs = [(parse_spans(text), spans_of(answer)) for text, answer in zip(texts, answers, strict=True)]
    # `&` of two counters is the multiset intersection: a span that is predicted twice matches twice only if it is
    # in the answer twice.
    matches = sum((Counter(predicted) & Counter(true)).total() for predicted, true in pairs)
    num_predicted = sum(len(predicted) for predicted, _ in pairs)
    num_true = sum(len(true) for _, true in pairs)
    both = num_predicted + num_true
    return Report(
        {
            # Without a span on either side the prediction is perfect; with one on the other side only, it scores 0.
            "span_precision": matches / num_predicted if num_predicted else float(not num_true),
            "span_recall": matches / num_true if num_true else float(not num_predicted),
            "span_f1_micro": 2 * matches / both if both else 1.0,
            "span_iou_mean": float(np.mean([mean_iou(predicted, true) for predicted, true in pairs])),
        }
    )


def distinct(texts: Sequence[str], n: int) -> float:
    """Return distinct-n: different n-grams of words / all n-grams, over all texts together; NaN without an n-gram.

    Source: Li et al., A diversity-promoting objective function for neural conversation models, arXiv 1510.03055.

    Args:
        texts: completions.
        n: words per n-gram.

    Example:
        >>> distinct(["one two one two one"], n=2)
        0.5
    """
    ngrams: list[tuple[str, ...]] = []
    for text in texts:
        tokens = words(text)
        ngrams += zip(*(tokens[i:] for i in range(n)), strict=False)
    return len(set(ngrams)) / len(ngrams) if ngrams else math.nan


# ---- folds ----


def fold_means(values: FloatArray, folds: int) -> FloatArray:
    """Return the [folds] means of a [P] array over disjoint folds (prompt i is in fold i mod folds), without NaN."""
    means: FloatArray = np.full(folds, np.nan)  # NaN for a fold without a finite value
    for fold in range(folds):
        part = values[fold::folds]
        part = part[np.isfinite(part)]
        if len(part):
            means[fold] = part.mean()
    return means
