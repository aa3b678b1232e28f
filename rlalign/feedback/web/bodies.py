"""The bodies of the JSON interface."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from rlalign.feedback.votes import COMMENT_LIMIT, Ballot

Id = Annotated[int, Field(ge=1, le=2**53)]
Milliseconds = Annotated[int, Field(ge=0, le=2**40)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Consent(_Body):
    """The answer to the consent text of a version, or the guidelines that were read."""

    version: Annotated[str, Field(max_length=64)]
    agreed: bool


class Guidelines(_Body):
    """The version of the guidelines that were read."""

    version: Annotated[str, Field(max_length=64)]


class Vote(_Body):
    """An answer to an item."""

    lease: Id
    choice: Literal["", "a", "b", "tie", "bad", "skip"] = ""
    ratings: Annotated[dict[str, Annotated[int, Field(ge=1, le=11)]], Field(max_length=20)] = {}
    ranking: Annotated[dict[Literal["A", "B", "C", "D"], Annotated[int, Field(ge=1, le=4)]], Field(max_length=4)] = {}
    comment: Annotated[str, Field(max_length=COMMENT_LIMIT)] = ""
    active_ms: Milliseconds | None = None
    seen: bool | None = None
    unfolded: bool = False

    def ballot(self) -> Ballot:
        """Return the answer."""
        return Ballot(
            self.choice,
            self.ratings,
            {str(label): rank for label, rank in self.ranking.items()},
            self.comment,
            self.active_ms,
            self.seen,
            self.unfolded,
        )


class Undo(_Body):
    """The vote to undo."""

    vote: Id


class Heartbeat(_Body):
    """The time in which the page of a lease was visible."""

    lease: Id
    visible_ms: Milliseconds


class Withdraw(_Body):
    """What withdrawing deletes besides marking the votes."""

    confirm: Literal[True]
    delete_comments: bool = False
