"""One platform for all integration and chaos tests: real Valkey, real Ray, real Serve behind HAProxy."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from tests.paths import DATA
from tocsin import Client
from tocsin.settings import Settings

if TYPE_CHECKING:  # the unit tests load this file too, and need none of it
    from launch.platform import Platform
    from tests.support import Webhook

SIMULATION_END = 1_760_000_000.0 // 86_400 * 86_400


@pytest.fixture(scope="session")
def webhook() -> Iterator[Webhook]:
    from tests.support import Webhook

    with Webhook() as server:
        yield server


@pytest.fixture(scope="session")
def platform(tmp_path_factory: pytest.TempPathFactory, webhook: Webhook) -> Iterator[Platform]:
    from launch.platform import Platform
    from tests.support import free_settings

    before = dict(os.environ)
    accounts = webhook.url.replace("http:", "json:")  # as Apprise calls a server that takes JSON
    settings = msgspec.structs.replace(
        free_settings(tmp_path_factory.mktemp("platform")),
        as_of="latest",
        webhook_url=webhook.url + "/default",
        webhook_timeout_s=2.0,
        webhook_allow_private=True,
        sms_providers=f"{accounts}/fail/503 {accounts}/ok/sms/{{target}}",
        email_providers=f"{accounts}/fail/401",
    )
    lines: list[str] = []
    try:
        with Platform(settings, lambda part, line: lines.append(f"{part}: {line}")) as running:
            yield running
    finally:
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture(scope="session")
def settings(platform: Platform) -> Settings:
    return platform.settings


@pytest.fixture(scope="session")
def client(settings: Settings) -> Iterator[Client]:
    with Client(settings.base_url, timeout_s=15.0) as made:
        yield made


@pytest.fixture(scope="session")
def trained(settings: Settings, client: Client) -> list[str]:
    """Advertisers with history and a champion that serves them; returns their ids."""
    from features.simulator import simulate
    from launch.file_import import request_of
    from launch.local_client import await_lane
    from launch.training import train
    from tests.support import eventually

    simulation = simulate(advertisers=150, weeks=50, seed=11, end=SIMULATION_END)
    answer = client.send_activity([request_of(activity) for activity in simulation.activities])
    assert answer.rejected == 0
    await_lane(settings, "activity")
    train(settings, promote=True)
    ids = sorted({activity.advertiser_id for activity in simulation.activities})
    eventually(lambda: client.churn(ids[0]).method == "model", what="a prediction by the champion")
    return ids


@pytest.fixture(scope="session")
def shared_data() -> Path:
    folder = DATA
    if not folder.is_dir():
        pytest.skip("the folder ../shared/data with real data is not here")
    return folder
