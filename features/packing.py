"""Packed vectors: one view of one entity as bytes, one Redis value; the format is described in docs/features.md.

| offset | type    | holds |
|--------|---------|-------|
| 0      | uint8   | format version |
| 1      | uint8   | 0 |
| 2      | uint16  | number of values |
| 4      | 8 bytes | schema hash of the view |
| 12     | int64   | step: `ceil(as_of / step_s)`, the hour or day the values hold for |
| 20     | float64 | time of the newest event that counted, epoch seconds |
| 28     | float64 | time of the first event that did not count yet; infinite without one |
| 36     | float64 | `as_of` it was computed for |
| 44     | float64 each | the values in the view's order; NaN: not defined |

Little-endian. A vector tells the truth as of any moment of its step that lies after its newest event and not after
the first that did not count.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from enum import StrEnum

from msgspec import Struct

from features.definitions import VIEWS, FeatureView
from features.tiles import History
from features.vectors import step_of, values
from tocsin.keys import FeatureKeys

FORMAT_VERSION = 1
_PREFIX = struct.Struct("<BBH8sq")
_SCHEMA_BYTES = 12  # of the prefix: version, count and hash
VALUES = 3  # where the values begin in what `Packer.unpack` returns


class Fit(StrEnum):
    """Whether a stored vector answers a question."""

    FITS = "fits"
    SCHEMA = "schema"  # of other definitions, or another format
    MOMENT = "moment"  # computed for another step, or events lie in between


class Packed(Struct, frozen=True, gc=False):
    """A vector unpacked."""

    newest_event_time: float
    until: float
    computed_as_of: float
    values: tuple[float, ...]


class Packer:
    """Packs and unpacks the vectors of one view.

    Args:
        view: Its definition.
    """

    def __init__(self, view: FeatureView) -> None:
        self.view = view
        self.count = len(view.features)
        self._body = struct.Struct(f"<{_PREFIX.size}xddd{self.count}d")
        self._full = struct.Struct(f"<BBH8sqddd{self.count}d")
        self._hash = view.schema_hash

    def prefix(self, as_of: float) -> bytes:
        """What the bytes of a vector that may answer for `as_of` begin with."""
        return _PREFIX.pack(FORMAT_VERSION, 0, self.count, self._hash, step_of(as_of, self.view.step_s))

    def pack(self, values: Sequence[float], *, as_of: float, newest: float, until: float = math.inf) -> bytes:
        """A vector computed as of `as_of`."""
        step = step_of(as_of, self.view.step_s)
        return self._full.pack(FORMAT_VERSION, 0, self.count, self._hash, step, newest, until, as_of, *values)

    def unpack(self, data: bytes) -> tuple[float, ...]:
        """Newest event time, until, computed as of, then the values. Only of bytes that begin with a `prefix`."""
        return self._body.unpack(data)

    def fit(self, data: bytes, as_of: float) -> Fit:
        """Whether a stored vector answers for `as_of`, and if not, why."""
        prefix = self.prefix(as_of)
        if len(data) != self._full.size or data[:_SCHEMA_BYTES] != prefix[:_SCHEMA_BYTES]:
            return Fit.SCHEMA
        if not data.startswith(prefix):
            return Fit.MOMENT
        newest, until, *_ = self.unpack(data)
        return Fit.FITS if newest < as_of <= until else Fit.MOMENT

    def read(self, data: bytes) -> Packed:
        """A vector for people. Raises ValueError where it is of other definitions."""
        if len(data) != self._full.size:
            raise ValueError(
                f"{len(data)} bytes are no vector of {self.view.name}: {self._full.size} expected"
            )
        newest, until, computed, *values = self.unpack(data)
        return Packed(newest, until, computed, tuple(values))


PACKERS: tuple[Packer, ...] = tuple(Packer(view) for view in VIEWS)


def pack_views(
    keys: FeatureKeys, history: History, as_of: float, until: float = math.inf
) -> dict[str, bytes]:
    """The vectors of every view, by key. The history must cover `as_of` and hold nothing from after it.

    Raises:
        NotFoundError: it does not.
    """
    vector = values(history, as_of)
    newest = history.newest_event_time
    packed: dict[str, bytes] = {}
    start = 0
    for packer in PACKERS:
        stop = start + packer.count
        body = packer.pack(vector[start:stop], as_of=as_of, newest=newest, until=until)
        packed[keys.vector(packer.view.name, history.advertiser_id)] = body
        start = stop
    return packed
