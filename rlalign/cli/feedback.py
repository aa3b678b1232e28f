"""`rlalign feedback ...`: collect judgements of people about completions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from rlalign.cli.feedback_check import Check, run_check
from rlalign.cli.feedback_export import Export, run_export
from rlalign.cli.feedback_judge import Judge
from rlalign.cli.feedback_loop import Loop, run_loop_command
from rlalign.cli.feedback_overoptimization import Overoptimization, run_overoptimization
from rlalign.cli.feedback_plan import Plan, run_plan
from rlalign.cli.feedback_report import Report, run_report
from rlalign.cli.subcommands import parse_subcommand
from rlalign.errors import UserError
from rlalign.escaping.terminal import print_text

SUBCOMMANDS = {
    "plan": "print how many prompts, people and votes a difference needs",
    "sample": "make the store of a study: completions of its policies for its prompts, sampled once",
    "invite": "make personal links for annotators",
    "serve": "serve the annotators' pages and the administrator's",
    "simulate": "let simulated people judge",
    "judge": "let a language model judge pairs in both orders",
    "loop": "train in rounds of sampling, votes, a reward model and policy-gradient steps",
    "report": "write agreement, biases and win rates with intervals as one page",
    "export": "write preferences of a study for TRL, or every vote with its time",
    "check": "check preference data from anywhere, and name the rows that are wrong",
    "overoptimization": "fit proxy and gold reward of runs against their KL, and report where gold begins to fall",
    "forget": "replace a pseudonym and delete what belongs to it but the votes",
    "withdraw": "mark the votes of an annotator, which leave reports and exports",
    "erase": "delete the votes of an annotator for good",
}


@dataclass(frozen=True)
class Sample:
    """Make the store of a study beside its study.toml: completions of its policies for its prompts, sampled once."""

    study: tyro.conf.Positional[Path]
    """study.toml."""
    store: str | None = None
    """Path of the new store, or the URL of a PostgreSQL database; None: study.db beside study.toml."""
    flag: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """A word, such as the name of a model, whose occurrences in completions are reported; repeatable."""
    trust_run: bool = False
    """Run the code that config.json files of other people's run folders name. It can do anything that you can."""


@dataclass(frozen=True)
class Invite:
    """Make personal links. They are printed once: the store holds their digests."""

    store: tyro.conf.Positional[str]
    """The store of the study, or its PostgreSQL URL."""
    count: int = 1
    """Number of people."""
    expires: str = "14d"
    """Time in which the links can be opened, such as 14d or 12h; "never"."""
    crowd: bool = False
    """Make one link for many people, for a crowd site: each person who opens it becomes an annotator."""
    address: str = "http://127.0.0.1:8321"
    """Address of the server as the annotators reach it."""


@dataclass(frozen=True)
class Serve:
    """Serve the annotators' pages and the administrator's until Ctrl-C."""

    store: tyro.conf.Positional[str]
    """The store of the study, or its PostgreSQL URL."""
    host: str = "127.0.0.1"
    """Address to listen on; this machine only by default. Put a proxy with HTTPS in front of anything else."""
    port: int = 8321
    """Port to listen on."""
    address: str | None = None
    """Address of the server as the administrator reaches it; None: that of this machine."""
    secure: bool = False
    """The annotators use HTTPS, which a proxy in front provides: cookies are sent by HTTPS only."""
    rate: float = 10.0
    """Requests of an annotator per second; 0: no limit."""
    log: bool = True
    """Print a line per request, without tokens and addresses."""


@dataclass(frozen=True)
class Simulate:
    """Let simulated people judge through the JSON interface. Their votes are stored as those of people."""

    store: tyro.conf.Positional[str]
    """The store of the study, or its PostgreSQL URL."""
    people: int = 5
    """Number of simulated people."""
    reward: str = "vader"
    """Reward that scores a completion; the tastes of the people are weights of it."""
    votes: int | None = None
    """Largest number of items per person; None: until nothing is left."""
    noise: float = 0.5
    """Temperature of the choices."""
    side: float = 0.2
    """Mean bias for the left side."""
    length: float = 0.1
    """Mean bias for length, per hundred characters."""
    flips: float = 0.0
    """Share of the items that are judged as if the worse completion were the better one."""
    careless: int = 0
    """Number of people who answer all items at random."""
    own: float = 0.0
    """Standard deviation of each person's own weights of words, which the utility adds."""
    seed: int = 0
    """Seed of the tastes and choices."""
    force: bool = False
    """Simulate although the store has votes of people."""


@dataclass(frozen=True)
class Forget:
    """Replace the pseudonym of an annotator, and delete link, comments and session times. The votes stay."""

    store: tyro.conf.Positional[str]
    """The store of the study, or its PostgreSQL URL."""
    annotator: tyro.conf.Positional[str]
    """Pseudonym."""


