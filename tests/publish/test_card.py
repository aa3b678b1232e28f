"""The card of a run: metadata that huggingface_hub reads back, the facts of the run, no markup from its texts."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

import rlalign
from rlalign.assets import SMOLLM2_FOLDER, SMOLLM2_ID
from rlalign.cli.train import parse
from rlalign.config.defaults import default_config
from rlalign.config.serialize import update
from rlalign.config.validate import resolve
from rlalign.continual.chain import digest_of_policy
from rlalign.errors import UserError
from rlalign.policies.adapter_card import write_adapter_card
from rlalign.policies.factory import load
from rlalign.publish.base_model import BaseModel, base_model
from rlalign.publish.card import card_of
from rlalign.publish.command import command_of
from rlalign.publish.data_licenses import data_notes
from rlalign.publish.facts import read_facts
from rlalign.publish.former_runs import FormerRun, FormerRuns
from rlalign.publish.trained_parts import TrainedParts
from rlalign.publish.written_card import write_card

from .conftest import SMALL


def test_a_run_writes_its_card_with_metadata_that_reads_back(run: Path) -> None:
    card = ModelCard.load(run / "policy" / "README.md")
    metadata = card.data.to_dict()
    assert metadata["library_name"] == "transformers"
    assert metadata["pipeline_tag"] == "text-generation"
    assert metadata["tags"] == ["rlalign", "reinforcement-learning", "grpo", "reverse"]
    assert "license" not in metadata  # random initial weights
    evaluation = json.loads((run / "report" / "evaluation.json").read_text())
    (result,) = card.data.eval_results
    assert result.metric_type == "reward"
    assert result.metric_value == pytest.approx(evaluation["metrics"]["reward"]["after"], abs=1e-6)
    assert (result.dataset_name, result.dataset_split) == ("reverse", "validation")


def test_a_folder_of_virtual_tokens_belongs_to_peft(run: Path) -> None:
    facts = replace(read_facts(run), adapter=".", adapter_base="me/base")
    card = card_of(facts, "model")
    assert ModelCard(card).data.library_name == "peft"
    assert "loads this folder without rlalign" not in card


def test_the_card_names_the_weights_under_an_adapter_of_smollm2(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    folder.mkdir()
    settings = {"base_model_name_or_path": f"/cache/models/{SMOLLM2_FOLDER}", "peft_type": "LORA", "r": 4}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    write_adapter_card(folder, {})
    card = card_of(replace(read_facts(run), adapter="adapter", adapter_base=SMOLLM2_ID), "model")
    assert "base = AutoModelForCausalLM.from_pretrained(smollm2_folder())" in card
    for text in (card, (folder / "README.md").read_text()):
        assert "was measured over the" in text
        assert "The original on the Hub has other" in text
        assert "/cache" not in text


def test_the_card_has_the_facts_of_the_run(run: Path) -> None:
    text = (run / "policy" / "README.md").read_text()
    evaluation = json.loads((run / "report" / "evaluation.json").read_text())
    for name, entry in evaluation["metrics"].items():
        d = entry["difference"]
        (row,) = re.findall(rf"^\| `{re.escape(name)}` \| .*$", text, re.MULTILINE)[:1]
        assert row.endswith(f"| {d['n']} |")
        if d["low"] is not None and d["low"] < d["high"]:
            assert f"{d['low']:+.3f}" in row
    for part in (
        "| `token_match` | 1 |",
        "| `length` | 0 |",
        "A = (r - mean of the group) / std of the group",  # the formula of the objective
        "arXiv 2402.03300",
        "The expected gradient or optimum of the preset is biased: 1/|y|".replace("|", "\\|"),
        "The default for random initial weights: `kl.where` `loss` → `none`, `kl.coef` `0.04` → `0`.",
        "random strings, no license.",
        "No alarm was raised.",
        "1 update per rollout",
        "One run with seed 0",
        "3 held-out prompts",
        "--rollout.group-size 2",
        f"rlalign {rlalign.__version__}",
    ):
        assert part in text, part


def test_the_policy_still_loads_and_its_measurement_is_unchanged(run: Path) -> None:
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_pretrained(run / "policy")
    load(run / "policy")
    assert json.loads((run / "policy" / "policy.json").read_text())["measured"]["nats"] <= 1e-3
    assert rlalign.Run(run).config  # the folder is a run as before


def markup_of(text: str) -> list[str]:
    """Return the addresses and the HTML of a Markdown text."""
    markdown_it = pytest.importorskip("markdown_it")
    parser = markdown_it.MarkdownIt("gfm-like", {"linkify": False, "html": True})
    tokens = [child for token in parser.parse(text) for child in [token, *(token.children or [])]]
    kinds = ("link_open", "image", "html_inline", "html_block")
    return [str(t.attrs.get("href") or t.attrs.get("src") or t.content) for t in tokens if t.type in kinds]


HOSTILE = "[x](http://evil.example) <img src=x> ![y](http://evil.example/a.png) www.evil.example `a` | b\n# c\n---"


def test_no_text_of_the_user_is_markup(run: Path) -> None:
    facts = read_facts(run)
    evaluation = json.loads(json.dumps(facts.evaluation))
    evaluation["verdict"] = HOSTILE
    evaluation["metrics"][HOSTILE] = evaluation["metrics"]["reward"]
    evaluation["corpus"]["before"]["figures"][HOSTILE] = evaluation["corpus"]["after"]["figures"][HOSTILE] = 1.0
    config = update(facts.config, {"env": HOSTILE, "rewards": [HOSTILE], "objective.advantage": HOSTILE})
    hostile = replace(
        facts,
        config=config,
        evaluation=evaluation,
        weights={HOSTILE: 1.0},
        data={HOSTILE: HOSTILE, f"{HOSTILE}2": ""},
        former=FormerRuns((FormerRun(HOSTILE, HOSTILE, HOSTILE, HOSTILE, {HOSTILE: HOSTILE}), FormerRun(HOSTILE, ""))),
        trained=TrainedParts(HOSTILE, 7, HOSTILE),
        base=replace(facts.base, text=HOSTILE, license=HOSTILE, name=HOSTILE),
        alarms={HOSTILE: {"held": [[1, None]], "says": HOSTILE}},
        advantage={"sentence": HOSTILE},
        versions={HOSTILE: HOSTILE},
    )
    text = card_of(hostile, HOSTILE)
    body = text.partition("\n---\n")[2]
    assert markup_of(body) == ["https://pypi.org/project/rlalign/"]
    assert markup_of(HOSTILE) != []  # the check can fail
    assert ModelCard(text).data.to_dict()["license"] == HOSTILE  # YAML quotes it


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"learner.lr": 1e-4, "steps": 7, "rollout.max_new": 5, "objective.scale": "none", "seed": 3},
        {"rewards": ["token_match=0.5", "length?target=3"], "rollout.per_component": True, "rollout.group_size": 4},
        {"evaluation.every": 1, "evaluation.patience": 2, "model.lora_r": 4, "objective.filter.dynamic_sampling": True},
        {"callbacks": ["a.py:C"], "metrics": ["m.py:f", "m.py:g"], "objective.kl.coef": 0.1},
    ],
)
@pytest.mark.parametrize(("policy", "algorithm"), [("gru", "grpo"), ("smollm2", "rloo"), ("tiny", "ppo")])
def test_the_command_repeats_the_run(changes: dict[str, Any], policy: str, algorithm: str) -> None:
    config = resolve(update(default_config("rlalign/Reverse-v0", policy, algorithm), changes))
    words = shlex.split(command_of(config))
    assert words[:2] == ["rlalign", "train"]
    assert resolve(parse(words[2:])) == config


def test_files_are_named_without_their_folders() -> None:
    changes = {"env": "/home/me/secret/data.jsonl?prompt=q", "rewards": ["/home/me/r.py:good=0.5"]}
    command = command_of(update(default_config(policy="gru"), changes), folders=False)
    assert "/home" not in command
    assert "data.jsonl?prompt=q" in command
    assert "r.py:good=0.5" in command


PRIVATE = {
    "env": "sort=0.5,/home/user/secretdir/b.jsonl=0.5",
    "policy": "/home/user/secretdir/parent",
    "rewards": [
        "ensemble?of=/home/user/secretdir/rm|vader",
        "words?words=/home/user/secretdir/w.txt",
        "reward_model:/home/user/secretdir/rm",
        "http://bob:secretpw@host:9/score",
    ],
    "teacher": "https://user:sk-secret@host/v1?model=m&tokenizer=/home/user/secretdir/t",
    "data": "~/secretdir/d.jsonl",
    "callbacks": ["/home/user/secretdir/a.py:C"],
    "metrics": ["/home/user/secretdir/m.py:f"],
    "tasks.order": "/home/user/secretdir/o.py:Order",
}


def test_no_place_and_no_secret_reaches_the_card(run: Path) -> None:
    facts = read_facts(run)
    config = update(facts.config, PRIVATE)
    component = "words[words=/home/user/secretdir/w.txt]"
    evaluation = json.loads(json.dumps(facts.evaluation))
    evaluation["metrics"][component] = evaluation["metrics"]["reward"]
    evaluation["verdict"] = f"{component} rose"
    private = replace(
        facts,
        config=config,
        base=base_model(config.policy),
        weights={component: 1.0},
        evaluation=evaluation,
        alarms={"mine": {"held": [[1, None]], "says": "see /home/user/secretdir/x"}},
        advantage={"sentence": "advantage '/home/user/secretdir/adv.py:f': fine"},
    )
    for text in (card_of(private, "name"), card_of(replace(private, weights={}), "name")):
        for part in ("/home", "@", "secret", "~/"):
            assert part not in text, text
        assert "--env sort=0.5,b.jsonl=0.5" in text
        assert "words[words=w.txt]" in text
        assert "tokenizer=t" in text
    assert "/home/user" in command_of(config)  # the command of the report is complete


@pytest.mark.parametrize(
    ("env", "name", "tags", "datasets"),
    [
        ("/x/a.jsonl=0.5,/x/b.jsonl=0.5", "a.jsonl + b.jsonl", ["a-jsonl", "b-jsonl"], None),
        ("/x/a.jsonl?prompt=q=0.5,/y/a.jsonl=0.5", "a.jsonl + a.jsonl", ["a-jsonl"], None),
        ("sort@0,hf:org/sums@200,sort@400", "sort + hf:org/sums + sort", ["sort", "hf-org-sums"], ["org/sums"]),
        ("rlalign/Sort-v0,reverse", "rlalign/Sort-v0 + reverse", ["rlalign-sort-v0", "reverse"], None),
        ("reverse?alphabet=a,b", "reverse", ["reverse"], None),
    ],
)
def test_a_mixture_is_named_by_all_its_environments(
    run: Path, env: str, name: str, tags: list[str], datasets: list[str] | None
) -> None:
    facts = read_facts(run)
    text = card_of(replace(facts, config=update(facts.config, {"env": env}), weights={"r": 1.0}), "name")
    card = ModelCard(text)
    (result,) = card.data.eval_results
    assert result.dataset_name == name
    assert f"on `{name}` by" in text
    assert card.data.tags[3:] == tags
    assert card.data.datasets == datasets


def test_licenses_are_those_that_are_known(tmp_path: Path) -> None:
    assert base_model("smollm2").license == "apache-2.0"
    assert base_model("gru").license == ""
    assert not base_model("gru").trained
    assert base_model("/home/me/gone") == BaseModel("the folder gone")
    assert base_model("org/name").name == "org/name"
    parent = tmp_path / "parent" / "policy"
    parent.mkdir(parents=True)
    assert (base_model(str(parent)).license, base_model(str(parent)).trained) == ("", True)
    (parent / "README.md").write_text("---\nlicense: mit\nbase_model: org/base\n---\n")
    assert (base_model(str(parent)).license, base_model(str(parent)).name) == ("mit", "org/base")
    (parent / "README.md").write_text("---\n{damaged\n---\n")
    assert base_model(str(parent)).license == ""


def test_alarms_and_the_check_of_an_advantage_are_on_the_card(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    (copy / "report" / "alarms.json").write_text('{"kl": {"held": [[12, 20], [30, null]], "says": "old words"}}')
    (copy / "report" / "advantage.json").write_text('{"sentence": "advantage f.py:f: expected update biased"}')
    text = write_card(copy)
    assert "`kl`, steps 12 to 20, 30 to the end: the policy is more than 3 nats" in text
    assert "Custom advantage f.py:f: expected update biased." in text


def words_of(text: str) -> str:
    return " ".join(text.split())


@pytest.fixture(scope="module")
def continued_card(run: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the card of a run that continues another one with replay, EWC and both references."""
    folder = tmp_path_factory.mktemp("continued") / "b"
    settings = {**SMALL, "continual__anchor": "both", "continual__replay": 0.25, "continual__replay_schedule": "linear"}
    settings |= {"continual__ewc": 3.0, "continual__ewc_samples": 4, "objective__kl__where": "loss"}
    settings |= {"objective__kl__coef": 0.1, "model__adapter__kind": "none"}
    rlalign.train("sort", str(run / "policy"), "grpo", output=folder, **settings)
    return words_of((folder / "policy" / "README.md").read_text())


