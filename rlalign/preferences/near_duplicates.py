"""Groups of prompts that are equal or nearly equal, which a split into train and test must not divide.

Two rules form the groups:

1. Equal after normalization: texts that differ in case, spaces and punctuation alone.
2. Nearly equal: the Jaccard similarity of the sets of their character 5-grams is at least `THRESHOLD`. Candidates come
   from MinHash signatures (Broder 1997, "On the resemblance and containment of documents") by one permutation with
   densification (Shrivastava 2017, "Optimal densification for fast and accurate minwise hashing", ICML) in bands
   (Leskovec, Rajaraman and Ullman, "Mining of Massive Datasets", section 3.4). Each candidate is verified exactly.

Digits, and signs before a digit, are compared: `What is 3 + 4?` and `What is 3 - 4?` are two questions.

Groups are transitive: if A is near B and B is near C, all three form one group. The time grows linearly with the number
of characters. Equal input gives equal groups on each machine.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from rlalign.preferences.pairs import text_of

THRESHOLD = 0.8
"""Jaccard similarity from which two texts are near duplicates."""
SHINGLE = 5
"""Characters per shingle: words of other sentences share few of them, also in Chinese."""
TEMPLATE_SHARE = 0.25
"""Shingles in more than this share of the prompts belong to a template, and are not compared."""
TEMPLATE_PROMPTS = 20
"""Number of different prompts from which templates are looked for: fewer prompts may all be duplicates."""
FEW_PROMPTS = 10
"""Number of different prompts from which few groups are reported."""
FEW_SHARE = 0.5
"""Groups per prompt below which they are few."""
_WORD = re.compile(r"[-+*/^=<>%](?=\s*\d)|[^\W_]+")
_BINS = 126
"""Length of a signature."""
_ROWS = 6
"""Equal values that make a candidate. 21 bands of 6 find a pair of similarity 0.8 with probability 0.998."""
_PROBES = 64
_CHUNK = 400_000  # characters that are hashed together: their arrays fit into the cache
_TEMPLATE_SAMPLE = 4000  # texts: the share of a template is then known within 0.03
_COUNTERS = 1 << 22  # a collision can only take a shingle for a part of a template

Hashes = np.ndarray[Any, np.dtype[np.uint64]]


def prompt_text(prompt: Any) -> str:
    """Return the text by which a prompt is compared: without the system's messages, which prompts share.

    Args:
        prompt: a text, or messages with role and content, or with from and value as in ShareGPT's format.

    Example:
        >>> prompt_text([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}])
        'Hi'
    """
    if isinstance(prompt, list):
        messages = [m for m in prompt if isinstance(m, Mapping)]
        users = [m for m in messages if m.get("role", m.get("from")) != "system"]
        return text_of([{"content": m.get("content", m.get("value"))} for m in users or messages])
    return prompt if isinstance(prompt, str) else str(prompt or "")


def prompt_groups(texts: Sequence[str]) -> list[int]:
    """Return the group of each text: the index of the first text of the group.

    Args:
        texts: N prompts. Those of a conversation are its messages in one text.

    Returns:
        N numbers, equal for texts of one group.

    Example:
        >>> prompt_groups(["Add 3 and 4.", "add 3 and  4", "Add 5 and 6."])
        [0, 0, 2]
    """
    first: dict[str, int] = {}
    exact = [first.setdefault(normalized(text), i) for i, text in enumerate(texts)]
    distinct = list(first)
    places = list(first.values())
    parents = _near(distinct)
    # a parent is never larger than its child, so that the root is the first text of the group
    group_of = {places[i]: places[root] for i, root in enumerate(parents)}
    return [group_of[i] for i in exact]


def normalized(text: str) -> str:
    """Return a text without case and punctuation, with single spaces; the text itself if nothing is left.

    Digits stay, and so do signs before a digit: they alone distinguish the tasks of a template.

    Example:
        >>> normalized("Add 3 and 4."), normalized("2+2="), normalized("?")
        ('add 3 and 4', '2 + 2', '?')
    """
    return " ".join(_WORD.findall(text.lower())) or text


def are_few(groups: int, prompts: int) -> bool:
    """Return True if prompts form so few groups that a split, and intervals by groups, have little to use.

    Args:
        groups: number of groups.
        prompts: number of different prompts.
    """
    return prompts >= FEW_PROMPTS and groups < FEW_SHARE * prompts


def similarity(first: str, second: str) -> float:
    """Return the Jaccard similarity of the shingles of two normalized texts, 0 to 1."""
    a, b = (set(_shingles([normalized(text)])[1].tolist()) for text in (first, second))
    return len(a & b) / len(a | b)


def _near(texts: Sequence[str]) -> list[int]:
    """Return the root of each of N different normalized texts: the smallest index of its group."""
    template = _template(texts)
    signatures = np.zeros((len(texts), _BINS), dtype=np.uint32)
    usable = np.zeros(len(texts), dtype=bool)
    for start, chunk in _chunks(texts):
        owners, hashes = _shingles(chunk)  # repetitions do not change a minimum
        keep = ~template[hashes % _COUNTERS]
        rows = slice(start, start + len(chunk))
        signatures[rows], usable[rows] = _signatures(owners[keep], hashes[keep], len(chunk))
    parents = list(range(len(texts)))
    compared: set[tuple[int, int]] = set()
    for i, j in _candidates(signatures, np.flatnonzero(usable)):
        if (i, j) in compared or _root(parents, i) == _root(parents, j):
            continue
        compared.add((i, j))
        if _jaccard(texts[i], texts[j], template) >= THRESHOLD:
            low, high = sorted((_root(parents, i), _root(parents, j)))
            parents[high] = low
    return [_root(parents, i) for i in range(len(texts))]


def _root(parents: list[int], i: int) -> int:
    while parents[i] != i:
        parents[i] = parents[parents[i]]  # halves the path for the next search
        i = parents[i]
    return i


def _template(texts: Sequence[str]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Return for each counter whether its shingles are in more than `TEMPLATE_SHARE` of a sample of the texts."""
    if len(texts) < TEMPLATE_PROMPTS:
        return np.zeros(_COUNTERS, dtype=bool)
    sample = texts[:: max(1, len(texts) // _TEMPLATE_SAMPLE)]
    counts = np.zeros(_COUNTERS, dtype=np.int64)
    for _, chunk in _chunks(sample):
        owners, hashes = _shingles(chunk)
        # one count per text: the keys of text and shingle are distinct up to a collision of 64 bits
        keys = _mixed(hashes + owners.astype(np.uint64) * np.uint64(0xD1342543DE82EF95))
        _, places = np.unique(keys, return_index=True)
        counts += np.bincount((hashes[places] % _COUNTERS).astype(np.int64), minlength=_COUNTERS)
    share: np.ndarray[Any, np.dtype[np.bool_]] = counts > TEMPLATE_SHARE * len(sample)
    return share


def _chunks(texts: Sequence[str]) -> Iterator[tuple[int, Sequence[str]]]:
    """Yield the start and the texts of chunks of about `_CHUNK` characters."""
    start = 0
    size = 0
    for i, text in enumerate(texts):
        size += len(text)
        if size >= _CHUNK:
            yield start, texts[start : i + 1]
            start, size = i + 1, 0
    if start < len(texts):
        yield start, texts[start:]


def _shingles(texts: Sequence[str]) -> tuple[np.ndarray[Any, np.dtype[np.int64]], Hashes]:
    """Return the shingles of texts, with repetitions: arrays of equal length, the number of the text and the hash."""
    # a text that is shorter than a shingle is padded, so that it has one
    padded = [text.ljust(SHINGLE, "\x00") for text in texts]
    codes = np.frombuffer("".join(padded).encode("utf-32-le", "surrogatepass"), dtype=np.uint32).astype(np.uint64)
    lengths = np.array([len(text) for text in padded], dtype=np.int64)
    owners = np.repeat(np.arange(len(texts)), lengths)
    windows = len(codes) - SHINGLE + 1
    hashes = np.zeros(windows, dtype=np.uint64)
    for offset in range(SHINGLE):  # a polynomial of the characters; uint64 wraps around
        hashes = hashes * np.uint64(0x9E3779B97F4A7C15) + codes[offset : offset + windows]
    inside = owners[:windows] == owners[SHINGLE - 1 :]  # a window across two texts is no shingle
    return owners[:windows][inside], _mixed(hashes[inside])


def _mixed(values: Hashes) -> Hashes:
    """Return 64-bit hashes of 64-bit values (the finalizer of splitmix64), since low bits of a product are weak."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _signatures(
    owners: np.ndarray[Any, np.dtype[np.int64]], hashes: Hashes, count: int
) -> tuple[np.ndarray[Any, np.dtype[np.uint32]], np.ndarray[Any, np.dtype[np.bool_]]]:
    """Return the signatures of texts, shape (count, _BINS), and whether each text has a shingle."""
    largest = np.uint32(0xFFFFFFFF)
    signatures = np.full((count, _BINS), largest, dtype=np.uint32)
    values = np.minimum(hashes >> np.uint64(32), np.uint64(0xFFFFFFFE)).astype(np.uint32)
    np.minimum.at(signatures, (owners, (hashes % np.uint64(_BINS)).astype(np.int64)), values)
    filled = signatures != largest
    usable = filled.any(axis=1)
    rows, bins = np.nonzero(~filled & usable[:, None])
    # an empty bin copies a filled one, which the same fixed sequence of probes selects in each text
    probes = np.random.Generator(np.random.PCG64(0)).integers(0, _BINS, size=(_BINS, _PROBES))
    hits = filled[rows[:, None], probes[bins]]
    found = hits.argmax(axis=1)
    sources = probes[bins, found]
    missed = ~hits.any(axis=1)  # with few shingles: the first filled bin
    sources[missed] = filled[rows[missed]].argmax(axis=1)
    # bins with the same source differ by their own number, else one shingle would fill whole bands
    signatures[rows, bins] = signatures[rows, sources] ^ (bins.astype(np.uint32) * np.uint32(0x9E3779B1))
    return signatures, usable


def _candidates(
    signatures: np.ndarray[Any, np.dtype[np.uint32]], usable: np.ndarray[Any, Any]
) -> Iterator[tuple[int, int]]:
    """Yield pairs i < j that are equal in a band: each text with the first and with the previous one of its bucket.

    A bucket of B texts gives at most 2 B pairs, so that the work stays linear.
    """
    for start in range(0, _BINS - _ROWS + 1, _ROWS):
        keys = np.zeros(len(usable), dtype=np.uint64)
        for column in range(start, start + _ROWS):
            keys = _mixed(keys + signatures[usable, column].astype(np.uint64) + np.uint64(column + 1))
        order = np.argsort(keys, kind="stable")
        ordered = keys[order]
        first = 0
        for k in np.flatnonzero(ordered[1:] == ordered[:-1]) + 1:
            if ordered[first] != ordered[k]:
                first = int(k) - 1
            i, j = usable[order[k - 1]], usable[order[k]]
            yield int(i), int(j)
            if first < k - 1:
                yield int(usable[order[first]]), int(j)


def _jaccard(first: str, second: str, template: np.ndarray[Any, np.dtype[np.bool_]]) -> float:
    sets = []
    for text in (first, second):
        _, hashes = _shingles([text])
        sets.append(set(hashes[~template[hashes % _COUNTERS]].tolist()))
    union = len(sets[0] | sets[1])
    return len(sets[0] & sets[1]) / union if union else 0.0
