"""What the client asks: pure builders of HTTP calls, and records checked and cut into batches.

Nothing here sends anything; `tocsin.client.flows` decides when a call is made, `tocsin.client` makes it.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from itertools import islice
from typing import Any, Literal
from urllib.parse import quote

import msgspec
from msgspec import Struct

from tocsin.errors import InvalidRecordError
from tocsin.wire.activity import ActivityRequest
from tocsin.wire.churn import ChurnBatchRequest
from tocsin.wire.dead_letters import DeadLetterFilter, PurgeRequest, ReplayRequest
from tocsin.wire.features import FeaturesRequest
from tocsin.wire.limits import MAX_BATCH_RECORDS, MAX_BODY_BYTES, MAX_CHURN_IDS, MAX_FEATURE_IDS
from tocsin.wire.notifications import NotificationRequest
from tocsin.wire.problems import RecordError

NotificationLike = NotificationRequest | Mapping[str, Any]
ActivityLike = ActivityRequest | Mapping[str, Any]

MAX_BATCH_BYTES = 4 * 1024 * 1024  # of one request body; the platform refuses twice that
MAX_KEY_LENGTH = 100  # of a caller's idempotency key; leaves room for the batch number
MAX_ID_LENGTH = 256

_AT = re.compile(r" - at (?:`key` in )?`\$\.?([^`]*)`$")
_NAMED = re.compile(r"(?:required|unknown) field `([^`]+)`")
_LIMIT = re.compile(r"(?:length )?[<>]=? ?-?[\d.]+(?:e[+-]?\d+)?")
_KEY = re.compile(rf"[\x21-\x7e]{{1,{MAX_KEY_LENGTH}}}")


class Call(Struct, frozen=True, kw_only=True):
    """One HTTP request, not yet made."""

    method: Literal["GET", "POST", "PUT", "DELETE"]
    path: str  # percent-encoded
    params: dict[str, str] = {}
    body: bytes = b""  # JSON
    key: str = ""  # the Idempotency-Key, if any
    idempotent: bool = False  # a POST that may be repeated without a key

    @property
    def repeatable(self) -> bool:
        """Whether doing it twice equals doing it once."""
        return self.method == "GET" or bool(self.key) or self.idempotent

    @property
    def name(self) -> str:
        """How messages speak of it."""
        return f"{self.method} {self.path}"


class Batch(Struct, frozen=True, kw_only=True):
    """Records that travel in one request."""

    indexes: list[int]  # the caller's position of each record in `body`
    body: bytes  # a JSON array; empty when there is nothing to send
    errors: list[RecordError]  # records met on the way that break their schema


# --------------------------------------------------------------------------- records


def encode_record(record: object, kind: type[Struct]) -> bytes:
    """One record, checked against `kind`, as JSON.

    Args:
        record: a mapping of field names to values, or an instance of `kind`.
        kind: the request struct it must fit.

    Raises:
        InvalidRecordError: names the field and the limit.
    """
    try:
        if isinstance(record, Mapping):
            encoded = msgspec.json.encode(msgspec.convert(dict(record), kind))
        elif isinstance(record, kind):
            encoded = msgspec.json.encode(record)
            msgspec.json.decode(encoded, type=kind)  # a struct is not checked when it is built
        else:
            raise InvalidRecordError(f"a record is a mapping or {kind.__name__}, not {type(record).__name__}")
    except msgspec.ValidationError as error:
        raise _invalid(str(error)) from error
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InvalidRecordError(f"the record cannot be written as JSON: {error}") from error
    return encoded


def _invalid(text: str) -> InvalidRecordError:
    """The sentence of msgspec, with the field and the limit taken out of it."""
    at, named, limit = _AT.search(text), _NAMED.search(text), _LIMIT.search(text)
    parts = [part for part in (at and at[1], named and named[1]) if part]
    return InvalidRecordError(text, field=".".join(parts), limit=limit[0] if limit else "")


def batches(
    records: Iterable[object], kind: type[Struct], max_records: int, max_bytes: int = MAX_BATCH_BYTES
) -> Iterator[Batch]:
    """Cut records into request bodies of at most `max_records` and `max_bytes`, in order.

    A record that breaks its schema is left out of the body and named in `errors`.
    """
    indexes: list[int] = []
    encoded: list[bytes] = []
    errors: list[RecordError] = []
    size = 1
    for index, record in enumerate(records):
        try:
            one = encode_record(record, kind)
        except InvalidRecordError as error:
            errors.append(record_error(index, error))
            continue
        if encoded and (len(encoded) == max_records or size + len(one) + 1 > max_bytes):
            yield Batch(indexes=indexes, body=_array(encoded), errors=errors)
            indexes, encoded, errors, size = [], [], [], 1
        indexes.append(index)
        encoded.append(one)
        size += len(one) + 1  # with its comma or bracket
    if encoded or errors:
        yield Batch(indexes=indexes, body=_array(encoded), errors=errors)


def atomic_batch(records: Iterable[object], kind: type[Struct]) -> Batch:
    """All records in a single body, for what is stored together or not at all.

    Raises:
        InvalidRecordError: they do not fit one request.
    """
    found = list(islice(batches(records, kind, MAX_BATCH_RECORDS, MAX_BODY_BYTES), 2))
    if len(found) > 1:
        limit = f"{MAX_BATCH_RECORDS} records, {MAX_BODY_BYTES} bytes"
        raise InvalidRecordError(
            f"an atomic send is one request, of at most {limit}",
            limit=limit,
            hint="send fewer records at a time, or without atomic=True",
        )
    return found[0] if found else Batch(indexes=[], body=b"", errors=[])


def record_error(index: int, error: InvalidRecordError) -> RecordError:
    """An exception about one record as a line of an answer."""
    return RecordError(index=index, detail=error.message, field=error.field, limit=error.limit)


def _array(encoded: list[bytes]) -> bytes:
    return b"[" + b",".join(encoded) + b"]" if encoded else b""


# --------------------------------------------------------------------------- calls


def idempotency_key(given: str | None) -> str:
    """The caller's own key, checked, or a fresh one."""
    if given is None:
        return uuid.uuid4().hex
    if not _KEY.fullmatch(given):
        raise InvalidRecordError(
            "an idempotency key is printable ASCII without spaces",
            field="idempotency_key",
            limit=f"length <= {MAX_KEY_LENGTH}",
        )
    return given


