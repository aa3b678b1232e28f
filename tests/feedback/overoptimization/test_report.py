"""The report of over-optimization: curves from run folders, groups, sentences, the page and its JSON file."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlalign.cli import main
from rlalign.config.defaults import default_config
from rlalign.config.serialize import to_dict, update
from rlalign.errors import UserError
from rlalign.evaluation.best_of_n import kl_upper_bound
from rlalign.feedback.overoptimization import contents, predict, read_curves, write_overoptimization

pytest.importorskip("sqlalchemy", reason="needs the extra feedback")

Write = Callable[..., Path]


@pytest.fixture
def write_run(tmp_path: Path) -> Write:
    """Return a function that writes the folder of a run whose proxy rises and whose gold is largest at d = 2."""

    def write(name: str, seed: int, *, alpha: float = 1.0, validations: bool = True, best_of: bool = False,
              finished: bool = True, gold: str = "gold", **settings: Any) -> Path:  # fmt: skip
        folder = tmp_path / name
        (folder / "report").mkdir(parents=True)
        changes = {key.replace("__", "."): value for key, value in settings.items()}
        config = update(default_config("rlalign/Preference-v0", "gru", "rloo"), {"seed": seed, **changes})
        (folder / "config.json").write_text(json.dumps(to_dict(config)))
        rng = np.random.default_rng(seed)
        d = np.linspace(0.0, 4.0, 9)
        proxy = predict("rl", 1.5, 0.1, d) + 0.5
        beta = alpha / (1 + math.log(2))  # the turning point exp(α/β - 1) is then 2
        golds = predict("rl", alpha, beta, d) + 0.2 + rng.normal(0, 0.01, 9)
        rows = []
        for step in range(1, 9):
            row = {"step": step, "reward/mean": proxy[step - 1], f"reward/{gold}": golds[step - 1]}
            if validations:
                row |= {"eval/reward": proxy[step], f"eval/{gold}": golds[step], "eval/kl": d[step] ** 2}
            rows.append(json.dumps(row))
        (folder / "metrics.jsonl").write_text("\n".join(rows) + "\n")
        if finished:
            before = {"reward": [0.4, 0.6], gold: [0.1, 0.3]}
            (folder / "report" / "evaluation.json").write_text(json.dumps({"prompts": {"before": before}}))
        if best_of:
            points = []
            for n in (1, 2, 4, 8, 16):
                metrics = {"reward": {"mean": 0.5 + math.sqrt(kl_upper_bound(n))}, gold: {"mean": 0.2 + 0.01 * seed}}
                points.append({"n": n, "kl_upper_bound": kl_upper_bound(n), "kl_exact": None, "metrics": metrics})
            data = {"selector": {"proxy": 1.0}, "policies": {"initial": {"samples": 64, "curve": points}}}
            (folder / "report" / "best-of-test.json").write_text(json.dumps(data))
        return folder

    return write


def test_a_run_gives_rewards_minus_those_of_the_initial_policy(write_run: Write) -> None:
    (curve,), notes = read_curves([write_run("a", 3)])
    assert (curve.group, curve.form, curve.seed, curve.source) == ("rloo", "rl", 3, "held-out")
    assert curve.base == pytest.approx((0.5, 0.2))
    assert curve.place == tuple(range(1, 9))
    assert curve.d == pytest.approx(np.linspace(0.5, 4.0, 8))
    assert curve.proxy == pytest.approx(predict("rl", 1.5, 0.1, curve.d))
    assert notes == []


def test_the_turn_of_gold_is_reported_with_its_interval_and_the_proxy_still_rises(
    write_run: Write, tmp_path: Path
) -> None:
    folders = [write_run(f"a{seed}", seed) for seed in range(5)]
    report = write_overoptimization(folders, tmp_path / "o.html")
    (text,) = report.verdict
    data = json.loads(report.data.read_text())
    (group,) = data["groups"]
    turn = group["fits"]["gold"]["turn"]
    assert turn["kl"]["value"] == pytest.approx(4.0, abs=0.1)
    assert turn["kl"]["low"] <= 4.0 + 0.1
    assert turn["kl"]["high"] >= 4.0 - 0.1
    assert text.startswith("rloo: gold is largest at a KL of 4")
    assert text.endswith("the proxy still rises there.")
    assert group["fits"]["proxy"]["turn"]["outcome"] == "did not turn in range"
    assert report.notes == ()


def test_runs_with_other_settings_are_another_group(write_run: Write) -> None:
    folders = [write_run("a", 0), write_run("b", 1), write_run("c", 0, learner__lr=0.1)]
    curves, _ = read_curves(folders)
    names = [curve.group for curve in curves]
    assert names == ["rloo (lr 0.003)", "rloo (lr 0.003)", "rloo (lr 0.1)"]


def test_best_of_n_of_one_initial_policy_counts_once(write_run: Write) -> None:
    folders = [write_run("a", 0, best_of=True), write_run("b", 0, best_of=True, learner__lr=0.1)]
    folders.append(write_run("c", 1, best_of=True))
    curves, _ = read_curves(folders)
    best = [curve for curve in curves if curve.form == "best_of_n"]
    assert [(curve.seed, curve.group) for curve in best] == [(0, "best of n by proxy"), (1, "best of n by proxy")]
    assert best[0].place == (2, 4, 8, 16)
    assert best[0].kl == pytest.approx([kl_upper_bound(n) for n in (2, 4, 8, 16)])
    assert best[0].proxy == pytest.approx(best[0].d)  # minus that of n = 1


def test_a_single_seed_claims_no_interval(write_run: Write) -> None:
    curves, _ = read_curves([write_run("a", 0)])
    content = contents(curves, proxy="reward", gold="gold")
    assert "without an interval" in content["verdict"][0]
    assert "One seed has no interval." in content["notes"][0]


def test_runs_that_cannot_be_used_are_named(write_run: Write, tmp_path: Path) -> None:
    good = write_run("a", 0)
    unfinished = write_run("b", 1, finished=False)
    other = write_run("c", 2, gold="true")
    unmeasured = write_run("d", 3, validations=False)
    curves, notes = read_curves([good, unfinished, other, unmeasured])
    assert len(curves) == 1
    assert [("not finished" in note, "'gold'" in note, "no KL" in note) for note in notes] == [
        (True, False, False), (False, True, False), (False, False, True),
    ]  # fmt: skip
    with pytest.raises(UserError, match=r"use --proxy .*true") as caught:
        read_curves([other])
    assert "--reward NAME=0" in str(caught.value)
    with pytest.raises(UserError, match="run folder"):
        read_curves([tmp_path / "nothing"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="expected run folders"):
        read_curves([tmp_path / "empty"])


def test_training_samples_are_used_with_a_note_if_their_kl_is_measured(write_run: Write) -> None:
    folder = write_run("a", 0, validations=False)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    rows = [{**row, "rollout/kl": (row["step"] - 1) / 4} for row in rows]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (curve,), notes = read_curves([folder])
    assert curve.source == "training"
    assert curve.place == tuple(range(1, 8))  # the samples of step 2 are of the policy after step 1
    assert "--evaluation.every" in notes[0]


class Numbers(HTMLParser):
    """Collects the values and paths of all numbers of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, Any]] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        values = dict(attributes)
        if tag == "data":
            self.found.append((str(values["data-path"]), json.loads(str(values["value"]))))


def test_each_number_of_the_page_is_that_of_the_json_file(write_run: Write, tmp_path: Path) -> None:
    folders = [write_run(f"a{seed}", seed, best_of=True) for seed in range(3)]
    output = tmp_path / "page.html"
    assert main(["feedback", "overoptimization", *map(str, folders), "--output", str(output)]) == 0
    data = json.loads(output.with_suffix(".json").read_text())
    page = Numbers()
    page.feed(output.read_text())
    assert len(page.found) > 100
    for path, value in page.found:
        place: Any = data
        for part in path.strip("/").split("/"):
            place = place[int(part)] if isinstance(place, list) else place[part]
        assert place == value, path
    assert page.tags.count("svg") == 4
    assert page.tags.count("script") == 1


def test_names_in_run_folders_add_no_markup(write_run: Write, tmp_path: Path) -> None:
    folder = write_run("a", 0)
    config = json.loads((folder / "config.json").read_text())
    config["algorithm"] = "<script>alert(1)</script>"
    (folder / "config.json").write_text(json.dumps(config))
    report = write_overoptimization([folder], tmp_path / "o.html")
    assert "<script>alert" not in report.page.read_text()
