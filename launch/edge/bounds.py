"""What the edge is told about the applications, as a file, and what it answers in their place.

Read at every start of HAProxy, so standard library only: it must be there within a blink.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

PROBLEM = "application/problem+json"
MAX_CONNECTIONS = 8_192
PER_SOURCE = MAX_CONNECTIONS * 3 // 4  # one address never takes them all
URGENT_FROM = MAX_CONNECTIONS * 7 // 8  # beyond it only what is urgent is let in
HEADERS_S = 2  # for a sender's headers, and the first 16 KiB of its body
IDLE_SENDER_S = 10
CONNECT_S = 1  # to a replica
RETRY_AFTER_S = 1
TWICE_WITHIN_MS = 3_000  # a question may be put to a second replica where both tries end by then


@dataclass(frozen=True, slots=True)
class Bounds:
    """One application at the edge. Deadlines in milliseconds, each beyond the one the replica keeps itself."""

    prefix: str
    read_ms: int  # GET, HEAD
    write_ms: int
    bulk_ms: int  # bodies above `bulk_bytes`, those of unknown size, and `bulk_paths`
    bulk_bytes: int
    bulk_paths: tuple[str, ...]
    urgent: bool

    @property
    def twice(self) -> bool:
        """Whether a question without an answer is put to another replica."""
        return 2 * self.read_ms <= TWICE_WITHIN_MS


def write_bounds(path: Path, bounds: tuple[Bounds, ...]) -> None:
    """Write the file that `read_bounds` reads."""
    path.write_text(json.dumps([asdict(each) for each in bounds], indent=1), encoding="utf-8")


def read_bounds(path: Path) -> tuple[Bounds, ...]:
    """The applications of a platform."""
    rows = json.loads(path.read_text(encoding="utf-8"))
    return tuple(Bounds(**{**row, "bulk_paths": tuple(row["bulk_paths"])}) for row in rows)


def problem(status: int, code: str, detail: str, hint: str = "") -> str:
    """A problem detail (RFC 9457) without `instance`: the edge's answers are fixed texts."""
    title = code.replace("-", " ").capitalize()
    body = {"type": f"urn:tocsin:problem:{code}", "title": title, "status": status, "detail": detail}
    return json.dumps(body | ({"hint": hint} if hint else {}))


REPEAT = "try again after Retry-After; repeat a send with the same Idempotency-Key"
BAD_REQUEST = problem(400, "bad-request", "the request is not valid HTTP")
SLOW_SENDER = problem(
    408, "slow-sender", f"the request did not arrive within {HEADERS_S} s", "send it again, in one piece"
)
NOT_FOUND = problem(404, "not-found", "this is not an operation of this platform", "GET /docs lists them")
OVERLOADED = problem(429, "overloaded", "this part of the platform is full", REPEAT)
INTERNAL = problem(500, "internal", "the platform failed on this request; its log says why")
BROKEN = problem(502, "broken-answer", "the replica that had the request ended before it answered", REPEAT)
UNAVAILABLE = problem(503, "unavailable", "this part of the platform is not there at this moment", REPEAT)
BUSY = problem(503, "busy", "too many connections: only urgent requests are taken", REPEAT)
LATE = problem(
    504, "deadline-exceeded", "no answer within the deadline; the request may have been carried out", REPEAT
)

ERROR_PAGES = {
    400: ("Bad Request", BAD_REQUEST),
    408: ("Request Timeout", SLOW_SENDER),
    500: ("Internal Server Error", INTERNAL),
    502: ("Bad Gateway", BROKEN),
    503: ("Service Unavailable", UNAVAILABLE),
    504: ("Gateway Timeout", LATE),
}
REPEATABLE = {408, 429, 502, 503, 504}


def write_error_pages(folder: Path) -> None:
    """One file a status, as HAProxy's `errorfile` wants it: a whole HTTP answer."""
    folder.mkdir(parents=True, exist_ok=True)
    for status, (reason, body) in ERROR_PAGES.items():
        headers = [f"HTTP/1.1 {status} {reason}", f"Content-Type: {PROBLEM}", "Cache-Control: no-store"]
        headers += [f"Retry-After: {RETRY_AFTER_S}"] if status in REPEATABLE else []
        headers += [f"Content-Length: {len(body.encode())}", "Connection: close"]
        (folder / f"{status}.http").write_bytes(("\r\n".join(headers) + "\r\n\r\n" + body).encode())
