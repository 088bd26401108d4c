"""One clause of a text: its words, and the terms of the vocabulary in it."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import msgspec

from routing.intake.vocabulary import Term, Terms, Vocabulary
from tocsin.wire.lanes import LaneName

MIN_UNHIDDEN = 3  # words of a danger that no harmless combination hides
MAX_BETWEEN = 2  # other words between those of a term


class Hit(msgspec.Struct, frozen=True):
    """A term found in a clause."""

    term: Term
    places: tuple[int, ...]  # of its words, ascending

    @property
    def first(self) -> int:
        """The place of its first word."""
        return self.places[0]

    @property
    def last(self) -> int:
        """The place of its last word."""
        return self.places[-1]


class Clause:
    """The words of one clause and what stands in it."""

    def __init__(self, vocabulary: Vocabulary, raw: list[str]) -> None:
        self._vocabulary = vocabulary
        self.words = [word for one in raw for word in vocabulary.words(one)]
        self.patterns = [vocabulary.patterns_of(word) for word in self.words]
        self._present = frozenset[str]().union(*self.patterns)
        self.harmless = self._longest(self._find(vocabulary.harmless, frozenset()))
        masked = frozenset(place for hit in self.harmless for place in hit.places)
        hidden = self._find(vocabulary.hazards, frozenset()) if masked else []
        found = self._find(vocabulary.hazards, masked) + [
            hit for hit in hidden if len(hit.places) >= MIN_UNHIDDEN and masked & frozenset(hit.places)
        ]
        self.dangers = [hit for hit in found if hit.term.lane is LaneName.P0]
        self.devices = [hit for hit in found if hit.term.lane is not LaneName.P0]
        self._taken = frozenset(place for hit in self.dangers for place in hit.places)
        self.negations = self.turn("negation", own=True)
        self.denied = [hit for hit in self.dangers if self.is_denied(hit.first, within=hit.places)]

    def _find(self, terms: Terms, masked: Collection[int]) -> list[Hit]:
        hits = []
        for at, patterns in enumerate(self.patterns):
            if at not in masked:
                for pattern in patterns:
                    for term in terms.by_first.get(pattern, ()):
                        places = self._present.issuperset(term.patterns) and self._places(term, at, masked)
                        if places:
                            hits.append(Hit(term, places))
        return sorted(hits, key=lambda hit: (hit.first, -len(hit.places)))

    def _places(self, term: Term, at: int, masked: Collection[int]) -> tuple[int, ...]:
        """Where the words of a term stand, its first one at `at`; empty where they do not."""
        if term.alone and not self._only(at):
            return ()
        places = [at]
        reach = len(term.patterns) - 1 + MAX_BETWEEN
        for number, pattern in enumerate(term.patterns[1:], start=1):
            near = (
                (at + number,)
                if term.ordered
                else sorted(range(at - reach, at + reach + 1), key=lambda i: abs(i - at))
            )
            place = next(
                (
                    i
                    for i in near
                    if 0 <= i < len(self.patterns)
                    and i not in places
                    and i not in masked
                    and pattern in self.patterns[i]
                ),
                None,
            )
            if place is None:
                return ()
            places.append(place)
        return tuple(sorted(places)) if max(places) - min(places) <= reach else ()

    def _only(self, at: int) -> bool:
        """Whether the rest of the clause says nothing."""
        filler = self._vocabulary.turns["filler"].by_first
        return all(
            i == at or word.isdigit() or len(word) == 1 or any(p in filler for p in self.patterns[i])
            for i, word in enumerate(self.words)
        )

    @staticmethod
    def _longest(hits: Iterable[Hit]) -> list[Hit]:
        return sorted(hits, key=lambda hit: -len(hit.places))

    def turn(self, kind: str, *, own: bool = False) -> list[Hit]:
        """Words of a kind, but for those that are part of a danger's own term (`ventilator failure`)."""
        found = self._find(self._vocabulary.turns[kind], frozenset())
        return [
            hit
            for hit in found
            if own or hit.term.patterns[0][0] == "*" or not set(hit.places) <= self._taken
        ]

    def is_denied(self, at: int, *, within: Collection[int] = ()) -> bool:
        """Whether a negation stands before a place, with nothing but small words between."""
        between = self._vocabulary.turns["between"].by_first
        i = at - 1
        while i >= 0 and any(p in between for p in self.patterns[i]) and not self.negates(i):
            i -= 1
        return i >= 0 and i not in within and self.negates(i)

    def is_small(self, at: int) -> bool:
        """Whether a word says nothing of its own."""
        turns = self._vocabulary.turns
        return any(p in turns[kind].by_first for kind in ("filler", "between") for p in self.patterns[at])

    def negates(self, at: int) -> bool:
        """Whether a negation stands there."""
        return any(hit.first == at for hit in self.negations)

    def text(self, hit: Hit) -> str:
        """The words of a hit, as they were read."""
        return " ".join(self.words[place] for place in hit.places)