def notifications_call(body: bytes, *, key: str, atomic: bool = False) -> Call:
    """Send a JSON array of notifications."""
    params = {"atomic": "true"} if atomic else {}
    return Call(method="POST", path="/v1/notifications", params=params, body=body, key=key)


def notification_given(notification: object | None, fields: dict[str, Any]) -> object:
    """The one record of a call that takes it whole or as fields."""
    if notification is None:
        return fields
    if fields:
        raise TypeError("a record is given whole or as fields, not both")
    return notification


def notification_body(notification: object) -> bytes:
    """One notification as the array the platform expects."""
    return _array([encode_record(notification, NotificationRequest)])


def activity_call(body: bytes) -> Call:
    """Send a JSON array of activities; an event's identity makes a repeat harmless."""
    return Call(method="POST", path="/v1/activity", body=body, idempotent=True)


def ask_call(
    collection: str,
    name: str,
    *,
    field: str,
    as_of: datetime | None = None,
    values: Mapping[str, float] | None = None,
) -> Call:
    """Ask for one thing by its id: `GET /v1/{collection}/{name}`; `values` become query parameters."""
    params = {key: repr(float(value)) for key, value in (values or {}).items()}
    if as_of is not None:
        params["as_of"] = _rfc3339(as_of)
    return Call(method="GET", path=f"/v1/{collection}/{_segment(name, field)}", params=params)


def churn_calls(ids: Iterable[str], as_of: datetime | None, *, drivers: bool = False) -> Iterator[Call]:
    """Ask for many predictions, `MAX_CHURN_IDS` a request."""
    for chunk in _id_chunks(ids, as_of, MAX_CHURN_IDS):
        body = encode_record({"advertiser_ids": chunk, "as_of": as_of, "drivers": drivers}, ChurnBatchRequest)
        yield Call(method="POST", path="/v1/churn", body=body, idempotent=True)


