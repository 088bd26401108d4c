"""Columns as data scientists bring them, as the columns features are made of: ids as text, moments as epoch seconds.

What cannot be one is refused with the column, the row and the next step; nothing is guessed in silence.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from features.epochs import (
    DAYS_OF_CALENDAR,
    SECONDS_BELOW,
    SECONDS_OF_CALENDAR,
    UNIT_STEP,
    UNITS,
    epoch_of_text,
    of_calendar,
)
from features.missing import EXACT_FLOAT, stands_for_nothing
from tocsin.clock import to_datetime
from tocsin.errors import TocsinError

if TYPE_CHECKING:
    import pandas as pd

EARLIEST: Final = 31_536_000.0  # 1971-01-01: before it lie small numbers that were no seconds
LATEST: Final = 4_102_444_800.0  # 2100-01-01


class SchemaMismatchError(TocsinError):
    """A table lacks a column, or has one of another type. Nothing of it was used."""

    code = "schema-mismatch"


def table_of(rows: pa.Table | pd.DataFrame, names: list[str], what: str) -> pa.Table:
    """The columns `names` of a table or a frame, those of them that it has, as a table.

    Raises:
        SchemaMismatchError: one of them is there twice, or holds values of several types.
    """
    given = list(rows.column_names if isinstance(rows, pa.Table) else rows.columns)
    kept = [name for name in names if name in given]
    for name in kept:
        if given.count(name) > 1:
            raise SchemaMismatchError(
                f"{what} have the column {name} {given.count(name)} times", hint="rename or drop the others"
            )
    if isinstance(rows, pa.Table):
        return rows.select(kept)
    return pa.table({name: _array(rows[name], name) for name in kept})


def _array(values: pd.Series, name: str) -> Any:
    try:
        return pa.Array.from_pandas(values)
    except pa.ArrowException as error:
        kinds = [type(value) for value in values]
        usual = max(set(kinds), key=kinds.count)
        odd = next((at for at, kind in enumerate(kinds) if kind is not usual), 0)
        raise SchemaMismatchError(
            f"{name} holds values of several types: {kinds[odd].__name__} in row {odd}, {usual.__name__} elsewhere",
            hint=f"make them one type, such as {name}.astype(str)",
        ) from error


def ids(column: pa.ChunkedArray, name: str) -> pa.DictionaryArray:
    """Ids as a dictionary of texts, none of them null; whole numbers are their digits, `17850.0` is `17850`.

    Raises:
        SchemaMismatchError: names the first row (counted from 0) whose id is null, NaN, blank or no whole number; or
            the type, where it is none of text, whole numbers and bytes.
    """
    whole = one_array(column)
    encoded = whole if pa.types.is_dictionary(whole.type) else _encode(whole, name)
    _refuse_first(pc.is_null(encoded, nan_is_null=False), name, "null", "drop these rows")
    texts = _texts(encoded.dictionary, encoded.indices, name)
    missing = pc.is_in(encoded.indices, value_set=_positions(texts, encoded.indices.type))
    _refuse_first(missing, name, "blank, or stands for nothing (nan, None, NA, …)", "drop these rows")
    return pa.DictionaryArray.from_arrays(encoded.indices, texts)


def _encode(column: pa.Array, name: str) -> pa.DictionaryArray:
    kind = column.type
    if pa.types.is_floating(kind):
        _refuse_first(pc.is_nan(column), name, "NaN", "drop these rows")
    if pa.types.is_null(kind):
        _refuse_first(pc.is_null(column), name, "null", "drop these rows")
        return pa.array([], pa.string()).dictionary_encode()
    fit = (
        pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_decimal(kind)
        or is_text(kind)
        or pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
    )
    if not fit:
        raise SchemaMismatchError(
            f"{name} is {kind}, expected text or whole numbers", hint=f"make {name} one id a row, as text"
        )
    return column.dictionary_encode()


def _texts(values: pa.Array, indices: pa.Array, name: str) -> pa.Array:
    """The dictionary of ids as texts; nulls in it stay."""
    kind = values.type
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        numbers = values.cast(pa.float64(), safe=False)
        bad = pc.or_(pc.not_equal(pc.floor(numbers), numbers), pc.greater(pc.abs(numbers), EXACT_FLOAT))
        bad = pc.or_(bad, pc.is_nan(numbers))
        at = pc.indices_nonzero(pc.fill_null(bad, fill_value=False))
        rows = pc.is_in(indices, value_set=at.cast(indices.type))
        _refuse_first(rows, name, "no whole number that a float holds exactly", "give the ids as text")
        values = numbers.cast(pa.int64())
    try:
        return values.cast(pa.string())
    except pa.ArrowException as error:
        raise SchemaMismatchError(
            f"{name} is {kind}, expected text or whole numbers: {error}",
            hint=f"make {name} one id a row, as text",
        ) from error


def _positions(texts: pa.Array, kind: pa.DataType) -> pa.Array:
    found = [at for at, text in enumerate(texts.to_pylist()) if text is None or stands_for_nothing(text)]
    return pa.array(found, kind)


def moments(column: pa.ChunkedArray, name: str, *, bounded: bool = True) -> npt.NDArray[np.float64]:
    """Moments as epoch seconds, shape `(rows,)`: timestamps of any unit (UTC where they have no zone), days, numbers as
    `features.epochs` reads them, and texts as RFC 3339.

    Args:
        column: Of any of these types.
        name: For the error.
        bounded: Refuse moments outside 1971 to 2100: numbers that count something else, and ends of time.

    Raises:
        SchemaMismatchError: names the first row (counted from 0) without a moment, or the type.
    """
    whole = one_array(column)
    if pa.types.is_dictionary(whole.type):
        whole = whole.dictionary_decode()
    found = _seconds(whole, name)
    bad = ~np.isfinite(found)
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise SchemaMismatchError(
            f"{name} has nulls or infinite values, the first in row {row}; every row needs a moment",
            hint="drop these rows, or give them a moment",
        )
    bad = (found < EARLIEST) | (found >= LATEST)
    if bounded and bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise SchemaMismatchError(
            f"{name} in row {row} is {_shown(whole[row].as_py)}, which is {_date(float(found[row]))}; "
            f"expected 1971 to 2099",
            hint="give a timestamp, epoch seconds (ms, us, ns), or days such as 20260301",
        )
    return found


def _seconds(column: pa.Array, name: str) -> npt.NDArray[np.float64]:
    kind = column.type
    if pa.types.is_date(kind):
        column, kind = column.cast(pa.timestamp("ms")), pa.timestamp("ms")
    if pa.types.is_timestamp(kind):
        counts = pc.fill_null(column.cast(pa.int64()), 0).to_numpy(zero_copy_only=False)
        if kind.unit == "ns":  # cut, not rounded: a moment never sees what happened after it
            counts, kind = counts // 1_000, pa.timestamp("us")
        found: npt.NDArray[np.float64] = counts.astype(np.float64) / UNITS[kind.unit]
        found[column.is_null().to_numpy(zero_copy_only=False)] = np.nan
        return found
    if is_text(kind):
        return _of_texts(column, name)
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        numbers = column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
        return _epochs(numbers)
    if pa.types.is_null(kind):
        return np.full(len(column), np.nan)
    raise SchemaMismatchError(
        f"{name} is {kind}, expected epoch seconds or a timestamp",
        hint=f"convert {name} with pandas.to_datetime",
    )


def _epochs(numbers: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """`features.epochs.epoch_of_number` for many, shape `(rows,)`; NaN and infinite values stay."""
    found = numbers.astype(np.float64, copy=True)
    for _ in range(3):
        large = np.abs(found) >= SECONDS_BELOW
        if not large.any():
            break
        found[large & np.isfinite(found)] /= UNIT_STEP
        if not np.isfinite(found[large]).any():
            break
    for low, high in (DAYS_OF_CALENDAR, SECONDS_OF_CALENDAR):
        for at in np.flatnonzero((numbers >= low) & (numbers <= high)).tolist():
            moment = of_calendar(float(numbers[at]))
            if moment is not None:
                found[at] = moment
    return found


def _of_texts(column: pa.Array, name: str) -> npt.NDArray[np.float64]:
    encoded = column.dictionary_encode()
    found: list[float] = []
    for at, text in enumerate(encoded.dictionary.to_pylist()):
        try:
            found.append(float("nan") if text is None or stands_for_nothing(text) else epoch_of_text(text))
        except (ValueError, OverflowError):
            row = encoded.indices.to_pylist().index(at)
            raise SchemaMismatchError(
                f"{name} in row {row} is {text[:40]!r}, expected epoch seconds, a timestamp or an RFC 3339 text",
                hint=f"convert {name} with pandas.to_datetime(…, format=…)",
            ) from None
    at = pc.fill_null(encoded.indices, len(found)).to_numpy(zero_copy_only=False).astype(np.int64)
    moments_of: npt.NDArray[np.float64] = np.array([*found, np.nan])[at]
    return moments_of


def one_array(column: pa.ChunkedArray | pa.Array) -> Any:
    """A column in one piece."""
    if isinstance(column, pa.ChunkedArray):
        if pa.types.is_dictionary(column.type):
            column = column.unify_dictionaries()
        column = column.combine_chunks()
    if isinstance(column, pa.ChunkedArray):
        return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    return column


def is_text(kind: pa.DataType) -> bool:
    """Whether a type holds text."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _refuse_first(bad: pa.Array, name: str, problem: str, hint: str) -> None:
    rows = pc.indices_nonzero(pc.fill_null(bad, fill_value=False))
    if len(rows):
        more = f", and so are {len(rows) - 1:,} more" if len(rows) > 1 else ""
        raise SchemaMismatchError(f"{name} in row {rows[0].as_py()} is {problem}{more}", hint=hint)


def _date(moment: float) -> str:
    try:
        return f"{to_datetime(moment):%Y-%m-%d}"
    except (ValueError, OverflowError, OSError):
        return "no date"


def _shown(value: Any) -> str:
    try:
        return str(value())[:40]
    except (ValueError, OverflowError):
        return "a time"
