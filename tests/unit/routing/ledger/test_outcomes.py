from __future__ import annotations

import msgspec
import pytest

from routing.ledger.outcomes import CODES, Outcome, field, pack, unpack
from tests.fakes import START
from tocsin.wire.notifications import Attempt, NotificationState

ENTRY = f"{int(START * 1000)}-3"
TOLD = Outcome(NotificationState.DELIVERED, START + 0.21, (Attempt(START + 0.2, "sink", ok=True),), 500)


def same(one: Outcome, other: Outcome) -> bool:
    """Alike, times to a microsecond."""
    times = [[o.at, o.retry_at, *(a.at for a in o.attempts)] for o in (one, other)]
    still = [
        msgspec.structs.replace(
            o, at=0.0, retry_at=0.0, attempts=tuple(msgspec.structs.replace(a, at=0.0) for a in o.attempts)
        )
        for o in (one, other)
    ]
    return still[0] == still[1] and times[0] == pytest.approx(times[1], rel=0, abs=2e-6)


@pytest.mark.parametrize(
    "outcome",
    [
        TOLD,
        Outcome(NotificationState.EXPIRED, START + 3600, (), 500, "stale"),
        Outcome(NotificationState.SUPPRESSED, START - 0.002, (), 1, "muted"),  # the clocks of two machines
        Outcome(
            NotificationState.RETRYING,
            START + 0.5,
            (Attempt(START, "webhook", ok=False, reason="timeout", detail="10 s", duration_ms=10.5),),
            reason="retry_scheduled",
            retry_at=START + 40_000.5,
        ),
        Outcome(
            NotificationState.DEAD,
            START + 9,
            (
                Attempt(START, "log", ok=True, duration_ms=0.31),
                Attempt(START, "webhook", ok=False, reason="refused"),
            ),
            reason="refused",
        ),
    ],
)
def test_what_is_kept_is_what_was_given(outcome: Outcome) -> None:
    assert same(unpack(pack(outcome, ENTRY), ENTRY), outcome)


def test_a_block_that_was_delivered_takes_few_bytes() -> None:
    assert len(field(ENTRY)) + len(pack(TOLD, ENTRY)) <= 28


def test_every_end_and_what_is_put_off_has_a_code_of_its_own() -> None:
    assert set(CODES) == set(NotificationState) - {NotificationState.ACCEPTED}
    assert len(set(CODES.values())) == len(CODES)


def test_the_fields_of_five_seconds_differ() -> None:
    entries = [f"{START * 1000 + ms:.0f}-{number}" for ms in range(5000) for number in (0, 1)]
    names = [field(entry) for entry in entries] + [field(entry, 0) for entry in entries]
    assert len(set(names)) == len(names)