@dataclass(frozen=True)
class Withdraw:
    """Mark the votes of an annotator. They leave reports and exports, and others get the items."""

    store: tyro.conf.Positional[str]
    """The store of the study, or its PostgreSQL URL."""
    annotator: tyro.conf.Positional[str]
    """Pseudonym."""
    delete_comments: bool = False
    """Delete the comments too."""


@dataclass(frozen=True)
class Erase:
    """Delete the votes of an annotator for good, and all that `forget` deletes."""

    store: tyro.conf.Positional[str]
    """The store of the study, or its PostgreSQL URL."""
    annotator: tyro.conf.Positional[str]
    """Pseudonym."""
    yes: bool = False
    """Confirm the deletion."""


ARGUMENTS: dict[str, Any] = {
    c.__name__.lower(): c
    for c in (
        *(Plan, Sample, Invite, Serve, Simulate, Judge, Loop, Report, Export, Check, Overoptimization),
        *(Forget, Withdraw, Erase),
    )
}
"""The arguments of each subcommand."""


def run(args: Sequence[str]) -> int:
    """Run a subcommand; return its exit status."""
    parsed = parse_subcommand("feedback", args, SUBCOMMANDS, ARGUMENTS)
    if parsed is None:
        return 0
    name, arguments = parsed
    if name == "check":
        return run_check(arguments)  # needs no package of the extra
    from rlalign.registry import import_optional

    for module in ("sqlalchemy", "alembic", "fastapi", "uvicorn", "markdown_it", "nh3", "latex2mathml", "httpx"):
        import_optional(module, "feedback")
    status: int = globals()[f"_{name}"](arguments)
    return status


_export = run_export
_loop = run_loop_command
_plan = run_plan
_report = run_report
_overoptimization = run_overoptimization


def _sample(arguments: Sample) -> int:
    from rlalign.feedback.sampling import empty_completions, make_store, named_policies, sample
    from rlalign.feedback.store import is_postgres, shown_location
    from rlalign.feedback.study import read_study
    from rlalign.preferences.near_duplicates import are_few

    study = read_study(arguments.study)
    location = arguments.store or str(arguments.study.with_suffix(".db"))
    if not is_postgres(location) and Path(location).exists():
        raise UserError(f"'{location}' exists already; its completions are sampled once: remove it to sample again")
    content = sample(study, arguments.study.parent, trust_run=arguments.trust_run)
    if empty := empty_completions(content):
        print_text(f"warning: {empty} completions are empty and in no item", to_stderr=True)
    for warning in named_policies(study, content, arguments.flag):
        print_text(f"warning: {warning}; people would know who wrote them", to_stderr=True)
    counts = make_store(location, study, arguments.study.parent, content)
    if are_few(counts["groups"], counts["prompts"]):
        print_text(
            f"warning: {counts['prompts']} prompts form {counts['groups']} groups of near duplicates; the split and "
            "the intervals treat a group as one prompt",
            to_stderr=True,
        )
    votes = counts["items"] * study.votes_per_item
    shown = shown_location(location)
    print_text(
        f"{shown}: {counts['items']} items of {counts['prompts']} prompts and {counts['completions']} completions, "
        f"{votes} votes wanted"
    )
    print_text(f"next: rlalign feedback invite {shown} --count 3, then rlalign feedback serve {shown}")
    return 0


def _invite(arguments: Invite) -> int:
    from rlalign.feedback.people import MOST_LINKS, invite
    from rlalign.feedback.store import Store
    from rlalign.typecheck import check_range

    check_range("--count", arguments.count, least=1)
    if arguments.count > MOST_LINKS:
        raise UserError(f"--count: expected at most {MOST_LINKS}, got {arguments.count}; use several calls, or --crowd")
    if not arguments.address.startswith(("http://", "https://")):
        raise UserError(f"--address: expected http:// or https://, got '{arguments.address}'; use http://HOST:PORT")
    if arguments.crowd and arguments.count != 1:
        raise UserError("--count: expected none with --crowd, whose link serves all people; leave one of them out")
    days = _days(arguments.expires)
    with Store(arguments.store) as store:
        if arguments.crowd:
            links = store.write(lambda c: invite(c, 1, days, "crowd")).result()
        else:
            links = store.write(lambda c: invite(c, arguments.count, days)).result()
    for link in links:
        print_text(f"{link.pseudonym}  {arguments.address.rstrip('/')}{link.path}")
    return 0


def _days(text: str) -> float | None:
    """Return a time such as 14d or 12h in days; None for "never"."""
    if text == "never":
        return None
    units = {"d": 1.0, "h": 1 / 24, "m": 1 / 1440}
    try:
        days = float(text[:-1]) * units[text[-1:]]
    except (KeyError, ValueError):
        raise UserError(f"--expires: expected a time such as 14d or 12h, or never, got '{text}'; use 14d") from None
    if not 0 < days <= 3650:
        raise UserError(f"--expires: expected more than 0 and at most 3650 days, got '{text}'; use 14d")
    return days


