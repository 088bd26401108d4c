"""How long a caller is held, at the most. The numbers of each application stand in `serve_deployments.applications`."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from tocsin.errors import TocsinError

BULK_BYTES = (
    16 * 1024
)  # a body above it is many records; as much as the edge keeps before it passes a request on


class Deadlines(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds from the headers of a request to its answer. The edge waits a little longer, so the replica answers."""

    read_s: float = 2.5  # GET, HEAD
    write_s: float = 2.5
    bulk_s: float = 9.0  # bodies above `bulk_bytes` or of unknown size, and endpoints that are marked `bulk`
    bulk_bytes: int = BULK_BYTES

    def of(self, method: str, headers: Mapping[str, str], *, bulk: bool) -> float:
        """Of one request, in seconds."""
        length = headers.get("content-length", "0")
        large = not length.isdigit() or int(length) > self.bulk_bytes
        if bulk or large or "transfer-encoding" in headers:
            return self.bulk_s
        return self.read_s if method in {"GET", "HEAD"} else self.write_s


class DeadlineExceededError(TocsinError):
    """The answer took longer than its caller may be held."""

    code = "deadline-exceeded"
    retryable = True

    def __init__(self, deadline_s: float) -> None:
        super().__init__(
            f"no answer within {deadline_s:g} s; the request may have been carried out",
            hint="try again after Retry-After; repeat a send with the same Idempotency-Key",
        )
        self.retry_after_s = 1.0
