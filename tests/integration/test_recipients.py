"""Recipients on the whole platform: over HTTP, by the client, by the command line, in what is delivered."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import pytest

from tests.support import Webhook
from tocsin import Client
from tocsin.errors import InvalidRecordError, NotFoundError
from tocsin.settings import Settings
from tocsin.wire.notifications import NotificationState, NotificationStatus

pytestmark = pytest.mark.integration

TOCSIN = Path(sys.executable).with_name("tocsin")


def tocsin(settings: Settings, *arguments: str, fails: bool = False) -> str:
    done = subprocess.run(
        [str(TOCSIN), "recipient", *arguments], capture_output=True, text=True, timeout=60, check=False,
        env=os.environ | settings.to_env(),
    )  # fmt: skip
    assert (done.returncode != 0) is fails, done.stdout + done.stderr
    return done.stderr if fails else done.stdout


def send(client: Client, to: str, **fields: Any) -> NotificationStatus:
    return client.wait(client.send(**{"type": "reminder", "title": "t", "recipient": to} | fields).id)


def around_now() -> dict[str, str]:
    """Quiet hours that last at least until in an hour, by the clock in UTC."""
    now = datetime.now(UTC)
    return {
        "start": f"{now - timedelta(hours=1):%H:%M}",
        "end": f"{now + timedelta(hours=2):%H:%M}",
        "timezone": "UTC",
    }


def test_a_mute_holds_at_once_and_ends_with_the_record(client: Client) -> None:
    client.set_recipient("muter", muted_types=["reminder"])
    muted = send(client, "muter")
    assert (muted.state, muted.reason) == (NotificationState.SUPPRESSED, "muted")
    assert send(client, "muter", type="emergency").state is NotificationState.DELIVERED
    assert client.remove_recipient("muter").removed
    assert send(client, "muter").state is NotificationState.DELIVERED
    with pytest.raises(NotFoundError):
        client.recipient("muter")


def test_it_goes_where_its_recipient_wants_it(client: Client, webhook: Webhook) -> None:
    url = f"{webhook.url}/ok/recipient"
    client.set_recipient("mover", channels={"p0": ["webhook"], "p2": ["webhook"]}, webhook_url=url)
    for kind in ("reminder", "emergency"):
        status = send(client, "mover", type=kind)
        assert [(attempt.channel, attempt.ok) for attempt in status.attempts] == [("webhook", True)]
    assert len(webhook.bodies("/ok/recipient")) == 2


def test_no_more_an_hour_than_is_wanted(client: Client) -> None:
    client.set_recipient("rare", max_per_hour=2)
    states = [send(client, "rare").state for _ in range(3)]
    assert states == [NotificationState.DELIVERED, NotificationState.DELIVERED, NotificationState.SUPPRESSED]
    assert send(client, "rare", type="emergency").state is NotificationState.DELIVERED


def test_quiet_hours_put_off_what_may_wait(client: Client) -> None:
    client.set_recipient("sleeper", quiet_hours=around_now())
    expires_at = datetime.now(UTC) + timedelta(seconds=2)
    waits = client.send(type="reminder", title="t", recipient="sleeper")
    assert send(client, "sleeper", type="emergency").state is NotificationState.DELIVERED
    stale = send(client, "sleeper", expires_at=expires_at)
    assert (stale.state, stale.attempts) == (NotificationState.EXPIRED, [])
    status = client.status(waits.id)
    assert (status.state, status.reason, status.attempts) == (NotificationState.RETRYING, "quiet_hours", [])


def test_a_timezone_nobody_knows_is_refused(client: Client) -> None:
    with pytest.raises(InvalidRecordError) as caught:
        client.set_recipient("r", quiet_hours={"start": "22:00", "end": "07:00", "timezone": "Mars/Olympus"})
    assert caught.value.field == "quiet_hours.timezone"


def test_it_is_documented_as_it_answers(settings: Settings) -> None:
    paths = httpx2.get(f"{settings.base_url}/openapi.json").json()["paths"]
    assert paths["/v1/recipients"].keys() == {"get"}
    assert paths["/v1/recipients/{recipient_id}"].keys() == {"get", "put", "delete"}


def test_the_command_line_changes_what_it_names_and_nothing_else(
    settings: Settings, client: Client, tmp_path: Path
) -> None:
    shown = tocsin(
        settings, "set", "cli/1", "--quiet", "22:00-07:00", "--timezone", "Europe/Berlin", "--mute", "weather",
        "--mute", "news", "--throttle", "5", "--channel", "p2=log", "--target", "sms=+49151",
    )  # fmt: skip
    assert "22:00-07:00 Europe/Berlin" in shown
    assert "+49" not in shown
    changed = msgspec.json.decode(tocsin(settings, "set", "cli/1", "--throttle", "0", "--json"))
    assert (changed["max_per_hour"], changed["muted_types"]) == (None, ["weather", "news"])
    assert (changed["channels"]["p2"], changed["targets"]) == (["log"], {"sms": "***"})
    assert "cli/1" in tocsin(settings, "show", "cli/1")
    assert "cli/1" in tocsin(settings, "list", "--after", "cli")
    file = tmp_path / "wanted.json"
    file.write_text('{"max_per_hour": 9}', encoding="utf-8")
    tocsin(settings, "set", "cli/1", "--file", str(file), "--mute", "weather")
    kept = client.recipient("cli/1")
    assert (kept.max_per_hour, kept.muted_types, kept.quiet_hours) == (9, ("weather",), None)
    assert "Mars/Olympus" in tocsin(
        settings, "set", "cli/1", "--quiet", "22:00-07:00", "--timezone", "Mars/Olympus", fails=True
    )
    assert "forgotten" in tocsin(settings, "remove", "cli/1")
    assert "cli/1" in tocsin(settings, "show", "cli/1", fails=True)
