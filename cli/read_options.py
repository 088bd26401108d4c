"""The options of every command that reads a table: one spelling and one meaning for each."""

from __future__ import annotations

from typing import Annotated

import typer

PANEL = "How the file is written, where looking at it does not tell"

FILES = (
    "Parquet or text (.csv, .tsv, .txt; compressed as .gz, .zst, .bz2, .xz or a .zip of one; UTF-8 or UTF-16), or a "
    "folder of parts."
)
TimeFormat = Annotated[
    str,
    typer.Option(
        "--time-format",
        help="How times are written, where not as 2019-02-17, 2019-02-17T08:30:00+01:00, 20190217 or a number since "
        "1970 (its unit shows): a pattern as '%d.%m.%Y %H:%M', or s, ms, us, ns.",
        rich_help_panel=PANEL,
    ),
]
Decimal = Annotated[
    str,
    typer.Option(
        "--decimal",
        help="The decimal mark of amounts, . or , where the first rows do not show it.",
        rich_help_panel=PANEL,
    ),
]
Encoding = Annotated[
    str,
    typer.Option(
        "--encoding", help="Of text that is not Unicode: latin-1, cp1252, shift_jis, …", rich_help_panel=PANEL
    ),
]
Delimiter = Annotated[
    str,
    typer.Option(
        "--delimiter",
        help="Between the columns of text, where it is none of , ; | and tab.",
        rich_help_panel=PANEL,
    ),
]
