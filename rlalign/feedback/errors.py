"""Refusals of a request, each with the status of HTTP that it becomes."""

from __future__ import annotations


class Refused(Exception):
    """A request that is not carried out.

    Args:
        code: a word for programs.
        message: a sentence for people.
        field: the field at fault; empty if there is none.
    """

    status = 400

    def __init__(self, code: str, message: str, field: str = "") -> None:
        super().__init__(message)
        self.code, self.message, self.field = code, message, field


class Invalid(Refused):
    """A value that does not fit."""

    status = 422

    def __init__(self, field: str, message: str) -> None:
        super().__init__("invalid", message, field)


class NotFound(Refused):
    """A thing that does not exist, or is somebody else's: the answer is the same."""

    status = 404


class Conflict(Refused):
    """A state that does not allow the request."""

    status = 409


class SignedOut(Refused):
    """A request without a valid cookie."""

    status = 401

    def __init__(self) -> None:
        super().__init__("signed out", "open your personal link again")


class Forbidden(Refused):
    """A request that this person, or this page, must not make."""

    status = 403


class Paused(Refused):
    """The administrator paused the study."""

    status = 423

    def __init__(self) -> None:
        super().__init__("paused", "the study is paused; come back later")
