"""What can go wrong, and whether trying again can help.

One root, `TocsinError`. Retryability is a property of the class, so that callers decide by type and never by
reading a message. `code` is a stable identifier: it becomes the `type` of a problem detail (RFC 9457) and a
metric label.
"""

from __future__ import annotations

from typing import ClassVar


class TocsinError(Exception):
    """The root of every error this project raises on purpose."""

    code: ClassVar[str] = "error"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint  # the next step to take, in words


class ConfigurationError(TocsinError):
    """A setting is missing or out of range; nothing was started."""

    code = "configuration"


class InvalidRecordError(TocsinError):
    """A record breaks its schema: names the field and, where one applies, the limit."""

    code = "invalid-record"

    def __init__(self, message: str, *, field: str = "", limit: str = "", hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.field = field
        self.limit = limit


class ContradictionError(InvalidRecordError):
    """A record is well formed, and contradicts what it is about or what is kept of it."""

    code = "conflict"


class UnreadableFileError(TocsinError):
    """A file is missing, empty, malformed, or lacks a column."""

    code = "unreadable-file"


class NotFoundError(TocsinError):
    """The thing asked for is not known here."""

    code = "not-found"


class ConflictError(TocsinError):
    """The request contradicts what was accepted before (an idempotency key reused for another body)."""

    code = "conflict"


class StateMovedError(TocsinError):
    """Somebody else changed the state that a result was worked out from; nothing was written."""

    code = "state-moved"
    retryable = True


class UnauthorizedError(TocsinError):
    """The API key is missing or wrong."""

    code = "unauthorized"


class StorageUnavailableError(TocsinError):
    """Redis cannot be reached or refused the write. Nothing was accepted."""

    code = "storage-unavailable"
    retryable = True

    def __init__(self, message: str, *, retry_after_s: float = 1.0, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.retry_after_s = retry_after_s


class OverloadedError(TocsinError):
    """The platform sheds this request; try again after `retry_after_s`."""

    code = "overloaded"
    retryable = True

    def __init__(self, message: str, *, retry_after_s: float = 1.0, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.retry_after_s = retry_after_s


class ArchiveUnavailableError(TocsinError):
    """The archive's storage does not answer, or refuses; what was to be archived is kept."""

    code = "archive-unavailable"
    retryable = True


class ModelUnavailableError(TocsinError):
    """No trained model can be loaded from the registry."""

    code = "model-unavailable"
    retryable = True


class RequestFailedError(TocsinError):
    """The platform answered with an error the client cannot map to a narrower class."""

    code = "request-failed"

    def __init__(self, message: str, *, status: int, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.status = status


class TimedOutError(TocsinError):
    """No answer within the deadline; the request may or may not have been carried out."""

    code = "timed-out"
    retryable = True


class UnreachableError(TocsinError):
    """No connection to the platform could be made, or it ended before an answer came."""

    code = "unreachable"
    retryable = True