def test_the_card_describes_what_a_continued_run_takes_from_former_ones(run: Path, continued_card: str) -> None:
    digest = digest_of_policy(run)[:12]
    for part in (
        "The policy of `a-run` trained with `grpo` on `sort`",
        f"- `a-run`, trained on `reverse`, from `tiny` (sha256 of the policy {digest}...)",
        "The sha256 of a policy is that of one line `PATH SHA256` for each file",
        "The state of the optimizer was fresh.",
        "so that the statement above is not one about this run: `kl.coef` `0.04` → `0.1`, `continual.replay` `0` → "
        "`0.25`, `continual.ewc` `0` → `3`, `continual.anchor` `new` → `both`.",
        "total ← total + 3/2 · Σ F (theta - theta_start)²",
        "(pi‖ref): mean of that to the initial policy and that to the former reference policy",
        "mean of the KLs to two reference policies: the initial policy of this run, the result of `a-run`; and the "
        "reference policy of the former run, the initial policy of `a-run`, `tiny`.",
        "Replay: a share of the prompts, 0.25 in the first step and falling to 0 in the last, comes from the "
        "environment of `a-run`, `reverse`, with its rewards.",
        "Elastic weight consolidation with the coefficient 3:",
        "from 4 completions.",
        "Initial policy: the policy of the run a-run.",
        "The former runs began with random weights, which have no license.",
        "Data of `reverse`, of the former run `a-run`: random strings, no license.",
    ):
        assert part in continued_card, part


