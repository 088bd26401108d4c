from __future__ import annotations

from pathlib import Path

import pytest

from routing.channels.configured import check_accounts, configured_channels
from routing.channels.provided import ProvidedChannel
from tests.fakes import START, Item, ManualClock
from tocsin.errors import ConfigurationError
from tocsin.resilience.breakers import OpenDoor
from tocsin.settings import Settings
from tocsin.wire.lanes import LaneName
from tocsin.wire.notifications import Notification


def settings(folder: Path, **changes: str) -> Settings:
    return Settings.from_env(
        {"TOCSIN_DATA_DIR": str(folder)} | {f"TOCSIN_{k.upper()}": v for k, v in changes.items()}
    )


async def test_a_channel_without_an_account_is_not_there(tmp_path: Path, clock: ManualClock) -> None:
    given = settings(
        tmp_path,
        sms_providers="json://a.example/{target} json://b.example/{target}",
        webhook_url="https://a https://b",
    )
    found = configured_channels(given, LaneName.P2, "router-p2-0", clock, OpenDoor())
    assert sorted(found) == ["log", "sink", "sms", "webhook"]
    sms, webhook = found["sms"], found["webhook"]
    assert isinstance(sms, ProvidedChannel)
    assert isinstance(webhook, ProvidedChannel)
    assert [one.name for one in sms._providers] == ["sms", "sms-2"]
    own = Notification("a", "t", "r", "", "", "", "s", ("webhook",), "https://x", 0.0, "", {}, START)
    plain = Notification("a", "t", "r", "", "", "", "s", ("webhook",), "", 0.0, "", {}, START)
    items = [Item("1", own), Item("2", plain)]
    assert [list(map(list, one.calls(items))) for one in webhook._providers] == [[[0], [1]], [[1]]]
    for channel in found.values():
        await channel.close()


def test_a_providers_url_is_checked_before_anything_starts(tmp_path: Path) -> None:
    check_accounts(settings(tmp_path, chat_providers="json://a.example/room"))
    with pytest.raises(ConfigurationError, match="TOCSIN_CHAT_PROVIDERS"):
        check_accounts(settings(tmp_path, chat_providers="json://a.example/room nosuch://s3cret"))
