"""Events-v0: turn a report into a JSON record of the event.

Start and learning of the small policies: benchmarks/environments.py. Warm start: 100 steps with
`--supervised.align-interval 1`, then an entropy bonus, `--objective.regularizer.entropy-coef 0.05`, against early
certainty.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from rlalign.envs.builtin import corpora
from rlalign.envs.builtin.texts import texts
from rlalign.envs.mdp import TextMDP
from rlalign.envs.task_sources import ProceduralSource
from rlalign.tokenizers import WordTokenizer
from rlalign.types import Tokenizer

# values as they stand in a record -> as they stand in a report, in either language
_EVENTS = {
    "meeting": {"en": "will meet friends", "zh": "见朋友"},
    "concert": {"en": "will play in a concert", "zh": "开音乐会"},
    "wedding": {"en": "will get married", "zh": "结婚"},
    "match": {"en": "will play chess", "zh": "下棋"},
}
_WHO = {
    "en": ("Anna", "Omar", "Rosa", "Ivan", "Maya", "Tom"),
    "zh": ("安娜", "奥马尔", "罗莎", "伊万", "玛雅", "汤姆"),
}
_WHERE = {
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
_ASK = {"en": "{report}\nJSON:", "zh": "{report}\nJSON："}


def pairs(completions: Sequence[Any], answer: Sequence[str], **columns: Any) -> list[float]:
    """Share of the record's fields that are said as `"name": "value"`, in JSON or not; a name's first value counts."""
    values = []
    for text, wanted in zip(texts(completions), map(json.loads, answer), strict=True):
        said = dict(reversed(re.findall(r'"(\w+)"\s*:\s*"([^"]*)"', text)))
        values.append(sum(said.get(name) == value for name, value in wanted.items()) / len(wanted))
    return values


class Events(TextMDP):
    """State: a report of an event. Action: its record as JSON. Reward: F1 of the fields, and less for the way there.

    0.2 is paid for valid JSON, 0.3 for the share of right pairs in whatever was said.

    The record has `event`, `who`, `place` and `day`. Names stand in it as in the report; events and days are English
    words whatever the report's language. Data: generated here.

    Args:
        language: of the report, en or zh.
        names: of people and places that are in use, 2 to 6.
        seed: of the family of tasks.
        kwargs: see TextMDP.
    """

    id = "rlalign/Events-v0"
    description = "turn a report, English or Chinese, into a JSON record (field F1, valid JSON)"
    rewards: ClassVar[Mapping[str, float]] = {
        "json_fields": 1.0,
        "json_valid": 0.2,
        "rlalign.envs.builtin.language.events:pairs": 0.3,
    }
    gold_score = 1.5

    def __init__(self, *, language: str = "en", names: int = 3, seed: int = 0, **kwargs: Any) -> None:
        self.language = corpora.one_of("Events", "language", language, _REPORTS)
        self.names = corpora.within("Events", "names", names, 2, len(_WHO[language]))

        def make(rng: np.random.Generator) -> dict[str, str]:
            event, day = str(rng.choice(list(_EVENTS))), str(rng.choice(list(_DAYS)))
            who, place = _WHO[language][rng.integers(names)], _WHERE[language][rng.integers(names)]
            template = str(rng.choice(_REPORTS[language]))
            report = template.format(who=who, place=place, event=_EVENTS[event][language], day=_DAYS[day][language])
            record = {"event": event, "who": who, "place": place, "day": day}
            return {"prompt": _ASK[language].format(report=report), "answer": json.dumps(record, ensure_ascii=False)}

        sizes = {"max_prompt": 96, "max_new": (18, 96)}
        super().__init__(**{"source": ProceduralSource(make, seed=seed), **sizes, **kwargs})

    def default_tokenizer(self) -> Tokenizer:
        """The words of the reports, and quoted names, values and signs for the records."""
        reports = [text[self.language] for values in (_EVENTS, _DAYS) for text in values.values()]
        names = (*_WHO[self.language][: self.names], *_WHERE[self.language][: self.names])
        words = [*names, *(word for text in reports for word in text.split()), ",", "，", "\n", "in", "将在", "要去"]
        values = [f'"{value}"' for value in (*_EVENTS, *names, *_DAYS)]
        fields = [f'"{name}":' for name in ("event", "who", "place", "day")]
        return WordTokenizer([*words, *values, *fields, "{", "}", _ASK[self.language].split("\n")[1]])
