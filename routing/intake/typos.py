"""Words with one wrong letter: a person who types `emergancy` means it.

Only for long words of danger. A letter too many, too few, or two swapped is mended from seven letters on; another
letter in place of one from eight on, because short words turn into other words that way (`bleeding`, `breeding`). The
first letter must be right.

Source: W. Garbe's symmetric deletion: two words are one edit apart when a deletion of each is the same.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

MIN_LETTERS = 6
MIN_MENDED = 7
MIN_REPLACED = 8


class Typos:
    """Finds the word that was meant.

    Args:
        words: The words that can be meant; those under seven letters are left out.
        never: Words of their own, however near.
    """

    def __init__(self, words: Iterable[str], *, never: Iterable[str]) -> None:
        self._never = frozenset(never)
        self._by_deletion: dict[str, set[str]] = defaultdict(set)
        for word in words:
            if len(word) >= MIN_MENDED:
                for short in (word, *deletions(word)):
                    self._by_deletion[short].add(word)

    def mended(self, word: str) -> str:
        """The word that was meant, or the word itself."""
        if len(word) < MIN_LETTERS or word in self._never:
            return word
        near = {meant for short in (word, *deletions(word)) for meant in self._by_deletion.get(short, ())}
        return min((meant for meant in near if is_near(word, meant)), default=word)


def deletions(word: str) -> list[str]:
    """The word without one of its letters, but for the first."""
    return [word[:i] + word[i + 1 :] for i in range(1, len(word))]


def is_near(word: str, meant: str) -> bool:
    """Whether one edit of the allowed kinds leads from one to the other."""
    if word[0] != meant[0]:
        return False
    if len(word) != len(meant):
        longer, shorter = (word, meant) if len(word) > len(meant) else (meant, word)
        return shorter in deletions(longer)
    differing = [i for i in range(len(word)) if word[i] != meant[i]]
    if len(differing) == 1:
        return len(meant) >= MIN_REPLACED
    if len(differing) != 2:
        return False
    first, second = differing
    return second == first + 1 and word[first] == meant[second] and word[second] == meant[first]
