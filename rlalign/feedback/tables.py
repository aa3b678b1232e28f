"""The tables of a store. Times are the server's, in milliseconds since 1970 (UTC)."""

from __future__ import annotations

import sqlalchemy as sa

VERSION = 2
"""Version of the schema. Another version needs a migration (see `migrations/`)."""

metadata = sa.MetaData()
_NUMBER = sa.BigInteger().with_variant(sa.Integer, "sqlite")
"""64 bits. SQLite numbers rows by an INTEGER key alone."""


def _table(name: str, *parts: sa.schema.SchemaItem) -> sa.Table:
    return sa.Table(name, metadata, *parts, sqlite_strict=True)


def _id() -> sa.Column[int]:
    return sa.Column("id", _NUMBER, primary_key=True, autoincrement=True)


def _integer(name: str, *parts: sa.schema.SchemaItem, null: bool = False, default: int | None = None) -> sa.Column[int]:
    return sa.Column(
        name,
        _NUMBER,
        *parts,
        nullable=null,
        server_default=None if default is None else str(default),
    )


def _text(name: str, *, null: bool = False, default: str | None = None, unique: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=null, server_default=default, unique=unique)


def _real(name: str, *, null: bool = False, default: float | None = None) -> sa.Column[float]:
    kind: sa.types.TypeEngine[float] = sa.Double().with_variant(sa.REAL, "sqlite")
    return sa.Column(name, kind, nullable=null, server_default=None if default is None else str(default))


study = _table(
    "study",
    _id(),
    _text("name"),
    _text("config_json"),
    _text("config_hash"),
    _text("texts_json"),  # consent and guidelines by language
    _integer("schema_version"),
    _integer("created"),
    _text("state", default="open"),  # open, paused, complete
    _integer("seed"),
    _integer("looks", default=0),  # how often somebody looked at results before the end
)
policy = _table("policy", _id(), _text("label"), _text("folder_digest"), _text("sampling_json"))
prompt = _table(
    "prompt",
    _id(),
    _integer("group_id"),  # equal for near-duplicates, which must not be divided between train and test
    _text("split"),
    _text("messages_json"),
    _text("language"),
    _text("source"),
)
completion = _table(
    "completion",
    _id(),
    _integer("prompt_id", sa.ForeignKey("prompt.id")),
    _integer("policy_id", sa.ForeignKey("policy.id"), null=True),
    _text("text"),
    _integer("tokens", null=True),
    _text("finish"),  # stop or length
    _text("digest"),
)
sa.Index("completion_by_prompt", completion.c.prompt_id)
item = _table(
    "item",
    _id(),
    _text("kind"),  # pair, rating, ranking; or practice, check, gold
    _integer("prompt_id", sa.ForeignKey("prompt.id")),
    _text("completion_ids"),  # JSON
    _integer("needed"),
    _integer("free", sa.CheckConstraint("free >= 0", name="free_is_not_negative")),
    _real("priority", default=0.0),
    _real("place"),  # in a random order
    _text("selection"),  # random, priority; of batches: random, fit or scores; or the kind, or repeat
    _real("selection_prob", default=1.0),  # of the batch, given the votes before it
    _text("answer", null=True),
    _text("explanation", null=True),
    _integer("repeat_of", sa.ForeignKey("item.id"), null=True),
    _real("score", null=True),  # of an ensemble: items of larger scores are selected with larger probability
    _integer("batch", null=True),  # number of the batch in which the item was selected
)
sa.Index("item_by_place", item.c.place, sqlite_where=item.c.free > 0, postgresql_where=item.c.free > 0)
sa.Index(
    "item_by_priority", item.c.priority.desc(), item.c.id,
    sqlite_where=item.c.free > 0, postgresql_where=item.c.free > 0,
)  # fmt: skip
sa.Index("item_by_kind", item.c.kind, sqlite_where=item.c.needed == 0, postgresql_where=item.c.needed == 0)
sa.Index("item_by_original", item.c.repeat_of, unique=False)

