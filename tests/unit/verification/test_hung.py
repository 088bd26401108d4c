"""What counts as a missed bound."""

from __future__ import annotations

from typing import Any

import pytest

from verification.hung.bounds import missed
from verification.hung.run import parse

KEPT: dict[str, Any] = {
    "readyz_red_s": 3.2,
    "replaced_s": 4.0,
    "rest_s": 11.0,
    "lost": 0,
    "duplicates": 0,
    "accepted": 500,
}


def test_figures_within_their_bounds_miss_none() -> None:
    assert missed({"routers": KEPT}) == []


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("readyz_red_s", None, "routers: readyz_red_s did not happen; at most 5"),
        ("replaced_s", 7.5, "routers: replaced_s is 7.5, at most 6"),
        ("lost", 1, "routers: lost is 1, at most 0"),
    ],
)
def test_a_missed_bound_is_named(name: str, value: float | None, says: str) -> None:
    assert missed({"routers": KEPT | {name: value}}) == [says]


def test_a_part_that_proves_nothing_or_fails_is_missed() -> None:
    assert missed({"routers": KEPT | {"accepted": 0}}) == [
        "routers: nothing was accepted, so nothing is proved"
    ]
    assert missed({"edge": {"error": "RuntimeError: no HAProxy was found"}}) == [
        "edge: RuntimeError: no HAProxy was found"
    ]


def test_statuses_that_a_caller_must_not_see_are_named() -> None:
    edge = {"gap_s": 1.0, "wrong_statuses": [404], "lost": 0, "accepted": 9}
    churn = {"worst_caller_s": 1.0, "status": ["200", "500"], "lost": 0, "accepted": 9}
    assert [line.split(":")[0] for line in missed({"edge": edge, "churn": churn})] == ["edge", "churn"]


def test_parts_can_be_run_alone_and_unknown_ones_are_refused() -> None:
    assert parse(["--only", "churn,routers"]) == ["routers", "churn"]
    with pytest.raises(SystemExit):
        parse(["--only", "rooters"])
