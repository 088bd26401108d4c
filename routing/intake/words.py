"""From a text to words: however it was spelled, the same words come out.

`lowBattery_v2`, `LOW-BATTERY v2` and `Low battery, v2` have the same words; `Überfall` and `uberfall` are one word.
Japanese, Chinese and Korean write no spaces: runs of their letters come out whole, for the vocabulary to take apart.
"""

from __future__ import annotations

import re
import unicodedata

_CAMEL = re.compile(r"(?<=[^\W\d_A-Z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|(?<=\d)(?=[A-Z][a-z])")
_MARKS = re.compile(r"[\u0300-\u036f]")
_OTHER_LETTERS = str.maketrans({"ł": "l", "ø": "o", "đ": "d", "æ": "ae", "œ": "oe", "\u0131": "i", "þ": "th"})
_CLAUSES = re.compile(r"(?:[,;!?。、]|\.(?=\s|$)|\s[-\u2013\u2014]\s)+|\b(?:but|aber|pero|mais|maar|ale)\b")
_UNSPACED = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af々ー"
_WORD = re.compile(rf"[{_UNSPACED}]+|[^\W_{_UNSPACED}]+")
_SHORTENED = re.compile("(?<=n)['\u2019]t\\b", re.IGNORECASE)  # can't, isn't
_GLUED = re.compile(r"(?<![A-Za-z])(CO|SOS|EMS|LPG|LNG|H2S)(?=[a-z])")  # COalarm, SOSbutton
_DIGITS = re.compile(r"(?<=\d)(?=[^\W\d])|(?<=[^\W\d])(?=\d)")
UNSPACED = re.compile(rf"[{_UNSPACED}]")
MIN_INITIALS = 3


def fold(text: str) -> str:
    """Lower case without accents; Japanese voicing marks stay.

    `ß` becomes `ss`, `ł` becomes `l`, full-width letters become plain ones.
    """
    apart = unicodedata.normalize("NFKD", text).casefold()
    return unicodedata.normalize("NFC", _MARKS.sub("", apart)).translate(_OTHER_LETTERS)


def clauses(text: str) -> list[list[str]]:
    """The words of each clause, as they were written but for camel case; without empty clauses."""
    composed = _GLUED.sub(r"\1 ", text)
    composed = _SHORTENED.sub("t", unicodedata.normalize("NFKC", composed)).replace("%", " percent ")
    found = [_WORD.findall(_CAMEL.sub(" ", part)) for part in _CLAUSES.split(composed)]
    return [_initials(words) for words in found if words]


def parts(word: str) -> list[str]:
    """A folded word taken apart between letters and digits: `floor4smoke` is three."""
    return [part for part in _DIGITS.split(word) if part]


def normalise(text: str) -> str:
    """Words in lower case, each between single spaces: `lowBattery_v2` becomes ` low battery v2 `."""
    return " " + " ".join(fold(word) for clause in clauses(text) for word in clause) + " "


def _initials(words: list[str]) -> list[str]:
    """`s.o.s` and `C O` come as single letters: three and more of them are one word."""
    found: list[str] = []
    run: list[str] = []
    for word in [*words, ""]:
        if len(word) == 1 and word.isascii() and word.isalpha():
            run.append(word)
            continue
        found += ["".join(run)] if len(run) >= MIN_INITIALS else run
        run = []
        found += [word] if word else []
    return found
