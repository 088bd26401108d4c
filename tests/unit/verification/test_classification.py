from __future__ import annotations

from collections import Counter

import pytest

from routing.intake.priority import Classifier
from verification.classification import HARMLESS, HELD_OUT, TERMS, Expected, LabelledTerm, measure, read_terms


def test_no_life_safety_term_is_missed_and_the_harmless_stays_out_of_p0() -> None:
    terms = read_terms(TERMS)
    score = measure(terms)
    assert score.missed == []
    assert len(score.false_p0) <= 0.02 * score.harmless, score.false_p0
    assert len(score.unmarked_drills) <= 0.02 * score.terms, score.unmarked_drills
    assert len(score.misplaced) <= 3, score.misplaced
    assert score.summary() == {"terms": len(terms), "missed": 0, "false_p0": len(score.false_p0)}


def test_the_list_is_large_and_has_every_kind() -> None:
    found = Counter(term.expected for term in read_terms(TERMS))
    assert sum(found.values()) >= 1500
    assert sum(found[kind] for kind in HARMLESS) >= 300
    assert set(found) == set(Expected)


def test_what_the_held_out_list_has_is_not_lost_again() -> None:
    terms = read_terms(HELD_OUT)
    score = measure(terms)
    assert (score.life_safety, score.harmless) >= (150, 60)
    assert score.missed == []
    assert len(score.false_p0) <= 0.02 * score.harmless


@pytest.mark.parametrize(
    ("text", "expected", "fault"),
    [
        ("fire_sale", Expected.DANGER, "missed"),
        ("smoke", Expected.COMMERCIAL, "false_p0"),
        ("fire_sale", Expected.DRILL, "unmarked_drills"),
        ("smoke", Expected.UPKEEP, "misplaced"),
        ("news", Expected.ALL_CLEAR, "misplaced"),
    ],
)
def test_a_fault_is_found(text: str, expected: Expected, fault: str) -> None:
    score = measure([LabelledTerm(text, expected, "")], Classifier())
    assert getattr(score, fault) == [text]
