from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cli.status import _header, archive_lines, breaker_lines, lanes_table
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
