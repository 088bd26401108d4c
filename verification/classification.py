"""How well the classifier knows the field: labelled words, and what becomes of them.

    python -m verification.classification        prints the score of both lists, and every word it missed

`classification_terms.toml` is the list the vocabulary is held to; `classification_held_out.toml` was written after it.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterator, Sequence
from enum import StrEnum
from pathlib import Path

import msgspec

from routing.intake.priority import Classifier
from tocsin.wire.lanes import LaneName

FOLDER = Path(__file__).parent
TERMS = FOLDER / "classification_terms.toml"
HELD_OUT = FOLDER / "classification_held_out.toml"


class Expected(StrEnum):
    """What must become of a term."""

    DANGER = "danger"
    DRILL = "drill"
    UPKEEP = "upkeep"
    ALL_CLEAR = "all_clear"
    COMMERCIAL = "commercial"
    EVERYDAY = "everyday"


HARMLESS = frozenset({Expected.DRILL, Expected.COMMERCIAL, Expected.EVERYDAY})
AT_LEAST_P1 = frozenset({Expected.UPKEEP, Expected.ALL_CLEAR})


class LabelledTerm(msgspec.Struct, frozen=True):
    """One text as it is sent, and what must become of it."""

    text: str
    expected: Expected
    source: str


class ClassificationScore(msgspec.Struct, frozen=True, kw_only=True):
    """How a list did. A term counts once, however many of its places failed."""

    terms: int
    life_safety: int
    harmless: int
    missed: list[str]  # life-safety, and not p0
    false_p0: list[str]  # a drill, commerce or the everyday, and p0
    unmarked_drills: list[str]  # kept out of p0, and not recognised as drills
    misplaced: list[str]  # upkeep or an all-clear that rode p0, or was lost to p2

    def summary(self) -> dict[str, int]:
        """`terms`, `missed` and `false_p0` as numbers."""
        return {"terms": self.terms, "missed": len(self.missed), "false_p0": len(self.false_p0)}


def read_terms(path: Path = TERMS) -> list[LabelledTerm]:
    """The terms of a list, in its order."""
    groups = tomllib.loads(path.read_text(encoding="utf-8"))["group"]
    return [
        LabelledTerm(text, Expected(group["expect"]), group["source"])
        for group in groups
        for line in group["terms"].splitlines()
        for text in (part.strip() for part in line.split("|"))
        if text
    ]


def measure(terms: Sequence[LabelledTerm], classifier: Classifier | None = None) -> ClassificationScore:
    """Classify each term as a `type`, and as an `alert_type` of a note and of a device."""
    classifier = classifier or Classifier()
    wrong: dict[str, list[str]] = {"missed": [], "false_p0": [], "unmarked_drills": [], "misplaced": []}
    for term in terms:
        for kind in _faults(term, classifier):
            wrong[kind].append(term.text)
    return ClassificationScore(
        terms=len(terms),
        life_safety=sum(term.expected is Expected.DANGER for term in terms),
        harmless=sum(term.expected in HARMLESS for term in terms),
        **wrong,
    )


def _faults(term: LabelledTerm, classifier: Classifier) -> Iterator[str]:
    places = [("note", term.text), ("device_alert", term.text)]
    if len(term.text) <= 64:
        places.append((term.text, ""))
    found = [classifier.explain(type_, alert_type, "") for type_, alert_type in places]
    urgent = [one.lane is LaneName.P0 for one in found]
    if term.expected is Expected.DANGER and not all(urgent):
        yield "missed"
    if term.expected in HARMLESS and any(urgent):
        yield "false_p0"
    if term.expected is Expected.DRILL and not all(one.drill for one in found):
        yield "unmarked_drills"
    if term.expected in AT_LEAST_P1 and any(one.lane is not LaneName.P1 for one in found):
        yield "misplaced"


def main() -> None:
    """Print the scores and the words behind them."""
    for path in (TERMS, HELD_OUT):
        score = measure(read_terms(path))
        sys.stdout.write(f"{path.name} {msgspec.json.encode(score.summary()).decode()}\n")
        for kind in ("missed", "false_p0", "unmarked_drills", "misplaced"):
            for text in getattr(score, kind):
                sys.stdout.write(f"  {kind}: {text}\n")


if __name__ == "__main__":
    main()
