"""What a paper reports of texts: classification, overlap with references, spans, pass@k, diversity. Pure functions.

Corpus-level figures come from the libraries that define them (sacrebleu, rouge-score, scikit-learn).
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
from rlalign.rewards.columns import texts_of
from rlalign.rewards.text import words
from rlalign.types import BoolArray, FloatArray

FAMILIES: dict[str, tuple[str, ...]] = {  # family -> rewards that speak for it
    "classification": ("label_match", "label_valid"),
    "translation": ("bleu", "chrf"),
    "summary": ("rouge",),
    "spans": ("span_f1", "span_iou"),
}


@dataclass(frozen=True)
class Report:
    """Corpus-level figures of one policy.

    Attributes:
        figures: name -> value.
        confusion: true label -> said label -> count, for classification.
        notes: how a figure was computed, such as sacrebleu's signature.
    """

    figures: dict[str, float] = field(default_factory=dict)
    confusion: dict[str, dict[str, int]] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)

    def __or__(self, other: Report) -> Report:
        return Report(self.figures | other.figures, self.confusion | other.confusion, self.notes | other.notes)


def families_of(components: Iterable[str]) -> list[str]:
    """The families that reward components speak for: `bleu[tokenize=zh]` for translation."""
    names = {name.partition("[")[0] for name in components}
    return [family for family, speakers in FAMILIES.items() if names.intersection(speakers)]


def report(families: Sequence[str], said: Sequence[str], answers: Sequence[Any], labels: Sequence[Any]) -> Report:
    """The figures of some families over all completions; those without an answer are left out.

    Args:
        families: of `FAMILIES`.
        said: n completions.
        answers: n reference answers, None where there is none.
        labels: n lists of labels, or None where a task names none.

    Raises UserError for an unknown family.
    """
    for family in families:
        if family not in FAMILIES:
            raise UserError(f"unknown family of metrics '{family}'.{did_you_mean(family, FAMILIES)}")
    found = Report({f"distinct_{n}_corpus": distinct(said, n) for n in (1, 2)})
    known = [i for i, answer in enumerate(answers) if answer is not None]
    if not known:
        return found
    texts, wanted, classes = ([column[i] for i in known] for column in (said, answers, labels))
    for family in families:
        if family == "classification":
            found |= classification(texts, wanted, classes)
        elif family == "translation":
            found |= translation(texts, wanted)
        elif family == "summary":
            found |= summary(texts, wanted)
        elif family == "spans":
            found |= spans(texts, wanted)
    return found


# ---- success in k attempts ----


def pass_at_k(n: int, c: int, k: int) -> float:
    """Probability that k of n samples, drawn without replacement, hold one of the c right ones: 1 - C(n-c,k) / C(n,k).

    The unbiased estimate of the success rate in k attempts. Source: Chen et al., Evaluating large language models
    trained on code, arXiv 2107.03374.
    """
    if not 1 <= k <= n:
        raise ValueError(f"pass@{k} of {n} samples: k must lie in 1..n")
    return 1.0 - math.comb(n - c, k) / math.comb(n, k)


def attempts(right: BoolArray, k: int) -> dict[str, float]:
    """pass@k and avg@k of [P, n] successes: means over prompts of the chance of one in k, and of the share of right."""
    n = right.shape[1]
    chances = [pass_at_k(n, int(c), k) for c in right.sum(1)]
    return {f"pass@{k}": float(np.mean(chances)), f"avg@{n}": float(right.mean())}


# ---- families ----


def classification(said: Sequence[str], answers: Sequence[Any], labels: Sequence[Any]) -> Report:
    """Accuracy, macro precision, recall and F1, MCC, coverage (share of valid answers), confusion.

    A completion that is no label counts as a class of its own, which is always wrong. Macro figures are means over the
    labels that were wanted or said, as scikit-learn's are.
    """
    from sklearn import metrics

    every = sorted({str(answer).strip().casefold() for answer in answers})
    listed = [every if entry is None else [*texts_of(entry)] for entry in labels]
    names = sorted({*every, *(str(name).strip().casefold() for entry in listed for name in entry)})
    wanted = [str(answer).strip().casefold() for answer in answers]
    found = [parse_label(text, [*entry, *every]) for text, entry in zip(said, listed, strict=True)]
    found = [name if name == INVALID else name.strip().casefold() for name in found]
    seen = sorted({*wanted, *found} - {INVALID})
    precision, recall, f1, _ = metrics.precision_recall_fscore_support(
        wanted, found, labels=seen, average="macro", zero_division=0
    )
    figures = {
        "accuracy": float(metrics.accuracy_score(wanted, found)),
        "precision_macro": float(precision),
        "recall_macro": float(recall),
        "f1_macro": float(f1),
        "mcc": float(metrics.matthews_corrcoef(wanted, found)),
        "coverage": float(np.mean([name != INVALID for name in found])),
    }
    counts = Counter(zip(wanted, found, strict=True))
    columns = [*names, INVALID]
    return Report(figures, {name: {other: counts[name, other] for other in columns} for name in names})


def translation(said: Sequence[str], answers: Sequence[Any]) -> Report:
    """Corpus BLEU and chrF of sacrebleu (0..100), with signatures; Chinese references are cut by its own rules."""
    from sacrebleu.metrics import BLEU, CHRF

    references = [texts_of(answer) for answer in answers]
    most = max(len(row) for row in references)
    streams = [[row[i] if i < len(row) else row[-1] for row in references] for i in range(most)]
    chinese = np.mean([any("\u4e00" <= ch <= "\u9fff" for ch in row[0]) for row in references]) > 0.5
    bleu, chrf = BLEU(tokenize="zh" if chinese else "13a"), CHRF()
    figures = {
        "bleu": float(bleu.corpus_score(list(said), streams).score),
        "chrf": float(chrf.corpus_score(list(said), streams).score),
    }
    return Report(figures, notes={"bleu": str(bleu.get_signature()), "chrf": str(chrf.get_signature())})


def summary(said: Sequence[str], answers: Sequence[Any]) -> Report:
    """Mean ROUGE-1, ROUGE-2 and ROUGE-L F1, the best reference each, on words of any script."""
    from rlalign.rewards.builtin.overlap import rouge

    kinds = {"rouge1": "rouge_1", "rouge2": "rouge_2", "rougeL": "rouge_l"}
    values = {name: rouge.function(list(said), list(answers), kind=kind) for kind, name in kinds.items()}
    return Report({name: float(np.mean(found)) for name, found in values.items()})


def spans(said: Sequence[str], answers: Sequence[Any]) -> Report:
    """Precision, recall and F1 over all spans of the corpus (micro), and the mean IoU of the texts."""
    pairs = [(parse_spans(text), spans_of(answer)) for text, answer in zip(said, answers, strict=True)]
    right = sum((Counter(a) & Counter(b)).total() for a, b in pairs)
    given, wanted = sum(len(a) for a, _ in pairs), sum(len(b) for _, b in pairs)
    return Report(
        {
            "span_precision": right / given if given else float(not wanted),
            "span_recall": right / wanted if wanted else float(not given),
            "span_f1_micro": 2 * right / (given + wanted) if given + wanted else 1.0,
            "span_iou_mean": float(np.mean([mean_iou(a, b) for a, b in pairs])),
        }
    )


def distinct(said: Sequence[str], n: int) -> float:
    """Distinct n-grams of words / all of them, over all texts together; NaN without any."""
    grams = [gram for text in said for gram in zip(*(words(text)[i:] for i in range(n)), strict=False)]
    return len(set(grams)) / len(grams) if grams else math.nan


# ---- folds ----


def fold_means(values: FloatArray, folds: int) -> FloatArray:
    """[folds] means of a [P] array over disjoint folds of the prompts (prompt i in fold i mod folds); NaN left out."""
    parts = [values[i::folds] for i in range(folds)]
    means: FloatArray = np.array(
        [part[np.isfinite(part)].mean() if np.isfinite(part).any() else np.nan for part in parts]
    )
    return means
