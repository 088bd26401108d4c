"""The vocabulary of dangers, and of the words that turn them: `routing/intake/vocabulary.toml`, ready to look up.

A term is one or more patterns. A pattern is what one word must look like: the word itself or its plural, its
beginning or its end.
"""

from __future__ import annotations

import tomllib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from routing.intake.typos import Typos
from routing.intake.words import UNSPACED, fold, parts
from tocsin.wire.lanes import LaneName

FILE = Path(__file__).with_name("vocabulary.toml")
MIN_PLURAL = 3
MIN_BEFORE_ENDING = 3
MIN_PIECE = 3
MIN_COMPOUND = 6
MIN_DANGER_PIECE = 4
MAX_PIECES = 4
MAX_WORDS_REMEMBERED = 16_384
_UMLAUTS = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "Ä": "Ae", "Ö": "Oe", "Ü": "Ue"})
_SPELLED = frozenset({"ae", "oe", "ue"})
_LINKS = ("", "s", "n", "es", "en", "e")  # between the parts of a German or Dutch compound


class Term(msgspec.Struct, frozen=True):
    """One entry: the patterns that must be there, and what they mean together."""

    patterns: tuple[str, ...]
    group: str  # the hazard
    lane: LaneName = LaneName.P2
    ordered: bool = False  # one after the other, nothing between
    alone: bool = False  # only where the field says nothing else


class Terms:
    """Terms by their first pattern."""

    def __init__(self, terms: Iterable[Term]) -> None:
        self.by_first: dict[str, list[Term]] = defaultdict(list)
        for term in terms:
            self.by_first[term.patterns[0]].append(term)


