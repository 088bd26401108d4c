"""How a file is to be read, where looking at it does not tell: the same options for every command that reads files."""

from __future__ import annotations

import codecs
from dataclasses import dataclass

from tocsin.errors import ConfigurationError

DECIMALS = (".", ",")


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """What a person says of a file; an empty text: look.

    `time_format` is how times are written: a pattern of `strptime`, or the unit of numbers since 1970 (s, ms, us, ns).
    `decimal` is the decimal mark of amounts. `encoding` and `delimiter` are of text files; a delimiter is one
    character, or `tab`.

    Raises:
        ConfigurationError: an encoding Python does not know, or another mark or delimiter.
    """

    time_format: str = ""
    decimal: str = ""
    encoding: str = ""
    delimiter: str = ""

    def __post_init__(self) -> None:
        if self.decimal and self.decimal not in DECIMALS:
            raise ConfigurationError(f"--decimal is {self.decimal!r}", hint="a point or a comma: --decimal ,")
        if self.delimiter in {"tab", "\\t"}:
            object.__setattr__(self, "delimiter", "\t")
        if len(self.delimiter) > 1 or self.delimiter in {'"', "\n", "\r"}:
            raise ConfigurationError(
                f"--delimiter is {self.delimiter!r}", hint="one character, or tab: --delimiter ';'"
            )
        if self.encoding:
            try:
                known = codecs.lookup(self.encoding)._is_text_encoding  # noqa: SLF001 - rot13 and such are none
            except LookupError:
                known = False
            if not known:
                raise ConfigurationError(
                    f"--encoding {self.encoding!r} is unknown",
                    hint="such as latin-1, cp1252, utf-16, shift_jis",
                )


LOOK = ReadOptions()
