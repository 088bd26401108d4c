"""From the bytes of a request to records: strict, bounded, and exact about what is wrong.

A body is one JSON object, a JSON array of them, or NDJSON (one object a line). A good batch is decoded in one
pass; only a batch with a fault in it is taken apart record by record to say which one and why.

A name given twice in one object is refused, for a reader cannot know which was meant. The decoder does not notice,
so the JSON is read a second time: about 2 us for a record that is decoded on its own, and for an array up to
`MAX_CHECKED_BYTES`; a larger array that is good otherwise is not looked at, it would take nearly twice as long
(`benchmarks/routing/decoding.py`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Generic, TypeVar

import msgspec

from tocsin.errors import InvalidRecordError
from tocsin.wire.limits import MAX_BATCH_RECORDS, MAX_BODY_BYTES, MAX_ID
from tocsin.wire.notifications import FieldChange
from tocsin.wire.problems import RecordError

T = TypeVar("T", bound=msgspec.Struct)

# What the decoder raises for bytes that are no record; the last one for JSON nested a thousand deep.
_UNDECODABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)

MAX_CHECKED_BYTES = 16_384

Mended = tuple[dict[str, Any], tuple[FieldChange, ...]]
"""The fields of a record as they can be accepted, and what was changed."""

# Escapes of, or raw, control characters: the cheap sign that a closer look is needed.
_SUSPECT = re.compile(rb"\\u00[01789]|\\[bf]|\x7f|\xc2[\x80-\x9f]")
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")  # the last: half a surrogate pair
_PATH = re.compile(r"^(?P<detail>.*?)(?: - at (?:`key` in )?`\$(?:\[\d+\])?\.?(?P<field>.*)`)?$", re.DOTALL)
_PLACE = re.compile(r"\[\d+\]")
_LIMIT = re.compile(r"(?:of length )?(?P<limit>(?:>=|<=|>|<) [-+.\de]+)")


class Decoded(msgspec.Struct, Generic[T]):
    """The records that are good, each with its index in the request, and what was wrong with the others."""

    records: list[tuple[int, T]]
    errors: list[RecordError]
    total: int
    changes: dict[int, tuple[FieldChange, ...]] = {}  # by index, of records that were mended


class RecordDecoder(Generic[T]):
    """Decodes bodies into records of one type.

    Args:
        kind: The struct.
        check: Rules a schema cannot state (times, addresses); raises `InvalidRecordError`.
        mend: Makes a refused object acceptable, where it is better changed than refused; None: it stays refused.
    """

    def __init__(
        self,
        kind: type[T],
        check: Callable[[T, float], None],
        mend: Callable[[dict[str, Any]], Mended | None] | None = None,
    ) -> None:
        self._kind = kind
        self._check = check
        self._mend = mend
        self._choices = choices_of(kind)
        self._one = msgspec.json.Decoder(kind)
        self._many = msgspec.json.Decoder(list[kind])  # type: ignore[valid-type]
        self._raw = msgspec.json.Decoder(list[msgspec.Raw])

    def decode(self, body: bytes, *, ndjson: bool, now: float) -> Decoded[T]:
        """Decode one body.

        Args:
            body: The bytes as they came.
            ndjson: One object a line.
            now: Seconds since the epoch, for rules about time.

        Raises:
            InvalidRecordError: the body as a whole is unusable: too large, too many records, empty, not JSON.
        """
        if len(body) > MAX_BODY_BYTES:
            raise InvalidRecordError(
                f"the body has {len(body):,} bytes", field="body", limit=f"<= {MAX_BODY_BYTES} bytes"
            )
        stripped = body.strip()
        if not stripped:
            raise InvalidRecordError(
                "the body is empty", field="body", hint="send a JSON object, array or NDJSON"
            )
        if not ndjson and stripped.startswith(b"["):
            fast = None if _SUSPECT.search(body) else self._fast(stripped, now)
            if fast is not None:
                return fast
            try:
                parts = [bytes(raw) for raw in self._raw.decode(stripped)]
            except _UNDECODABLE as error:
                return self._salvage(stripped, now, str(error))
        else:
            parts = [line for line in stripped.splitlines() if line.strip()] if ndjson else [stripped]
        _check_number(len(parts))
        return self._slow(parts, now)

    def decode_one(self, body: bytes, *, now: float) -> tuple[T, tuple[FieldChange, ...]]:
        """Decode a body of one object, and say what was changed in it.

        Raises:
            InvalidRecordError: it is something else, or breaks the schema; names the field and the limit.
        """
        if body.lstrip()[:1] == b"[":
            raise InvalidRecordError("the body is an array", field="body", limit="one JSON object")
        found = self.decode(body, ndjson=False, now=now)
        if found.errors:
            first = found.errors[0]
            raise InvalidRecordError(first.detail, field=first.field, limit=first.limit)
        return found.records[0][1], found.changes.get(0, ())

    def _fast(self, body: bytes, now: float) -> Decoded[T] | None:
        """The whole array at once; None when something is wrong with it."""
        try:
            records = self._many.decode(body)
            if not 0 < len(records) <= MAX_BATCH_RECORDS:
                return None
            if len(body) <= MAX_CHECKED_BYTES:
                refuse_repeated_names(body)
            for record in records:
                self._check(record, now)
        except (*_UNDECODABLE, InvalidRecordError):
            return None
        return Decoded(list(enumerate(records)), [], len(records))

    def _slow(self, parts: Sequence[bytes], now: float) -> Decoded[T]:
        found: Decoded[T] = Decoded([], [], len(parts))
        for index, part in enumerate(parts):
            try:
                found.records.append((index, self._strictly(part, now)))
            except (*_UNDECODABLE, InvalidRecordError) as error:
                if self._mend is None or not self._mended(found, index, loosely_decoded(part), now):
                    found.errors.append(_complaint(error, index, self._choices))
        return found

    def _strictly(self, part: bytes, now: float) -> T:
        record = self._decoded(part)
        refuse_repeated_names(part)
        if _SUSPECT.search(part):
            refuse_control_characters(record)
        self._check(record, now)
        return record

    def _decoded(self, part: bytes) -> T:
        """One record; a whole number may be written with a point, as JSON and its schemas have it."""
        try:
            return self._one.decode(part)
        except msgspec.ValidationError as error:
            if "got `float`" not in str(error):
                raise
            try:
                return msgspec.convert(json.loads(part, parse_float=_number), self._kind)
            except (*_UNDECODABLE, ValueError):
                raise error from None

    def _mended(self, found: Decoded[T], index: int, given: object, now: float) -> bool:
        """Put a record among those found, mended; false where it cannot be or should not."""
        mended = self._mend(given) if self._mend is not None and isinstance(given, dict) else None
        if mended is None:
            return False
        fields, changes = mended
        try:
            record = msgspec.convert(fields, self._kind)
            refuse_control_characters(record)
            self._check(record, now)
        except (*_UNDECODABLE, InvalidRecordError):
            return False
        found.records.append((index, record))
        if changes:
            found.changes[index] = changes
        return True

    def _salvage(self, body: bytes, now: float, fault: str) -> Decoded[T]:
        """Of an array that is no JSON, for it holds raw control characters, what is worth mending.

        Raises:
            InvalidRecordError: nothing is.
        """
        refusal = InvalidRecordError(f"the body is not valid JSON: {fault}", field="body")
        items = loosely_decoded(body) if self._mend is not None else None
        if not isinstance(items, list):
            raise refusal
        _check_number(len(items))
        found: Decoded[T] = Decoded([], [], len(items))
        for index, item in enumerate(items):
            if not self._mended(found, index, item, now):
                found.errors.append(RecordError(index=index, detail=refusal.message, field="body"))
        if not found.records:
            raise refusal
        return found


def _check_number(records: int) -> None:
    if not records:
        raise InvalidRecordError("the body holds no record", field="body", limit=">= 1 record")
    if records > MAX_BATCH_RECORDS:
        raise InvalidRecordError(
            f"the body holds {records:,} records", field="body", limit=f"<= {MAX_BATCH_RECORDS} records"
        )


def _complaint(error: Exception, index: int, choices: Mapping[str, str]) -> RecordError:
    if isinstance(error, InvalidRecordError):
        return RecordError(index=index, detail=error.message, field=error.field, limit=error.limit)
    return explain(error, index, choices)


def choices_of(kind: type[msgspec.Struct]) -> dict[str, str]:
    """What the fields that know only some words take, by field; under "" the fields there are."""
    fields = getattr(msgspec.inspect.type_info(kind), "fields", ())
    found = {"": f"one of {', '.join(field.encode_name for field in fields)}"}
    for field in fields:
        at, inner = field.encode_name, field.type
        while isinstance(inner, msgspec.inspect.Metadata):
            inner = inner.type
        if isinstance(inner, msgspec.inspect.VarTupleType | msgspec.inspect.ListType):
            at, inner = f"{at}[...]", inner.item_type
        if isinstance(inner, msgspec.inspect.LiteralType):
            found[at] = f"one of {', '.join(str(value) for value in inner.values if value)}"
    return found


def explain(error: Exception, index: int, choices: Mapping[str, str] = MappingProxyType({})) -> RecordError:
    """A decoder's message as field, limit and sentence; `choices` as `choices_of` returns them."""
    match = _PATH.match(str(error))
    detail, field = (match["detail"], match["field"] or "") if match else (str(error), "")
    inner = ""
    for marker in ("unknown field `", "required field `"):
        if marker in detail:
            inner = detail.split(marker, 1)[1].rstrip("`")
            field = f"{field}.{inner}" if field else inner
    found = _LIMIT.search(detail)
    limit = found["limit"] if found else ""
    if detail.startswith("Invalid enum value"):
        limit = choices.get(_PLACE.sub("[...]", field), "")
    elif "unknown field `" in detail and field == inner:
        limit = choices.get("", "")
    elif "missing required field" in detail:
        limit = "required"
    elif " matching regex " in detail:
        limit = detail.partition(" regex ")[2].strip("'")
    elif "RFC3339" in detail or "timezone" in detail:
        limit = "RFC 3339 with an offset, e.g. 2026-01-31T00:00:00Z"
    if not isinstance(error, msgspec.ValidationError):
        detail = f"not valid JSON: {detail}"
    return RecordError(index=index, detail=detail, field=field, limit=limit)


