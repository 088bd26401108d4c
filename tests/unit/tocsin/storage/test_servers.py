from __future__ import annotations

import msgspec
import pytest

from tocsin.errors import ConfigurationError
from tocsin.settings import Settings
from tocsin.storage.connect import resolve_url
from tocsin.storage.servers import Servers
from tocsin.wire.lanes import LaneName

MAIN, OWN = "redis://:hush@main:1/0", "rediss://u:hush@own:2/0"
REST = (LaneName.P1, LaneName.P2, LaneName.ACTIVITY)


def made(**urls: str) -> Settings:
    return msgspec.structs.replace(Settings.from_env({}), **urls)


def test_p0_is_where_everything_is_unless_it_has_a_server_of_its_own() -> None:
    shared, apart = made(redis_url=MAIN), made(redis_url=MAIN, redis_url_p0=OWN)
    assert {resolve_url(shared, lane) for lane in LaneName} == {resolve_url(shared)} == {MAIN}
    assert resolve_url(apart, LaneName.P0) == OWN
    assert {resolve_url(apart, lane) for lane in REST} == {resolve_url(apart)} == {MAIN}


async def test_lanes_on_one_server_share_its_client() -> None:
    for settings in (made(redis_url=MAIN), made(redis_url=MAIN, redis_url_p0=MAIN)):
        servers = Servers(settings, timeout_s=1.0)
        assert [(server.name, server.lanes) for server in servers.all] == [("main", tuple(LaneName))]
        assert {id(servers.of(lane)) for lane in LaneName} == {id(servers.main)}
        await servers.aclose()


async def test_a_lane_with_a_server_of_its_own_has_a_client_of_its_own() -> None:
    servers = Servers(made(redis_url=MAIN, redis_url_p0=OWN), timeout_s=1.0)
    assert [(one.name, one.lanes, one.address, one.setting) for one in servers.all] == [
        ("main", REST, "redis://***@main:1/0", "TOCSIN_REDIS_URL"),
        ("p0", (LaneName.P0,), "rediss://***@own:2/0", "TOCSIN_REDIS_URL_P0"),
    ]
    assert servers.of(LaneName.P0) is not servers.main
    assert {id(servers.of(lane)) for lane in REST} == {id(servers.main)}
    await servers.aclose()


def test_the_main_server_is_needed_all_the_same(tmp_path: object) -> None:
    with pytest.raises(ConfigurationError, match="TOCSIN_REDIS_URL is empty"):
        Servers(made(data_dir=str(tmp_path), redis_url_p0=OWN), timeout_s=1.0)
