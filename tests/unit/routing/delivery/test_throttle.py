from __future__ import annotations

import pytest

from routing.deliveries import Delivery, OutcomeReason
from routing.delivery.stages.throttle import Throttle
from tests.fakes import START
from tests.recipient_fakes import MemoryWindows, delivery, recipient
from tocsin.errors import StorageUnavailableError
from tocsin.wire.lanes import LaneName
from tocsin.wire.notifications import Attempt, NotificationState
from tocsin.wire.recipients import RecipientRequest

TOLD, SUPPRESSED = NotificationState.ACCEPTED, NotificationState.SUPPRESSED


def known(id_: str, limit: int | None, *, to: str = "r", attempts: tuple[Attempt, ...] = ()) -> Delivery:
    one = delivery(id_, to=to, attempts=attempts)
    one.recipient = recipient(to, RecipientRequest(max_per_hour=limit))
    return one


async def states(stage: Throttle, *batch: Delivery, now: float = START) -> list[NotificationState]:
    await stage(batch, now)
    return [one.state for one in batch]


@pytest.mark.parametrize("lane", [LaneName.P1, LaneName.P2])
async def test_what_goes_over_the_limit_is_suppressed_in_order(lane: LaneName) -> None:
    batch = [known("a", 2), known("b", 2), known("c", 2), known("d", 2, to="other")]
    assert await states(Throttle(MemoryWindows(), lane), *batch) == [TOLD, TOLD, SUPPRESSED, TOLD]
    assert (batch[2].reason, batch[2].decided_at) == (OutcomeReason.THROTTLED, START)


async def test_a_p0_is_told_however_often() -> None:
    batch = [known("a", 1), known("b", 1), known("c", 1)]
    assert await states(Throttle(MemoryWindows(), LaneName.P0), *batch) == [TOLD] * 3


async def test_the_hour_rolls() -> None:
    stage = Throttle(MemoryWindows(), LaneName.P2)
    assert await states(stage, known("a", 2), now=START) == [TOLD]
    assert await states(stage, known("b", 2), now=START + 1800) == [TOLD]
    assert await states(stage, known("c", 2), now=START + 3599) == [SUPPRESSED]
    assert await states(stage, known("d", 2), now=START + 3600) == [TOLD]  # `a` is an hour old
    assert await states(stage, known("e", 2), now=START + 3601) == [SUPPRESSED]


async def test_a_batch_that_is_handled_again_counts_once() -> None:
    stage = Throttle(MemoryWindows(), LaneName.P2)
    for _ in range(2):
        assert await states(stage, known("a", 1), known("b", 1)) == [TOLD, SUPPRESSED]


async def test_what_was_tried_before_is_not_asked_again() -> None:
    stage = Throttle(MemoryWindows(), LaneName.P2)
    tried = (Attempt(START, "log", ok=False, reason="target_error"),)
    assert await states(stage, known("a", 1), known("b", 1, attempts=tried)) == [TOLD, TOLD]


async def test_lanes_are_counted_apart() -> None:
    windows = MemoryWindows()
    assert await states(Throttle(windows, LaneName.P2), known("a", 1)) == [TOLD]
    assert await states(Throttle(windows, LaneName.P1), known("b", 1)) == [TOLD]


async def test_without_a_limit_nothing_is_counted() -> None:
    windows = MemoryWindows()
    windows.fault = StorageUnavailableError("asked")
    stage = Throttle(windows, LaneName.P2)
    assert await states(stage, known("a", None), delivery("b")) == [TOLD, TOLD]


async def test_without_the_counters_the_batch_waits() -> None:
    windows = MemoryWindows()
    windows.fault = StorageUnavailableError("down")
    with pytest.raises(StorageUnavailableError):
        await states(Throttle(windows, LaneName.P2), known("a", 1))