def refuse_repeated_names(body: bytes) -> None:
    """Refuse JSON in which an object has a name twice.

    Args:
        body: JSON that was decoded before.

    Raises:
        InvalidRecordError: names the name.
    """
    try:
        _read_names(body.decode())
    except (ValueError, RecursionError) as error:
        raise InvalidRecordError(f"not valid JSON: {error}", field="body") from None


def _number(text: str) -> float:
    found = float(text)
    return int(found) if found.is_integer() else found


def _names_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        name = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise InvalidRecordError(
            f"`{name[:MAX_ID]}` is given more than once",
            field=name[:MAX_ID],
            limit="each name once in an object",
        )
    return found


_read_names = json.JSONDecoder(object_pairs_hook=_names_once).decode
_read_loosely = json.JSONDecoder(object_pairs_hook=_names_once, strict=False).decode


def loosely_decoded(body: bytes) -> object:
    """What a body means though it holds raw control characters, broken UTF-8 or half a surrogate pair; else None.

    These stay in its texts, the broken bytes as halves of surrogate pairs: to be cleaned, or refused.
    """
    try:
        return _read_loosely(body.decode("utf-8", "surrogateescape").strip())
    except (ValueError, RecursionError, InvalidRecordError):
        return None


def refuse_control_characters(record: msgspec.Struct) -> None:
    """Allow tab and newlines, refuse every other control character in any text of a record.

    Raises:
        InvalidRecordError: names the field.
    """
    for name in record.__struct_fields__:
        for text in _texts(getattr(record, name)):
            if _CONTROL.search(text):
                raise InvalidRecordError(
                    f"`{name}` has a control character",
                    field=name,
                    limit="no control characters but tab and newline",
                )


def _texts(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [text for pair in value.items() for text in pair if isinstance(text, str)]
    if isinstance(value, list | tuple):
        return [text for text in value if isinstance(text, str)]
    return []
