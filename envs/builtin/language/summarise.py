"""Summarise-v0: the headline or the keywords of a short report, or of a real review.

Start and learning of the small policies: benchmarks/environments.py. Warm start: 100 steps with
`--supervised.align-interval 1`, then an entropy bonus, `--objective.regularizer.entropy-coef 0.05`, against early
certainty.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar

import numpy as np

from rlalign.envs.builtin import corpora
from rlalign.envs.mdp import TextMDP
from rlalign.envs.task_sources import ListSource, ProceduralSource
from rlalign.tokenizers import WordTokenizer
from rlalign.types import Tokenizer

_ACTORS = ("mayor", "council", "museum", "school", "bank", "club")
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
_ASK = {"headline": "Headline:", "keywords": "Keywords:"}
_LONGEST = 400  # bytes of a real document
_KEYWORDS = 5


def report(rng: np.random.Generator, reference: str, words: int) -> dict[str, str]:
    """A report whose lead says who did what, among details. The headline is the lead's core in the present tense."""
    actor, thing = _ACTORS[rng.integers(words)], _THINGS[rng.integers(words)]
    past, present = _VERBS[rng.integers(words)]
    detail, aside = str(rng.choice(_DETAILS)), str(rng.choice(_ASIDES))
    lead = f"the {actor} {past} the {thing} {detail}" if rng.integers(2) else f"{detail} the {actor} {past} the {thing}"
    answer = f"{actor} {present} {thing}" if reference == "headline" else f"{actor} {thing}"
    return {"prompt": f"{lead}. {aside}.\n{_ASK[reference]}", "answer": answer}


def review(text: str, reference: str) -> dict[str, str] | None:
    """A real document and its reference: the first sentence as headline, or the words that it says most often.

    Keywords have five letters at least, so that they are no function words; of equally frequent ones the earlier.
    None where there is no reference: a document of one sentence, or of few words.
    """
    document = corpora.cut(text, _LONGEST)
    words = Counter(re.findall(r"[a-z]{5,}", document.casefold())).most_common(_KEYWORDS)
    lead = re.match(r".{16,120}?[.!?](?=\s)", document)
    if lead is None or len(words) < _KEYWORDS:
        return None
    answer = lead.group() if reference == "headline" else " ".join(word for word, _ in words)
    return {"prompt": f"{document}\n{_ASK[reference]}", "answer": answer}


class Summarise(TextMDP):
    """State: a document. Action: its summary. Reward: ROUGE-L against the reference, and penalties.

    A headline of the generated reports never stands in them word for word, so that `copy_penalty` on three words in a
    row takes nothing from the right one. A summary longer than the reference loses up to 0.2.

    Data: generated; or IMDB reviews (for their terms see `rlalign.envs.builtin.corpora`), cut at 400 bytes, whose first
    sentence serves as headline: there copying is right, and `copy_penalty` only a metric.

    Args:
        source: "reports" (generated), "imdb", or any task source with a column `answer`.
        reference: headline or keywords.
        words: of each class (actors, verbs, things) in the generated reports, 2 to 6.
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
        reference = corpora.one_of("Summarise", "reference", reference, _ASK)
        self.words = corpora.within("Summarise", "words", words, 2, len(_VERBS))
        made = ProceduralSource(partial(report, reference=reference, words=words), seed=seed)
        known: dict[str, Callable[[], Any]] = {"reports": lambda: made, "imdb": partial(_real, "imdb", reference)}
        found = corpora.named("Summarise", "reports" if source is None else source, known)
        self.generated = found is made
        rewards = {
            "rouge": 1.0,
            "copy_penalty?ngram=3": 0.2 * self.generated,
            "rlalign.envs.builtin.texts:brevity": 0.2,
        }
        sizes = {"max_prompt": 160 if self.generated else _LONGEST + 32, "max_new": (10, 48) if self.generated else 192}
        super().__init__(**{"source": found, "rewards": rewards, **sizes, **kwargs})

    def default_tokenizer(self) -> Tokenizer:
        """The words of the reports; bytes for real documents."""
        if not self.generated:
            return super().default_tokenizer()
        verbs = [form for forms in _VERBS[: self.words] for form in forms]
        texts = (*_ACTORS[: self.words], *_THINGS[: self.words], *verbs, *_DETAILS, *_ASIDES, *_ASK.values())
        return WordTokenizer(["the", ".", "\n", *(word for text in texts for word in text.split())])


def _real(corpus: str, reference: str) -> ListSource:
    made = (review(found["text"], reference) for found in corpora.reviews(corpus))
    return ListSource([record for record in made if record])
