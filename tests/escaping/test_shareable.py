"""Texts that others read: no folder of this machine, no user, no password and no key, and names that stay names."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlalign.escaping.shareable import places_in, shareable_name, shareable_spec, shareable_text, shareable_values


@pytest.mark.parametrize(
    ("spec", "shown"),
    [
        ("ensemble?of=/home/u/rm|vader=0.2", "ensemble?of=rm|vader=0.2"),
        ("words?words=%2Fhome%2Fu%2Fw.txt=0.5", "words?words=w.txt=0.5"),
        ("reward_model:/home/u/rm", "reward_model:rm"),
        ("+/home/u/r.py:good<=0.5", "+r.py:good<=0.5"),
        ("/home/o'neil/my, dir/a:b/c.jsonl", "c.jsonl"),
        ("~bob/runs/p1/", "p1"),
        ("C:\\Users\\me\\policy", "policy"),
        ("file:///home/u/x.jsonl", "x.jsonl"),
        ("secret dir/of/r.py:f", "r.py:f"),
        ("https://user:sk-secret@host/v1?model=a/b&api_key=1", "https://host/v1?model=a/b&api_key=..."),
        ("http://u:p,w=@host:9/score=0.5@0:1@100", "http://host:9/score=0.5@0:1@100"),
        ("f?x=http://u:p@host/y|/home/u/r.py:f", "f?x=http://host/y|r.py:f"),
        ("judge?header=sk-abcdefghijklmnop1234", "judge?header=..."),
    ],
)
def test_places_and_secrets_are_left_out(spec: str, shown: str) -> None:
    assert shareable_spec(spec) == shown


@pytest.mark.parametrize(
    "spec",
    [
        "rlalign/Reverse-v0?max_length=4", "org/name", "hf:org/name/main?prompt=q", "module.part:Class",
        "http://127.0.0.1:8000=0.5@0:1@10", r"regex?pattern=\d+/\d+", "length=0.5@0:1@100", "ensemble?of=a|b&how=min",
        "tokens?max_tokens=3",
    ],
)  # fmt: skip
def test_other_specs_stay(spec: str) -> None:
    assert shareable_spec(spec) == spec


def test_sentences_and_labels() -> None:
    assert shareable_text("in '/home/me/x/': see http://me:pw@h/x, (~/a/b.py:f)") == "in 'x': see http://h/x, (b.py:f)"
    for text in ("1/|y| and </s>, and/or a / b", "reward/env/x", "see https://medium.com/@me/x."):
        assert shareable_text(text) == text


def test_labels_stay_different() -> None:
    values = shareable_values({"w[of=/a/w.txt]": 1, "w[of=/b/w.txt]": {"x": ["/c/d", 2.5, None]}})
    assert values == {"w[of=w.txt]": 1, "w[of=w.txt]-2": {"x": ["d", 2.5, None]}}
    names: dict[str, str] = {}
    assert shareable_name("a", names) == shareable_name("a", names) == "a"


def test_folders_are_found_in_json_too() -> None:
    home = Path("/home/me")
    assert places_in('{"base": "/home/me/x"}', [home, Path("/")]) == ["/home/me"]
    assert places_in('{"base": "x"}', [home]) == []