class Vocabulary:
    """What `vocabulary.toml` says.

    Args:
        content: The parsed file.
    """

    def __init__(self, content: Mapping[str, Any]) -> None:
        self._exact: dict[str, set[str]] = defaultdict(set)
        self._beginnings: set[str] = set()
        self._endings: set[str] = set()
        self._unspaced: dict[str, list[str]] = defaultdict(list)
        self._seen: dict[str, frozenset[str]] = {}
        self._read: dict[str, list[str]] = {}
        hazards = [
            (group["name"], LaneName(group["lane"]), term)
            for group in content["hazard"]
            for text in group["terms"].values()
            for term in split(text)
        ]
        self.hazards = Terms(self._term(text, group, lane) for group, lane, text in hazards)
        self.harmless = Terms(
            self._term(text, group["name"])
            for group in content["harmless"]
            for line in group["terms"].values()
            for text in split(line)
        )
        self.turns = {
            kind: Terms(self._term(text, kind) for line in by_language.values() for text in split(line))
            for kind, by_language in content["words"].items()
        }
        self.mild = frozenset(group["name"] for group in content["hazard"] if group.get("mild"))
        codes = content["codes"]
        self.codes = {code: kind for kind in ("danger", "drill", "minor") for code in codes[kind].split()}
        self.code_words = frozenset(codes["also_words"].split())
        self.beside_codes = frozenset(codes["beside"].split())
        self._alone = frozenset(
            term.patterns[0]
            for terms in (self.hazards, self.harmless, *self.turns.values())
            for found in terms.by_first.values()
            for term in found
            if len(term.patterns) == 1
        ) | frozenset(self._exact)
        self._pieces, self._danger_pieces = self._compound_parts()
        typos = content["typos"]
        self.typos = Typos(
            fold(f"{typos['danger']} {typos['other']}").split(), never=fold(typos["never"]).split()
        )

    def _term(self, text: str, group: str, lane: LaneName = LaneName.P2) -> Term:
        ordered, alone = text.startswith("="), text.startswith("!")
        words = [fold(word) for word in text.lstrip("=!").replace("-", " ").replace("'", " ").split()]
        patterns = tuple(self._pattern(word) for word in words)
        return Term(patterns, group, lane, ordered, alone)

    def _pattern(self, word: str) -> str:
        """Enter one pattern; returns the name that `patterns_of` gives it."""
        if UNSPACED.search(word):
            if word not in self._unspaced[word[0]]:
                self._unspaced[word[0]].append(word)
                self._unspaced[word[0]].sort(key=len, reverse=True)
            self._exact[word].add(word)
        elif word.endswith("*"):
            self._beginnings.add(word[:-1])
        elif word.startswith("*"):
            self._endings.add(word[1:])
        else:
            self._exact[word].add(word)
            if len(word) >= MIN_PLURAL and word.isascii() and word.isalpha():
                self._exact[f"{word}s"].add(word)
                self._exact[f"{word}es"].add(word)
        return word

    def _compound_parts(self) -> tuple[frozenset[str], frozenset[str]]:
        """Whole words that a compound may be made of, and those of them that name a danger."""
        danger = {
            pattern
            for terms in self.hazards.by_first.values()
            for term in terms
            if term.lane is LaneName.P0
            for pattern in term.patterns
            if "*" not in pattern and len(pattern) >= MIN_PIECE
        }
        kinds = ("device", "acute", "drill", "all_clear", "filler", "upkeep")
        others = {
            pattern
            for kind in kinds
            for terms in self.turns[kind].by_first.values()
            for term in terms
            for pattern in term.patterns
            if "*" not in pattern and len(pattern) >= MIN_PIECE
        }
        return frozenset(danger | others), frozenset(danger)

    def patterns_of(self, word: str) -> frozenset[str]:
        """Every pattern that a folded word matches."""
        found = self._seen.get(word)
        if found is None:
            found = self._look_up(word)
            if len(self._seen) >= MAX_WORDS_REMEMBERED:
                self._seen.clear()
            self._seen[word] = found
        return found

    def _look_up(self, word: str) -> frozenset[str]:
        exact = self._exact.get(word, set())
        begun = {f"{word[:i]}*" for i in range(2, len(word) + 1) if word[:i] in self._beginnings}
        ended = {f"*{word[i:]}" for i in range(MIN_BEFORE_ENDING, len(word)) if word[i:] in self._endings}
        return frozenset(exact | begun | ended)

    def words(self, raw: str) -> list[str]:
        """A word as it was written, as the words the vocabulary knows: compounds apart, one wrong letter mended."""
        found = self._read.get(raw)
        if found is None:
            if len(self._read) >= MAX_WORDS_REMEMBERED:
                self._read.clear()
            found = self._read[raw] = self._split(raw)
        return found

    def _split(self, raw: str) -> list[str]:
        if UNSPACED.search(raw):
            return self._take_apart(fold(raw))
        word = fold(raw)
        word = max((word, *_without_umlauts(word)), key=lambda one: len(self.patterns_of(one)))
        known = self.patterns_of(word)
        if known & self._alone:
            return [word]
        if any(letter.isdigit() for letter in word):
            split_up = parts(word)
            return [one for part in split_up for one in self.words(part)] if len(split_up) > 1 else [word]
        if len(word) >= MIN_COMPOUND:
            pieces = self._compound(word, MAX_PIECES)
            if any(
                p in self._danger_pieces and (len(p) >= MIN_DANGER_PIECE or p == pieces[0]) for p in pieces
            ):
                return pieces
        return [word if known else self.typos.mended(word)]

    def _take_apart(self, text: str) -> list[str]:
        """A run of unspaced letters as the known words in it, the longest first."""
        found, at = [], 0
        while at < len(text):
            known = next((word for word in self._unspaced.get(text[at], ()) if text.startswith(word, at)), "")
            if known:
                found.append(known)
            at += len(known) or 1
        return found

    def _compound(self, word: str, limit: int) -> list[str]:
        """The parts of a compound, the longest first; empty where it has none."""
        if word in self._pieces:
            return [word]
        if limit == 1:
            return []
        for end in range(len(word) - MIN_PIECE, MIN_PIECE - 1, -1):
            if word[:end] in self._pieces:
                for link in _LINKS:
                    if word.startswith(link, end):
                        rest = self._compound(word[end + len(link) :], limit - 1)
                        if rest:
                            return [word[:end], *rest]
        return []


def _without_umlauts(word: str) -> list[str]:
    """The word with one spelled-out umlaut put back and folded, or with all of them: `Ueberfall`, `Feuerloescher`."""
    once = [
        f"{word[:at]}{word[at]}{word[at + 2 :]}"
        for at in range(len(word) - 1)
        if word[at : at + 2] in _SPELLED
    ]
    return [*once, word.replace("ue", "u").replace("oe", "o").replace("ae", "a")] if once else []


def split(text: str) -> list[str]:
    """The terms of a list, with umlauts also spelled out."""
    terms = [term.strip() for line in text.splitlines() for term in line.split("|")]
    spelled = [term.translate(_UMLAUTS) for term in terms]
    return list(dict.fromkeys(term for term in [*terms, *spelled] if term))


@cache
def default_vocabulary() -> Vocabulary:
    """The vocabulary that comes with the platform; read once a process."""
    return Vocabulary(tomllib.loads(FILE.read_text(encoding="utf-8")))
