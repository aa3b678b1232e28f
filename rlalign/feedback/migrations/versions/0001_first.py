"""The first version of the schema, with triggers that keep votes: only `withdrawn` changes, only `erase` deletes."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
KEPT = (
    "id", "lease", "item", "completion", "annotator", "kind", "choice", "ratings_json", "ranking_json", "order_json",
    "at", "elapsed_ms", "active_ms", "seen", "unfolded", "guidelines_hash", "source", "supersedes", "body_hash",
)  # fmt: skip
ERASED = "EXISTS (SELECT 1 FROM erasing WHERE annotator = OLD.annotator)"


def upgrade() -> None:
    """Create the tables and the triggers."""
    op.create_table(
        "annotator",
        sa.Column("id", NUMBER, autoincrement=True, nullable=False),
        sa.Column("pseudonym", sa.Text(), nullable=False),
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("token_hash", sa.Text(), nullable=True),
        sa.Column("created", NUMBER, nullable=False),
        sa.Column("expires", NUMBER, nullable=True),
        sa.Column("revoked", NUMBER, nullable=True),
        sa.Column("language", sa.Text(), server_default="", nullable=False),
        sa.Column("consent_version", sa.Text(), nullable=True),
        sa.Column("consent_at", NUMBER, nullable=True),
        sa.Column("guidelines_hash", sa.Text(), nullable=True),
        sa.Column("seed", NUMBER, nullable=False),
        sa.Column("code", sa.Text(), nullable=True),
        sa.Column("tries", NUMBER, server_default="0", nullable=False),
        sa.Column("passed", NUMBER, server_default="0", nullable=False),
        sa.Column("explained", NUMBER, nullable=True),
        sa.Column("since_break", NUMBER, server_default="0", nullable=False),
        sa.Column("since_break_ms", NUMBER, server_default="0", nullable=False),
        sa.Column("sides", NUMBER, server_default="0", nullable=False),
        sa.Column("done", NUMBER, server_default="0", nullable=False),
        sa.Column("crowd_key", sa.Text(), nullable=True),
        sa.Column("crowd_json", sa.Text(), nullable=True),
        sa.Column("crowd_link", NUMBER, nullable=True),
        sa.Column("withdrawn", NUMBER, nullable=True),
        sa.Column("forgotten", NUMBER, nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("crowd_key"),
        sa.UniqueConstraint("pseudonym"),
        sa.UniqueConstraint("token_hash"),
        sqlite_strict=True,
    )
    op.create_table(
        "erasing",
        sa.Column("annotator", NUMBER, autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("annotator"),
        sqlite_strict=True,
    )
    op.create_table(
        "event",
        sa.Column("id", NUMBER, autoincrement=True, nullable=False),
        sa.Column("at", NUMBER, nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("what", sa.Text(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sqlite_strict=True,
    )
    op.create_table(
        "policy",
        sa.Column("id", NUMBER, autoincrement=True, nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("folder_digest", sa.Text(), nullable=False),
        sa.Column("sampling_json", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sqlite_strict=True,
    )
    op.create_table(
        "prompt",
        sa.Column("id", NUMBER, autoincrement=True, nullable=False),
        sa.Column("group_id", NUMBER, nullable=False),
        sa.Column("split", sa.Text(), nullable=False),
        sa.Column("messages_json", sa.Text(), nullable=False),
        sa.Column("language", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sqlite_strict=True,
    )
    op.create_table(
        "study",
        sa.Column("id", NUMBER, autoincrement=True, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("config_json", sa.Text(), nullable=False),
        sa.Column("config_hash", sa.Text(), nullable=False),
        sa.Column("texts_json", sa.Text(), nullable=False),
        sa.Column("schema_version", NUMBER, nullable=False),
        sa.Column("created", NUMBER, nullable=False),
        sa.Column("state", sa.Text(), server_default="open", nullable=False),
        sa.Column("seed", NUMBER, nullable=False),
        sa.Column("looks", NUMBER, server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sqlite_strict=True,
    )
    op.create_table(
        "completion",
        sa.Column("id", NUMBER, autoincrement=True, nullable=False),
        sa.Column("prompt_id", NUMBER, nullable=False),
        sa.Column("policy_id", NUMBER, nullable=True),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("tokens", NUMBER, nullable=True),
        sa.Column("finish", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["policy_id"],
            ["policy.id"],
        ),
        sa.ForeignKeyConstraint(
            ["prompt_id"],
            ["prompt.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sqlite_strict=True,
    )
    op.create_index("completion_by_prompt", "completion", ["prompt_id"], unique=False)
    op.create_table(
        "cookie",
        sa.Column("hash", sa.Text(), nullable=False),
        sa.Column("annotator", NUMBER, nullable=False),
        sa.Column("created", NUMBER, nullable=False),
        sa.ForeignKeyConstraint(
            ["annotator"],
            ["annotator.id"],
        ),
        sa.PrimaryKeyConstraint("hash"),
        sqlite_strict=True,
    )
    op.create_table(
        "item",
        sa.Column("id", NUMBER, autoincrement=True, nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("prompt_id", NUMBER, nullable=False),
        sa.Column("completion_ids", sa.Text(), nullable=False),
        sa.Column("needed", NUMBER, nullable=False),
        sa.Column("free", NUMBER, nullable=False),
        sa.Column("priority", sa.Double().with_variant(sa.REAL(), "sqlite"), server_default="0.0", nullable=False),
        sa.Column("place", sa.Double().with_variant(sa.REAL(), "sqlite"), nullable=False),
        sa.Column("selection", sa.Text(), nullable=False),
        sa.Column(
            "selection_prob", sa.Double().with_variant(sa.REAL(), "sqlite"), server_default="1.0", nullable=False
        ),
        sa.Column("answer", sa.Text(), nullable=True),
        sa.Column("explanation", sa.Text(), nullable=True),
        sa.Column("repeat_of", NUMBER, nullable=True),
        sa.CheckConstraint("free >= 0", name="free_is_not_negative"),
        sa.ForeignKeyConstraint(
            ["prompt_id"],
            ["prompt.id"],
        ),
        sa.ForeignKeyConstraint(
            ["repeat_of"],
            ["item.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sqlite_strict=True,
    )
    op.create_index(
        "item_by_kind",
        "item",
        ["kind"],
        unique=False,
        sqlite_where=sa.text("needed = 0"),
        postgresql_where=sa.text("needed = 0"),
    )
    op.create_index("item_by_original", "item", ["repeat_of"], unique=False)
    op.create_index(
        "item_by_place",
        "item",
        ["place"],
        unique=False,
        sqlite_where=sa.text("free > 0"),
        postgresql_where=sa.text("free > 0"),
    )
    op.create_index(
        "item_by_priority",
        "item",
        [sa.literal_column("priority DESC"), "id"],
        unique=False,
        sqlite_where=sa.text("free > 0"),
        postgresql_where=sa.text("free > 0"),
    )
    op.create_table(
        "session",
        sa.Column("id", NUMBER, autoincrement=True, nullable=False),
        sa.Column("annotator", NUMBER, nullable=False),
        sa.Column("start", NUMBER, nullable=False),
        sa.Column("end", NUMBER, nullable=False),
        sa.Column("active_ms", NUMBER, server_default="0", nullable=False),
        sa.ForeignKeyConstraint(
            ["annotator"],
            ["annotator.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sqlite_strict=True,
    )
    op.create_index("session_by_annotator", "session", ["annotator", "id"], unique=False)
    op.create_table(
        "lease",
        sa.Column("id", NUMBER, autoincrement=True, nullable=False),
        sa.Column("item", NUMBER, nullable=False),
        sa.Column("annotator", NUMBER, nullable=False),
        sa.Column("given", NUMBER, nullable=False),
        sa.Column("expires", NUMBER, nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("order_json", sa.Text(), nullable=False),
        sa.Column("visible_ms", NUMBER, server_default="0", nullable=False),
        sa.ForeignKeyConstraint(
            ["annotator"],
            ["annotator.id"],
        ),
        sa.ForeignKeyConstraint(
            ["item"],
            ["item.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("annotator", "item", name="an_item_once_per_person"),
        sqlite_strict=True,
    )
    op.create_index("lease_by_item", "lease", ["item"], unique=False)
    op.create_index(
        "one_open_lease_per_person",
        "lease",
        ["annotator"],
        unique=True,
        sqlite_where=sa.text("state = 'open'"),
        postgresql_where=sa.text("state = 'open'"),
    )
    op.create_index(
        "open_lease_by_expiry",
        "lease",
        ["expires"],
        unique=False,
        sqlite_where=sa.text("state = 'open'"),
        postgresql_where=sa.text("state = 'open'"),
    )
    op.create_table(
        "vote",
        sa.Column("id", NUMBER, autoincrement=True, nullable=False),
        sa.Column("lease", NUMBER, nullable=True),
        sa.Column("item", NUMBER, nullable=True),
        sa.Column("completion", NUMBER, nullable=True),
        sa.Column("annotator", NUMBER, nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("choice", sa.Text(), nullable=False),
        sa.Column("ratings_json", sa.Text(), nullable=True),
        sa.Column("ranking_json", sa.Text(), nullable=True),
        sa.Column("order_json", sa.Text(), nullable=False),
        sa.Column("at", NUMBER, nullable=False),
        sa.Column("elapsed_ms", NUMBER, nullable=False),
        sa.Column("active_ms", NUMBER, nullable=False),
        sa.Column("seen", NUMBER, nullable=False),
        sa.Column("unfolded", NUMBER, nullable=False),
        sa.Column("guidelines_hash", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("supersedes", NUMBER, nullable=True),
        sa.Column("withdrawn", NUMBER, server_default="0", nullable=False),
        sa.Column("body_hash", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["annotator"],
            ["annotator.id"],
        ),
        sa.ForeignKeyConstraint(
            ["completion"],
            ["completion.id"],
        ),
        sa.ForeignKeyConstraint(
            ["item"],
            ["item.id"],
        ),
        sa.ForeignKeyConstraint(
            ["lease"],
            ["lease.id"],
        ),
        sa.ForeignKeyConstraint(
            ["supersedes"],
            ["vote.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("supersedes", name="superseded_once"),
        sqlite_strict=True,
    )
    op.create_index(
        "one_vote_of_a_user",
        "vote",
        ["completion", "annotator", "kind"],
        unique=True,
        sqlite_where=sa.text("source = 'user'"),
        postgresql_where=sa.text("source = 'user'"),
    )
    op.create_index("vote_by_annotator", "vote", ["annotator", "id"], unique=False)
    op.create_index("vote_by_item", "vote", ["item"], unique=False)
    op.create_index("vote_by_lease", "vote", ["lease"], unique=False)
    op.create_table(
        "comment",
        sa.Column("vote", NUMBER, autoincrement=False, nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["vote"],
            ["vote.id"],
        ),
        sa.PrimaryKeyConstraint("vote"),
        sqlite_strict=True,
    )
    if op.get_bind().dialect.name == "postgresql":
        _create_triggers_of_postgres()
    else:
        _create_triggers_of_sqlite()


def _create_triggers_of_sqlite() -> None:
    changed = " OR ".join(f'OLD."{name}" IS NOT NEW."{name}"' for name in KEPT)
    op.execute(
        f"CREATE TRIGGER vote_is_append_only BEFORE UPDATE ON vote WHEN {changed} "
        "BEGIN SELECT RAISE(ABORT, 'a vote is never changed'); END"
    )
    op.execute(
        f"CREATE TRIGGER vote_is_kept BEFORE DELETE ON vote WHEN NOT {ERASED} "
        "BEGIN SELECT RAISE(ABORT, 'a vote is never deleted'); END"
    )


def _create_triggers_of_postgres() -> None:
    changed = " OR ".join(f'OLD."{name}" IS DISTINCT FROM NEW."{name}"' for name in KEPT)
    for name, event, condition, message, result in (
        ("vote_is_append_only", "UPDATE", changed, "a vote is never changed", "NEW"),
        ("vote_is_kept", "DELETE", f"NOT {ERASED}", "a vote is never deleted", "OLD"),
    ):
        op.execute(
            f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF {condition} "
            f"THEN RAISE EXCEPTION '{message}'; END IF; RETURN {result}; END $$"
        )
        op.execute(f"CREATE TRIGGER {name} BEFORE {event} ON vote FOR EACH ROW EXECUTE FUNCTION {name}()")
