from __future__ import annotations

from collections.abc import Sequence

import pytest

from routing.channels import ChannelResult, Deliverable, Failure, FailureReason
from routing.deliveries import Delivery, OutcomeReason
from routing.delivery.deliver import Deliver
from routing.delivery.pipeline import DeliveryStage, run_stages
from routing.delivery.stages.expire import Expire
from routing.delivery.stages.preferences import Preferences
from routing.delivery.stages.quiet_hours import QuietHours
from routing.delivery.stages.throttle import Throttle
from tests.fakes import START, ManualClock, OneByOne
from tests.recipient_fakes import MemoryProfiles, MemoryWindows, recipient
from tocsin.resilience.retry import RetryPolicy
from tocsin.wire.lanes import NOTIFICATION_LANES, LaneName
from tocsin.wire.notifications import Attempt, Envelope, Notification, NotificationState
from tocsin.wire.recipients import QuietSpan, RecipientRequest

BUSY = Failure(FailureReason.TARGET_ERROR, "the target answered 503")
REFUSED = Failure(FailureReason.REFUSED, "the target answered 410")
RETRY = RetryPolicy(max_attempts=3, base_s=10.0, cap_s=60.0)


class FakeChannel(OneByOne):
    """Answers with its failures in turn, then delivers; each try takes 5 ms."""

    def __init__(self, clock: ManualClock, *failures: Failure | None, name: str = "log") -> None:
        self.name = name
        self.asked: list[str] = []
        self.clock: ManualClock = clock
        self._failures = list(failures)

    def answer(self, notification_id: str, notification: Notification) -> Failure | None:
        assert notification.title == "t"
        self.asked.append(notification_id)
        self.clock.advance(0.005)
        return self._failures.pop(0) if self._failures else None


def delivery(
    *channels: str, expires_at: float = 0.0, attempts: tuple[Attempt, ...] = (), id_: str = "p0-0-1-0-0"
) -> Delivery:
    notification = Notification(
        "reminder", "t", "r", "", "", "", "s", channels or ("log",), "", expires_at, "", {}, START
    )
    return Delivery(id_, Envelope(notification, "", attempts))


def failed(channel: str, times: int = 1) -> tuple[Attempt, ...]:
    return tuple(Attempt(START, channel, ok=False, reason="target_error") for _ in range(times))


async def deliver(clock: ManualClock, one: Delivery, draw: float = 1.0, **channels: FakeChannel) -> Delivery:
    for name, channel in channels.items():
        channel.name = name
    await Deliver(channels, RETRY, clock, draw=lambda: draw)([one])
    return one


# --------------------------------------------------------------------------- Expire


@pytest.mark.parametrize("expires_at", [START, START - 1, 1.0])
async def test_a_p2_whose_time_has_passed_expires(expires_at: float) -> None:
    stale = delivery(expires_at=expires_at)
    await Expire(LaneName.P2)([stale], START)
    assert (stale.state, stale.reason) == (NotificationState.EXPIRED, OutcomeReason.STALE)
    assert stale.decided_at == START


@pytest.mark.parametrize("expires_at", [0.0, START + 0.001])
async def test_a_p2_in_time_or_without_an_end_stays_open(expires_at: float) -> None:
    fresh = delivery(expires_at=expires_at)
    await Expire(LaneName.P2)([fresh], START)
    assert fresh.state is NotificationState.ACCEPTED


@pytest.mark.parametrize("lane", [LaneName.P0, LaneName.P1])
async def test_p0_and_p1_are_told_even_late(lane: LaneName) -> None:
    late = delivery(expires_at=1.0)
    await Expire(lane)([late], START)
    assert late.state is NotificationState.ACCEPTED


# --------------------------------------------------------------------------- Deliver


async def test_when_every_channel_delivered_it_is_delivered(clock: ManualClock) -> None:
    one = await deliver(clock, delivery("log", "webhook"), log=FakeChannel(clock), webhook=FakeChannel(clock))
    assert (one.state, one.reason, one.error) == (NotificationState.DELIVERED, OutcomeReason.NONE, "")
    assert sorted((a.channel, a.ok) for a in one.attempts) == [("log", True), ("webhook", True)]
    assert one.decided_at == clock.now()


