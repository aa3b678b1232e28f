"""`rlalign evaluate RUN`: a trained policy against its initial policy, or another baseline, on held-out prompts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from rich.table import Table

from rlalign.cli.arguments import parse_arguments
from rlalign.cli.console import console as make_console
from rlalign.errors import UserError
from rlalign.escaping.console import PlainConsole, line
from rlalign.escaping.terminal import print_json
from rlalign.evaluation.signed_bounds import signed_bounds

if TYPE_CHECKING:
    from rlalign.continual.transfer_matrix import TransferMatrix
    from rlalign.evaluation.before_after import Comparison
    from rlalign.evaluation.mean_interval import MeanInterval


@dataclass(frozen=True)
class Args:
    """Compare a run's trained policy with its initial policy on held-out prompts."""

    run: tyro.conf.Positional[Path]
    """Run folder."""
    split: Literal["train", "validation", "test"] = "test"
    """Split of the prompts: train, validation or test."""
    prompts: int | None = None
    """Number of held-out prompts; None: as in the run."""
    k: Annotated[int | None, tyro.conf.arg(aliases=["--samples"])] = None
    """Completions per prompt, for pass@k and avg@k; None: as in the run."""
    folds: int = 0
    """Disjoint parts of the prompts for a cross-validated estimate; 0: none."""
    baseline: str | None = None
    """Policy to compare with (run folder, policy folder or name); None: the run's initial policy."""
    env: str | None = None
    """Environment; None: the run's. Another one is scored with its own rewards. Several, separated by commas: a table
    of the rewards of this run and of those that it continues on each, with forgetting and backward transfer."""
    rewards: Annotated[tuple[str, ...], tyro.conf.arg(name="reward"), tyro.conf.UseAppendAction] = ()
    """Reward in place of those of the run or of --env; repeatable; a leading + adds to the environment's own."""
    best_of: int = 0
    """Largest n of best-of-n: of n completions, --reward keeps the best one. Both policies are measured for n = 1, 2,
    4, ... from 4 n completions per prompt or --k; the run's own rewards are measured too. 0: off."""
    trust_run: bool = False
    """Run the code that the run's config.json names, although somebody else wrote the folder. It can do anything that
    you can."""
    json_: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print JSON instead of tables."""


def run(args: Sequence[str]) -> int:
    """Evaluate, and print tables or JSON; return 0."""
    arguments = parse_arguments(Args, args, prog="rlalign evaluate")
    envs = separate(arguments.env) if arguments.env and "," in arguments.env else []
    if len(envs) > 1:
        return _transfer(arguments, envs)
    if arguments.best_of:
        return _best_of(arguments)
    from rlalign.cli.train import print_comparison, print_samples
    from rlalign.run import Run
    from rlalign.storage.jsonl import nullable

    comparison = Run(arguments.run, trust=arguments.trust_run).evaluate(
        split=arguments.split,
        prompts=arguments.prompts,
        samples=arguments.k,
        env=arguments.env,
        rewards=arguments.rewards or None,
        baseline=arguments.baseline,
        folds=arguments.folds,
    )
    if arguments.json_:
        print_json(nullable(comparison.to_dict()))
        return 0
    console = make_console()
    print_comparison(console, comparison)
    print_reports(console, comparison)
    print_samples(console, comparison)
    console.print(line((comparison.verdict, "bold")), soft_wrap=True)
    return 0


def separate(env: str) -> list[str]:
    """Return the environments of a list such as `a,b,c`; one for anything else, such as a mixture with weights.

    Example:
        >>> separate("sort,reverse?max_length=6"), separate("sort=0.5,reverse=0.5"), separate("sort@0,reverse@200")
        (['sort', 'reverse?max_length=6'], ['sort=0.5,reverse=0.5'], ['sort@0,reverse@200'])
    """
    from rlalign.envs.mixture.spec import MixtureSpec

    mixture = MixtureSpec.parse(env)
    return [env] if mixture is None or mixture.weights.given else list(mixture.envs.values())


def _transfer(arguments: Args, envs: Sequence[str]) -> int:
    """Evaluate the chain of runs on several environments, and print the matrix or JSON; return 0."""
    from rlalign.run import Run
    from rlalign.storage.jsonl import nullable

    for name, unused in (
        ("--reward", arguments.rewards), ("--baseline", arguments.baseline), ("--folds", arguments.folds),
        ("--best-of", arguments.best_of),
    ):  # fmt: skip
        if unused:
            raise UserError(f"{name}: expected none with several environments, got {unused}; leave it out")
    matrix = Run(arguments.run, trust=arguments.trust_run).transfer_matrix(
        envs, split=arguments.split, prompts=arguments.prompts, samples=arguments.k
    )
    if arguments.json_:
        print_json(nullable(matrix.to_dict()))
        return 0
    print_transfer(make_console(), matrix)
    console = make_console()
    console.print(f"written: {arguments.run / 'report' / f'transfer-{arguments.split}.json'}", soft_wrap=True)
    return 0


def print_transfer(console: PlainConsole, matrix: TransferMatrix) -> None:
    """Print the rewards of tasks × stages, and forgetting and backward transfer, with their 95 % CIs."""
    table = _table(f"mean reward on held-out prompts ({matrix.split}), 95 % CI", "", *matrix.stages)
    for task, cells in zip(matrix.tasks, matrix.cells, strict=True):
        table.add_row(task, *(f"{cell.mean:.3f} [{cell.low:.3f}, {cell.high:.3f}]" for cell in cells))
    console.print(table)
    table = _table("after the last stage", "", "learned in", "forgetting", "95 % CI", "backward transfer", "95 % CI ")
    rows = zip(matrix.tasks, matrix.learned, matrix.forgetting, matrix.backward_transfer, strict=True)
    for task, learned, fall, change in rows:
        stage = "-" if learned is None else matrix.stages[learned]
        table.add_row(task, stage, *_signed(fall), *_signed(change))
    averages = matrix.averages
    mean = (averages["forgetting"], averages["backward_transfer"])
    if all(math.isfinite(x) for x in mean) and len(matrix.tasks) > 1:
        table.add_row("mean of the tasks learned before", "", f"{mean[0]:+.3f}", "", f"{mean[1]:+.3f}", "")
    console.print(table)
    console.print(
        "Forgetting: best former stage minus last stage. Backward transfer: last stage minus the stage that first "
        "trained on the task. The intervals are over prompts, for these policies.",
        soft_wrap=True,
    )


def _signed(interval: MeanInterval) -> tuple[str, str]:
    """Return a difference and its interval as two cells."""
    if not math.isfinite(interval.mean):
        return "-", ""
    if interval.low == interval.high:
        return f"{interval.mean:+.3f}", "same on each"
    bounds = signed_bounds(interval.low, interval.high) if math.isfinite(interval.low) else ""
    return f"{interval.mean:+.3f}", bounds


def _best_of(arguments: Args) -> int:
    """Estimate best-of-n, and print tables or JSON; return 0."""
    from rlalign.evaluation.evaluate_best_of import to_dict
    from rlalign.run import Run
    from rlalign.storage.jsonl import nullable

    for name, unused in (("--env", arguments.env), ("--baseline", arguments.baseline), ("--folds", arguments.folds)):
        if unused:
            raise UserError(f"{name}: expected none with --best-of, got {unused}; leave it out")
    best = Run(arguments.run, trust=arguments.trust_run).best_of(
        arguments.best_of,
        split=arguments.split,
        prompts=arguments.prompts,
        samples=arguments.k,
        rewards=arguments.rewards or None,
    )
    if arguments.json_:
        print_json(nullable(to_dict(best)))
        return 0
    console = make_console()
    for policy, curve in best.curves.items():
        title = (
            f"best of n of the {policy} policy by {' + '.join(best.selector)}, {best.prompts} {best.split} prompts × "
            f"{curve.samples} samples"
        )
        table = _table(title, "", *(f"n = {n}" for n in curve.numbers))
        table.add_row("KL, upper bound", *(f"{kl:.3f}" for kl in curve.kl_bounds))
        if curve.kl_exact is not None:
            table.add_row("KL, exact", *(f"{kl:.3f}" for kl in curve.kl_exact))
        for metric in curve.metrics:
            table.add_row(metric, *(f"{curve.mean(metric, n):.3f}" for n in curve.numbers))
        console.print(table)
    console.print("An answer costs n samples. The KL is to the policy that is sampled, in nats per completion.")
    console.print(f"written: {best.path}", soft_wrap=True)
    return 0


def print_reports(console: PlainConsole, comparison: Comparison) -> None:
    """Print the corpus-level metrics before and after, the confusion matrix after, and the folds."""
    before = comparison.before.report
    after = comparison.after.report
    table = _table("over all completions", "", "before", "after")
    for name in after.figures:
        table.add_row(name, f"{before.figures.get(name, float('nan')):.3f}", f"{after.figures[name]:.3f}")
    console.print(table)
    for name, note in after.notes.items():
        console.print(f"{name}: {note}", soft_wrap=True)
    if after.confusion:
        predicted = list(next(iter(after.confusion.values())))
        table = _table("confusion matrix after: true labels (rows), predictions (columns)", "", *predicted)
        for answer, row in after.confusion.items():
            table.add_row(answer, *(str(row[name]) for name in predicted))
        console.print(table)
    if comparison.folds:
        columns = ("before", "after", "difference")
        table = _table(f"mean ± standard deviation over {comparison.folds} folds", "", *columns)
        for name, fold in comparison.cross_validated.items():
            cells = [f"{fold[column]:.3f} ± {fold[f'{column}_std']:.3f}" for column in columns]
            table.add_row(name, *cells)
        console.print(table)


def _table(title: str, *columns: str) -> Table:
    """Return an empty table whose column of names is on the left and whose numbers are on the right."""
    table = Table(title=title, title_justify="left")
    for name in columns:
        table.add_column(name, justify="left" if not name else "right")
    return table
