"""`rlalign feedback judge`: let a language model judge the pairs of a study."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import tyro

from rlalign.errors import UserError
from rlalign.escaping.terminal import print_text


@dataclass(frozen=True)
class Judge:
    """Let a language model judge the pairs of a study in both orders. Its verdicts never count as votes of people."""

    store: tyro.conf.Positional[str]
    """The store of the study, or its PostgreSQL URL."""
    url: str
    """Base address of an OpenAI-compatible endpoint, such as http://127.0.0.1:8000/v1. It gets the completions."""
    model: str
    """Name of the model as the endpoint knows it."""
    api_key_env: str | None = None
    """Environment variable that holds the API key; None: no key is sent."""
    template: Path | None = None
    """File with the placeholders {prompt}, {a} and {b}; None: the built-in template."""
    concurrency: int = 4
    """Requests at the same time."""
    count: int | None = None
    """Largest number of pairs of this run, in the stored random order; None: all."""
    voted: bool = False
    """Only pairs that people have judged."""
    timeout: float = 120.0
    """Seconds without a byte after which a request is tried again."""
    attempts: int = 6
    """Attempts for one answer."""
    max_tokens: int = 1024
    """Largest number of tokens of an answer."""


def judge(arguments: Judge) -> int:
    """Run a judge and print what it has judged; return the exit status, 1 if the endpoint refused requests."""
    import threading

    from rlalign.feedback.judges.client import Client, Endpoint
    from rlalign.feedback.judges.prompt import read_template
    from rlalign.feedback.judges.run import run_judge
    from rlalign.feedback.store import Store
    from rlalign.typecheck import check_range

    for name, value in (("--concurrency", arguments.concurrency), ("--attempts", arguments.attempts)):
        check_range(name, value, least=1)
        if value > 256:
            raise UserError(f"{name}: expected at most 256, got {value}; use a smaller number")
    check_range("--max-tokens", arguments.max_tokens, least=1)
    if arguments.count is not None:
        check_range("--count", arguments.count, least=1)
    if not arguments.timeout > 0:
        raise UserError(f"--timeout: expected a time above 0 seconds, got {arguments.timeout}; use 120")
    if not arguments.model.strip() or not arguments.model.isprintable():
        raise UserError(f"--model: expected the name of a model, got {arguments.model!r}; use a name that --url serves")
    template = read_template(arguments.template)
    endpoint = Endpoint(
        arguments.url, arguments.model, _key(arguments.api_key_env), arguments.timeout, arguments.attempts,
        arguments.max_tokens,
    )  # fmt: skip
    stopped = threading.Event()
    with (
        Store(arguments.store) as store,
        Client(endpoint, connections=arguments.concurrency, wait=stopped.wait) as client,
    ):
        done = run_judge(
            store, client, template, concurrency=arguments.concurrency, count=arguments.count,
            voted=arguments.voted, stopped=stopped,
        )  # fmt: skip
    models = ", ".join(done.models) or "not asked in this run"
    print_text(
        f"{done.judge}: {done.pairs} pairs judged in both orders, {done.new} new answers (answered as: {models})"
    )
    print_text(
        f"pairs with two verdicts: {_share(done.judged, done.pairs)}; flips among them, counted as ties: "
        f"{_share(done.flipped, done.judged)}; the winner changes in {_share(done.reversed, done.judged)}"
    )
    print_text(
        f"answers without a verdict: {_share(done.unparsed, done.answers)}; refusals: "
        f"{_share(done.refused, done.answers)}"
    )
    if done.unparsed > 0.1 * done.answers:
        print_text(
            "warning: many answers end without a verdict; use a larger model, more --max-tokens or another --template",
            to_stderr=True,
        )
    if done.rejected:
        print_text(
            f"warning: {done.rejected} requests were refused and are asked again by the next run: {done.rejection}",
            to_stderr=True,
        )
    return 1 if done.rejected else 0


def _key(name: str | None) -> str:
    """Return the API key of an environment variable."""
    if name is None:
        return ""
    key = os.environ.get(name, "").strip()
    if not key:
        raise UserError(f"--api-key-env: expected a key in the environment variable '{name}', got none; export it")
    return key


def _share(part: int, whole: int) -> str:
    return f"{part} of {whole}" + (f" ({100 * part / whole:.1f} %)" if whole else "")
