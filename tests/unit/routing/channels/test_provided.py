from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from routing.channels import ChannelResult, Deliverable, Failure, FailureReason
from routing.channels import provided as module
from routing.channels.provided import ProvidedChannel
from tests.fakes import START, Item, ManualClock, wait_until
from tocsin.resilience.breakers import MAX_HOSTS, Breakers, ChannelGuard, OpenDoor
from tocsin.resilience.policies import POLICIES
from tocsin.wire.notifications import Notification

NOTE = Notification("fire", "t", "r", "smoke", "", "", "s", ("sms",), "", 0.0, "", {}, START)
DOWN = Failure(FailureReason.TARGET_ERROR, "the service answered 503")
NO = Failure(FailureReason.REFUSED, "the service answered 400")
FAIL_MAX = POLICIES["p0_channels"].fail_max
RESET_S = POLICIES["p0_channels"].reset_s


class Account:
    """A provider that answers with `failure`, one call each; `hosts` names a sender's target by id."""

    def __init__(self, name: str, failure: Failure | None = None, *, max_calls: int = 8) -> None:
        self.name = name
        self.max_calls = max_calls
        self.failure = failure
        self.asked: list[str] = []
        self.serves = True
        self.hosts: dict[str, str] = {}
        self.wait_s = 0.0
        self.gate: asyncio.Event | None = None

    def calls(self, batch: Sequence[Deliverable]) -> Sequence[Sequence[int]]:
        return [[place] for place in range(len(batch))] if self.serves else []

    def host(self, items: Sequence[Deliverable]) -> str:
        return self.hosts.get(items[0].id, "")

    def retry_after(self, items: Sequence[Deliverable]) -> float:  # noqa: ARG002 (the port's)
        return self.wait_s

    async def call(self, items: Sequence[Deliverable]) -> Failure | None:
        self.asked += [item.id for item in items]
        if self.gate is not None:
            await self.gate.wait()
        return self.failure

    async def close(self) -> None:
        self.asked.append("closed")


def guard_of(clock: ManualClock) -> ChannelGuard:
    return ChannelGuard(Breakers(None, "t", clock, holder="h"), "p0", clock)


async def one(channel: ProvidedChannel, id_: str = "n") -> ChannelResult:
    (tries,) = await channel.deliver([Item(id_, NOTE)])
    return tries


async def test_the_next_provider_is_asked_at_once_and_each_try_names_its_provider(clock: ManualClock) -> None:
    first, second, third = Account("sms", DOWN), Account("sms-2"), Account("sms-3")
    tries = await one(ProvidedChannel("sms", [first, second, third], OpenDoor(), clock))
    assert [(a.provider, a.channel, a.ok, a.reason) for a in tries.attempts] == [
        ("sms", "sms", False, "target_error"),
        ("sms-2", "sms", True, ""),
    ]
    assert (tries.parked_s, third.asked) == (0.0, [])


async def test_a_refusal_by_one_provider_does_not_keep_the_next_from_being_asked(clock: ManualClock) -> None:
    tries = await one(ProvidedChannel("sms", [Account("sms", NO), Account("sms-2")], OpenDoor(), clock))
    assert tries.attempts[-1].ok


async def test_only_what_failed_goes_on_to_the_next_provider(clock: ManualClock) -> None:
    class Picky(Account):
        async def call(self, items: Sequence[Deliverable]) -> Failure | None:
            await super().call(items)
            return DOWN if items[0].id == "b" else None

    second = Account("sms-2")
    channel = ProvidedChannel("sms", [Picky("sms"), second], OpenDoor(), clock)
    made = await channel.deliver([Item("a", NOTE), Item("b", NOTE), Item("c", NOTE)])
    assert [[a.provider for a in tries.attempts] for tries in made] == [["sms"], ["sms", "sms-2"], ["sms"]]
    assert second.asked == ["b"]


async def test_an_open_breaker_parks_without_an_attempt_until_it_may_be_tried(clock: ManualClock) -> None:
    account = Account("sms", DOWN)
    channel = ProvidedChannel("sms", [account], guard_of(clock), clock)
    for _ in range(FAIL_MAX):
        assert (await one(channel)).attempts
    parked = await one(channel)
    assert parked == ChannelResult((), RESET_S)
    assert len(account.asked) == FAIL_MAX
    account.failure = None
    clock.advance(RESET_S + 0.001)
    assert (await one(channel)).attempts[0].ok


async def test_with_one_breaker_open_the_other_provider_delivers_alone(clock: ManualClock) -> None:
    broken, well = Account("sms", DOWN), Account("sms-2")
    channel = ProvidedChannel("sms", [broken, well], guard_of(clock), clock)
    for _ in range(FAIL_MAX):
        await one(channel)
    tries = await one(channel)
    assert ([a.provider for a in tries.attempts], tries.parked_s) == (["sms-2"], 0.0)


