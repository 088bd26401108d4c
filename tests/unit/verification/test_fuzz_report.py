from __future__ import annotations

import json
from typing import Any

from verification.fuzz.report import read_report


def scenario(label: str, statuses: list[str], codes: list[int], phase: str = "coverage") -> dict[str, Any]:
    recorder = {
        "label": label,
        "cases": {str(number): {} for number in range(len(codes))},
        "checks": {str(number): [{"name": "c", "status": one}] for number, one in enumerate(statuses)},
        "interactions": {str(number): {"response": {"status_code": one}} for number, one in enumerate(codes)},
    }
    return {"ScenarioFinished": {"phase": phase, "recorder": recorder}}


ENDED = {"EngineFinished": {"running_time": 12.34}}


def test_cases_operations_failures_and_server_errors_are_counted() -> None:
    events = [
        {"PhaseStarted": {}},
        scenario("GET /a", ["success", "failure"], [200, 500]),
        scenario("GET /a", ["success"], [404]),
        scenario("Stateful tests", ["success"], [200], "stateful"),
        {"NonFatalError": {"label": "POST /b"}},
        ENDED,
    ]
    found = read_report(map(json.dumps, events), seed=7)
    assert (found.cases, found.operations, found.failures, found.server_errors) == (4, 1, 2, 1)
    assert (found.seconds, found.seed) == (12.3, 7)


def test_a_report_that_does_not_end_is_a_failure() -> None:
    assert read_report([json.dumps(scenario("GET /a", ["success"], [200]))], seed=7).failures == 1
    assert read_report([json.dumps(ENDED)], seed=7).failures == 0
