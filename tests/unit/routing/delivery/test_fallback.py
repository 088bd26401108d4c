"""What becomes of a p0 that does not get through at once, and of what no provider may be asked for."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from routing.channels import ChannelResult, Deliverable, Failure, FailureReason, LocalChannel
from routing.deliveries import Delivery, OutcomeReason
from routing.delivery.deliver import Deliver, open_channels
from routing.delivery.fallback import Fallback
from routing.delivery.stages.companion_channel import CompanionChannel
from tests.fakes import START, ManualClock
from tests.recipient_fakes import MemoryProfiles, recipient
from tocsin.errors import StorageUnavailableError
from tocsin.resilience.retry import RetryPolicy
from tocsin.wire.notifications import Attempt, Envelope, Notification, NotificationState
from tocsin.wire.recipients import ChannelChoice, RecipientRequest

DOWN = Failure(FailureReason.TARGET_ERROR, "503")
NO = Failure(FailureReason.REFUSED, "410")
RETRY = RetryPolicy(max_attempts=3, base_s=10.0, cap_s=60.0, max_parked_s=100.0)


class Line(LocalChannel):
    """A channel that fails, refuses, parks (seconds) or delivers, to each recipient as told."""

    def __init__(self, name: str, clock: ManualClock, answer: Failure | float | None = None) -> None:
        self.name = name
        self.clock = clock
        self.answer = answer
        self.by_recipient: dict[str, Failure | float | None] = {}
        self.received: list[tuple[str, str, str]] = []

    async def deliver(self, batch: Sequence[Deliverable]) -> Sequence[ChannelResult]:
        return [self._one(item) for item in batch]

    def _one(self, item: Deliverable) -> ChannelResult:
        to = item.notification.recipient
        answer = self.by_recipient.get(to, self.answer)
        if isinstance(answer, float):
            return ChannelResult((), answer)
        self.received.append((to, item.notification.title, item.notification.webhook_url))
        if answer is not None:
            return ChannelResult((answer.attempt(self.name, self.clock.now(), 1.0, provider=self.name),))
        return ChannelResult((Attempt(self.clock.now(), self.name, ok=True, provider=self.name),))

    async def close(self) -> None: ...


class House:
    """Channels, people, and the stage that delivers p0 to them."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        names = ("log", "webhook", "sms", "email", "voice")
        self.lines = {name: Line(name, clock) for name in names}
        self.profiles = MemoryProfiles()
        self.fallback = Fallback(self.lines, self.profiles)
        self.deliver = Deliver(self.lines, RETRY, clock, draw=lambda: 0.0, fallback=self.fallback)

    async def send(
        self, *channels: str, wishes: RecipientRequest | None = None, earlier: Delivery | None = None
    ) -> Delivery:
        note = Notification(
            "fire",
            "Smoke",
            "ann",
            "",
            "",
            "",
            "s",
            channels or ("webhook",),
            "https://x.example",
            0.0,
            "",
            {},
            START,
        )
        attempts = earlier.attempts if earlier else ()
        parked_at = earlier.parked_at if earlier else 0.0
        one = Delivery("p0-0-1-0-0", Envelope(note, "", attempts, parked_at=parked_at))
        one.recipient = recipient("ann", wishes or RecipientRequest())
        await self.deliver([one])
        return one


@pytest.fixture
def house(clock: ManualClock) -> House:
    return House(clock)


def outcome(one: Delivery) -> tuple[str, str]:
    return one.state.value, one.reason.value


async def test_what_gets_through_concerns_nobody_else(house: House) -> None:
    one = await house.send(wishes=RecipientRequest(targets={"sms": "1"}, fallback_contacts=("bob",)))
    assert outcome(one) == ("delivered", "")
    assert house.lines["sms"].received == []


async def test_the_recipients_other_channels_come_next_one_by_one_until_one_delivers(house: House) -> None:
    house.lines["webhook"].answer = house.lines["sms"].answer = DOWN
    wishes = RecipientRequest(
        targets={"sms": "1", "email": "a@b.example", "voice": "1"}, fallback_contacts=("bob",)
    )
    one = await house.send(wishes=wishes)
    assert outcome(one) == ("delivered", "fallback")
    assert [(a.channel, a.ok) for a in one.attempts] == [("webhook", False), ("sms", False), ("email", True)]
    assert house.lines["voice"].received == []
    assert house.fallback.rescued == 1


async def test_fallback_contacts_are_told_at_once_as_they_want_and_the_recipient_is_tried_again(
    house: House,
) -> None:
    house.lines["webhook"].by_recipient["ann"] = DOWN
    await house.profiles.put(
        recipient("bob", RecipientRequest(channels=ChannelChoice(p0=("voice",)), targets={"voice": "2"}))
    )
    await house.profiles.put(recipient("cy", RecipientRequest(webhook_url="https://cy.example")))
    wishes = RecipientRequest(fallback_contacts=("bob", "cy", "dee"))
    one = await house.send(wishes=wishes)
    assert outcome(one) == ("retrying", "retry_scheduled")
    told = {(a.recipient, a.channel, a.ok) for a in one.attempts}
    assert told == {
        ("", "webhook", False),
        ("bob", "voice", True),
        ("cy", "webhook", True),
        ("dee", "webhook", True),
    }
    title = "[for ann] Smoke"
    assert house.lines["webhook"].received[1:] == [("cy", title, "https://cy.example"), ("dee", title, "")]

    again = await house.send(wishes=wishes, earlier=one)
    assert len(house.lines["voice"].received) == 1  # nobody is told twice
    assert len([a for a in again.attempts if not a.recipient]) == 2

    last = await house.send(wishes=wishes, earlier=again)
    assert outcome(last) == ("delivered", "fallback")


