from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec
import pytest

from routing.deliveries import OutcomeReason
from routing.delivery.stages.preferences import Preferences, as_wanted
from tests.fakes import START
from tests.recipient_fakes import MemoryProfiles, delivery, recipient
from tocsin.errors import StorageUnavailableError
from tocsin.wire.lanes import LaneName
from tocsin.wire.notifications import Attempt, NotificationState
from tocsin.wire.recipients import ChannelChoice, Recipient, RecipientRequest

P1_AND_P2 = (LaneName.P1, LaneName.P2)
DOWN = StorageUnavailableError("down")


async def test_recipients_are_looked_up_once_for_a_batch_and_attached() -> None:
    profiles = MemoryProfiles(recipient("a"))
    batch = [delivery(to="a"), delivery(to="b"), delivery(to="a")]
    await Preferences(profiles, LaneName.P2)(batch, START)
    assert profiles.looks == [["a", "b"]]
    assert [one.recipient for one in batch] == [profiles.kept["a"], None, profiles.kept["a"]]
    assert {one.state for one in batch} == {NotificationState.ACCEPTED}


async def test_what_somebody_changed_holds_from_the_next_batch_on() -> None:
    profiles = MemoryProfiles()
    stage = Preferences(profiles, LaneName.P2)
    before, after = delivery(), delivery()
    await stage([before], START)
    await profiles.put(recipient("r", RecipientRequest(muted_types=("reminder",))))
    await stage([after], START)
    assert (before.state, after.state) == (NotificationState.ACCEPTED, NotificationState.SUPPRESSED)


@pytest.mark.parametrize("lane", P1_AND_P2)
@pytest.mark.parametrize(
    "wish",
    [
        RecipientRequest(muted_types=("other", "reminder")),
        RecipientRequest(muted_types=("WEATHER",)),
        RecipientRequest(muted_sources=("Garden",)),
    ],
)
async def test_a_muted_type_alert_type_or_source_is_suppressed(
    lane: LaneName, wish: RecipientRequest
) -> None:
    one = delivery(alert_type="weather", source="garden")
    await Preferences(MemoryProfiles(recipient("r", wish)), lane)([one], START + 1)
    assert (one.state, one.reason) == (NotificationState.SUPPRESSED, OutcomeReason.MUTED)
    assert one.decided_at == START + 1


async def test_a_type_is_muted_as_a_whole_and_a_source_is_no_type() -> None:
    wish = RecipientRequest(muted_types=("remind", "s", ""), muted_sources=("reminder",))
    one = delivery(alert_type="x")
    await Preferences(MemoryProfiles(recipient("r", wish)), LaneName.P2)([one], START)
    assert one.state is NotificationState.ACCEPTED


async def test_a_p0_is_never_muted_but_goes_where_it_is_wanted() -> None:
    wish = RecipientRequest(
        muted_types=("emergency",),
        muted_sources=("s",),
        channels=ChannelChoice(p0=("webhook", "log")),
        webhook_url="https://a.example/x",
    )
    one = delivery(type_="emergency")
    await Preferences(MemoryProfiles(recipient("r", wish)), LaneName.P0)([one], START)
    assert one.state is NotificationState.ACCEPTED
    assert one.notification.channels == ("webhook", "log")
    assert one.notification.webhook_url == "https://a.example/x"


async def test_a_muted_one_keeps_what_was_tried_before() -> None:
    tried = (Attempt(START, "log", ok=False, reason="target_error"),)
    one = delivery(attempts=tried)
    wish = RecipientRequest(muted_sources=("s",))
    await Preferences(MemoryProfiles(recipient("r", wish)), LaneName.P1)([one], START)
    assert one.attempts == tried


def choice(lane: LaneName, *channels: str, webhook_url: str | None = None) -> Recipient:
    chosen = msgspec.convert({lane.value: channels}, ChannelChoice)
    return recipient("r", RecipientRequest(channels=chosen, webhook_url=webhook_url))


async def test_the_choice_of_a_lane_is_for_that_lane_and_what_was_sent_is_kept() -> None:
    one, other = delivery(), delivery()
    profiles = MemoryProfiles(choice(LaneName.P2, "webhook"))
    await Preferences(profiles, LaneName.P2)([one], START)
    await Preferences(profiles, LaneName.P1)([other], START)
    assert (one.notification.channels, other.notification.channels) == (("webhook",), ("log",))
    assert one.envelope.notification.channels == ("log",)


def test_a_choice_twice_is_once_and_no_change_is_none() -> None:
    sent = delivery().notification
    assert as_wanted(sent, choice(LaneName.P2), LaneName.P2) is None
    assert as_wanted(sent, choice(LaneName.P2, "log"), LaneName.P2) is None
    twice = as_wanted(sent, choice(LaneName.P2, "webhook", "log", "webhook"), LaneName.P2)
    assert twice is not None
    assert twice.channels == ("webhook", "log")


def test_the_senders_webhook_goes_before_the_recipients() -> None:
    known = choice(LaneName.P2, webhook_url="https://theirs.example/")
    named = delivery(webhook_url="https://sent.example/").notification
    assert as_wanted(named, known, LaneName.P2) is None
    bare = as_wanted(delivery().notification, known, LaneName.P2)
    assert bare is not None
    assert bare.webhook_url == "https://theirs.example/"


# --------------------------------------------------------------------------- without the store


@pytest.mark.parametrize("lane", P1_AND_P2)
async def test_without_the_store_p1_and_p2_wait(lane: LaneName) -> None:
    profiles = MemoryProfiles()
    profiles.fault = DOWN
    one = delivery()
    with pytest.raises(StorageUnavailableError):
        await Preferences(profiles, lane)([one], START)
    assert one.state is NotificationState.ACCEPTED


async def test_without_the_store_a_p0_goes_out_as_it_was_sent_and_is_counted() -> None:
    profiles = MemoryProfiles(choice(LaneName.P0, "webhook"))
    profiles.fault = DOWN
    stage = Preferences(profiles, LaneName.P0)
    one = delivery()
    await stage([one], START)
    assert one.state is NotificationState.ACCEPTED
    assert (one.recipient, one.notification.channels, stage.lookups_failed) == (None, ("log",), 1)


class Silent(MemoryProfiles):
    """A store that never answers."""

    async def get_many(self, recipient_ids: Sequence[str]) -> list[Recipient | None]:
        await asyncio.Event().wait()
        return await super().get_many(recipient_ids)


async def test_a_p0_waits_for_a_silent_store_no_longer_than_its_deadline() -> None:
    stage = Preferences(Silent(), LaneName.P0, p0_deadline_s=0.01)
    one = delivery()
    await stage([one], START)
    assert (one.state, stage.lookups_failed) == (NotificationState.ACCEPTED, 1)