async def test_a_refusal_beside_an_open_breaker_leaves_the_channel_open(clock: ManualClock) -> None:
    refusing, broken = Account("sms", NO), Account("sms-2", DOWN)
    channel = ProvidedChannel("sms", [refusing, broken], guard_of(clock), clock)
    for _ in range(FAIL_MAX):
        await one(channel)
    tries = await one(channel)
    assert [(a.provider, a.reason) for a in tries.attempts] == [("sms", "refused"), ("sms-2", "breaker_open")]
    assert tries.parked_s == RESET_S


async def test_refusals_never_open_a_breaker(clock: ManualClock) -> None:
    channel = ProvidedChannel("sms", [Account("sms", NO)], guard_of(clock), clock)
    for _ in range(3 * FAIL_MAX):
        assert (await one(channel)).attempts[0].reason == "refused"


async def test_an_error_in_a_provider_is_a_failed_try(
    clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    class Faulty(Account):
        async def call(self, items: Sequence[Deliverable]) -> Failure | None:
            raise RuntimeError(items[0].id)

    tries = await one(ProvidedChannel("sms", [Faulty("sms"), Account("sms-2")], OpenDoor(), clock))
    assert [a.reason for a in tries.attempts] == ["internal", ""]


async def test_a_target_that_a_sender_named_has_a_breaker_of_its_own(clock: ManualClock) -> None:
    account = Account("webhook", DOWN)
    account.hosts = {"theirs": "their.example"}
    channel = ProvidedChannel("webhook", [account], guard_of(clock), clock)
    for _ in range(FAIL_MAX):
        await one(channel, "theirs")
    assert (await one(channel, "theirs")).parked_s
    assert (await one(channel, "ours")).attempts


async def test_there_are_only_so_many_breakers_of_senders_targets(clock: ManualClock) -> None:
    guard = guard_of(clock)
    for _ in range(FAIL_MAX):
        guard.record("webhook", ok=False, duration_s=0.0, reason="timeout", host="bad.example")
    assert not guard.allows("webhook", "bad.example")
    for number in range(2 * MAX_HOSTS):
        guard.allows("webhook", f"h{number}.example")
    assert len(guard._by_host) == MAX_HOSTS
    assert not guard.allows("webhook", "bad.example")  # those that are open stay longest


async def test_while_a_provider_hangs_what_finds_no_slot_is_parked(
    clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SLOT_WAIT_S", 0.01)
    account = Account("sms", max_calls=1)
    account.gate = asyncio.Event()
    channel = ProvidedChannel("sms", [account], OpenDoor(), clock)
    hanging = asyncio.ensure_future(one(channel, "first"))
    await wait_until(lambda: bool(account.asked))
    assert await one(channel, "second") == ChannelResult((), module.BUSY_RETRY_S)
    account.gate.set()
    assert (await hanging).attempts[0].ok
    assert (await one(channel, "third")).attempts[0].ok
    assert account.asked == ["first", "third"]


async def test_once_a_call_is_out_for_long_nobody_waits_for_its_slot(
    clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SLOT_WAIT_S", 3600.0)
    account = Account("sms", max_calls=1)
    account.gate = asyncio.Event()
    channel = ProvidedChannel("sms", [account], OpenDoor(), clock, busy_retry_s=7.0)
    hanging = asyncio.ensure_future(one(channel, "first"))
    await wait_until(lambda: bool(account.asked))
    clock.advance(module.STUCK_S + 0.001)
    assert await one(channel, "second") == ChannelResult((), 7.0)
    account.gate.set()
    assert (await hanging).attempts[0].ok
    assert (await one(channel, "third")).attempts[0].ok


async def test_without_a_provider_nothing_can_be_delivered(clock: ManualClock) -> None:
    unable = Account("webhook-2")
    unable.serves = False
    for providers in ([], [unable]):
        channel = ProvidedChannel("sms", providers, OpenDoor(), clock)
        tries = await one(channel)
        assert [a.reason for a in tries.attempts] == ["not_configured"]
        assert [list(places) for places in channel.groups([Item("n", NOTE)])] == [[0]]


async def test_closing_closes_every_provider(clock: ManualClock) -> None:
    accounts = [Account("sms"), Account("sms-2")]
    await ProvidedChannel("sms", accounts, OpenDoor(), clock).close()
    assert [account.asked for account in accounts] == [["closed"], ["closed"]]


async def test_a_provider_that_asked_to_be_left_alone_is_passed_over_and_the_next_one_asked(
    clock: ManualClock,
) -> None:
    first, second = Account("sms"), Account("sms-2")
    first.wait_s = 30.0
    channel = ProvidedChannel("sms", [first, second], OpenDoor(), clock)
    assert (await one(channel)).attempts[-1].provider == "sms-2"
    second.failure = DOWN
    result = await one(channel)
    assert (first.asked, result.parked_s, result.retry_after_s) == ([], 30.0, 0.0)
    second.wait_s = 20.0
    result = await one(channel)
    assert (first.asked, result.attempts, result.parked_s) == ([], (), 20.0)