async def test_an_attempt_says_when_and_how_long(clock: ManualClock) -> None:
    one = await deliver(clock, delivery(), log=FakeChannel(clock, BUSY))
    assert one.attempts == (
        Attempt(
            START, "log", ok=False, reason="target_error", detail="the target answered 503", duration_ms=5.0
        ),
    )


async def test_a_retry_tries_only_the_channels_that_failed(clock: ManualClock) -> None:
    log, webhook = FakeChannel(clock), FakeChannel(clock, BUSY)
    first = await deliver(clock, delivery("log", "webhook"), log=log, webhook=webhook)
    assert (first.state, first.reason) == (NotificationState.RETRYING, OutcomeReason.RETRY_SCHEDULED)
    assert first.error == "webhook: the target answered 503"
    again = delivery("log", "webhook", attempts=first.attempts)
    await deliver(clock, again, log=log, webhook=webhook)
    assert again.state is NotificationState.DELIVERED
    assert (len(log.asked), len(webhook.asked)) == (1, 2)
    assert [(a.channel, a.ok) for a in again.attempts] == [
        ("log", True),
        ("webhook", False),
        ("webhook", True),
    ]


async def test_what_was_delivered_everywhere_already_is_told_no_more(clock: ManualClock) -> None:
    log = FakeChannel(clock)
    one = await deliver(clock, delivery(attempts=(Attempt(START, "log", ok=True),)), log=log)
    assert one.state is NotificationState.DELIVERED
    assert log.asked == []


async def test_a_refusal_for_good_is_dead_at_once(clock: ManualClock) -> None:
    one = await deliver(clock, delivery(), log=FakeChannel(clock, REFUSED))
    assert (one.state, one.reason) == (NotificationState.DEAD, OutcomeReason.REFUSED)


async def test_one_channel_delivered_and_the_other_refused_is_dead(clock: ManualClock) -> None:
    one = await deliver(
        clock, delivery("log", "webhook"), log=FakeChannel(clock), webhook=FakeChannel(clock, REFUSED)
    )
    assert (one.state, one.reason) == (NotificationState.DEAD, OutcomeReason.REFUSED)


async def test_while_one_channel_may_still_deliver_it_is_retried(clock: ManualClock) -> None:
    one = await deliver(
        clock, delivery("log", "webhook"), log=FakeChannel(clock, BUSY), webhook=FakeChannel(clock, REFUSED)
    )
    assert one.state is NotificationState.RETRYING


@pytest.mark.parametrize(("made", "state"), [(1, NotificationState.RETRYING), (2, NotificationState.DEAD)])
async def test_when_no_try_is_left_it_is_dead(
    clock: ManualClock, made: int, state: NotificationState
) -> None:
    one = await deliver(clock, delivery(attempts=failed("log", made)), log=FakeChannel(clock, BUSY))
    assert one.state is state
    if state is NotificationState.DEAD:
        assert one.reason is OutcomeReason.ATTEMPTS_EXHAUSTED
    assert len(one.attempts) == made + 1


async def test_the_last_try_may_still_deliver(clock: ManualClock) -> None:
    one = await deliver(clock, delivery(attempts=failed("log", 2)), log=FakeChannel(clock))
    assert one.state is NotificationState.DELIVERED


@pytest.mark.parametrize(("made", "draw", "wait_s"), [(0, 0.0, 5.0), (0, 1.0, 10.0), (1, 0.5, 15.0)])
async def test_the_wait_before_a_retry_grows_and_is_drawn(
    clock: ManualClock, made: int, draw: float, wait_s: float
) -> None:
    one = await deliver(
        clock, delivery(attempts=failed("log", made)), draw=draw, log=FakeChannel(clock, BUSY)
    )
    assert one.retry_at == pytest.approx(clock.now() + wait_s)


async def test_a_channel_nobody_set_up_is_refused_for_good(clock: ManualClock) -> None:
    one = await deliver(clock, delivery("pigeon"))
    assert one.state is NotificationState.DEAD
    assert [attempt.reason for attempt in one.attempts] == [FailureReason.NOT_CONFIGURED]


