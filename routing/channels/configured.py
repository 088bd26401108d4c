"""The channels that the settings describe."""

from __future__ import annotations

from routing.channels import Channel
from routing.channels.apprise import AppriseProvider
from routing.channels.log import LogChannel
from routing.channels.provided import ProvidedChannel
from routing.channels.sink import SinkChannel
from routing.channels.webhook import WebhookPolicy, WebhookProvider
from tocsin.clock import Clock
from tocsin.resilience.breakers import BreakerGuard
from tocsin.settings import ACCOUNT_CHANNELS, Settings
from tocsin.wire.lanes import LaneName

# How long a notification is parked that found every slot of a provider taken. Each is retried alone, at full cost.
BUSY_RETRY_S = {LaneName.P0: 0.5, LaneName.P1: 2.0, LaneName.P2: 5.0}
# For how long at most a target's `Retry-After` is heeded: an alarm does not wait a quarter of an hour to ask again.
MAX_RETRY_AFTER_S = {LaneName.P0: 60.0, LaneName.P1: 900.0, LaneName.P2: 900.0}


def configured_channels(
    settings: Settings, lane: LaneName, member: str, clock: Clock, guard: BreakerGuard
) -> dict[str, Channel]:
    """Every channel of a router, by name. A channel without an account is left out.

    Args:
        settings: Targets and accounts.
        lane: Whose router it is.
        member: The router's name: its `log` channel has a file of its own.
        clock: Time.
        guard: The providers' breakers.

    Raises:
        ConfigurationError: a secret or a provider's URL cannot be used.
    """
    channels: dict[str, Channel] = {
        "log": LogChannel(settings.data_path / "deliveries" / f"{member}.jsonl", clock),
        "sink": SinkChannel(clock),
        "webhook": ProvidedChannel(
            "webhook", _webhooks(settings, lane, clock), guard, clock, busy_retry_s=BUSY_RETRY_S[lane]
        ),
    }
    for name in ACCOUNT_CHANNELS:
        if providers := _accounts(settings, name):
            channels[name] = ProvidedChannel(name, providers, guard, clock, busy_retry_s=BUSY_RETRY_S[lane])
    return channels


def check_accounts(settings: Settings) -> None:
    """Whether every provider's URL can be used; nobody is called.

    Raises:
        ConfigurationError: one cannot; names its setting, not the URL.
    """
    for name in ACCOUNT_CHANNELS:
        _accounts(settings, name)


def _accounts(settings: Settings, channel: str) -> list[AppriseProvider]:
    return [
        AppriseProvider(channel, url, name=numbered(channel, number))
        for number, url in enumerate(settings.providers(channel), start=1)
    ]


def _webhooks(settings: Settings, lane: LaneName, clock: Clock) -> list[WebhookProvider]:
    """One for each target of the operator's; the first also calls those that notifications name."""
    return [
        WebhookProvider(
            WebhookPolicy(
                url=url,
                serves_named=number == 1,
                timeout_s=settings.webhook_timeout_s,
                allow_private=settings.webhook_allow_private,
                secret=settings.webhook_secret,
                batch_records=settings.webhook_batch if lane is LaneName.P2 else 0,
                max_retry_after_s=MAX_RETRY_AFTER_S[lane],
            ),
            clock,
            name=numbered("webhook", number),
        )
        for number, url in enumerate(settings.providers("webhook") or [""], start=1)
    ]


def numbered(channel: str, number: int) -> str:
    """The name of a channel's n-th provider: `sms`, `sms-2`, …"""
    return channel if number == 1 else f"{channel}-{number}"
