"""What stands for a missing value in a cell."""

from __future__ import annotations

from typing import Final

EXACT_FLOAT: Final = 2.0**53  # from here on not every whole number is a float
NOTHING: Final = frozenset({"", "nan", "null", "none", "nat", "<na>", "n/a", "#n/a", "\\n"})  # casefolded
_NOTHING_AS_WRITTEN: Final = frozenset({"NA"})  # R's; `na` may be somebody
_LONGEST: Final = max(map(len, NOTHING))


def stands_for_nothing(text: str) -> bool:
    """Whether a text is blank, or what tools write for a missing value (nan, NULL, None, NA, N/A, …)."""
    plain = text.strip()
    if len(plain) > _LONGEST:  # every cell of an import comes by here
        return False
    return plain in _NOTHING_AS_WRITTEN or plain.casefold() in NOTHING