def test_the_digest_of_a_former_policy_is_recomputed_as_the_card_describes(run: Path, continued_card: str) -> None:
    policy = run / "policy"
    endings = {".json", ".jinja", ".model", ".py", ".safetensors", ".txt"}
    lines = [
        f"{path.relative_to(policy).as_posix()} {hashlib.sha256(path.read_bytes()).hexdigest()}\n"
        for path in sorted(policy.rglob("*"))
        if path.suffix in endings
    ]
    assert f"(sha256 of the policy {hashlib.sha256(''.join(lines).encode()).hexdigest()[:12]}...)" in continued_card


def test_the_commands_of_a_continued_run_begin_with_those_of_its_parents(continued_card: str) -> None:
    """Executed in order in one folder, each finds the folder that the one before it writes."""
    block = continued_card[continued_card.index("```bash") :].split("```")[1]
    first, second = ["rlalign" + part for part in block.split("rlalign")[1:]]
    assert parse(shlex.split(first)[2:]).policy == "tiny"
    assert parse(shlex.split(first)[2:]).output == "a-run"
    assert parse(shlex.split(second)[2:]).policy == "a-run"


def test_a_policy_that_is_no_model_of_transformers_is_loaded_as_its_card_describes(tmp_path: Path) -> None:
    folder = tmp_path / "mixed"
    rlalign.train("sort@0,reverse@20", "gru", "rloo", output=folder, **SMALL)
    text = (folder / "policy" / "README.md").read_text()
    assert "`rlalign.policies.factory.load(FOLDER)` loads this folder." in text
    assert load(folder / "policy").tokenizer is not None
    assert "Not trained on, because no prompt was drawn from it: `reverse`." in text
    evaluation = json.loads((folder / "report" / "evaluation.json").read_text())
    for name in ("sort", "reverse"):
        after = evaluation["environments"][name]["metrics"]["reward"]["after"]
        (row,) = re.findall(rf"^\| `{name}` \| .*$", text, re.MULTILINE)
        assert float(row.split("|")[3]) == pytest.approx(after, abs=1e-3)


