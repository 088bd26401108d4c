"""The body of a request as the world sends it: bounded, inflated, without a byte order mark; JSON or NDJSON."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator
from typing import TypeVar

import msgspec
from starlette.requests import Request

from tocsin.errors import InvalidRecordError
from tocsin.wire.decoding import RecordDecoder
from tocsin.wire.limits import MAX_BODY_BYTES

T = TypeVar("T", bound=msgspec.Struct)

ENCODINGS = ("gzip", "deflate")  # and none
ACCEPT_ENCODING = ", ".join((*ENCODINGS, "identity"))
MAX_MEMBERS = 100  # of one gzip body
STEP_BYTES = 256 * 1024  # inflated at once, a millisecond's work: then other requests get their turn
_BOM = b"\xef\xbb\xbf"
_GZIP = b"\x1f\x8b"  # no JSON begins like this
_GZIP_BITS, _ZLIB_BITS, _RAW_BITS = 31, 15, -15
_NDJSON = frozenset({"application/x-ndjson", "application/ndjson", "application/jsonl"})
_JSON = frozenset({"application/json", "text/json", ""})


class BodyTooLargeError(InvalidRecordError):
    """More bytes than a request may have."""

    code = "body-too-large"


class UnsupportedMediaError(InvalidRecordError):
    """Not JSON and not NDJSON."""

    code = "unsupported-media-type"


class UnsupportedEncodingError(UnsupportedMediaError):
    """Compressed in a way that is not read here."""

    code = "unsupported-content-encoding"


async def read_body(request: Request) -> bytes:
    """The body, inflated, without a byte order mark, and read no further than the limit.

    Raises:
        InvalidRecordError: it is larger than 8 MiB as sent or inflated (413), or not what its encoding says (422).
        UnsupportedEncodingError: its `Content-Encoding` is unknown (415).
    """
    encoding = _encoding(request)
    declared = request.headers.get("content-length", "0")
    if declared.isdigit() and int(declared) > MAX_BODY_BYTES:
        raise _too_large("is")
    body = await _bounded(request.stream(), "is")
    if encoding or body.startswith(_GZIP):
        body = await _bounded(_inflated(body, encoding or "gzip"), "inflates to")
    return body.removeprefix(_BOM)


def is_ndjson(request: Request) -> bool:
    """Whether the body is one JSON object a line.

    Raises:
        UnsupportedMediaError: the content type is neither JSON nor NDJSON (415).
    """
    kind = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if kind in _NDJSON:
        return True
    if kind in _JSON or kind.endswith("+json"):
        return False
    raise UnsupportedMediaError(
        f"content type {kind[:64]!r} is not supported",
        field="content-type",
        limit="application/json or application/x-ndjson",
        hint="with curl: -H 'content-type: application/json'",
    )


async def read_json(request: Request) -> bytes:
    """The body where it is one JSON object.

    Raises:
        UnsupportedMediaError: the content type is not JSON (415).
        InvalidRecordError: as `read_body`.
    """
    if is_ndjson(request):
        raise UnsupportedMediaError(
            "the body is one JSON object", field="content-type", limit="application/json"
        )
    return await read_body(request)


async def read_object(request: Request, decoder: RecordDecoder[T], *, now: float = 0.0) -> T:
    """The one JSON object of a body.

    Raises:
        InvalidRecordError: it is something else, or breaks the schema; names the field and the limit.
    """
    record, _ = decoder.decode_one(await read_json(request), now=now)
    return record


def _encoding(request: Request) -> str:
    """How the body is compressed; empty: it is not."""
    given = request.headers.get("content-encoding", "").strip().lower().removeprefix("x-")
    if given in {"", "identity"}:
        return ""
    if given not in ENCODINGS:
        raise UnsupportedEncodingError(
            f"content encoding {given[:64]!r} is not supported",
            field="content-encoding",
            limit=ACCEPT_ENCODING,
            hint="send the body as it is, or gzip it once",
        )
    return given


async def _bounded(chunks: AsyncIterator[bytes], verb: str) -> bytes:
    found: list[bytes] = []
    size = 0
    async for chunk in chunks:
        size += len(chunk)
        if size > MAX_BODY_BYTES:
            raise _too_large(verb)
        found.append(chunk)
    return b"".join(found)


async def _inflated(body: bytes, encoding: str) -> AsyncIterator[bytes]:
    """The body inflated, a step at a time; several gzip members follow one another.

    Raises:
        InvalidRecordError: it is damaged, cut short, or not compressed at all.
    """
    bits = _GZIP_BITS if encoding == "gzip" else _ZLIB_BITS if _has_zlib_header(body) else _RAW_BITS
    rest, members = body, 0
    while rest:
        members += 1
        if members > MAX_MEMBERS:
            raise _damaged(encoding, f"it has more than {MAX_MEMBERS} members")
        inflater = zlib.decompressobj(wbits=bits)
        while not inflater.eof:
            try:
                piece = inflater.decompress(rest, STEP_BYTES)
            except zlib.error as error:
                raise _damaged(encoding, str(error)) from None
            rest = inflater.unconsumed_tail
            if not piece and not rest and not inflater.eof:
                raise _damaged(encoding, "it ends too early")
            yield piece
            await asyncio.sleep(0)
        rest = inflater.unused_data


def _damaged(encoding: str, fault: str) -> InvalidRecordError:
    return InvalidRecordError(
        f"the body is not {encoding}: {fault}",
        field="body",
        limit=f"what `Content-Encoding: {encoding}` says",
        hint="leave the header out where the body is not compressed",
    )


def _has_zlib_header(body: bytes) -> bool:
    """Whether `deflate` comes as RFC 9110 means it; some senders leave the zlib header out."""
    return len(body) > 1 and body[0] & 0x0F == 8 and (body[0] << 8 | body[1]) % 31 == 0


def _too_large(verb: str) -> BodyTooLargeError:
    return BodyTooLargeError(
        f"the body {verb} more than {MAX_BODY_BYTES} bytes",
        field="body",
        limit=f"<= {MAX_BODY_BYTES} bytes",
        hint="send smaller batches",
    )