def _serve(arguments: Serve) -> int:
    from rlalign.feedback.store import shown_location
    from rlalign.feedback.web.serve import serve
    from rlalign.feedback.web.server import Limits
    from rlalign.typecheck import check_range

    check_range("--port", arguments.port, least=0)
    check_range("--rate", arguments.rate, least=0)
    if arguments.port > 65535:
        raise UserError(f"--port: expected at most 65535, got {arguments.port}; use 8321")
    host = "127.0.0.1" if arguments.host in ("0.0.0.0", "::") else arguments.host

    def ready(link: Any, port: int) -> None:
        address = (arguments.address or f"http://{host}:{port}").rstrip("/")
        shown = shown_location(arguments.store)
        print_text(
            f"annotators open their personal links; make some with rlalign feedback invite {shown} --address {address}"
        )
        print_text(f"administrator: {address}{link.path}")

    limits = Limits(per_second=arguments.rate)
    serve(
        arguments.store, host=arguments.host, port=arguments.port, limits=limits, secure=arguments.secure,
        log=arguments.log, ready=ready,
    )  # fmt: skip
    return 0


def _simulate(arguments: Simulate) -> int:
    import math
    import random

    from rlalign.feedback.people import invite
    from rlalign.feedback.simulate import (
        answers,
        draw_tastes,
        has_real_votes,
        mark_simulated,
        reward_score,
        simulate,
    )
    from rlalign.feedback.store import Store
    from rlalign.feedback.web.serve import in_background, only_server
    from rlalign.typecheck import check_range

    check_range("--people", arguments.people, least=1)
    if arguments.noise <= 0:
        raise UserError(f"--noise: expected a number above 0, got {arguments.noise}; use 0.01 for hardly any noise")
    if arguments.votes is not None:
        check_range("--votes", arguments.votes, least=1)
    check_range("--flips", arguments.flips, least=0, most=1)
    check_range("--careless", arguments.careless, least=0, most=arguments.people)
    check_range("--own", arguments.own, least=0, below=math.inf)
    score = reward_score(arguments.reward)
    tastes = draw_tastes(
        random.Random(arguments.seed), arguments.people, careless=arguments.careless, flips=arguments.flips,
        own=arguments.own, noise=arguments.noise, side=arguments.side, length=arguments.length,
    )  # fmt: skip
    with Store(arguments.store) as store, only_server(store), in_background(store) as address:
        study = store.study()
        if not arguments.force and store.read(has_real_votes):
            raise UserError(
                f"'{store.location}' has votes of people, and those of simulated people would count with them; sample "
                "another store for a trial, or use --force"
            )
        links = store.write(lambda c: invite(c, arguments.people, 1, actor="simulate")).result()
        store.write(lambda c: mark_simulated(c, [link.pseudonym for link in links])).result()
        paths = [link.path for link in links]
        known = {**answers(study.practice), **answers(study.check)}
        counts = simulate(address, paths, tastes, score, known=known, seed=arguments.seed, most=arguments.votes)
    for link, count in zip(links, counts, strict=True):
        print_text(f"{link.pseudonym}  {count} items")
    return 0


def _judge(arguments: Judge) -> int:
    from rlalign.cli.feedback_judge import judge

    return judge(arguments)


def _forget(arguments: Forget) -> int:
    from rlalign.feedback.people import find_person, forget
    from rlalign.feedback.store import Store

    with Store(arguments.store) as store:
        name = store.write(lambda c: forget(c, find_person(c, arguments.annotator), "command line")).result()
    print_text(
        f"'{arguments.annotator}' is now '{name}'. Link, comments, session times and crowd parameters are deleted, the "
        "votes stay, connected by an internal number. Agreement figures do not change, since the votes of one person "
        "still count as those of one person. Copies and exports made before still hold the pseudonym."
    )
    return 0


def _withdraw(arguments: Withdraw) -> int:
    from rlalign.feedback.errors import Conflict
    from rlalign.feedback.people import find_person, withdraw
    from rlalign.feedback.store import Store

    with Store(arguments.store) as store:
        try:
            count = store.write(
                lambda c: withdraw(
                    c, find_person(c, arguments.annotator), delete_comments=arguments.delete_comments,
                    actor="command line",
                )
            ).result()  # fmt: skip
        except Conflict as error:
            raise UserError(f"'{arguments.annotator}': {error.message}; use erase to delete them") from error
    print_text(f"{count} answers of '{arguments.annotator}' are withdrawn; the items are open for others")
    return 0


def _erase(arguments: Erase) -> int:
    from rlalign.feedback.people import erase, find_person
    from rlalign.feedback.store import Store

    if not arguments.yes:
        raise UserError(
            f"this deletes the votes of '{arguments.annotator}' for good; add --yes, or use withdraw to mark them only"
        )
    with Store(arguments.store) as store:
        count = store.write(lambda c: erase(c, find_person(c, arguments.annotator), "command line")).result()
    print_text(f"{count} answers of '{arguments.annotator}' are deleted; the items are open for others")
    return 0
