"""Names for things: built in (lazily, by dotted path), registered by a decorator, from an entry point, or from a file.

A spec is one of
    name                     what `rlalign list` shows
    package.module:attr      any importable object
    path/to/file.py:attr     any object of a file
Nothing here swallows an import error: a name that exists and cannot be imported says why.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Generic, TypeVar

from rlalign.errors import MissingExtraError, UnknownNameError, UserError

T = TypeVar("T")


class Registry(Generic[T]):
    """A dictionary from names to objects that loads built-in ones when they are first asked for.

    Args:
        kind: the word for messages, such as "reward".
        builtin: name -> "package.module:attr".
        group: entry-point group in which other packages announce theirs.
    """

    def __init__(self, kind: str, builtin: Mapping[str, str] | None = None, group: str | None = None) -> None:
        self.kind, self.group = kind, group
        self._paths = dict(builtin or {})
        self._items: dict[str, T] = {}
        self._scanned = group is None

    def add(self, name: str, item: T, *, replace: bool = True) -> T:
        """Register an item; `replace=False` refuses a name that is taken."""
        if not replace and name in self:
            raise UserError(f"{self.kind} '{name}' is registered already: choose another name")
        self._items[name] = item
        return item

    def get(self, spec: str) -> T:
        """The item of a name or spec. Raises UnknownNameError with a suggestion, UserError when a file is missing."""
        self._scan()
        if spec in self._items:
            return self._items[spec]
        if spec in self._paths:
            return self._items.setdefault(spec, load(self._paths[spec]))
        if ":" in spec:
            item: T = load(spec)
            return item
        if spec.endswith(".py"):
            raise UserError(f"'{spec}' is a file: name the {self.kind} in it, {spec}:NAME")
        raise UnknownNameError(self.kind, spec, self)

    def __contains__(self, name: object) -> bool:
        self._scan()
        return name in self._items or name in self._paths

    def __iter__(self) -> Iterator[str]:
        self._scan()
        return iter(sorted({*self._items, *self._paths}))

    def __len__(self) -> int:
        return len(list(iter(self)))

    def _scan(self) -> None:
        if self._scanned:
            return
        self._scanned = True
        for point in entry_points(group=self.group or ""):
            self._paths.setdefault(point.name, point.value)


def load(spec: str) -> Any:
    """The object that `package.module:attr` or `file.py:attr` names. Raises UserError naming what is missing."""
    where, _, attr = spec.rpartition(":")
    module = _module_of_file(Path(where)) if where.endswith(".py") else _module_of_name(where)
    found: Any = module
    for part in attr.split("."):
        if not hasattr(found, part):
            from rlalign.errors import did_you_mean

            public = [n for n in vars(module) if not n.startswith("_")]
            raise UserError(f"'{where}' has no '{attr}'.{did_you_mean(attr, public)}")
        found = getattr(found, part)
    return found


def import_optional(module: str, extra: str) -> Any:
    """Return a module of an optional package.

    Args:
        module: dotted name of the module.
        extra: the extra of this library that installs the package.

    Raises:
        MissingExtraError: names the package and the command that installs it. An import error inside the package is
            raised unchanged.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not (module + ".").startswith(error.name + "."):
            raise  # the package is installed, and one of its own dependencies is missing
        package = module.partition(".")[0]
        raise MissingExtraError(package, extra) from None


def _module_of_name(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(error.name + ".")):
            raise UserError(f"no module '{name}': is it installed, or did you mean a file, '{name}.py:...'?") from error
        raise


def _module_of_file(path: Path) -> Any:
    path = path.expanduser().resolve()
    if not path.is_file():
        raise UserError(f"no file '{path}'")
    # One module object per file and content of the path, so that two specs of one file share its registrations.
    name = f"rlalign_file_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UserError(f"'{path}' cannot be imported as Python")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if isinstance(error, Exception):
            raise UserError(f"'{path}' cannot be imported: {type(error).__name__}: {error}") from error
        raise
    return module