async def test_every_delivery_of_a_batch_is_decided_by_itself(clock: ManualClock) -> None:
    channel = FakeChannel(clock, None, BUSY, REFUSED)
    batch = [delivery(id_=f"p0-0-1-0-{i}") for i in range(4)]
    await Deliver({"log": channel}, RETRY, clock, draw=lambda: 1.0)(batch)
    assert [one.state for one in batch] == [
        NotificationState.DELIVERED,
        NotificationState.RETRYING,
        NotificationState.DEAD,
        NotificationState.DELIVERED,
    ]
    assert channel.asked == [one.id for one in batch]


# --------------------------------------------------------------------------- the stages together


class Seen:
    """A stage that notes what it is given and decides nothing."""

    def __init__(self) -> None:
        self.ids: list[list[str]] = []

    async def __call__(self, batch: Sequence[Delivery], now: float) -> int:
        assert now == START
        self.ids.append([one.id for one in batch])
        return 0


async def test_a_stage_gets_only_what_is_undecided(clock: ManualClock) -> None:
    seen = Seen()
    batch = [delivery(id_="fresh"), delivery(id_="stale", expires_at=1.0)]
    open_ = await run_stages((Expire(LaneName.P2), seen), batch, clock)
    assert seen.ids == [["fresh"]]
    assert open_ == batch[:1]


async def test_when_all_is_decided_no_stage_is_asked(clock: ManualClock) -> None:
    seen = Seen()
    await run_stages((Expire(LaneName.P2), seen), [delivery(expires_at=1.0)], clock)
    await run_stages((seen,), [], clock)
    assert seen.ids == []


NOBODY = RecipientRequest(
    quiet_hours=QuietSpan(start="00:00", end="23:59"), max_per_hour=0, muted_types=("reminder",)
)


@pytest.mark.parametrize("wishes", [NOBODY, RecipientRequest()])
@pytest.mark.parametrize("lane", list(NOTIFICATION_LANES))
@pytest.mark.parametrize("kind", [Expire, Preferences, QuietHours, Throttle])
async def test_a_stage_counts_what_it_decides(kind: type, lane: LaneName, wishes: RecipientRequest) -> None:
    profiles = MemoryProfiles(recipient("r", wishes))
    stages: dict[type, DeliveryStage] = {
        Expire: Expire(lane),
        Preferences: Preferences(profiles, lane),
        QuietHours: QuietHours(lane),
        Throttle: Throttle(MemoryWindows(), lane),
    }
    batch = [delivery(expires_at=START + late, id_=f"{late}") for late in (-1, 0, 1)]
    for one in batch[:2]:
        one.recipient = recipient("r", wishes)
    counted = await stages[kind](batch, START)
    assert counted == sum(one.state is not NotificationState.ACCEPTED for one in batch)
    if lane is LaneName.P2 and wishes is NOBODY:
        assert counted


class Busy(FakeChannel):
    """Fails, and asks for a later retry."""

    def __init__(self, clock: ManualClock, retry_after_s: float) -> None:
        super().__init__(clock, BUSY)
        self.retry_after_s = retry_after_s

    async def deliver(self, batch: Sequence[Deliverable]) -> Sequence[ChannelResult]:
        return [one._replace(retry_after_s=self.retry_after_s) for one in await super().deliver(batch)]


@pytest.mark.parametrize(("asked_s", "wait_s"), [(0.0, 10.0), (4.0, 10.0), (300.0, 300.0)])
async def test_a_retry_comes_no_earlier_than_its_target_asked_for(
    clock: ManualClock, asked_s: float, wait_s: float
) -> None:
    one = await deliver(clock, delivery(), log=Busy(clock, asked_s))
    assert (one.state, one.reason) == (NotificationState.RETRYING, OutcomeReason.RETRY_SCHEDULED)
    assert one.retry_at - one.decided_at == pytest.approx(wait_s)


async def test_another_channel_that_failed_is_not_held_up_by_it(clock: ManualClock) -> None:
    both = delivery("log", "sink")
    one = await deliver(clock, both, log=Busy(clock, 300.0), sink=FakeChannel(clock, BUSY))
    assert one.retry_at - one.decided_at == pytest.approx(10.0)


async def test_no_retry_after_makes_up_for_attempts_that_are_used_up(clock: ManualClock) -> None:
    one = await deliver(clock, delivery(attempts=failed("log", 2)), log=Busy(clock, 300.0))
    assert (one.state, one.reason) == (NotificationState.DEAD, OutcomeReason.ATTEMPTS_EXHAUSTED)
