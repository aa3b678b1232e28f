"""Events-v0: extract a JSON record of an event from a report.

benchmarks/environments.py measures untrained and trained small policies. Warm start: 100 steps with
`--supervised.align-interval 1`, then an entropy bonus, `--objective.regularizer.entropy-coef 0.05`, which keeps the
policy from becoming deterministic too early.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from rlalign.envs.builtin.arguments import check_choice, check_integer
from rlalign.envs.mdp import TextMDP
from rlalign.envs.task_sources import ProceduralSource
from rlalign.rewards.text import text_of
from rlalign.tokenizers import WordTokenizer
from rlalign.types import Tokenizer

# Value in the record -> its words in a report, per language.
_EVENTS = {
    "meeting": {"en": "will meet friends", "zh": "见朋友"},
    "concert": {"en": "will play in a concert", "zh": "开音乐会"},
    "wedding": {"en": "will get married", "zh": "结婚"},
    "match": {"en": "will play chess", "zh": "下棋"},
}
_PEOPLE = {
    "en": ("Anna", "Omar", "Rosa", "Ivan", "Maya", "Tom"),
    "zh": ("安娜", "奥马尔", "罗莎", "伊万", "玛雅", "汤姆"),
}
_PLACES = {
    "en": ("Cairo", "Lima", "Oslo", "Paris", "Rome", "Delhi"),
    "zh": ("开罗", "利马", "奥斯陆", "巴黎", "罗马", "德里"),
}
_DAYS = {
    "Monday": {"en": "on Monday", "zh": "星期一"},
    "Friday": {"en": "on Friday", "zh": "星期五"},
    "Sunday": {"en": "on Sunday", "zh": "星期天"},
}
_REPORTS = {
    "en": ("{who} {event} in {place} {day}", "{day}, {who} {event} in {place}", "in {place}, {who} {event} {day}"),
    "zh": ("{who}{day}将在{place}{event}", "{day}，{who}将在{place}{event}", "{who}{day}要去{place}{event}"),
}
_PROMPTS = {"en": "{report}\nJSON:", "zh": "{report}\nJSON："}


def pairs(completions: Sequence[Any], answer: Sequence[str], **columns: Any) -> list[float]:
    """Return the share of the record's fields that a completion contains as `"name": "value"`, in valid JSON or not.

    The first value of a name counts, so that a list of all values does not score.
    """
    shares = []
    for completion, reference in zip(completions, answer, strict=True):
        record = json.loads(reference)
        matches = re.findall(r'"(\w+)"\s*:\s*"([^"]*)"', text_of(completion))
        fields = dict(reversed(matches))  # reversed: of equal names, the first occurrence is inserted last and stays
        shares.append(sum(fields.get(name) == value for name, value in record.items()) / len(record))
    return shares


class Events(TextMDP):
    """Event extraction into JSON.

    The record has `event`, `who`, `place` and `day`. Names are copied from the report. Events and days are English
    words for reports in any language.

    State: a report of an event.
    Action: a token of its record in JSON.
    Reward: 1 · F1 of the fields, plus 0.2 for valid JSON, plus 0.3 · share of correct pairs in any text.
    Data: generated here.

    Args:
        language: of the report, en or zh.
        names: number of people and of places in use, 2 to 6.
        seed: of the family of tasks.
        kwargs: see TextMDP.
    """

    id = "rlalign/Events-v0"
    description = "extract a JSON record from a report, English or Chinese (field F1, valid JSON)"
    rewards: ClassVar[Mapping[str, float]] = {
        "json_fields": 1.0,
        "json_valid": 0.2,
        "rlalign.envs.builtin.language.events:pairs": 0.3,
    }
    gold_score = 1.5

    def __init__(self, *, language: str = "en", names: int = 3, seed: int = 0, **kwargs: Any) -> None:
        self.language = check_choice("Events", "language", language, _REPORTS)
        self.names = check_integer("Events names", names, 2, len(_PEOPLE[language]))

        def make(rng: np.random.Generator) -> dict[str, str]:
            event = str(rng.choice(list(_EVENTS)))
            day = str(rng.choice(list(_DAYS)))
            who = _PEOPLE[language][rng.integers(names)]
            place = _PLACES[language][rng.integers(names)]
            template = str(rng.choice(_REPORTS[language]))
            report = template.format(who=who, place=place, event=_EVENTS[event][language], day=_DAYS[day][language])
            record = {"event": event, "who": who, "place": place, "day": day}
            return {
                "prompt": _PROMPTS[language].format(report=report),
                "answer": json.dumps(record, ensure_ascii=False),
            }

        defaults: dict[str, Any] = {
            "source": ProceduralSource(make, seed=seed),
            "max_prompt": 96,
            "max_new": (18, 96),
        }
        super().__init__(**defaults | kwargs)

    def default_tokenizer(self) -> Tokenizer:
        """Return a tokenizer of the words of the reports, and of quoted names, values and signs of the records."""
        phrases = [text[self.language] for values in (_EVENTS, _DAYS) for text in values.values()]
        names = (*_PEOPLE[self.language][: self.names], *_PLACES[self.language][: self.names])
        words = [*names, *(word for text in phrases for word in text.split()), ",", "，", "\n", "in", "将在", "要去"]
        values = [f'"{value}"' for value in (*_EVENTS, *names, *_DAYS)]
        fields = [f'"{name}":' for name in ("event", "who", "place", "day")]
        return WordTokenizer([*words, *values, *fields, "{", "}", _PROMPTS[self.language].split("\n")[1]])
