"""Entities-v0: list the people and places of a sentence, one per line: `Anna | person`.

benchmarks/environments.py measures untrained and trained small policies. Warm start: 100 steps with
`--supervised.align-interval 1`, then an entropy bonus, `--objective.regularizer.entropy-coef 0.05`, which keeps the
policy from becoming deterministic too early.
"""

from __future__ import annotations

import gettext
import re
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Any, ClassVar

import numpy as np

from rlalign.envs.builtin.arguments import check_choice, check_integer, resolve_source
from rlalign.envs.mdp import TextMDP
from rlalign.envs.task_sources import ProceduralSource
from rlalign.registry import import_optional
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
_PROMPTS = {"en": "{text}\nNames:\n", "zh": "{text}\n人名和地名：\n"}
# Country names that do not fit into a sentence: lists, and in English names that need an article.
_UNFIT = {
    "en": re.compile(
        r"[|,(]|\b(?:Republic|Islands?|Isle|States|Emirates|Kingdom|Netherlands|Maldives|Bahamas|Gambia|Philippines"
        r"|Congo|Comoros|Seychelles|Territor\w+|Federation|Holy See|Lands)\b"
    ),
    "zh": re.compile(r"[|,(（、A-Za-z]"),
}
_FIELD = re.compile(r"\{(person|place|thing)\}")

Filler = Callable[[str, str, np.random.Generator], str]
"""Language, kind (person or place) and random generator -> name."""


def built_in(language: str, kind: str, rng: np.random.Generator, names: int) -> str:
    """Return one of the first `names` built-in names of a kind, person or place."""
    return _NAMES[language, kind][rng.integers(names)]


def faker(language: str, kind: str, rng: np.random.Generator) -> str:
    """Return a person by faker, or a country by pycountry, in English or Chinese. Only `rng` determines it."""
    if kind == "place":
        countries = _countries(language)
        return countries[int(rng.integers(len(countries)))]
    generator = _faker(language)
    generator.seed_instance(int(rng.integers(2**32)))  # an instance of its own: the global seed has no effect
    first = str(generator.first_name())
    last = str(generator.last_name())
    return f"{first} {last}" if language == "en" else last + first


@lru_cache(maxsize=2)
def _faker(language: str) -> Any:
    return import_optional("faker", "envs").Faker({"en": "en_GB", "zh": "zh_CN"}[language])


@lru_cache(maxsize=2)
def _countries(language: str) -> tuple[str, ...]:
    pycountry = import_optional("pycountry", "envs")
    names = [getattr(country, "common_name", country.name) for country in pycountry.countries]
    if language == "zh":
        translate = gettext.translation("iso3166-1", pycountry.LOCALES_DIR, languages=["zh_CN"]).gettext
        names = [translate(name) for name in names]
    # Sorted, because the iteration order of a set differs between processes.
    return tuple(sorted({name for name in names if not _UNFIT[language].search(name)}))


def _make_task(language: str, fill: Filler, rng: np.random.Generator) -> dict[str, str]:
    """Return the task of a random template filled with distinct names."""
    kinds: dict[str, str] = {}  # name -> kind, in the order of the sentence

    def draw_name(field: re.Match[str]) -> str:
        kind = field[1]
        while True:  # until the name is new: a person does not meet themselves, and each thing occurs once
            name = str(rng.choice(_THINGS[language])) if kind == "thing" else fill(language, kind, rng)
            if name not in kinds:
                kinds[name] = kind
                return name

    template = _TEMPLATES[language][rng.integers(len(_TEMPLATES[language]))]
    text = _FIELD.sub(draw_name, template)
    spans = [f"{name} | {kind}" for name, kind in kinds.items() if kind != "thing"]
    return {"prompt": _PROMPTS[language].format(text=text), "answer": "\n".join(spans) or "none"}


class Entities(TextMDP):
    """Named entity recognition: people and places.

    A line of the answer is `name | person` or `name | place`, in the order of the sentence. F1 counts complete spans,
    IoU pays for parts of them, and BLEU for the text of the answer. The last two guide the policy to the first.

    State: a sentence.
    Action: a token of its names with their kinds, or of `none`.
    Reward: 1 · span F1, plus 0.5 · span IoU, plus 0.5 · BLEU.
    Data: templates, filled with built-in names, or with those of faker (MIT) and pycountry (LGPL), extra `envs`.

    Args:
        language: en or zh.
        names: number of built-in names of each kind, 2 to 8.
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
        self.language = check_choice("Entities", "language", language, _TEMPLATES)
        self.names = check_integer("Entities names", names, 2, 8)

        def generated(fill: Filler) -> ProceduralSource:
            return ProceduralSource(partial(_make_task, language, fill), seed=seed)

        builders = {"names": lambda: generated(partial(built_in, names=names)), "faker": lambda: generated(faker)}
        source = "names" if source is None else source
        self.in_words = source == "names"
        defaults: dict[str, Any] = {
            "source": resolve_source("Entities", source, builders),
            "rewards": {"span_f1": 1.0, "span_iou": 0.5, "bleu" if language == "en" else "bleu?tokenize=zh": 0.5},
            "max_prompt": 256,
            "max_new": (18, 224) if self.in_words else 224,
        }
        super().__init__(**defaults | kwargs)

    def default_tokenizer(self) -> Tokenizer:
        """Return a tokenizer of the words of the templates and the built-in names; bytes for other names."""
        if not self.in_words:
            return super().default_tokenizer()
        template_words = [word for text in _TEMPLATES[self.language] for word in _FIELD.sub(" ", text).split()]
        names = [name for kind in ("person", "place") for name in _NAMES[self.language, kind][: self.names]]
        signs = ["\n", "|", "person", "place", "none", _PROMPTS[self.language].split("\n")[1]]
        return WordTokenizer([*signs, *names, *_THINGS[self.language], *template_words])
