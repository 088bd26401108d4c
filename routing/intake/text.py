"""Text that people read: cleaned of what no reader should meet, and cut to what fits."""

from __future__ import annotations

import re

# What colours a terminal, or moves its cursor: `ESC [ … letter`, and `ESC ] … BEL`.
_TERMINAL = re.compile("\x1b\\[[0-?]*[ -/]*[@-~]|\x1b\\][^\x07\x1b]*(?:\x07|\x1b\\\\)")
_BREAKS = re.compile("[\x0b\x0c\x1c-\x1f\x85]+")  # they part words
_CONTROL = re.compile("[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f]")
_HALVES = re.compile("[\ud800-\udfff]")
REPLACEMENT = "\ufffd"


def clean(text: str) -> str:
    """A text without control characters (but tab and newline), terminal sequences and half surrogate pairs."""
    text = _BREAKS.sub(" ", _TERMINAL.sub("", text))
    return _HALVES.sub(REPLACEMENT, _CONTROL.sub("", text))


def clip(text: str, limit: int) -> str:
    """Text of at most `limit` characters, cut after a word, with an ellipsis where something is missing."""
    if len(text) <= limit:
        return text
    cut = text[: limit - 1]
    word = cut.rpartition(" ")[0].rstrip(" ,;:.")
    return (word if len(word) > limit // 2 else cut) + "…"
