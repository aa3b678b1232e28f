"""Words that the project does not use, with the term to use instead. CONTRIBUTING.md has the rules of the language."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

WORDS = {
    r"(?<!scaling )laws?": "invariant, conformance check",
    r"gold[ _](?:turns?|play)": "reference trajectory",
    r"anew": "again",
    r"by itself|by themselves": "alone, separately; or nothing",
    r"whatever|whichever way": "any; or say what it depends on",
    r"where there (?:is|are) (?:one|none|any)": "if ... exists",
    r"(?:goes|went|going) on|go on (?:with|from|where)": "continue, resume",
    r"who (?:may|has|got)|what stood": "name the thing",
    r"(?:is|are) (?:said|told|spoken)|spoken|speaks": "is reported; generates",
    r"mean height": "normalized area under the learning curve",
    r"policy got (?:better|worse)": "reward improved, with the interval",
    r"LLMAR": "where the formula comes from",
    r"lean (?:decoder|decoding|model)|LeanModel": "optimized decoder",
    r"trained in full": "full fine-tuning",
    r"learnt from|is learnt|are learnt": "learned",
    r"of one's own": "of the user's own; custom",
}
"""Regular expression of whole words, without regard to case -> the term to use."""

SUFFIXES = (".py", ".md", ".css", ".js", ".toml", ".yaml")
THIS = Path(__file__).relative_to(ROOT).as_posix()


def files() -> list[str]:
    """All text files of the project, as paths from its root; stored results keep the words of their time."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    paths = [path for path in listed.stdout.split("\n") if path.endswith(SUFFIXES)]
    return [
        path
        for path in paths
        if path != THIS and not path.startswith("benchmarks/results/") and (ROOT / path).is_file()
    ]


@pytest.mark.parametrize("word", WORDS)
def test_a_private_word_does_not_occur(word: str) -> None:
    pattern = re.compile(rf"\b(?:{word})\b", re.IGNORECASE)
    hits = [
        f"{path}:{number}: {line.strip()[:100]}"
        for path in files()
        for number, line in enumerate((ROOT / path).read_text(encoding="utf-8").splitlines(), 1)
        if pattern.search(line)
    ]
    assert not hits, f"use {WORDS[word]}:\n" + "\n".join(hits)