annotator = _table(
    "annotator",
    _id(),
    _text("pseudonym", unique=True),
    _text("scope"),  # annotator, admin, crowd, user, or judge
    _text("token_hash", null=True, unique=True),
    _integer("created"),
    _integer("expires", null=True),
    _integer("revoked", null=True),
    _text("language", default=""),
    _text("consent_version", null=True),
    _integer("consent_at", null=True),
    _text("guidelines_hash", null=True),
    _integer("seed"),
    _text("code", null=True),  # of a crowd site; random, so that nothing else leads to it
    _integer("tries", default=0),  # of the check
    _integer("passed", default=0),
    _integer("explained", null=True),  # the vote whose explanation is on the screen
    _integer("since_break", default=0),  # items since the last break
    _integer("since_break_ms", default=0),
    _integer("sides", default=0),  # how often the first policy was on the left, less how often it was on the right
    _integer("done", default=0),  # items that count
    _text("crowd_key", null=True, unique=True),  # digest of the crowd site's id
    _text("crowd_json", null=True),
    _integer("crowd_link", null=True),  # the link for a crowd by which the person came
    _integer("withdrawn", null=True),
    _integer("forgotten", null=True),
)
cookie = _table(
    "cookie",
    sa.Column("hash", sa.Text, primary_key=True),
    _integer("annotator", sa.ForeignKey("annotator.id")),
    _integer("created"),
)
lease = _table(
    "lease",
    _id(),
    _integer("item", sa.ForeignKey("item.id")),
    _integer("annotator", sa.ForeignKey("annotator.id")),
    _integer("given"),
    _integer("expires"),
    _text("state"),  # open, done, expired
    _text("order_json"),  # completion ids in the order on the screen
    _integer("visible_ms", default=0),
    sa.UniqueConstraint("annotator", "item", name="an_item_once_per_person"),
)
sa.Index(
    "one_open_lease_per_person", lease.c.annotator, unique=True,
    sqlite_where=lease.c.state == "open", postgresql_where=lease.c.state == "open",
)  # fmt: skip
sa.Index(
    "open_lease_by_expiry", lease.c.expires,
    sqlite_where=lease.c.state == "open", postgresql_where=lease.c.state == "open",
)  # fmt: skip
sa.Index("lease_by_item", lease.c.item)

vote = _table(
    "vote",
    _id(),
    _integer("lease", sa.ForeignKey("lease.id"), null=True),  # thumbs and corrections of users have none
    _integer("item", sa.ForeignKey("item.id"), null=True),
    _integer("completion", sa.ForeignKey("completion.id"), null=True),
    _integer("annotator", sa.ForeignKey("annotator.id")),
    _text("kind"),  # pair, rating, ranking, undo, thumb, correction
    _text("choice"),
    _text("ratings_json", null=True),
    _text("ranking_json", null=True),
    _text("order_json"),
    _integer("at"),
    _integer("elapsed_ms"),
    _integer("active_ms"),
    _integer("seen"),
    _integer("unfolded"),
    _text("guidelines_hash"),
    _text("source"),  # person, judge, user
    _integer("supersedes", sa.ForeignKey("vote.id"), null=True),
    _integer("withdrawn", default=0),
    _text("body_hash"),
    sa.UniqueConstraint("supersedes", name="superseded_once"),
)
sa.Index("vote_by_lease", vote.c.lease)
sa.Index("vote_by_annotator", vote.c.annotator, vote.c.id)
sa.Index("vote_by_item", vote.c.item)
sa.Index(
    "one_vote_of_a_user", vote.c.completion, vote.c.annotator, vote.c.kind, unique=True,
    sqlite_where=vote.c.source == "user", postgresql_where=vote.c.source == "user",
)  # fmt: skip

comment = _table(
    "comment",
    sa.Column("vote", _NUMBER, sa.ForeignKey("vote.id"), primary_key=True, autoincrement=False),
    _text("text"),
)
session = _table(
    "session",
    _id(),
    _integer("annotator", sa.ForeignKey("annotator.id")),
    _integer("start"),
    _integer("end"),
    _integer("active_ms", default=0),
)
sa.Index("session_by_annotator", session.c.annotator, session.c.id)
event = _table("event", _id(), _integer("at"), _text("actor"), _text("what"), _text("detail"))
erasing = _table(
    "erasing",
    sa.Column("annotator", _NUMBER, primary_key=True, autoincrement=False),
)
"""Annotators whose votes are deleted in the present transaction: a trigger lets those pass."""
