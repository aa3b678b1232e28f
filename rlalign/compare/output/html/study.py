"""The report of a study: the verdict, tables, pictures, completions side by side, and where it all comes from."""

from __future__ import annotations

from pathlib import Path

from rlalign.compare.analysis.verdict import count
from rlalign.compare.output.html.html import Html, tag, visible
from rlalign.compare.output.html.numbers import number, seconds, typeset
from rlalign.compare.output.html.page import facts, page, row, section, table
from rlalign.compare.output.html.pictures import pictures
from rlalign.compare.output.html.pieces import Colours, completion, name_of, note, said
from rlalign.compare.output.html.tables import budgets, finals, pairs, tuning
from rlalign.compare.results.schema import Failure, Results, Sample
from rlalign.storage.atomic import write_atomic

_SHORT = 60  # characters; prompts and completions no longer than that stand in several columns


def write_report(folder: str | Path, results: Results) -> Path:
    """Write report.html, whole or not at all, and return its path."""
    return write_atomic(Path(folder) / "report.html", render(results))


def render(results: Results) -> str:
    """The report as one HTML document."""
    colours = {name: i for i, name in enumerate(results.algorithms)}
    return page(
        results.title,
        _head(results),
        finals(results, colours),
        pairs(results),
        budgets(results, colours),
        tuning(results),
        pictures(results, colours),
        _samples(results, colours),
        _manifest(results),
    )


# ---- the verdict ----


def _head(results: Results) -> Html:
    m, envs = results.manifest, results.environments
    warnings = [tag("li", w) for w in results.warnings]
    return tag(
        "header",
        tag("p", "Comparison of algorithms", class_="kind"),
        tag("h1", results.title),
        tag(
            "p",
            f"{count(len(results.algorithms), 'algorithm')} × {count(len(envs), 'environment')} × "
            f"{count(len(results.seeds), 'seed')} · policy {m.policy} · "
            f"{m.created[:10]}",
            class_="facts",
        ),
        tag("div", [tag("p", typeset(sentence)) for sentence in results.verdict], class_="verdict", id_="verdict"),
        tag("ul", warnings, class_="warn") if warnings else None,
    )


# ---- completions ----


def _samples(results: Results, colours: Colours) -> Html | None:
    blocks: list[Html] = []
    for name, env in results.environments.items():
        if env.samples:
            short = all(
                len(text) <= _SHORT for s in env.samples for text in (s.prompt, s.start, *s.completions.values())
            )
            cards = [_sample(s, colours) for s in env.samples]
            blocks += [tag("h3", name), tag("div", cards, class_="samples short" if short else "samples")]
    if not blocks:
        return None
    words = note("Completions of held-out prompts, not chosen by hand; the number is their reward.")
    return section("Completions side by side", words, *blocks, id_="samples")


def _sample(s: Sample, colours: Colours) -> Html:
    """A prompt, and below it what each algorithm made of it, one line for each."""
    rows = [_answer("before training", "", s.start)]
    rows += [_answer(name_of(a, colours), number(s.rewards.get(a)), text) for a, text in s.completions.items()]
    prompt = said(tag("h4", f"prompt, seed {s.seed}"), s.prompt)
    return tag("div", prompt, tag("div", rows, class_="answers"), class_="sample")


def _answer(who: str, score: str, text: str) -> Html:
    return tag("div", tag("span", who), tag("span", score, class_="score"), completion(text))


# ---- where it comes from ----


def _manifest(results: Results) -> Html:
    m = results.manifest
    return section(
        "Manifest",
        tag("h3", "To reproduce"),
        tag("pre", m.command),
        facts(
            {
                "made": m.created,
                "commit": m.commit or "not in a repository",
                "machine": " · ".join(f"{k} {v}" for k, v in m.machine.items()),
                "computing time": seconds(m.seconds),
                "versions": " · ".join(f"{k} {v}" for k, v in m.versions.items()),
                "seeds": ", ".join(map(str, results.seeds)),
                "budget": _joined_budgets(results),
                "fingerprint": m.fingerprint,
            }
        ),
        tag("h3", "What is not the same for all"),
        _differences(results),
        *_cells("Runs that failed", results.failures),
        *_cells("Runs left out", results.excluded),
        id_="manifest",
    )


def _joined_budgets(results: Results) -> str:
    return "; ".join(
        f"{name}: {e.steps} steps × {e.samples_per_step} samples" for name, e in results.environments.items()
    )


def _differences(results: Results) -> Html:
    if not results.differences:
        return note("Nothing: all runs have the same settings.")
    ordered = sorted(results.differences, key=lambda d: not d.axis)
    names = list(dict.fromkeys(a for d in ordered for a in d.values))
    rows = [
        row([tag("code", d.key), "axis" if d.axis else "setting", *(d.values.get(a, "") for a in names)], set())
        for d in ordered
    ]
    return table("settings that differ", ["setting", "kind", *names], rows, set())


def _cells(heading: str, cells: list[Failure]) -> list[Html]:
    if not cells:
        return []
    rows = [row([f.env, f.algorithm, f.seed, tag("code", f.folder), visible(f.reason)], {2}, {4}) for f in cells]
    return [tag("h3", heading), table(heading, ["environment", "algorithm", "seed", "folder", "reason"], rows, {2})]
