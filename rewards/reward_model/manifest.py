"""reward_model.json: what a reward model is, so that a folder scores tomorrow as it scores today."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from rlalign.errors import FaultError, UserError

FILE = "reward_model.json"
FORMAT = 1
"""Version of the file. A later one is refused, because its fields could change scores."""
Kind = Literal["transformer", "linear", "ensemble"]
Form = Literal["text", "chat"]
FIX = "use a folder that `rlalign reward-model train` wrote"


@dataclass(frozen=True, slots=True)
class Manifest:
    """The description of a reward model.

    Attributes:
        kind: transformer, linear or ensemble.
        form: "chat": conversations are rendered by the model's chat template; "text": prompt and completion are one
            text.
        objective: "preferences": Bradley-Terry on pairs; "ratings": regression on points.
        probes: scores of the probe texts (`rlalign.rewards.reward_model.probes`), [16].
        center: mean score of the training completions. Scores are not shifted by it, except in an ensemble.
        spread: their standard deviation.
        template_sha256: of the chat template; empty without one.
        pad_id: padding token; it is not the EOS token.
        eos_id: token that ends a finished text.
        read_token: token at which the score of a finished completion is read, as text; "pooled" if the model reads no
            single token.
        max_length: tokens; the beginning of a longer conversation is left out.
        dtype: of the weights at scoring.
        members: folders of an ensemble.
        how: combination of an ensemble, if a spec names none.
        coef: weight of the disagreement, if a spec names none.
        rating_mean: mean of the ratings, which are trained as (rating - mean) / spread.
        rating_spread: their standard deviation.
        versions: package -> version that trained the model.
        training: settings and counts of the training, for people.
        format: version of the file.
    """

    kind: Kind
    form: Form = "text"
    objective: Literal["preferences", "ratings"] = "preferences"
    probes: tuple[float, ...] = ()
    center: float = 0.0
    spread: float = 1.0
    template_sha256: str = ""
    pad_id: int | None = None
    eos_id: int | None = None
    read_token: str = ""
    max_length: int | None = None
    dtype: str = "float32"
    members: tuple[str, ...] = ()
    how: str = "mean"
    coef: float = 1.0
    rating_mean: float = 0.0
    rating_spread: float = 1.0
    versions: Mapping[str, str] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    format: int = FORMAT

    def write(self, folder: Path) -> None:
        """Write the file; it comes last, so that a folder with it is complete.

        Raises:
            FaultError: the file cannot be written.
        """
        text = json.dumps(asdict(self), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        scratch = folder / (FILE + ".tmp")
        try:
            scratch.write_text(text, encoding="utf-8")
            scratch.replace(folder / FILE)
        except OSError as error:
            raise FaultError(f"'{folder / FILE}' cannot be written ({error.strerror}); use another folder") from error


def read_manifest(folder: Path) -> Manifest:
    """Return the manifest of a folder.

    Raises:
        UserError: there is none, it is damaged, or it is of a later version.
    """
    path = folder / FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"'{path}' cannot be read ({error.strerror}); {FIX}") from error
    except ValueError as error:  # of json, or of a file that is not UTF-8
        raise UserError(f"'{path}' is damaged ({error}); {FIX}") from error
    return _checked(content, path)


def _checked(content: Any, path: Path) -> Manifest:
    if not isinstance(content, dict) or content.get("kind") not in get_args(Kind):
        kind = content.get("kind") if isinstance(content, dict) else content
        raise UserError(f"'{path}': expected a kind among {', '.join(get_args(Kind))}, got {kind!r:.60}; {FIX}")
    if content.get("format") != FORMAT:
        raise UserError(
            f"'{path}': expected format {FORMAT}, got {content.get('format')!r:.20}; use the version of rlalign that "
            "wrote it"
        )
    if unknown := sorted(set(content) - {f.name for f in fields(Manifest)}):
        raise UserError(f"'{path}': expected the fields of a reward model, got '{unknown[0]}'; {FIX}")
    if content.get("form", "text") not in get_args(Form):
        raise UserError(f"'{path}': expected form text or chat, got {content['form']!r:.20}; {FIX}")
    for name in ("center", "spread", "coef", "rating_mean", "rating_spread"):
        if not _is_number(content.get(name, 0.0)):
            raise UserError(f"'{path}': expected a number as {name}, got {content[name]!r:.40}; {FIX}")
    probes = content.get("probes", [])
    if not isinstance(probes, list) or not all(map(_is_number, probes)):
        raise UserError(f"'{path}': expected numbers as probes, got {probes!r:.40}; {FIX}")
    members = content.get("members", [])
    # a member is a folder inside the folder: a path that leaves it would load weights that no digest covers
    if not isinstance(members, list) or not all(isinstance(m, str) and _is_plain(m) for m in members):
        raise UserError(f"'{path}': expected names of folders as members, got {members!r:.60}; {FIX}")
    return Manifest(**{**content, "probes": tuple(probes), "members": tuple(members)})


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_plain(name: str) -> bool:
    return bool(name) and name not in (".", "..") and Path(name).name == name
