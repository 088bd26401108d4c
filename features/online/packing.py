"""Packed vectors: one view of one entity as bytes; the format is described in docs/features.md.

| offset | type    | holds |
|--------|---------|-------|
| 0      | uint8   | format version |
| 1      | uint8   | 0 |
| 2      | uint16  | number of values |
| 4      | uint32  | 0 |
| 8      | 8 bytes | schema hash of the view |
| 16     | int64   | step: `ceil(as_of / step_s)`, the hour or day the values hold for |
| 24     | float64 | time of the newest event that counted, epoch seconds |
| 32     | float64 | time of the first event that did not count yet; infinite without one |
| 40     | float64 | `as_of` it was computed for |
| 48     | float64 each | the values in the view's order; NaN: not defined |

Little-endian, words of 8 bytes. A vector is exact as of any moment of its step that lies after its newest event and
not after the first that did not count.

The vectors of all views of an entity follow each other in one Redis value, in the order of `VIEWS`: they are
written together and read together, and many such values joined are one matrix.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from enum import StrEnum
from typing import Final

from msgspec import Struct

from features.definitions import VIEWS, FeatureView
from features.tiles import History
from features.vectors import step_of, values

FORMAT_VERSION: Final = 2
WORD: Final = 8  # bytes
PREFIX_WORDS: Final = 3  # version and count, hash, step
_PREFIX: Final = struct.Struct("<BBHI8sq")
_SCHEMA_BYTES: Final = 16  # of the prefix: version, count and hash


class Fit(StrEnum):
    """Whether a stored vector answers for a moment."""

    FITS = "fits"
    SCHEMA = "schema"  # other definitions or another format
    MOMENT = "moment"  # computed for another step, or events lie in between


class Packed(Struct, frozen=True, gc=False):
    """An unpacked vector; times in epoch seconds."""

    newest_event_time: float
    until: float
    computed_as_of: float
    values: tuple[float, ...]


class Packer:
    """Packs and unpacks the vectors of one view.

    Args:
        view: Its definition.
        first: The word of the entity's value that its vector begins with.
    """

    def __init__(self, view: FeatureView, first: int = 0) -> None:
        self.view = view
        self.count = len(view.features)
        self.first = first
        self.newest = first + PREFIX_WORDS  # the word that holds it
        self.until = self.newest + 1
        self.values = slice(self.newest + 3, self.newest + 3 + self.count)
        self.bytes = slice(first * WORD, self.values.stop * WORD)
        self._body = struct.Struct(f"<{_PREFIX.size}xddd{self.count}d")
        self._full = struct.Struct(f"{_PREFIX.format}ddd{self.count}d")
        self.size = self._full.size  # bytes
        self._hash = view.schema_hash
        self.schema = self.prefix(0.0)[:_SCHEMA_BYTES]

    def prefix(self, as_of: float) -> bytes:
        """The first bytes of a vector that may answer for `as_of`."""
        return _PREFIX.pack(FORMAT_VERSION, 0, self.count, 0, self._hash, step_of(as_of, self.view.step_s))

    def pack(self, values: Sequence[float], *, as_of: float, newest: float, until: float = math.inf) -> bytes:
        """A vector computed as of `as_of`."""
        step = step_of(as_of, self.view.step_s)
        return self._full.pack(
            FORMAT_VERSION, 0, self.count, 0, self._hash, step, newest, until, as_of, *values
        )

    def fit(self, data: bytes, as_of: float) -> Fit:
        """Whether a stored vector answers for `as_of`, or the reason why not."""
        if len(data) != self.size or not data.startswith(self.schema):
            return Fit.SCHEMA
        if not data.startswith(self.prefix(as_of)):
            return Fit.MOMENT
        newest, until, *_ = self._body.unpack(data)
        return Fit.FITS if newest < as_of <= until else Fit.MOMENT

    def read(self, data: bytes) -> Packed:
        """Unpack a vector. Raises ValueError where its size is not that of the view."""
        if len(data) != self.size:
            raise ValueError(f"{len(data)} bytes are no vector of {self.view.name}: {self.size} expected")
        newest, until, computed, *values = self._body.unpack(data)
        return Packed(newest, until, computed, tuple(values))


def _in_a_row() -> tuple[Packer, ...]:
    packers: list[Packer] = []
    for view in VIEWS:
        packers.append(Packer(view, packers[-1].values.stop if packers else 0))
    return tuple(packers)


PACKERS: Final = _in_a_row()
ENTITY_WORDS: Final = PACKERS[-1].values.stop
ENTITY_BYTES: Final = ENTITY_WORDS * WORD  # of a value that holds the vectors of all views


def prefixes(as_of: float) -> bytes:
    """The first bytes of each view's vector that may answer for `as_of`, joined."""
    return b"".join([packer.prefix(as_of) for packer in PACKERS])


def by_view(vector: tuple[float, ...]) -> list[tuple[float, ...]]:
    """All values of an entity, in the order of `FEATURES`, as those of each view."""
    found: list[tuple[float, ...]] = []
    start = 0
    for packer in PACKERS:
        found.append(vector[start : start + packer.count])
        start += packer.count
    return found


def pack_views(history: History, as_of: float, until: float = math.inf) -> bytes:
    """The vectors of every view. The history must cover `as_of` and hold nothing from after it.

    Raises:
        NotFoundError: it does not.
    """
    vector = values(history, as_of)
    newest = history.newest_event_time
    parts = zip(PACKERS, by_view(vector), strict=True)
    return b"".join([packer.pack(part, as_of=as_of, newest=newest, until=until) for packer, part in parts])


def arrange(data: bytes) -> bytes:
    """A stored value of other definitions in the present layout: vectors of unchanged views, zeros for the others.

    Each vector holds its own length, so those of unchanged views are found behind those of changed ones.
    """
    found: dict[bytes, bytes] = {}
    while len(data) >= _PREFIX.size and data[0] == FORMAT_VERSION:
        size = (PREFIX_WORDS + 3 + int.from_bytes(data[2:4], "little")) * WORD
        if size <= len(data):
            found[data[:_SCHEMA_BYTES]] = data[:size]
        data = data[size:]
    return b"".join([found.get(packer.schema, bytes(packer.size)) for packer in PACKERS])
