"""Texts that leave this machine: paths become names, and addresses lose user, password and keys.

A card, an uploaded file and the configuration in a tracker are read by others. A folder of this machine says nothing to
them, and can name its user.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, MutableMapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

_BORDER = r"(?:(?<![^\s,;:=|()'\"\[\]{}&?@`!])|(?<=\A\+))"
_SCHEDULE = r"[^/@\s]*=[-+.\deE]+@\d+(?::[-+.\deE]+@\d+)*(?![^\s,|])"  # of a reward, and no password
_URL = (
    rf"(?P<scheme>[A-Za-z][A-Za-z0-9.+-]*)://(?:(?!{_SCHEDULE})[^/\s?#]*@)?"
    r"(?P<rest>(?:[^\s,;|'\"<>`\]]|[,;](?=[^\s/]*=))*)"
)
_ROOT = r"(?:(?:[A-Za-z]:|~[\w.-]*|\.{1,2})[/\\]+|/+|\\\\)"
_WORD = r"[^\s/\\,;|:'\"<>`\])]+"
_IN_PROSE = re.compile(rf"{_URL}|{_BORDER}{_ROOT}(?:{_WORD}[/\\]+)*(?P<last>{_WORD})[/\\]*")
# the folder of a spec may hold spaces and marks, unless another path or address begins behind the mark
_FOLDER = rf"(?:[^/\\|,;:=]|[,;:=](?!{_ROOT}|\w+://))+"
_SUFFIX = r"\.(?:py|jsonl|json|csv|tsv|parquet|txt|pt|gguf)\b"
_RELATIVE = r"(?!hf:)[\w.-][^/\\,;|:=]*/+"
_IN_SPEC = re.compile(
    rf"{_URL}|{_BORDER}(?:"
    rf"{_ROOT}(?:{_FOLDER}[/\\]+)*(?P<last>{_FOLDER})[/\\]*"
    rf"|(?<!hf:){_RELATIVE}(?:{_FOLDER}/+)*(?=[^/\\]*{_SUFFIX})"
    rf"|(?<!hf:){_RELATIVE}(?:{_FOLDER}/+)+(?=[^/\\])"
    r")"
)
_SECRET_NAME = re.compile(
    r"(?:.*[_-])?(?:api[_-]?key|key|token|secret|passwd|password|pwd|auth|authorization|credentials?|sig|signature)",
    re.IGNORECASE,
)
_SECRET_VALUE = re.compile(r"\b(?:sk-[A-Za-z0-9_-]{16,}|hf_[A-Za-z0-9]{20,}|ghp_[A-Za-z0-9]{20,}|AKIA[A-Z0-9]{16})")
HIDDEN = "..."
"""In place of a secret."""


def shareable_spec(spec: str) -> str:
    """Return a spec `NAME[?parameter=value&...]`, a path, an address or a name as others may read it.

    Example:
        >>> shareable_spec("/home/me/my data/a.jsonl?prompt=q"), shareable_spec("ensemble?of=/home/me/rm|vader")
        ('a.jsonl?prompt=q', 'ensemble?of=rm|vader')
        >>> shareable_spec("https://me:password@host/v1?model=big&key=abc"), shareable_spec("org/name")
        ('https://host/v1?model=big&key=...', 'org/name')
    """
    head, mark, query = spec.partition("?")
    pairs = "&".join(_shared_pair(pair) for pair in query.split("&"))
    return f"{_without_places(head, _IN_SPEC)}{mark}{pairs}"


def shareable_text(text: str) -> str:
    """Return a sentence or a label as others may read it.

    Example:
        >>> shareable_text("words[words=/home/me/w.txt] rose; see http://me:pw@host/x")
        'words[words=w.txt] rose; see http://host/x'
    """
    return _without_places(text, _IN_PROSE)


def shareable_values(value: Any) -> Any:
    """Return a JSON value with each text as others may read it; keys too, which stay different."""
    if isinstance(value, str):
        return shareable_text(value)
    if isinstance(value, Mapping):
        names: dict[str, str] = {}
        return {shareable_name(str(key), names): shareable_values(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(shareable_values(entry) for entry in value)
    return value


def shareable_name(name: str, names: MutableMapping[str, str]) -> str:
    """Return a label as others may read it; different labels stay different.

    Args:
        name: the label.
        names: label -> the one that others read, of earlier calls; the label is added.

    Example:
        >>> names: dict[str, str] = {}
        >>> shareable_name("w[words=/a/w.txt]", names), shareable_name("w[words=/b/w.txt]", names)
        ('w[words=w.txt]', 'w[words=w.txt]-2')
    """
    if name not in names:
        shown = unique = shareable_text(name)
        taken = set(names.values())
        number = 2
        while unique in taken:
            unique = f"{shown}-{number}"
            number += 1
        names[name] = unique
    return names[name]


def places_in(text: str, folders: Iterable[Path]) -> list[str]:
    """Return those folders of this machine that a text contains, also as JSON writes them."""
    found = []
    for folder in folders:
        path = str(folder)
        if len(folder.parts) > 1 and (path in text or json.dumps(path)[1:-1] in text):
            found.append(path)
    return found


def secrets_in(text: str) -> list[str]:
    """Return the beginnings of texts that have the form of a key of a known service."""
    return [f"{match[0][:6]}{HIDDEN}" for match in _SECRET_VALUE.finditer(text)]


def _shared_pair(pair: str) -> str:
    name, equals, value = pair.partition("=")
    if equals and _SECRET_NAME.fullmatch(name.strip()):
        return f"{name}={HIDDEN}"
    plain = unquote(value)
    shown = shareable_spec(plain) if "?" in plain else _without_places(plain, _IN_SPEC)
    return pair if shown == plain else f"{name}{equals}{quote(shown, safe=' /:=@,|?.')}"


def _without_places(text: str, pattern: re.Pattern[str]) -> str:
    return _SECRET_VALUE.sub(HIDDEN, pattern.sub(_shown, text))


def _shown(match: re.Match[str]) -> str:
    parts = match.groupdict()
    if parts["scheme"] is None:
        return parts.get("last") or ""
    rest = parts["rest"]
    if parts["scheme"].lower() == "file":
        return rest.rstrip("/").rpartition("/")[2]
    address, mark, query = rest.partition("?")
    pairs = "&".join(_shared_pair(pair) for pair in query.split("&"))
    return f"{parts['scheme']}://{address}{mark}{pairs}"