def test_virtual_tokens_and_a_quantized_base_are_named_as_parts_of_the_initial_policy() -> None:
    parts = TrainedParts("prefix of 4 virtual tokens", 8, "nf4", virtual_tokens=True, nats_over_plain_base=0.123)
    assert "the virtual tokens as they were before training (prefix of 4 virtual tokens) and the weights" in parts.start
    assert "weights quantized to 4 bits (NF4)" in parts.start
    assert "This folder holds the dequantized" not in parts.sentence
    assert parts.sentence.endswith("differ by up to 0.12 nats.")
    merged = TrainedParts("LoRA of rank 8", 8, "int8", nats_over_plain_base=0.5).sentence
    assert "frozen weights stored in 8 bits (int8) and dequantized for each product." in merged
    assert "This folder holds the dequantized weights with the adapter added." in merged
    assert TrainedParts("LoRA of rank 8", 8).start == ""


def test_a_run_without_a_parent_is_not_described_as_continued(run: Path) -> None:
    assert "## Continued learning" not in (run / "policy" / "README.md").read_text()


def test_a_former_run_that_is_gone_is_named(run: Path) -> None:
    facts = replace(read_facts(run), former=FormerRuns((FormerRun("a", "0123456789abcdef"),)))
    text = words_of(card_of(facts, "name"))
    assert (
        "- `a`, whose folder is not there any more, or was changed since (sha256 of the policy 0123456789ab...)" in text
    )
    assert "License of the data of the former run `a`: not known" in text
    assert "The command of `a` is not known" in text


