"""`rlalign export RUN`: a trained policy as files for other engines, and what each smaller file costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from rlalign.cli.arguments import parse_arguments
from rlalign.cli.termination import exit_on_sigterm
from rlalign.errors import UserError
from rlalign.escaping.terminal import print_json, print_text

_WRITING = ("output", "format", "quantize", "max_shard_size", "kl_bound")
_COMPARING = ("forms", "prompts", "k")
"""Options that only an export reads, and those that only --compare reads."""


@dataclass(frozen=True)
class Args:
    """Export a run's policy for other engines, load it back with them, and measure how close it is."""

    run: tyro.conf.Positional[Path]
    """Run folder; with --check the folder of an export."""
    output: Path | None = None
    """Folder to write, which must not hold files; None: only with --check or --compare."""
    format: Literal["hf", "gguf"] = "hf"
    """hf: a folder that transformers, peft and vLLM load; gguf: a file that llama.cpp loads."""
    quantize: (
        Literal["int8", "int8_dynamic", "int4", "f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0"] | None
    ) = None
    """Type of the weights. For hf, by torchao, int8: weights; int8_dynamic: weights and inputs; int4: weights. For gguf
    f32, f16, bf16, q8_0, q5_1, q5_0, q4_1 or q4_0. None: that of the policy, and f16 for gguf."""
    max_shard_size: str = "5GB"
    """Largest weight file of the format hf; larger weights are split. GGUF is one file."""
    kl_bound: float | None = None
    """Largest mean KL to the policy, nats per token, above 0, with which the files are kept; None: the bound of the
    form. Bounds of forms in 4 bits are wide: use --compare to measure what a form costs."""
    drop_layers: str = ""
    """Whole decoder layers to remove first: auto, or how many. They are chosen by the KL on validation prompts; auto
    removes layers while it is at most 0.1 nats per token."""
    compare: bool = False
    """Measure every form that this machine can make instead: reward, KL, size, memory and speed in one table."""
    forms: tuple[str, ...] = ()
    """With --compare: names of the forms, such as gguf-q8_0; none: all."""
    prompts: int | None = None
    """With --compare: number of held-out test prompts; None: as in the run."""
    k: Annotated[int | None, tyro.conf.arg(aliases=["--samples"])] = None
    """With --compare: completions per prompt; None: as in the run."""
    check: bool = False
    """Compare the files of an export with the digests in its export.json instead."""
    trust_run: bool = False
    """Run the code that the run's config.json names, although somebody else wrote the folder. It can do anything that
    you can."""
    json_: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print JSON instead of a line."""


def run(args: Sequence[str]) -> int:
    """Export, and print what was measured; return 0."""
    arguments = parse_arguments(Args, args, prog="rlalign export")
    _check_options(arguments, args)
    with exit_on_sigterm():
        return _run(arguments)


def _run(arguments: Args) -> int:
    """Check, compare or export; return 0."""
    if arguments.check:
        from rlalign.export.whole_folder import read_export

        manifest = read_export(arguments.run)
        if arguments.json_:
            print_json(manifest)
        else:
            print_text(f"{arguments.run}: complete, {manifest['form']}, {len(manifest['files'])} files as exported")
        return 0
    if arguments.compare:
        return _compare(arguments)
    if arguments.output is None:
        raise UserError("--output: expected a folder to write, got none; use rlalign export RUN --output out/")
    from rlalign.run import Run

    export = Run(arguments.run, trust=arguments.trust_run).export(
        arguments.output,
        format=arguments.format,
        quantize=arguments.quantize or "",
        max_shard_size=arguments.max_shard_size,
        kl_bound=arguments.kl_bound,
        drop_layers=arguments.drop_layers,
        report=_print_stage,
    )
    if arguments.json_:
        print_json(export.manifest)
    else:
        print_text(export.line)
    return 0


def _print_stage(line: str) -> None:
    """Print a line about the work to stderr."""
    print_text(line, to_stderr=True)


def _check_options(arguments: Args, words: Sequence[str]) -> None:
    """Raise UserError for an option among the words that the chosen mode would ignore."""
    modes = [name for name in ("check", "compare") if getattr(arguments, name)]
    mode = modes[0] if modes else "output"
    if len(modes) > 1:
        raise UserError("--check: expected one of --check and --compare, got both; use one after the other")
    used = {
        "output": (*_WRITING, "drop_layers", "trust_run"),
        "compare": (*_COMPARING, "drop_layers", "trust_run"),
        "check": (),
    }[mode]
    flags = {word.partition("=")[0].replace("_", "-") for word in words}
    if arguments.format == "gguf" and "--max-shard-size" in flags:
        raise UserError(
            f"--max-shard-size: expected none with --format gguf, which is one file, got '{arguments.max_shard_size}'; "
            "leave it out"
        )
    for name in (*_WRITING, *_COMPARING, "drop_layers", "trust_run"):
        value = getattr(arguments, name)
        option = "--" + name.replace("_", "-")
        if name in used or (value == getattr(Args, name) and option not in flags):
            continue
        text = " ".join(value) if isinstance(value, tuple) else value
        fix = "add --compare" if mode == "output" else "leave it out"
        raise UserError(f"{option}: expected none with --{mode}, which does not read it, got '{text}'; {fix}")


def _compare(arguments: Args) -> int:
    """Measure the forms, and print a table or JSON; return 0."""
    from rich.table import Table

    from rlalign.cli.console import console as make_console
    from rlalign.export.comparison_files import component_table
    from rlalign.export.comparison_files import table as cost_table
    from rlalign.run import Run

    results = Run(arguments.run, trust=arguments.trust_run).compare_forms(
        prompts=arguments.prompts,
        samples=arguments.k,
        forms=arguments.forms,
        drop_layers=arguments.drop_layers,
        report=_print_stage,
    )
    if arguments.json_:
        print_json(results)
        return 0
    console = make_console()
    titles = {"what each form costs on held-out prompts": cost_table, "components of the reward": component_table}
    for title, contents in titles.items():
        header, rows = contents(results)
        table = Table(title=title, title_justify="left")
        for name in header:
            table.add_column(name, overflow="fold", justify="left" if name == "form" else "right")
        for row in rows:
            table.add_row(*row)
        if len(header) > 1:
            console.print(table)
    console.print(f"written: {arguments.run / 'report'}/forms.json, forms.md and forms.png", soft_wrap=True)
    return 0
