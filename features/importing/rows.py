"""One row of a table, of whichever kind of file."""

from __future__ import annotations

from typing import Any, NamedTuple


class Row(NamedTuple):
    """One row: its line (text: physical, the header is 1; Parquet: row number from 1) and its values by column.

    `problem`: the reason the row cannot be read; `values` then hold the cells that could be. `file`: where the table
    is a folder, the part the line is of.
    """

    line: int
    values: dict[str, Any]
    problem: str = ""
    file: str = ""
