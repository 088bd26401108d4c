"""The driver's errors as the project's own, in one place.

with translated():
await client.get(key)
"""

from __future__ import annotations

import re
from types import TracebackType

from redis import exceptions as redis_errors

from tocsin.errors import OverloadedError, StorageUnavailableError, TocsinError

# What the driver puts before an error in a pipeline: the command with its arguments, which a caller may have sent.
_IN_A_PIPELINE = re.compile(
    r"Command # \d+ \(.*\) of pipeline caused error: (?:\((['\"])(?P<quoted>.*)\1,\)|(?P<plain>.*))",
    re.DOTALL,
)


def translate(error: Exception) -> TocsinError:
    """A driver error as one of ours, by whether trying again can help."""
    text = str(error) or type(error).__name__
    if in_pipeline := _IN_A_PIPELINE.fullmatch(text):
        text = in_pipeline["plain"] or in_pipeline["quoted"]
    if isinstance(error, redis_errors.OutOfMemoryError) or text.startswith("OOM"):
        return OverloadedError("the storage server is at its memory limit", retry_after_s=5.0)
    if isinstance(error, redis_errors.AuthenticationError | redis_errors.NoPermissionError):
        return StorageUnavailableError(
            f"the storage server refused the credentials: {text}", retry_after_s=30.0
        )
    return StorageUnavailableError(f"storage is unavailable: {text}", retry_after_s=1.0)


class _Translated:
    """Holds no state, so that one serves every caller."""

    __slots__ = ()

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if isinstance(error, redis_errors.RedisError | OSError):
            raise translate(error) from error


_TRANSLATED = _Translated()


def translated() -> _Translated:
    """What the driver raises within the block is raised as one of ours.

    Raises:
        OverloadedError: the server is at its memory limit.
        StorageUnavailableError: it does not answer, or refuses.
    """
    return _TRANSLATED
