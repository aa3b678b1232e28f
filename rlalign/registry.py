"""Registries: names of environments, rewards and policies, and the objects that they load.

A name is built in (a dotted path that is imported on first use), registered by a decorator, or announced by an entry
point of another package. A spec is one of

    name                     an entry of `rlalign list`
    package.module:attr      any importable object
    path/to/file.py:attr     any object of a file

No import error is swallowed: if a name exists and cannot be imported, the cause is raised.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, TypeVar

from rlalign.errors import MissingExtraError, UnknownNameError, UserError, did_you_mean, user_place

T = TypeVar("T")


class Registry(Generic[T]):
    """A mapping from names to objects that imports built-in objects on first use.

    `name in registry`, iteration (sorted names) and `len` import nothing but the list of entry points. An installed
    package adds names by entry points of the groups `rlalign.envs`, `rlalign.rewards`, `rlalign.policies` and
    `rlalign.task_orders`::

        [project.entry-points."rlalign.rewards"]
        brevity = "my_package.rewards:brevity"

    Args:
        kind: the word for error messages, such as "reward".
        builtin: name -> "package.module:attr".
        group: entry-point group of other packages.
        hint: sentence about other values than names, for the message about an unknown name.
        functions: the items are functions, and only functions are suggested for a missing attribute.

    Attributes:
        kind: the word for error messages.
        group: entry-point group of other packages.
        built_in: name -> "package.module:attr", of entry points too once they have been read. A built-in name has
            precedence over an entry point.

    Example:
        >>> constants = Registry("constant", {"pi": "math:pi"})
        >>> constants.add("zero", 0.0)
        0.0
        >>> list(constants), constants.get("pi"), constants.get("math:e")
        (['pi', 'zero'], 3.141592653589793, 2.718281828459045)
    """

    def __init__(
        self,
        kind: str,
        builtin: Mapping[str, str] | None = None,
        group: str | None = None,
        *,
        hint: str = "",
        functions: bool = False,
    ) -> None:
        self.kind = kind
        self.hint = hint
        self.functions = functions
        self.group = group
        self.built_in = dict(builtin or {})
        self._items: dict[str, T] = {}
        self._scanned = group is None

    def add(self, name: str, item: T, *, replace: bool = True) -> T:
        """Register an item and return it.

        Args:
            name: the name of the item. It takes precedence over a built-in item of this name.
            item: the object.
            replace: whether the name may be in use.

        Raises:
            UserError: the name is in use and `replace` is False.
        """
        if not replace and name in self:
            raise UserError(f"expected an unused name for the {self.kind}, got '{name}'; use another name")
        self._items[name] = item
        return item

    def get(self, spec: str) -> T:
        """Return the item of a name or spec.

        Args:
            spec: a name of the registry, `package.module:attr` or `path/to/file.py:attr`.

        Raises:
            UnknownNameError: the registry has no such name; the message suggests similar ones.
            UserError: a module, file or attribute is missing.
        """
        self._scan()
        if spec in self._items:
            return self._items[spec]
        if spec in self.built_in:
            return self._items.setdefault(spec, load(self.built_in[spec]))
        if ":" in spec:
            item: T = load(spec, self._items, functions=self.functions)
            return item
        if spec.endswith(".py"):
            raise UserError(f"expected a {self.kind} in a file as FILE.py:NAME, got '{spec}'; use {spec}:NAME")
        raise UnknownNameError(self.kind, spec, self, self.hint)

    def docstring(self, name: str) -> str:
        """Return the docstring of a function or class of the registry, read from its source without importing it.

        Empty if the item is no function or class of a source file.
        """
        self._scan()
        if name in self._items or name not in self.built_in:
            return inspect.getdoc(self.get(name)) or ""
        module, _, attribute = self.built_in[name].partition(":")
        spec = importlib.util.find_spec(module)
        if spec is None or not spec.origin or not spec.origin.endswith(".py"):
            return ""
        for node in ast.parse(Path(spec.origin).read_bytes()).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == attribute:
                return ast.get_docstring(node) or ""
        return ""

    def __contains__(self, name: object) -> bool:
        self._scan()
        return name in self._items or name in self.built_in

    def __iter__(self) -> Iterator[str]:
        self._scan()
        return iter(sorted({*self._items, *self.built_in}))

    def __len__(self) -> int:
        return len(list(iter(self)))

    def _scan(self) -> None:
        # entry points are read on first use: reading them at import would slow down each start
        if self._scanned:
            return
        self._scanned = True
        for point in entry_points(group=self.group or ""):
            self.built_in.setdefault(point.name, point.value)


def load(spec: str, registered: Mapping[str, Any] | None = None, *, functions: bool = False) -> Any:
    """Return the object of `package.module:attr` or `file.py:attr`.

    A file runs once per process: later specs of the same file return objects of the same module. It can import the
    other files of its folder, which is appended to `sys.path`: installed packages have precedence.

    Args:
        spec: the module or file, and the attribute, which may be dotted (`module:Class.method`).
        registered: name -> object; those that the module registered are found by their names too.
        functions: suggest only functions for an attribute that is missing.

    Raises:
        UserError: names the missing module, file or attribute; or the error that the file raised.

    Example:
        >>> load("math:pi"), load("pathlib:Path.cwd").__name__
        (3.141592653589793, 'cwd')
    """
    location, _, attribute = spec.rpartition(":")
    module = _module_of_file(Path(location)) if location.endswith(".py") else _module_of_name(location)
    item: Any = module
    own = {n: x for n, x in (registered or {}).items() if getattr(x, "__module__", None) == module.__name__}
    if attribute in own and not hasattr(module, attribute):
        return own[attribute]
    for part in attribute.split("."):
        if not hasattr(item, part):
            public = [n for n, x in vars(module).items() if not n.startswith("_") and not isinstance(x, ModuleType)]
            public += own
            if functions:
                public = [name for name in public if inspect.isroutine(getattr(item, name, own.get(name)))]
            raise UserError(f"'{location}' has no '{attribute}'.{did_you_mean(attribute, public)}")
        item = getattr(item, part)
    return item


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
        # a module that this module imports may be missing instead: that error is raised unchanged
        if error.name and (name == error.name or name.startswith(error.name + ".")):
            raise UserError(f"no module '{name}'; install its package, or use '{name}.py:...' for a file") from error
        raise


def _module_of_file(path: Path) -> Any:
    path = path.expanduser().resolve()
    if not path.is_file():
        raise UserError(f"no file '{path}'; use the path of an existing file")
    # The module's name depends on the path alone: two specs of one file share one module, and so its registrations.
    name = f"rlalign_file_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    _add_folder(path)
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UserError(f"'{path}' cannot be imported as Python; use a Python file")
    module = importlib.util.module_from_spec(spec)
    # before execution: dataclasses and pickle look their module up there while the file runs
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if isinstance(error, Exception):
            raise UserError(
                f"'{path}' cannot be imported: {type(error).__name__}: {error}{user_place(error)}; correct the file"
            ) from error
        raise
    return module


_folders: set[Path] = set()  # of files that were loaded


def _add_folder(path: Path) -> None:
    """Append the folder of a file to `sys.path`, also for worker processes, which get a copy of it.

    Raises:
        UserError: the file imports a neighbor whose name is that of a module from the folder of another file. Python
            would return that one.
    """
    folder = path.parent
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):  # the import of the file reports it
        return
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and not node.level and node.module:
            names = [node.module]
        for name in (name.partition(".")[0] for name in names):
            loaded = Path(getattr(sys.modules.get(name), "__file__", None) or folder / name).resolve()
            root = loaded.parent.parent if loaded.name == "__init__.py" else loaded.parent
            neighbor = (folder / f"{name}.py").is_file() or (folder / name / "__init__.py").is_file()
            if neighbor and root != folder and root in _folders:
                raise UserError(
                    f"'{path}' imports '{name}' of its own folder, but '{loaded}' has been imported under that name; "
                    "rename one of the two"
                )
    _folders.add(folder)
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
        importlib.invalidate_caches()


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
TASK_ORDERS: Registry[Callable[..., Any]] = Registry(
    "task order",
    {
        "shuffled": "rlalign.envs.task_order.fixed:Shuffled",
        "sequential": "rlalign.envs.task_order.fixed:Sequential",
        "difficulty": "rlalign.envs.task_order.difficulty:DifficultyPools",
    },
    group="rlalign.task_orders",
    hint="A task sampler of your own is FILE.py:NAME.",
)
