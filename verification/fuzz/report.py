"""The report of Schemathesis, an event a line, as figures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import msgspec


class FuzzFigures(msgspec.Struct, frozen=True, kw_only=True):
    """What a run found."""

    cases: int
    operations: int
    failures: int  # cases with a failed check, and what could not be tried at all
    server_errors: int  # answers of 500 and above
    seconds: float
    seed: int


class _Check(msgspec.Struct):
    status: Literal["success", "failure", "error", "skip", "interrupted"]


class _Answer(msgspec.Struct):
    status_code: int


class _Interaction(msgspec.Struct):
    response: _Answer | None = None


class _Recorder(msgspec.Struct):
    label: str
    cases: dict[str, Any] = {}
    checks: dict[str, list[_Check]] = {}
    interactions: dict[str, _Interaction] = {}


class _Scenario(msgspec.Struct):
    phase: str
    recorder: _Recorder


class _Ended(msgspec.Struct):
    running_time: float


class _Event(msgspec.Struct, rename="pascal"):
    """One line; others than these are passed over."""

    scenario_finished: _Scenario | None = None
    non_fatal_error: Mapping[str, Any] | None = None
    fatal_error: Mapping[str, Any] | None = None
    engine_finished: _Ended | None = None


def read_report(lines: Iterable[str], seed: int) -> FuzzFigures:
    """Count what a report tells; one that does not reach its end is a failure."""
    decode = msgspec.json.Decoder(_Event).decode
    cases = failures = server_errors = 0
    seconds, ended = 0.0, False
    operations: set[str] = set()
    for line in lines:
        event = decode(line)
        if event.scenario_finished is not None:
            recorder = event.scenario_finished.recorder
            if event.scenario_finished.phase != "stateful":  # whose scenarios run through several operations
                operations.add(recorder.label)
            cases += len(recorder.cases)
            failures += sum(
                any(one.status != "success" for one in found) for found in recorder.checks.values()
            )
            answers = [one.response for one in recorder.interactions.values() if one.response is not None]
            server_errors += sum(answer.status_code >= 500 for answer in answers)
        failures += event.non_fatal_error is not None or event.fatal_error is not None
        if event.engine_finished is not None:
            seconds, ended = event.engine_finished.running_time, True
    return FuzzFigures(
        cases=cases,
        operations=len(operations),
        failures=failures + (not ended),
        server_errors=server_errors,
        seconds=round(seconds, 1),
        seed=seed,
    )
