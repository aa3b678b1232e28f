"""Entities-v0: list the people and places of a sentence, a line each: `Anna | person`.

Start and learning of the small policies: benchmarks/environments.py. Warm start: 100 steps with
`--supervised.align-interval 1`, then an entropy bonus, `--objective.regularizer.entropy-coef 0.05`, against early
certainty.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Any, ClassVar

import numpy as np

from rlalign.envs.builtin import corpora
from rlalign.envs.mdp import TextMDP
from rlalign.envs.task_sources import ProceduralSource
from rlalign.tokenizers import WordTokenizer
from rlalign.types import Tokenizer

_TEMPLATES = {
    "en": (
        "{person} lives in {place}",
        "{person} met {person} in {place}",
        "in {place} they know {person}",
        "{person}'s {thing} is in {place}",
        "the flight to {place} is late",
        "nobody told {person} about the {thing}",
        "nobody saw the {thing} and the {thing}",
    ),
    "zh": (
        "{person}住在{place}",
        "{person}在{place}遇见了{person}",
        "{place}的人都认识{person}",
        "{person}的{thing}在{place}",
        "飞往{place}的航班晚点了",
        "没有人告诉{person}{thing}的事",
        "没有人看见{thing}和{thing}",
    ),
}
_NAMES = {
    ("en", "person"): ("Anna", "Omar", "Li", "Rosa", "Ivan", "Maya", "Tom", "Aiko"),
    ("en", "place"): ("Nepal", "Cairo", "Lima", "Oslo", "Kenya", "Paris", "Chile", "Rome"),
    ("zh", "person"): ("王芳", "李强", "张敏", "刘洋", "陈静", "赵磊", "孙丽", "周杰"),
    ("zh", "place"): ("北京", "上海", "南京", "西安", "尼泊尔", "巴黎", "开罗", "智利"),
}
_THINGS = {"en": ("lamp", "boat", "letter", "dog", "hat", "key"), "zh": ("台灯", "小船", "信", "狗", "帽子", "钥匙")}
_ASK = {"en": "{text}\nNames:\n", "zh": "{text}\n人名和地名：\n"}
# countries that are no plain name in a sentence: lists, and in English those that want an article
_UNFIT = {
    "en": re.compile(
        r"[|,(]|\b(?:Republic|Islands?|Isle|States|Emirates|Kingdom|Netherlands|Maldives|Bahamas|Gambia|Philippines"
        r"|Congo|Comoros|Seychelles|Territor\w+|Federation|Holy See|Lands)\b"
    ),
    "zh": re.compile(r"[|,(（、A-Za-z]"),
}
_FIELD = re.compile(r"\{(person|place|thing)\}")

Filler = Callable[[str, str, np.random.Generator], str]


def built_in(language: str, kind: str, rng: np.random.Generator, names: int) -> str:
    """One of the first `names` names of a kind, person or place."""
    return _NAMES[language, kind][rng.integers(names)]


def faker(language: str, kind: str, rng: np.random.Generator) -> str:
    """A person by faker, or a country by pycountry, in English or Chinese; decided by the rng alone."""
    if kind == "place":
        countries = _countries(language)
        return countries[int(rng.integers(len(countries)))]
    person = _faker(language)
    person.seed_instance(int(rng.integers(2**32)))
    first, last = str(person.first_name()), str(person.last_name())
    return f"{first} {last}" if language == "en" else last + first


@lru_cache(maxsize=2)
def _faker(language: str) -> Any:
    return corpora.package("Entities", "faker").Faker({"en": "en_GB", "zh": "zh_CN"}[language])


@lru_cache(maxsize=2)
def _countries(language: str) -> tuple[str, ...]:
    import gettext

    pycountry = corpora.package("Entities", "pycountry")
    names = [getattr(country, "common_name", country.name) for country in pycountry.countries]
    if language == "zh":
        chinese = gettext.translation("iso3166-1", pycountry.LOCALES_DIR, languages=["zh_CN"]).gettext
        names = [chinese(name) for name in names]
    return tuple(sorted({name for name in names if not _UNFIT[language].search(name)}))


class Entities(TextMDP):
    """State: a sentence. Action: its names with their kinds, or `none`. Reward: span F1, span IoU, and BLEU.

    A line is `name | person` or `name | place`, in the order of the sentence. F1 wants whole spans, IoU pays for parts
    of them, BLEU for the rendering: the way to the first.

    Data: templates, filled with built-in names, or with those of faker (MIT) and pycountry (LGPL), extra `envs`.

    Args:
        language: en or zh.
        names: built-in ones of each kind, 2 to 8.
        source: "names" (built in), "faker", or any task source with a column `answer`.
        seed: of the family of generated tasks.
        kwargs: see TextMDP.
    """

    id = "rlalign/Entities-v0"
    description = "list the people and places of a sentence, English or Chinese (span F1, IoU, BLEU)"
    rewards: ClassVar[Mapping[str, float]] = {"span_f1": 1.0, "span_iou": 0.5, "bleu": 0.5}
    gold_score = 2.0

    def __init__(
        self, *, language: str = "en", source: Any = "names", names: int = 4, seed: int = 0, **kwargs: Any
    ) -> None:
        self.language = corpora.one_of("Entities", "language", language, _TEMPLATES)
        self.names = corpora.within("Entities", "names", names, 2, 8)

        def generated(fill: Filler) -> ProceduralSource:
            def make(rng: np.random.Generator) -> dict[str, str]:
                kinds: dict[str, str] = {}  # of what was named, in the order of the sentence

                def name(field: re.Match[str]) -> str:
                    while True:  # nobody meets himself, and no hat is there twice
                        thing = field[1] == "thing"
                        said = str(rng.choice(_THINGS[language])) if thing else fill(language, field[1], rng)
                        if said not in kinds:
                            kinds[said] = field[1]
                            return said

                text = _FIELD.sub(name, _TEMPLATES[language][rng.integers(len(_TEMPLATES[language]))])
                spans = [f"{said} | {kind}" for said, kind in kinds.items() if kind != "thing"]
                return {"prompt": _ASK[language].format(text=text), "answer": "\n".join(spans) or "none"}

            return ProceduralSource(make, seed=seed)

        known = {"names": lambda: generated(partial(built_in, names=names)), "faker": lambda: generated(faker)}
        source = "names" if source is None else source
        self.in_words = source == "names"
        sizes = {"max_prompt": 256, "max_new": (18, 224) if self.in_words else 224}
        rewards = {"span_f1": 1.0, "span_iou": 0.5, "bleu" if language == "en" else "bleu?tokenize=zh": 0.5}
        found = corpora.named("Entities", source, known)
        super().__init__(**{"source": found, "rewards": rewards, **sizes, **kwargs})

    def default_tokenizer(self) -> Tokenizer:
        """The words of the templates and the built-in names; bytes for other names."""
        if not self.in_words:
            return super().default_tokenizer()
        pieces = [word for text in _TEMPLATES[self.language] for word in _FIELD.sub(" ", text).split()]
        names = [name for kind in ("person", "place") for name in _NAMES[self.language, kind][: self.names]]
        signs = ["\n", "|", "person", "place", "none", _ASK[self.language].split("\n")[1]]
        return WordTokenizer([*signs, *names, *_THINGS[self.language], *pieces])
