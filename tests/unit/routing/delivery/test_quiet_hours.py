from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.deliveries import OutcomeReason
from routing.delivery.stages.quiet_hours import QuietHours, quiet_until
from routing.recipients.rules import zone_of
from tests.fakes import ManualClock
from tests.recipient_fakes import delivery, recipient
from tocsin.wire.lanes import LaneName
from tocsin.wire.notifications import Attempt, NotificationState
from tocsin.wire.recipients import QuietSpan, RecipientRequest

BERLIN = "Europe/Berlin"
NIGHT = QuietSpan(start="22:00", end="07:00", timezone=BERLIN)


def at(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


@pytest.mark.parametrize(
    ("now", "ends"),
    [
        ("2026-01-10T21:59:59+01:00", None),
        ("2026-01-10T22:00:00+01:00", "2026-01-11T07:00:00+01:00"),
        ("2026-01-10T23:59:59+01:00", "2026-01-11T07:00:00+01:00"),
        ("2026-01-11T00:00:00+01:00", "2026-01-11T07:00:00+01:00"),
        ("2026-01-11T06:59:59+01:00", "2026-01-11T07:00:00+01:00"),
        ("2026-01-11T07:00:00+01:00", None),
        ("2026-12-31T23:00:00+01:00", "2027-01-01T07:00:00+01:00"),
        ("2026-03-28T23:00:00+01:00", "2026-03-29T07:00:00+02:00"),  # an hour is left out
        ("2026-10-24T23:00:00+02:00", "2026-10-25T07:00:00+01:00"),  # an hour comes twice
    ],
)
def test_a_span_over_midnight_by_the_clock_on_the_wall(now: str, ends: str | None) -> None:
    assert quiet_until(NIGHT, at(now)) == (at(ends) if ends else None)


@pytest.mark.parametrize(
    ("now", "ends"),
    [
        ("2026-06-01T12:59:00+00:00", None),
        ("2026-06-01T13:00:00+00:00", "2026-06-01T15:30:00+00:00"),
        ("2026-06-01T15:30:00+00:00", None),
    ],
)
def test_a_span_within_a_day(now: str, ends: str | None) -> None:
    quiet = QuietSpan(start="13:00", end="15:30")
    assert quiet_until(quiet, at(now)) == (at(ends) if ends else None)


def test_an_end_that_the_clock_jumps_over_is_the_jump() -> None:
    quiet = QuietSpan(start="22:00", end="02:30", timezone=BERLIN)
    assert quiet_until(quiet, at("2026-03-29T01:00:00+01:00")) == at("2026-03-29T03:00:00+02:00")
    assert quiet_until(quiet, at("2026-03-29T03:00:00+02:00")) is None


def test_a_minute_of_noise_that_the_clock_jumps_over_is_the_next_days() -> None:
    quiet = QuietSpan(start="02:01", end="02:00", timezone="Australia/Lord_Howe")
    assert quiet_until(quiet, at("2026-10-03T12:00:00+10:30")) == at("2026-10-05T02:00:00+11:00")


@pytest.mark.parametrize(
    ("now", "ends"),
    [
        ("2026-10-25T01:00:00+02:00", "2026-10-25T02:30:00+02:00"),  # the first time it shows 02:30
        ("2026-10-25T02:45:00+02:00", None),
        ("2026-10-25T02:15:00+01:00", "2026-10-25T02:30:00+01:00"),  # it shows 02:15 again
        ("2026-10-25T02:45:00+01:00", None),
    ],
)
def test_an_end_that_the_clock_shows_twice(now: str, ends: str | None) -> None:
    quiet = QuietSpan(start="22:00", end="02:30", timezone=BERLIN)
    assert quiet_until(quiet, at(now)) == (at(ends) if ends else None)


# Most of them within a day and a half of a jump, forwards or back, in one zone or another.
JUMPS = [
    at(text)
    for text in (
        "2026-03-29T01:00:00+00:00",
        "2026-10-25T01:00:00+00:00",
        "2026-04-04T15:00:00+00:00",
        "2026-10-03T15:30:00+00:00",
        "2026-03-08T05:30:00+00:00",
        "2026-11-01T04:30:00+00:00",
    )
]
MOMENTS = st.builds(lambda jump, off: int(jump) + off, st.sampled_from(JUMPS), st.integers(-129_600, 129_600))
CLOCK_TIMES = st.tuples(st.integers(0, 23), st.integers(0, 59)).map(lambda t: f"{t[0]:02}:{t[1]:02}")


@given(
    now=MOMENTS,
    start=CLOCK_TIMES,
    end=CLOCK_TIMES,
    zone=st.sampled_from([BERLIN, "UTC", "Australia/Lord_Howe", "America/St_Johns", "Asia/Kathmandu"]),
)
def test_they_last_until_their_end_and_are_over_then(now: int, start: str, end: str, zone: str) -> None:
    quiet = QuietSpan(start=start, end=end, timezone=zone)
    if start == end:
        return
    ends_at = quiet_until(quiet, now)
    local = datetime.fromtimestamp(now, ZoneInfo(zone)).strftime("%H:%M")
    inside = start <= local < end if start < end else local >= start or local < end
    assert (ends_at is not None) == inside
    if ends_at is None:
        return
    assert now < ends_at <= now + timedelta(hours=49.5).total_seconds()
    assert quiet_until(quiet, ends_at) is None
    every_ten_minutes = range(now, int(ends_at), 600)
    # None: the clock went back to before their start, and they begin a second time.
    assert {quiet_until(quiet, moment) for moment in every_ten_minutes} <= {ends_at, None}


def test_a_timezone_that_this_machine_lost_keeps_nobody_waiting() -> None:
    assert quiet_until(QuietSpan(start="00:00", end="23:59", timezone="Mars/Olympus"), 0.0) is None


@pytest.mark.parametrize("name", ["Mars/Olympus", "", "../../etc/passwd", "/etc/passwd", "Europe", "a\0b"])
def test_a_name_that_is_no_timezone(name: str) -> None:
    assert zone_of(name) is None


# --------------------------------------------------------------------------- the stage


CLOCK = ManualClock(at("2026-01-10T23:00:00+01:00"))
MORNING = at("2026-01-11T07:00:00+01:00")
TRIED = (Attempt(CLOCK.now() - 60, "log", ok=False, reason="target_error"),)


async def decided(lane: LaneName, *, expires_at: float = 0.0, now: float | None = None) -> tuple[object, ...]:
    one = delivery(expires_at=expires_at, attempts=TRIED)
    one.recipient = recipient("r", RecipientRequest(quiet_hours=NIGHT))
    moment = CLOCK.now() if now is None else now
    await QuietHours(lane)([one], moment)
    assert one.attempts == (TRIED if one.state is NotificationState.RETRYING else ())
    return one.state, one.reason, one.retry_at, one.deferred_s


@pytest.mark.parametrize("lane", [LaneName.P1, LaneName.P2])
async def test_it_is_put_off_until_they_end_and_no_try_is_counted(lane: LaneName) -> None:
    assert await decided(lane) == (
        NotificationState.RETRYING,
        OutcomeReason.QUIET_HOURS,
        MORNING,
        8 * 3600.0,
    )
    assert await decided(lane, now=MORNING) == (NotificationState.ACCEPTED, OutcomeReason.NONE, 0.0, 0.0)


async def test_a_p0_is_told_at_any_hour() -> None:
    assert await decided(LaneName.P0) == (NotificationState.ACCEPTED, OutcomeReason.NONE, 0.0, 0.0)


async def test_a_p2_that_expires_before_they_end_is_due_when_it_expires() -> None:
    expires_at = MORNING - 3600
    assert (await decided(LaneName.P2, expires_at=expires_at))[2:] == (expires_at, 7 * 3600.0)
    assert (await decided(LaneName.P2, expires_at=MORNING + 1))[2] == MORNING
    assert (await decided(LaneName.P1, expires_at=expires_at))[2] == MORNING  # a p1 is told even late


@pytest.mark.parametrize("now", ["2026-03-02T21:59:00+01:00", "2026-03-02T22:00:00+01:00"])
def test_a_span_that_ends_when_it_starts_is_empty(now: str) -> None:
    assert quiet_until(QuietSpan(start="22:00", end="22:00", timezone="Europe/Berlin"), at(now)) is None


async def test_who_has_no_quiet_hours_is_told() -> None:
    batch = [delivery(), delivery()]
    batch[1].recipient = recipient()
    await QuietHours(LaneName.P2)(batch, CLOCK.now())
    assert {one.state for one in batch} == {NotificationState.ACCEPTED}
    assert datetime.fromtimestamp(CLOCK.now(), UTC).hour == 22
