"""Scores and batches of items, for the selection by uncertainty."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Add the columns. The items of an older store have neither: they were selected at random or by priority."""
    op.add_column("item", sa.Column("score", sa.Double().with_variant(sa.REAL(), "sqlite"), nullable=True))
    op.add_column("item", sa.Column("batch", NUMBER, nullable=True))
    op.execute("UPDATE study SET schema_version = 2")
