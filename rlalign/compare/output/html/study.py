"""The report of a study: verdict, tables, drawings, completions side by side, and the manifest."""

from __future__ import annotations

from pathlib import Path

from rlalign.compare.analysis.verdict import count
from rlalign.compare.output.html.plot_sections import plot_sections
from rlalign.compare.output.html.table_sections import budgets, final_rewards, paired_differences, tuning
from rlalign.compare.output.series import color_indices
from rlalign.compare.results.schema import EnvResult, Failure, Results, Sample
from rlalign.html.components import Colors, colored_name, note, text_block, titled_text
from rlalign.html.markup import Html, tag, visible
from rlalign.html.numbers import number, seconds, typeset
from rlalign.html.page import facts, page, row, section, table
from rlalign.storage.atomic import write_atomic

_SHORT = 60  # characters; samples with prompts and completions up to this length stand in several columns


def write_report(folder: str | Path, results: Results) -> Path:
    """Write report.html atomically and return its path."""
    return write_atomic(Path(folder) / "report.html", render(results))


def render(results: Results) -> str:
    """Return the report as one HTML document."""
    colors = color_indices(results.algorithms)
    return page(
        results.title,
        _header(results),
        final_rewards(results, colors),
        paired_differences(results),
        budgets(results, colors),
        tuning(results),
        plot_sections(results, colors),
        _samples(results, colors),
        _manifest(results),
    )


# ---- verdict ----


def _header(results: Results) -> Html:
    size = (
        f"{count(len(results.algorithms), 'algorithm')} × {count(len(results.environments), 'environment')} × "
        f"{count(len(results.seeds), 'seed')}"
    )
    date = results.manifest.created[:10]  # of an ISO 8601 time
    warnings = [tag("li", warning) for warning in results.warnings]
    return tag(
        "header",
        tag("p", "Comparison of algorithms", class_="kind"),
        tag("h1", results.title),
        tag("p", f"{size} · policy {results.manifest.policy} · {date}", class_="facts"),
        tag("div", [tag("p", typeset(sentence)) for sentence in results.verdict], class_="verdict", id_="verdict"),
        tag("ul", warnings, class_="warn") if warnings else None,
    )


# ---- completions ----


def _samples(results: Results, colors: Colors) -> Html | None:
    blocks: list[Html] = []
    for name, env in results.environments.items():
        if env.samples:
            cards = [_sample(sample, colors) for sample in env.samples]
            blocks.append(tag("h3", name))
            blocks.append(tag("div", cards, class_="samples short" if _all_short(env) else "samples"))
    if not blocks:
        return None
    words = note("Completions of held-out prompts, not selected by hand; the number is the reward.")
    return section("Completions side by side", words, *blocks, id_="samples")


def _all_short(env: EnvResult) -> bool:
    for sample in env.samples:
        if any(len(text) > _SHORT for text in (sample.prompt, sample.start, *sample.completions.values())):
            return False
    return True


def _sample(sample: Sample, colors: Colors) -> Html:
    """Return a prompt and below it the completion before training and that of each algorithm."""
    rows = [_completion("before training", "", sample.start)]
    for algorithm, text in sample.completions.items():
        rows.append(_completion(colored_name(algorithm, colors), number(sample.rewards.get(algorithm)), text))
    prompt = titled_text(tag("h4", f"prompt, seed {sample.seed}"), sample.prompt)
    return tag("div", prompt, tag("div", rows, class_="completions"), class_="sample")


def _completion(label: str, reward: str, text: str) -> Html:
    return tag("div", tag("span", label), tag("span", reward, class_="score"), text_block(text))


# ---- manifest ----


def _manifest(results: Results) -> Html:
    manifest = results.manifest
    return section(
        "Manifest",
        tag("h3", "To reproduce"),
        tag("pre", manifest.command),
        facts(
            {
                "created": manifest.created,
                "commit": manifest.commit or "not in a repository",
                "machine": " · ".join(f"{key} {value}" for key, value in manifest.machine.items()),
                "computing time": seconds(manifest.seconds),
                "versions": " · ".join(f"{key} {value}" for key, value in manifest.versions.items()),
                "seeds": ", ".join(map(str, results.seeds)),
                "budget": _budgets(results),
                "fingerprint": manifest.fingerprint,
            }
        ),
        tag("h3", "Settings that differ"),
        _differences(results),
        *_failures("Failed runs", results.failures),
        *_failures("Excluded runs", results.excluded),
        id_="manifest",
    )


def _budgets(results: Results) -> str:
    budgets = [f"{name}: {e.steps} steps × {e.samples_per_step} samples" for name, e in results.environments.items()]
    return "; ".join(budgets)


def _differences(results: Results) -> Html:
    if not results.differences:
        return note("None: all runs have the same settings.")
    ordered = sorted(results.differences, key=lambda difference: not difference.axis)  # axes of the objective first
    names = list(dict.fromkeys(algorithm for difference in ordered for algorithm in difference.values))
    rows = []
    for difference in ordered:
        kind = "axis" if difference.axis else "setting"
        values = [difference.values.get(name, "") for name in names]
        rows.append(row([tag("code", difference.key), kind, *values], set()))
    return table("settings that differ", ["setting", "kind", *names], rows, set())


def _failures(heading: str, failures: list[Failure]) -> list[Html]:
    if not failures:
        return []
    rows = [row([f.env, f.algorithm, f.seed, tag("code", f.folder), visible(f.reason)], {2}, {4}) for f in failures]
    return [tag("h3", heading), table(heading, ["environment", "algorithm", "seed", "folder", "reason"], rows, {2})]
