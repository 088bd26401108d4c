from __future__ import annotations

import pytest

from tocsin.storage.server_health import FIRST_ANSWER_S, STALLED_S, Loading, StartPatience, why_it_ended

ROOMY = 10**12


def loading(loaded: int) -> Loading:
    return Loading(loaded_bytes=loaded, total_bytes=775_000_000, eta_s=40)


def test_a_server_that_never_answers_is_given_up() -> None:
    patience = StartPatience(0.0)
    assert not patience.is_over(FIRST_ANSWER_S)
    assert patience.is_over(FIRST_ANSWER_S + 0.1)


def test_a_server_that_loads_is_waited_for_as_long_as_it_gets_on() -> None:
    patience = StartPatience(0.0)
    for minute in range(60):
        now = minute * 60.0 + 1.0
        patience.note(loading(minute), now)
        assert not patience.is_over(now + 59.0)
    assert not patience.is_over(59 * 60.0 + 1.0 + STALLED_S)
    assert patience.is_over(59 * 60.0 + 1.1 + STALLED_S)


def test_loading_is_told_every_few_seconds() -> None:
    patience = StartPatience(0.0)
    said = [patience.note(loading(1_000_000 * second), float(second)) for second in range(1, 21)]
    lines = [line for line in said if line]
    assert len(lines) == 4
    assert lines[-1] == "loading its data, 2% of 775 MB, about 40 s left"


@pytest.mark.parametrize(
    ("log", "free", "reason", "hint"),
    [
        ("# Error writing to the AOF file: No space left on device", ROOMY, "disk is full", "df -h"),
        ("", 1024, "disk is full", "df -h"),
        (
            "# Bad file format reading the append only file x.incr.aof",
            ROOMY,
            "append-only file .* is damaged",
            "repair-storage",
        ),
        ("# Fatal config file error", ROOMY, "^$", "^$"),
    ],
)
def test_the_log_says_what_a_person_can_mend(log: str, free: int, reason: str, hint: str) -> None:
    import re

    ending = why_it_ended(log, free, "/data/storage")
    assert re.search(reason, ending.reason)
    assert re.search(hint, ending.hint)
