from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from tests.support import Webhook, eventually
from tocsin import Client
from tocsin.errors import NotFoundError
from tocsin.settings import Settings
from tocsin.wire.notifications import NotificationState

pytestmark = pytest.mark.integration

TOCSIN = Path(sys.executable).with_name("tocsin")


def kill(client: Client, webhook: Webhook, source: str, number: int, path: str = "/fail/410") -> list[str]:
    """Notifications of one source that a webhook refuses; returns their ids once they are dead."""
    answer = client.send_many(
        {
            "type": "reminder", "title": f"Refused {n}", "recipient": f"r{n}", "source": source,
            "channels": ["webhook"], "webhook_url": f"{webhook.url}{path}/{source}",
        }
        for n in range(number)
    )  # fmt: skip
    ids = [receipt.id for receipt in answer.receipts]
    eventually(
        lambda: len(client.dead_letters("p2", limit=500, source=source).items) == number, what="all are dead"
    )
    return ids


def tocsin(settings: Settings, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(TOCSIN), *arguments], capture_output=True, text=True, timeout=120, check=False,
        env=os.environ | settings.to_env(),
    )  # fmt: skip


def test_letters_are_found_page_by_page(client: Client, webhook: Webhook) -> None:
    dead = kill(client, webhook, "dl-pages", 7)
    seen: list[str] = []
    cursor = ""
    while True:
        page = client.dead_letters("p2", limit=3, cursor=cursor, source="dl-pages")
        seen += [letter.id for letter in page.items]
        cursor = page.cursor
        if not cursor:
            break
    assert sorted(seen) == sorted(dead)
    assert client.dead_letters(source="dl-pages", recipient="r3").items[0].notification.title == "Refused 3"
    assert client.dead_letters(source="dl-pages", text="no such error").items == []


def test_many_are_replayed_and_die_again_with_their_replays_counted(client: Client, webhook: Webhook) -> None:
    dead = kill(client, webhook, "dl-replay", 12)
    dry = client.replay_many(source="dl-replay", dry_run=True)
    assert sorted(dry.ids) == sorted(dead)
    done = client.replay_many(source="dl-replay", rate=200.0)
    assert (sorted(done.ids), done.gone, done.remaining) == (sorted(dead), 0, 0)

    def all_again() -> bool:
        items = client.dead_letters(limit=500, source="dl-replay").items
        return len(items) == 12 and all((one.replays, one.attempt_count) == (1, 2) for one in items)

    eventually(all_again, what="dead again")


def test_letters_are_purged_one_by_one_and_by_filter(client: Client, webhook: Webhook) -> None:
    dead = kill(client, webhook, "dl-purge", 4)
    assert client.purge(dead[0]).purged
    with pytest.raises(NotFoundError):
        client.purge(dead[0])
    assert len(client.purge_many(source="dl-purge", dry_run=True).ids) == 3
    assert sorted(client.purge_many(source="dl-purge").ids) == sorted(dead[1:])
    assert client.dead_letters(source="dl-purge").items == []
    assert client.status(dead[0]).state is NotificationState.DEAD


def test_the_person_on_call_does_it_all_from_the_command_line(
    settings: Settings, client: Client, webhook: Webhook
) -> None:
    dead = kill(client, webhook, "dl-cli", 3, path="/fail/404")
    listed = tocsin(settings, "dlq", "list", "--source", "dl-cli", "--text", "404")
    assert listed.returncode == 0, listed.stderr
    assert all(one in listed.stdout for one in dead)
    assert max(map(len, listed.stdout.splitlines())) <= 80
    dry = tocsin(settings, "dlq", "replay", "--source", "dl-cli", "--dry-run", "--json")
    assert sorted(msgspec.json.decode(dry.stdout)["ids"]) == sorted(dead)
    done = tocsin(settings, "dlq", "replay", "--source", "dl-cli", "--rate", "50")
    assert "3 replayed" in done.stdout, done.stderr
    eventually(
        lambda: [one.replays for one in client.dead_letters(source="dl-cli").items] == [1, 1, 1],
        what="dead again",
    )
    kept = tocsin(settings, "dlq", "purge", "--source", "dl-cli")
    assert "nothing was deleted" in kept.stdout
    assert len(client.dead_letters(source="dl-cli").items) == 3
    gone = tocsin(settings, "dlq", "purge", "--source", "dl-cli", "--yes")
    assert "3 purged" in gone.stdout
    assert client.dead_letters(source="dl-cli").items == []
