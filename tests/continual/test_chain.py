"""The chain of runs: recognized, recorded with digests, found again when folders move, and compared."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from rlalign.config.defaults import default_config
from rlalign.continual.chain import followed, parent_folder, recorded_chain, stored_chain
from rlalign.policies.factory import make_policy
from rlalign.storage import checkpoint
from rlalign.storage.run_folder import write_config
from rlalign.tokenizers import CharTokenizer


def make_run(folder: Path, policy: str = "gru", seed: int = 0) -> Path:
    """Write a run folder with configuration, policy and one checkpoint whose manifest holds the chain."""
    folder.mkdir(parents=True)
    chain = recorded_chain(folder, policy)
    write_config(folder, replace(default_config("reverse", "gru"), policy=policy, seed=seed))
    make_policy("gru", tokenizer=CharTokenizer("ab"), seed=seed).save_pretrained(folder / "policy")
    checkpoint.save(
        folder / "checkpoints", 1, {"progress": {"step": 1}}, config_hash="", chain=[vars_of(entry) for entry in chain]
    )
    return folder


def vars_of(entry: object) -> dict[str, str]:
    """Return the fields of a record."""
    return {name: getattr(entry, name) for name in ("name", "path", "relative", "policy", "config")}


@pytest.fixture
def three(tmp_path: Path) -> Path:
    """Return the folder of three runs a, b, c, each of which continues the one before."""
    runs = tmp_path / "runs"
    make_run(runs / "a")
    make_run(runs / "b", str(runs / "a" / "policy"), seed=1)
    make_run(runs / "c", str(runs / "b" / "policy"), seed=2)
    return runs


def test_a_policy_of_a_run_is_recognized_in_its_three_spellings(three: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = three / "a"
    (run / "policy" / "adapter").mkdir()
    for inside in ("", "policy", "policy/adapter"):
        assert parent_folder(str(run / inside)) == run
    monkeypatch.chdir(run / "policy")
    assert parent_folder("adapter") is None  # a relative path without the run in it
    monkeypatch.chdir(three)
    assert parent_folder("a") == Path("a")
    assert parent_folder("a/policy") == Path("a")


def test_other_policies_are_no_parents(three: Path, tmp_path: Path) -> None:
    shutil.copytree(three / "a" / "policy", tmp_path / "export" / "policy")
    for policy in (
        "gru",
        "smollm2",
        "org/model",
        "/",
        ".",
        str(tmp_path / "export" / "policy"),
        str(tmp_path / "none"),
    ):
        assert parent_folder(policy) is None


def test_the_chain_names_parent_and_grandparent(three: Path) -> None:
    chain = stored_chain(three / "c")
    assert [ancestor.name for ancestor in chain] == ["b", "a"]
    assert [ancestor.relative for ancestor in chain] == ["../b", "../a"]
    assert [link.problems for link in followed(chain, three / "c")] == [(), ()]
    manifest = json.loads((three / "c" / "checkpoints" / "step-1" / "manifest.json").read_text())
    assert [entry["path"] for entry in manifest["chain"]] == [str(three / "b"), str(three / "a")]


def test_a_moved_tree_is_found_by_its_relative_paths(three: Path) -> None:
    moved = three.rename(three.with_name("elsewhere"))
    links = followed(stored_chain(moved / "c"), moved / "c")
    assert [link.path for link in links] == [moved / "b", moved / "a"]
    assert not any(link.problems for link in links)


def test_a_moved_run_finds_its_parents_by_their_absolute_paths(three: Path) -> None:
    moved = (three / "c").rename(three.parent / "c")
    links = followed(stored_chain(moved), moved)
    assert [link.path for link in links] == [three / "b", three / "a"]
    # another run at the relative path is not taken for the parent
    make_run(three.parent / "b", seed=7)
    assert followed(stored_chain(moved), moved)[0].path == three / "b"


def test_a_missing_parent_is_reported(three: Path) -> None:
    (three / "a").rename(three / "gone")
    parent, grandparent = followed(stored_chain(three / "c"), three / "c")
    assert parent.path == three / "b"
    assert grandparent.path is None
    assert "moved or deleted" in grandparent.problems[0]


@pytest.mark.parametrize(
    ("file", "word"), [("config.json", "config.json of"), ("policy/gru.safetensors", "the policy")]
)
def test_a_changed_parent_is_reported(three: Path, file: str, word: str) -> None:
    path = three / "b" / file
    path.write_bytes(path.read_bytes() + b" ")
    parent, grandparent = followed(stored_chain(three / "c"), three / "c")
    assert parent.problems[0].startswith(word)
    assert parent.config_changed == (file == "config.json")
    assert not grandparent.problems


def test_runs_of_before_have_a_chain_without_digests(three: Path) -> None:
    """A manifest without a chain: the configurations name the parents."""
    for name in ("b", "c"):
        shutil.rmtree(three / name / "checkpoints")
        checkpoint.save(three / name / "checkpoints", 1, {"progress": {"step": 1}}, config_hash="")
    chain = stored_chain(three / "c")
    assert [ancestor.name for ancestor in chain] == ["b", "a"]
    assert "without digests" in followed(chain, three / "c")[0].problems[0]


def test_a_chain_that_names_itself_ends(three: Path) -> None:
    shutil.rmtree(three / "a" / "checkpoints")
    write_config(three / "a", replace(default_config("reverse", "gru"), policy=str(three / "a" / "policy")))
    (three / "a" / "checkpoints").mkdir()
    assert len(stored_chain(three / "a")) == 100
