"""Summarise-v0: the headline or the keywords of a short report, or of a real review.

benchmarks/environments.py measures untrained and trained small policies. Warm start: 100 steps with
`--supervised.align-interval 1`, then an entropy bonus, `--objective.regularizer.entropy-coef 0.05`, which keeps the
policy from becoming deterministic too early.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar

import numpy as np

from rlalign.envs.builtin import corpora
from rlalign.envs.builtin.arguments import check_choice, check_integer, resolve_source
from rlalign.envs.mdp import TextMDP
from rlalign.envs.task_sources import ListSource, ProceduralSource
from rlalign.tokenizers import WordTokenizer
from rlalign.types import Tokenizer

_ACTORS = ("mayor", "council", "museum", "school", "bank", "club")
# Past tense, present tense.
_VERBS = (
    ("opened", "opens"),
    ("sold", "sells"),
    ("closed", "closes"),
    ("painted", "paints"),
    ("bought", "buys"),
    ("cleaned", "cleans"),
)
_THINGS = ("bridge", "garden", "theatre", "library", "market", "station")
_DETAILS = ("yesterday", "at noon", "on Monday", "in the rain", "after long talks", "with great care")
_ASIDES = ("people came to see it", "nobody was surprised", "the papers wrote about it", "it took two years")
_PROMPT_ENDS = {"headline": "Headline:", "keywords": "Keywords:"}
_MAX_BYTES = 400  # of a real document
_KEYWORDS = 5


def report(rng: np.random.Generator, reference: str, words: int) -> dict[str, str]:
    """Return a generated report and its headline or keywords.

    The first sentence states the event with a detail. The headline is the event in the present tense.
    """
    actor = _ACTORS[rng.integers(words)]
    thing = _THINGS[rng.integers(words)]
    past, present = _VERBS[rng.integers(words)]
    detail = str(rng.choice(_DETAILS))
    aside = str(rng.choice(_ASIDES))
    event = f"the {actor} {past} the {thing}"
    lead = f"{event} {detail}" if rng.integers(2) else f"{detail} {event}"
    answer = f"{actor} {present} {thing}" if reference == "headline" else f"{actor} {thing}"
    return {"prompt": f"{lead}. {aside}.\n{_PROMPT_ENDS[reference]}", "answer": answer}


def review(text: str, reference: str) -> dict[str, str] | None:
    """Return a real document and its reference: the first sentence as headline, or the most frequent words.

    Keywords have at least five letters, which excludes most function words. Of equally frequent words the earlier one
    counts.

    Returns:
        The task, or None for a document without a reference: one sentence, or too few words.
    """
    document = corpora.truncate(text, _MAX_BYTES)
    keywords = Counter(re.findall(r"[a-z]{5,}", document.casefold())).most_common(_KEYWORDS)
    # A sentence end counts only before a blank, so that at least one more word follows the lead.
    lead = re.match(r".{16,120}?[.!?](?=\s)", document)
    if lead is None or len(keywords) < _KEYWORDS:
        return None
    answer = lead.group() if reference == "headline" else " ".join(word for word, _ in keywords)
    return {"prompt": f"{document}\n{_PROMPT_ENDS[reference]}", "answer": answer}


class Summarise(TextMDP):
    """Headlines or keywords of documents.

    A headline of a generated report never occurs in it word for word. `copy_penalty` on three words in a row therefore
    takes nothing from the correct headline. A summary longer than the reference loses up to 0.2. The headline of a real
    review is its first sentence: copying is correct there, and `copy_penalty` is only a metric.

    State: a document.
    Action: a token of its summary.
    Reward: ROUGE-L against the reference, with penalties for copying and length.
    Data: generated; or IMDB reviews (for their terms see `rlalign.envs.builtin.corpora`), cut at 400 bytes.

    Args:
        source: "reports" (generated), "imdb", or any task source with a column `answer`.
        reference: headline or keywords.
        words: number of words of each class (actors, verbs, things) in the generated reports, 2 to 6.
        seed: of the family of generated tasks.
        kwargs: see TextMDP.
    """

    id = "rlalign/Summarise-v0"
    description = "the headline or the keywords of a report (ROUGE, length, copy penalty)"
    rewards: ClassVar[Mapping[str, float]] = {
        "rouge": 1.0,
        "copy_penalty?ngram=3": 0.2,
        "rlalign.envs.builtin.texts:brevity": 0.2,
    }
    gold_score = 1.0

    def __init__(
        self, *, source: Any = "reports", reference: str = "headline", words: int = 4, seed: int = 0, **kwargs: Any
    ) -> None:
        reference = check_choice("Summarise", "reference", reference, _PROMPT_ENDS)
        self.words = check_integer("Summarise words", words, 2, len(_VERBS))
        procedural = ProceduralSource(partial(report, reference=reference, words=words), seed=seed)
        builders: dict[str, Callable[[], Any]] = {
            "reports": lambda: procedural,
            "imdb": partial(_corpus_source, "imdb", reference),
        }
        tasks = resolve_source("Summarise", "reports" if source is None else source, builders)
        self.generated = tasks is procedural
        defaults: dict[str, Any] = {
            "source": tasks,
            "rewards": {
                "rouge": 1.0,
                "copy_penalty?ngram=3": 0.2 * self.generated,
                "rlalign.envs.builtin.texts:brevity": 0.2,
            },
            "max_prompt": 160 if self.generated else _MAX_BYTES + 32,
            "max_new": (10, 48) if self.generated else 192,
        }
        super().__init__(**defaults | kwargs)

    def default_tokenizer(self) -> Tokenizer:
        """Return a tokenizer of the words of the reports; bytes for real documents."""
        if not self.generated:
            return super().default_tokenizer()
        verbs = [form for forms in _VERBS[: self.words] for form in forms]
        nouns = (*_ACTORS[: self.words], *_THINGS[: self.words])
        phrases = (*nouns, *verbs, *_DETAILS, *_ASIDES, *_PROMPT_ENDS.values())
        return WordTokenizer(["the", ".", "\n", *(word for phrase in phrases for word in phrase.split())])


def _corpus_source(corpus: str, reference: str) -> ListSource:
    tasks = (review(record["text"], reference) for record in corpora.reviews(corpus))
    return ListSource([task for task in tasks if task])