def test_the_card_counts_the_trained_parameters(run: Path, tmp_path: Path) -> None:
    trainable = sum(p.numel() for p in load(run / "policy").lm.parameters())
    assert f"Full fine-tuning: {trainable:,} trained parameters." in (run / "policy" / "README.md").read_text()
    settings = {**SMALL, "model__adapter__kind": "dora", "model__adapter__r": 2, "model__adapter__targets": "q_proj"}
    rlalign.train("reverse", "tiny", "grpo", output=tmp_path / "r", **settings)
    width, layers = 16, 2
    count = layers * (2 * 2 * width + width)  # two matrices of rank 2, and the magnitude of each output
    text = (tmp_path / "r" / "policy" / "README.md").read_text()
    assert f"Adapter: DoRA of rank 2, {count:,} trained parameters, over frozen weights." in text
    quantized = TrainedParts("LoRA of rank 4", 11776, "nf4")
    facts = replace(read_facts(run), trained=quantized)
    assert "11,776 trained parameters, over frozen weights stored in 4 bits (NF4)" in card_of(facts, "name")
    beside = (tmp_path / "r" / "policy" / "adapter" / "README.md").read_text()
    assert ModelCard(beside).data.library_name == "peft"
    assert "# DoRA of rank 2" in beside
    assert "More Information Needed" not in beside
    assert str(tmp_path) not in beside


def test_the_license_of_each_environment_of_a_mixture_is_named(run: Path, tmp_path: Path) -> None:
    data = tmp_path / "own.jsonl"
    config = update(read_facts(run).config, {"env": f"sort=0.5,{data}=0.5"})
    facts = replace(read_facts(run), config=config, data=data_notes(config))
    text = card_of(facts, "name")
    assert "Data of `sort`: random strings, no license." in text
    assert "License of the data of `own`: not known to the program that wrote this card." in text


def test_the_license_of_recorded_data_is_stated_beside_that_of_the_environment(run: Path) -> None:
    config = update(read_facts(run).config, {"data": "hf:org/pairs"})
    assert data_notes(config) == {"reverse": "random strings, no license.", "hf:org/pairs": ""}


def test_an_unfinished_run_has_no_card(tmp_path: Path, run: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    (copy / "report" / "evaluation.json").unlink()
    with pytest.raises(UserError, match="is not finished; use rlalign train --resume"):
        write_card(copy)


def test_a_card_that_cannot_be_written_does_not_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*arguments: Any) -> str:
        raise ValueError("no YAML")

    monkeypatch.setattr("rlalign.publish.written_card.card_of", broken)
    settings = {**SMALL, "quiet": False, "tracking__push": "me/model"}
    made = rlalign.train("reverse", "gru", output=tmp_path / "r", **settings)
    output = " ".join(capsys.readouterr().out.split())
    assert made.comparison is not None
    assert "warning: no card in" in output
    assert f"use rlalign push {tmp_path / 'r'} me/model" in output  # offline, the upload fails too


def test_runs_without_training_have_a_card_too(tmp_path: Path) -> None:
    settings = {**SMALL, "evaluation__best_of": 2}
    rlalign.train("reverse", "gru", "best_of_n", output=tmp_path / "r", **settings)
    card = ModelCard.load(tmp_path / "r" / "policy" / "README.md")
    assert card.data.library_name == "rlalign"
    assert card.data.pipeline_tag is None
    assert "No gradient: the weights stay those of the base policy" in card.text