def features_calls(
    ids: Iterable[str], features: Iterable[str], values: Mapping[str, float] | None, as_of: datetime | None
) -> Iterator[Call]:
    """Ask for the features of many advertisers, `MAX_FEATURE_IDS` a request."""
    rest = {"features": list(features), "values": dict(values or {}), "as_of": as_of}
    for chunk in _id_chunks(ids, as_of, MAX_FEATURE_IDS):
        body = encode_record({"advertiser_ids": chunk, **rest}, FeaturesRequest)
        yield Call(method="POST", path="/v1/features", body=body, idempotent=True)


def _id_chunks(ids: Iterable[str], as_of: datetime | None, most: int) -> Iterator[list[str]]:
    if isinstance(ids, str):
        raise InvalidRecordError("advertiser_ids is a list of ids, not one id", field="advertiser_ids")
    if as_of is not None:
        _rfc3339(as_of)
    every = list(ids)
    for start in range(0, len(every), most):
        yield every[start : start + most]


def letter_filter(where: Mapping[str, Any]) -> DeadLetterFilter:
    """Keyword arguments as a filter; None is as left out.

    Raises:
        InvalidRecordError: names the field and the limit.
    """
    given = msgspec.to_builtins({name: value for name, value in where.items() if value is not None})
    return msgspec.json.decode(encode_record(given, DeadLetterFilter), type=DeadLetterFilter)


def dead_letters_call(wanted: DeadLetterFilter, limit: int, cursor: str) -> Call:
    """Ask for the newest dead letters that match."""
    params = {"limit": str(limit)} | {name: str(value) for name, value in msgspec.to_builtins(wanted).items()}
    if cursor:
        params["cursor"] = cursor
    return Call(method="GET", path="/v1/dead-letters", params=params)


def replay_many_call(request: ReplayRequest) -> Call:
    """Put the dead letters that match back; a repeat is harmless, as each letter moves once."""
    return Call(
        method="POST",
        path="/v1/dead-letters/replay",
        body=encode_record(request, ReplayRequest),
        idempotent=True,
    )


def purge_many_call(request: PurgeRequest) -> Call:
    """Delete the dead letters that match; a repeat is harmless."""
    return Call(
        method="POST",
        path="/v1/dead-letters/purge",
        body=encode_record(request, PurgeRequest),
        idempotent=True,
    )


def purge_call(name: str) -> Call:
    """Delete a dead letter. Not repeated by itself: the second time it would not be found."""
    return Call(method="DELETE", path=f"/v1/dead-letters/{_segment(name, 'id')}")


def replay_call(name: str, *, key: str) -> Call:
    """Put a dead letter back into its lane."""
    return Call(method="POST", path=f"/v1/dead-letters/{_segment(name, 'id')}/replay", key=key)


def recipient_call(method: Literal["GET", "PUT", "DELETE"], name: str, body: bytes = b"") -> Call:
    """Ask for, replace or forget how a recipient wants to be told; each may be repeated."""
    return Call(method=method, path=f"/v1/recipients/{_segment(name, 'id')}", body=body, idempotent=True)


def recipients_call(after: str, limit: int) -> Call:
    """Ask for a page of recipients: those after an id."""
    params = {"limit": str(limit)} | ({"after": after} if after else {})
    return Call(method="GET", path="/v1/recipients", params=params)


READY = Call(method="GET", path="/readyz")


def _segment(name: str, field: str) -> str:
    """An id as one path segment: whatever it holds, it stays one segment."""
    if not 1 <= len(name) <= MAX_ID_LENGTH:
        limit = f"1 <= length <= {MAX_ID_LENGTH}"
        raise InvalidRecordError(
            f"{field} is a text of 1 to {MAX_ID_LENGTH} characters", field=field, limit=limit
        )
    if name in {".", ".."}:  # would be resolved away as a relative path
        return name.replace(".", "%2E")
    try:
        return quote(name, safe="")
    except UnicodeEncodeError as error:
        raise InvalidRecordError(f"{field} is not valid Unicode", field=field) from error


def _rfc3339(moment: datetime) -> str:
    if moment.tzinfo is None:
        raise InvalidRecordError(
            "as_of needs a timezone", field="as_of", hint="for instance datetime.now(UTC), not datetime.now()"
        )
    return moment.isoformat()