async def test_without_anybody_it_ends_dead(house: House) -> None:
    house.lines["webhook"].answer = DOWN
    wishes = RecipientRequest(fallback_contacts=("bob",))
    one = await house.send(wishes=wishes)
    one = await house.send(wishes=wishes, earlier=one)
    one = await house.send(wishes=wishes, earlier=one)
    assert outcome(one) == ("dead", "attempts_exhausted")
    assert [a.recipient for a in one.attempts] == ["", "bob"] * 3


async def test_the_log_tells_nobody(house: House) -> None:
    house.lines["webhook"].by_recipient["ann"] = NO
    one = await house.send("webhook", "log", wishes=RecipientRequest(fallback_contacts=("bob",)))
    assert outcome(one) == ("delivered", "fallback")
    assert ("bob", True) in {(a.recipient, a.ok) for a in one.attempts}


async def test_where_only_the_log_is_wanted_nobody_else_is_told(house: House) -> None:
    one = await house.send("log", wishes=RecipientRequest(fallback_contacts=("bob",)))
    assert outcome(one) == ("delivered", "")
    assert len(one.attempts) == 1


async def test_contacts_are_told_as_the_notification_says_while_nothing_is_known_of_them(
    house: House,
) -> None:
    house.lines["webhook"].by_recipient["ann"] = DOWN
    house.profiles.fault = StorageUnavailableError("down")
    one = await house.send(wishes=RecipientRequest(fallback_contacts=("bob",)))
    assert ("bob", "webhook", True) in {(a.recipient, a.channel, a.ok) for a in one.attempts}
    assert house.fallback.lookups_failed == 1


# --------------------------------------------------------------------------- parking


async def test_what_nobody_may_be_asked_for_waits_without_an_attempt(house: House) -> None:
    house.lines["webhook"].answer = 30.0
    one = await house.send()
    assert outcome(one) == ("retrying", "breaker_open")
    assert (one.attempts, one.retry_at, one.parked_at) == ((), START + 30.0, START)
    house.clock.advance(31)
    again = await house.send(earlier=one)
    assert (again.attempts, again.parked_at) == ((), START)


async def test_waiting_has_an_end(house: House) -> None:
    house.lines["webhook"].answer = 30.0
    one = await house.send()
    house.clock.advance(RETRY.max_parked_s + 1)
    assert outcome(await house.send(earlier=one)) == ("dead", "breaker_open")


async def test_an_attempt_ends_the_waiting(house: House) -> None:
    house.lines["webhook"].answer = 30.0
    one = await house.send()
    house.lines["webhook"].answer = DOWN
    tried = await house.send(earlier=one)
    assert (outcome(tried), tried.parked_at) == (("retrying", "retry_scheduled"), 0.0)


async def test_while_it_waits_others_are_told(house: House) -> None:
    house.lines["webhook"].by_recipient["ann"] = 30.0
    one = await house.send(wishes=RecipientRequest(fallback_contacts=("bob",)))
    assert outcome(one) == ("retrying", "breaker_open")
    assert [(a.recipient, a.ok) for a in one.attempts] == [("bob", True)]
    house.clock.advance(RETRY.max_parked_s + 1)
    assert outcome(await house.send(wishes=RecipientRequest(), earlier=one)) == ("delivered", "fallback")


async def test_of_two_channels_the_one_that_delivered_is_not_asked_again(house: House) -> None:
    house.lines["sms"].answer = 30.0
    one = await house.send("webhook", "sms")
    assert outcome(one) == ("retrying", "retry_scheduled")
    await house.send("webhook", "sms", earlier=one)
    assert len(house.lines["webhook"].received) == 1


async def test_a_refusal_does_not_close_a_channel_that_another_provider_serves() -> None:
    refused = Attempt(START, "sms", ok=False, reason="refused", provider="sms")
    later = Attempt(START, "sms", ok=False, reason="breaker_open", provider="sms-2")
    note = Notification("fire", "t", "r", "", "", "", "s", ("sms",), "", 0.0, "", {}, START)
    assert list(open_channels(Delivery("x", Envelope(note, "", (refused,))))) == []
    assert list(open_channels(Delivery("x", Envelope(note, "", (refused, later))))) == ["sms"]


async def test_a_channel_nobody_wants_any_more_is_not_waited_for(house: House) -> None:
    done = Attempt(START, "webhook", ok=True, provider="webhook")
    earlier = Delivery(
        "x", Envelope(Notification("a", "b", "c", "", "", "", "s", (), "", 0.0, "", {}, START))
    )
    earlier.attempts = (done,)
    assert (await house.send("webhook", earlier=earlier)).state is NotificationState.DELIVERED


# --------------------------------------------------------------------------- choosing


@pytest.mark.parametrize(
    ("channels", "chosen"),
    [
        (("sms",), ("sms", "webhook")),
        (("sms", "email"), ("sms", "email", "webhook")),
        (("sms", "log"), ("sms", "log")),
        (("webhook",), ("webhook",)),
    ],
)
async def test_a_p0_never_depends_on_accounts_alone(
    channels: tuple[str, ...], chosen: tuple[str, ...]
) -> None:
    note = Notification("fire", "t", "r", "", "", "", "s", channels, "", 0.0, "", {}, START)
    one = Delivery("x", Envelope(note))
    await CompanionChannel("webhook")([one], START)
    assert one.notification.channels == chosen
    assert OutcomeReason.NONE is one.reason
