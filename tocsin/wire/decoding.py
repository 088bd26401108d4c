"""From the bytes of a request to records: strict, bounded, and exact about what is wrong.

A body is one JSON object, a JSON array of them, or NDJSON (one object a line). A good batch is decoded in one
pass; only a batch with a fault in it is taken apart record by record to say which one and why.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Generic, TypeVar

import msgspec

from tocsin.errors import InvalidRecordError
from tocsin.wire.limits import MAX_BATCH_RECORDS, MAX_BODY_BYTES
from tocsin.wire.problems import RecordError

T = TypeVar("T", bound=msgspec.Struct)

# What the decoder raises for bytes that are no record; the last one for JSON nested a thousand deep.
_UNDECODABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)

# Escapes of, or raw, control characters: the cheap sign that a closer look is needed.
_SUSPECT = re.compile(rb"\\u00[01789]|\\[bf]|\x7f|\xc2[\x80-\x9f]")
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_PATH = re.compile(r"^(?P<detail>.*?)(?: - at (?:`key` in )?`\$(?:\[\d+\])?\.?(?P<field>.*)`)?$", re.DOTALL)
_PLACE = re.compile(r"\[\d+\]")
_LIMIT = re.compile(r"(?:of length )?(?P<limit>(?:>=|<=|>|<) [-+.\de]+)")


class Decoded(msgspec.Struct, Generic[T]):
    """The records that are good, each with its index in the request, and what was wrong with the others."""

    records: list[tuple[int, T]]
    errors: list[RecordError]
    total: int


class RecordDecoder(Generic[T]):
    """Decodes bodies into records of one type.

    Args:
        kind: The struct.
        check: Rules a schema cannot state (times, addresses); raises `InvalidRecordError`.
    """

    def __init__(self, kind: type[T], check: Callable[[T, float], None]) -> None:
        self._check = check
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
        if not ndjson and stripped.startswith(b"[") and not _SUSPECT.search(body):
            fast = self._fast(stripped, now)
            if fast is not None:
                return fast
        return self._slow(self._split(stripped, ndjson=ndjson), now)

    def _fast(self, body: bytes, now: float) -> Decoded[T] | None:
        """The whole array at once; None when something is wrong with it."""
        try:
            records = self._many.decode(body)
            if not 0 < len(records) <= MAX_BATCH_RECORDS:
                return None
            for record in records:
                self._check(record, now)
        except (*_UNDECODABLE, InvalidRecordError):
            return None
        return Decoded(list(enumerate(records)), [], len(records))

    def _split(self, body: bytes, *, ndjson: bool) -> list[bytes]:
        if ndjson:
            parts = [line for line in body.splitlines() if line.strip()]
        elif body.startswith(b"["):
            try:
                parts = [bytes(raw) for raw in self._raw.decode(body)]
            except _UNDECODABLE as error:
                raise InvalidRecordError(f"the body is not valid JSON: {error}", field="body") from None
        else:
            parts = [body]
        if not parts:
            raise InvalidRecordError("the body holds no record", field="body", limit=">= 1 record")
        if len(parts) > MAX_BATCH_RECORDS:
            raise InvalidRecordError(
                f"the body holds {len(parts):,} records",
                field="body",
                limit=f"<= {MAX_BATCH_RECORDS} records",
            )
        return parts

    def _slow(self, parts: list[bytes], now: float) -> Decoded[T]:
        records: list[tuple[int, T]] = []
        errors: list[RecordError] = []
        for index, part in enumerate(parts):
            try:
                record = self._one.decode(part)
                refuse_control_characters(record)
                self._check(record, now)
            except _UNDECODABLE as error:
                errors.append(explain(error, index, self._choices))
            except InvalidRecordError as error:
                errors.append(
                    RecordError(index=index, detail=error.message, field=error.field, limit=error.limit)
                )
            else:
                records.append((index, record))
        return Decoded(records, errors, len(parts))


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