ENVS: Registry[Any] = Registry(
    "environment",
    {
        "rlalign/Sentiment-v0": "rlalign.envs.builtin.language.sentiment:Sentiment",
        "rlalign/Alignment-v0": "rlalign.envs.builtin.language.alignment:Alignment",
        "rlalign/Detoxify-v0": "rlalign.envs.builtin.language.detoxify:Detoxify",
        "rlalign/Classification-v0": "rlalign.envs.builtin.language.classification:Classification",
        "rlalign/Math-v0": "rlalign.envs.builtin.language.math:Math",
        "rlalign/Entities-v0": "rlalign.envs.builtin.language.entities:Entities",
        "rlalign/Events-v0": "rlalign.envs.builtin.language.events:Events",
        "rlalign/Summarise-v0": "rlalign.envs.builtin.language.summarise:Summarise",
        "rlalign/Translate-v0": "rlalign.envs.builtin.language.translate:Translate",
        "rlalign/Constrained-v0": "rlalign.envs.builtin.language.constrained:Constrained",
        "rlalign/Preference-v0": "rlalign.envs.builtin.reward_hacking.preference:Preference",
        "rlalign/OverlongTrap-v0": "rlalign.envs.builtin.reward_hacking.overlong_trap:OverlongTrap",
        "rlalign/HackMe-v0": "rlalign.envs.builtin.reward_hacking.hack_me:HackMe",
        "rlalign/Reverse-v0": "rlalign.envs.builtin.strings.reverse:Reverse",
        "rlalign/GuessNumber-v0": "rlalign.envs.builtin.multi_turn.guess_number:GuessNumber",
        "rlalign/Sort-v0": "rlalign.envs.builtin.strings.sort:Sort",
        "rlalign/Copy-v0": "rlalign.envs.builtin.strings.copy:Copy",
        "rlalign/Parity-v0": "rlalign.envs.builtin.strings.parity:Parity",
        "rlalign/Add-v0": "rlalign.envs.builtin.strings.add:Add",
        "rlalign/Reasoning-v0": "rlalign.envs.builtin.language.reasoning:Reasoning",
        "rlalign/Wordle-v0": "rlalign.envs.builtin.multi_turn.wordle:Wordle",
        "rlalign/Recommend-v0": "rlalign.envs.builtin.multi_turn.recommend:Recommend",
        "rlalign/Tools-v0": "rlalign.envs.builtin.multi_turn.tools:Tools",
        "rlalign/Dialogue-v0": "rlalign.envs.builtin.multi_turn.dialogue:Dialogue",
        "rlalign/Games-v0": "rlalign.envs.builtin.multi_turn.games:Games",
        "rlalign/TextWorld-v0": "rlalign.envs.builtin.multi_turn.textworld:TextWorld",
    },
    group="rlalign.envs",
)
REWARDS: Registry[Any] = Registry(
    "reward",
    {
        "vader": "rlalign.rewards.builtin.sentiment:vader",
        "snownlp": "rlalign.rewards.builtin.sentiment_models:snownlp",
        "tfidf_sentiment": "rlalign.rewards.builtin.sentiment_models:tfidf_sentiment",
        "toxicity": "rlalign.rewards.builtin.toxicity:toxicity",
        "language": "rlalign.rewards.builtin.language:language",
        "dictionary_words": "rlalign.rewards.builtin.language:dictionary_words",
        "readability": "rlalign.rewards.builtin.language:readability",
        "fluency": "rlalign.rewards.builtin.fluency:fluency",
        "embedding_cosine": "rlalign.rewards.builtin.similarity:embedding_cosine",
        "embedding_f1": "rlalign.rewards.builtin.similarity:embedding_f1",
        "minilm_cosine": "rlalign.rewards.builtin.similarity:minilm_cosine",
        "length": "rlalign.rewards.builtin.length:length",
        "too_short": "rlalign.rewards.builtin.length:too_short",
        "soft_overlong": "rlalign.rewards.builtin.length:soft_overlong",
        "repetition": "rlalign.rewards.builtin.repetition:repetition",
        "distinct_n": "rlalign.rewards.builtin.repetition:distinct_n",
        "copy_penalty": "rlalign.rewards.builtin.repetition:copy_penalty",
        "exact_match": "rlalign.rewards.builtin.match:exact_match",
        "token_match": "rlalign.rewards.builtin.match:token_match",
        "regex": "rlalign.rewards.builtin.match:regex",
        "bleu": "rlalign.rewards.builtin.overlap:bleu",
        "chrf": "rlalign.rewards.builtin.overlap:chrf",
        "rouge": "rlalign.rewards.builtin.overlap:rouge",
        "edit_distance": "rlalign.rewards.builtin.overlap:edit_distance",
        "json_valid": "rlalign.rewards.builtin.structured:json_valid",
        "json_fields": "rlalign.rewards.builtin.structured:json_fields",
        "span_f1": "rlalign.rewards.builtin.spans:span_f1",
        "span_iou": "rlalign.rewards.builtin.spans:span_iou",
        "label_match": "rlalign.rewards.builtin.labels:label_match",
        "label_valid": "rlalign.rewards.builtin.labels:label_valid",
        "math_verify": "rlalign.rewards.builtin.mathematics:math_verify",
        "coverage": "rlalign.rewards.builtin.keywords:coverage",
        "keyword_order": "rlalign.rewards.builtin.keywords:keyword_order",
        "ensemble": "rlalign.rewards.ensemble:by_name",
        "product": "rlalign.rewards.ensemble:product",
        "llm_judge": "rlalign.rewards.builtin.llm_judge:llm_judge",
        "code": "rlalign.rewards.builtin.code:code",
        "classifier": "rlalign.rewards.builtin.classifier:classifier",
    },
    group="rlalign.rewards",
)
POLICIES: Registry[Callable[..., Any]] = Registry(
    "policy",
    {
        "smollm2": "rlalign.policies.pretrained:smollm2",
        "tiny": "rlalign.policies.pretrained:tiny",
        "gru": "rlalign.policies.gru:gru",
        "tabular": "rlalign.policies.tabular:tabular",
    },
    group="rlalign.policies",
)
