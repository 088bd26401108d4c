"""Providers that fail, hang and recover, and who is told then: over real HTTP, on the real platform.

Each target is a server of its own, as its breaker is.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support import Webhook, eventually
from tocsin import Client
from tocsin.settings import Settings
from tocsin.wire.notifications import NotificationState

pytestmark = pytest.mark.integration


@pytest.fixture
def target() -> Iterator[Webhook]:
    with Webhook() as server:
        yield server


def test_a_failing_target_is_left_alone_and_delivered_to_once_it_is_well(
    client: Client, target: Webhook, settings: Settings
) -> None:
    receipt = client.send(
        type="emergency", title="Down", recipient="w", channels=["webhook"],
        webhook_url=f"{target.url}/flaky/4",
    )  # fmt: skip
    eventually(lambda: client.status(receipt.id).reason == "breaker_open", what="its breaker is open")
    parked = client.status(receipt.id)
    assert len(parked.attempts) == 4  # no attempt is burned while nobody is asked
    assert parked.timeline[-1].event == "parked"
    other = client.send(
        type="emergency", title="Elsewhere", recipient="w", channels=["webhook"],
    )  # fmt: skip
    assert client.wait(other.id, timeout_s=10).state is NotificationState.DELIVERED
    status = client.wait(receipt.id, timeout_s=60)
    assert (status.state, len(status.attempts)) == (NotificationState.DELIVERED, 5)
    assert len(target.bodies("/flaky/4")) == 5


def test_what_hangs_delays_nobody_and_is_told_once(client: Client, target: Webhook) -> None:
    slow = [
        client.send(
            type="emergency", title="Slow", recipient=f"w{i}", channels=["webhook"],
            webhook_url=f"{target.url}/slow/0.7/{i}",
        )
        for i in range(8)
    ]  # fmt: skip
    quick = client.send(type="emergency", title="Quick", recipient="w0")
    assert client.wait(quick.id, timeout_s=20).state is NotificationState.DELIVERED
    for number, receipt in enumerate(slow):
        status = client.wait(receipt.id, timeout_s=20)
        assert status.state is NotificationState.DELIVERED
        assert len(target.bodies(f"/slow/0.7/{number}")) == len(status.attempts) == 1


def test_a_call_that_takes_too_long_is_a_failed_attempt(client: Client, target: Webhook) -> None:
    receipt = client.send(
        type="emergency", title="Slow", recipient="w", channels=["webhook"], webhook_url=f"{target.url}/slow/5",
    )  # fmt: skip
    attempts = eventually(lambda: client.status(receipt.id).attempts, what="a timed-out attempt")
    assert attempts[0].reason == "timeout"


def test_the_next_provider_of_a_channel_delivers_to_the_recipients_address(
    client: Client, webhook: Webhook
) -> None:
    client.set_recipient("texted", channels={"p1": ["sms"]}, targets={"sms": "+4930123"})
    receipt = client.send(type="device_alert", alert_type="low_battery", title="Battery", recipient="texted")
    status = client.wait(receipt.id, timeout_s=20)
    assert status.state is NotificationState.DELIVERED
    assert [(a.channel, a.provider, a.ok) for a in status.attempts] == [
        ("sms", "sms", False),
        ("sms", "sms-2", True),
    ]
    (body,) = webhook.bodies("/ok/sms/+4930123")
    assert body["title"] == "Battery"


def test_a_p0_that_gets_through_nowhere_goes_to_other_channels_and_then_to_contacts(
    client: Client, webhook: Webhook, target: Webhook
) -> None:
    client.set_recipient("next-door", channels={"p0": ["webhook"]}, webhook_url=f"{target.url}/ok/next-door")
    client.set_recipient(
        "resident",
        targets={"email": "resident@home.example"},
        fallback_contacts=["next-door"],
    )
    receipt = client.send(
        type="emergency", alert_type="smoke", title="Smoke", recipient="resident", channels=["webhook"],
        webhook_url=f"{target.url}/fail/410",
    )  # fmt: skip
    status = client.wait(receipt.id, timeout_s=20)
    assert (status.state, status.reason) == (NotificationState.DELIVERED, "fallback")
    assert [(a.channel, a.ok, a.recipient) for a in status.attempts] == [
        ("webhook", False, ""),
        ("email", False, ""),
        ("webhook", True, "next-door"),
    ]
    (body,) = target.bodies("/ok/next-door")
    assert (body["recipient"], body["title"]) == ("next-door", "[for resident] Smoke")


def test_a_p0_by_account_alone_is_also_told_to_the_operators_webhook(
    client: Client, webhook: Webhook
) -> None:
    client.set_recipient("alone", targets={"sms": "+4930999"})
    receipt = client.send(
        type="emergency", alert_type="smoke", title="Alone", recipient="alone", channels=["sms"]
    )
    status = client.wait(receipt.id, timeout_s=20)
    assert status.state is NotificationState.DELIVERED
    assert {a.channel for a in status.attempts if a.ok} == {"sms", "webhook"}
    assert any(body["id"] == receipt.id for body in webhook.bodies("/default"))


def test_the_breakers_show_in_the_status(client: Client, settings: Settings) -> None:
    """After the tests above: the first sms account fails whoever is texted."""
    from launch.local_client import fetch

    for number in range(4):
        receipt = client.send(
            type="emergency", title="Again", recipient="texted", channels=["sms"], dedup_key=f"again-{number}"
        )
        client.wait(receipt.id, timeout_s=20)

    def opened() -> bool:
        found = {one["name"]: one for one in fetch(settings)["breakers"]}
        return "p0:sms" in found and found["p0:sms"]["state"] != "closed"

    eventually(opened, what="the breaker of the first account is open")
