"""Problem details (RFC 9457), and what is wrong with one record of a batch."""

from __future__ import annotations

from msgspec import UNSET, Struct, UnsetType


class RecordError(Struct, frozen=True, kw_only=True):
    """Why one record of a request was not accepted."""

    index: int
    detail: str
    field: str = ""
    limit: str = ""
    code: str = (
        "invalid-record"  # `overloaded`, `storage-unavailable`: nothing is wrong with it, send it again
    )
    retry_after_s: float = 0.0  # when to


class Problem(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A problem detail (RFC 9457), served as `application/problem+json`."""

    type: str
    title: str
    status: int
    detail: str
    instance: str | UnsetType = UNSET
    field: str | UnsetType = UNSET
    limit: str | UnsetType = UNSET
    hint: str | UnsetType = UNSET
    errors: list[RecordError] | UnsetType = UNSET
