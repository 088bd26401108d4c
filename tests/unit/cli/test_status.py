from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cli.status import _header, archive_lines, breaker_lines, lanes_table, now_lines
from tests.support import free_settings


def breaker(**changes: Any) -> dict[str, Any]:
    closed = {"name": "p0:log", "state": "closed", "failures": 0, "reason": "", "retry_in_s": None}
    return closed | changes


def shown(*breakers: dict[str, Any]) -> list[str]:
    console = Console(width=80, record=True, file=None, quiet=False, force_terminal=False)
    with console.capture() as captured:
        for line in breaker_lines(breakers):
            console.print(line)
    return captured.get().splitlines()


def test_closed_breakers_are_one_line() -> None:
    assert shown(breaker(), breaker(name="p1:log")) == ["breakers   all 2 closed"]
    assert shown() == []


def test_each_breaker_that_is_not_closed_says_why_and_how_long() -> None:
    lines = shown(
        breaker(name="emergency_contacts", state="open", failures=3, reason="timeout", retry_in_s=12.4),
        breaker(),
        breaker(name="p2:webhook", state="half_open", failures=8, reason="HTTP 500", retry_in_s=0.0),
    )
    assert lines == [
        "breakers   emergency_contacts open, 3 failures, retry in 12 s: timeout",
        "           p2:webhook half open, 8 failures, being tried: HTTP 500",
    ]


@pytest.mark.parametrize("state", ["open", "half_open"])
def test_no_line_is_wider_than_a_terminal(state: str) -> None:
    lines = shown(breaker(name="n" * 90, state=state, reason="[red]r" * 40, failures=10**6, retry_in_s=3e5))
    assert len(lines) == 1
    assert len(lines[0]) <= 80


@pytest.mark.parametrize(
    ("changes", "lines"),
    [
        ({}, []),
        ({"landed": 1200}, ["archive    1,200 events landed"]),
        (
            {"landed": 5, "waiting": 3, "blocks": {"0": 0, "1": 2}, "oldest_age_s": {"0": 0.0, "1": 12.2}},
            ["archive    5 events landed, 3 wait (the oldest 12 s)"],
        ),
        (
            {"landed": 5, "lost": 2},
            ["archive    5 events landed", "           [red]2 were lost before they landed[/red]"],
        ),
    ],
)
def test_the_archive_is_a_line(changes: dict[str, Any], lines: list[str]) -> None:
    nothing = {"waiting": 0, "landed": 0, "lost": 0, "blocks": {"0": 0}, "oldest_age_s": {"0": 0.0}}
    assert archive_lines(nothing | changes) == lines
    assert archive_lines(None) == []


def test_a_status_without_breakers_is_shown_as_before() -> None:
    status: dict[str, Any] = {"lanes": [], "newest_event": None, "champion": "", "advertisers": 0}
    lanes_table(status)
    lanes_table(status | {"breakers": [breaker()]})


DAY_S = 86_400.0
JUNE_17 = 1_560_729_600.0  # 2019-06-17
CHECK, LATEST = "check their dates[/yellow]", "tocsin up --as-of latest[/yellow]"
TODAY = 1_795_000_000.0  # 2026-11-18


@pytest.mark.parametrize(
    ("as_of", "lines"),
    [
        (
            {"moment": JUNE_17, "setting": "latest", "newest_event": JUNE_17 - 1, "ahead": 0},
            ["now        2019-06-17 00:00 UTC: the midnight after the newest event (--as-of latest)"],
        ),
        (
            {"moment": JUNE_17, "setting": "latest", "newest_event": TODAY, "ahead": 1},
            [
                "now        2019-06-17 00:00 UTC: where the data as a whole ends (--as-of latest)",
                "           [yellow]1 with events up to 2026-11-18 11:06 UTC, over 7 days after all others, left out: "
                + CHECK,
            ],
        ),
        (
            {"moment": TODAY, "setting": "now", "newest_event": TODAY - 2_500 * DAY_S, "ahead": 0},
            [
                "now        2026-11-18 11:06 UTC: the clock (--as-of now)",
                "           [yellow]everybody is inactive for 2,500 days or more; for data of the past: "
                + LATEST,
            ],
        ),
        (
            {"moment": TODAY, "setting": "latest", "newest_event": None, "ahead": 0},
            ["now        2026-11-18 11:06 UTC: the clock, as there is no data yet (--as-of latest)"],
        ),
        (
            {"moment": JUNE_17, "setting": "2019-06-17T00:00:00Z", "newest_event": JUNE_17, "ahead": 0},
            ["now        2019-06-17 00:00 UTC: it was set (--as-of 2019-06-17T00:00:00Z)"],
        ),
    ],
)
def test_status_says_which_moment_is_now_and_why(as_of: dict[str, Any], lines: list[str]) -> None:
    assert now_lines(as_of, TODAY) == lines


def test_a_warning_is_shown_though_the_platform_is_ready(tmp_path: Path) -> None:
    console = Console(width=120, record=True, force_terminal=False)
    readiness = {
        "ready": True,
        "checks": [
            {"name": "lane p0", "ok": True, "detail": "2 consumers"},
            {"name": "supervisor", "ok": True, "detail": "", "warning": "it does not beat"},
        ],
    }
    with console.capture() as captured:
        console.print(_header(free_settings(tmp_path), None, readiness))
    assert "supervisor: it does not beat" in captured.get()
    assert "lane p0" not in captured.get()
