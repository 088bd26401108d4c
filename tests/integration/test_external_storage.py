"""A server that is not ours: Debian's Redis 7.0, with TLS, a certificate of its own and an ACL user."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx2
import msgspec
import pytest
import redis
import trustme

from actors.members import PoolMember
from launch.assembly import host
from launch.platform import Platform
from launch.storage import prepare
from serve_deployments.notifications import Notifications
from tests.support import eventually, foreign_server, free_settings
from tocsin.errors import ConfigurationError, StorageUnavailableError
from tocsin.ports import free_port
from tocsin.settings import Settings
from tocsin.storage.connect import connect, inspect
from tocsin.wire.lanes import LaneName

pytestmark = pytest.mark.integration

USER, PASSWORD = "tocsin", "a-long-secret-of-the-user"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    binary = shutil.which("redis-server")
    if binary is None:
        pytest.skip("redis-server is not installed (Debian package redis-server)")
    folder = tmp_path_factory.mktemp("redis")
    port = free_port()
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    issued = authority.issue_cert("127.0.0.1")
    issued.private_key_and_cert_chain_pem.write_to_path(str(folder / "server.pem"))
    (folder / "users.acl").write_text(
        f"user default off\nuser {USER} on >{PASSWORD} ~tocsin* &* +@all -@dangerous +info\n",
        encoding="ascii",
    )
    (folder / "redis.conf").write_text(
        "\n".join(
            (
                "bind 127.0.0.1",
                "port 0",
                f"tls-port {port}",
                f"tls-cert-file {folder}/server.pem",
                f"tls-key-file {folder}/server.pem",
                f"tls-ca-cert-file {folder}/ca.pem",
                "tls-auth-clients no",
                f"aclfile {folder}/users.acl",
                "appendonly yes",
                f"dir {folder}",
            )
        ),
        encoding="ascii",
    )
    process = subprocess.Popen([binary, str(folder / "redis.conf")], stdout=subprocess.DEVNULL)
    url = f"rediss://{USER}:{PASSWORD}@127.0.0.1:{port}/0?ssl_ca_certs={folder}/ca.pem"
    try:
        with redis.Redis.from_url(url) as probe:
            eventually(probe.ping, what="redis-server")
        yield url
    finally:
        process.terminate()
        process.wait(timeout=10)


@pytest.fixture
def settings(server: str, tmp_path: Path) -> Settings:
    return msgspec.structs.replace(free_settings(tmp_path), redis_url=server)


async def test_a_server_that_hides_its_configuration_is_not_believed_to_sync_each_write(server: str) -> None:
    client = connect(server, timeout_s=3)
    facts = await inspect(client)
    await client.aclose()
    assert facts.flavour == "redis"
    assert facts.version.startswith("7.")
    assert facts.durability == "everysec"


async def test_a_notification_goes_through_tls_and_acl_to_its_end(settings: Settings) -> None:
    await prepare(settings)
    router = PoolMember("router-p0-0", LaneName.P0, settings, host)
    try:
        app = Notifications(settings).__serve_build_asgi_app__()
        transport = httpx2.ASGITransport(app=app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://tocsin.test") as http:
            answer = await http.post("/", json={"type": "emergency", "title": "Gas", "recipient": "flat-4"})
            assert answer.status_code == 202, answer.text
            receipt = answer.json()["receipts"][0]
            assert (receipt["lane"], receipt["durability"]) == ("p0", "everysec")
            log = settings.data_path / "deliveries" / "router-p0-0.jsonl"
            eventually(lambda: receipt["id"] in log.read_text(encoding="utf-8"), what="the delivery")
            seen = await http.get(f"/{receipt['id']}")
            assert seen.status_code == 200
    finally:
        assert router.stop()


def test_wrong_credentials_say_where_and_what_to_do(settings: Settings) -> None:
    wrong = msgspec.structs.replace(settings, redis_url=settings.redis_url.replace("secret", "guess"))
    with pytest.raises(
        StorageUnavailableError, match="cannot use the storage at rediss://\\*\\*\\*@"
    ) as caught:
        Platform(wrong, lambda _part, _line: None)._start_storage()
    assert "TOCSIN_REDIS_URL" in caught.value.hint
    assert "guess" not in str(caught.value)


def test_no_server_says_where_it_tried(tmp_path: Path) -> None:
    port = free_port()
    settings = msgspec.structs.replace(free_settings(tmp_path), redis_url=f"redis://127.0.0.1:{port}/0")
    with pytest.raises(StorageUnavailableError, match=f"127.0.0.1:{port}"):
        Platform(settings, lambda _part, _line: None)._start_storage()


@pytest.fixture
def evicting(tmp_path: Path) -> Iterator[str]:
    binary = shutil.which("redis-server")
    if binary is None:
        pytest.skip("redis-server is not installed (Debian package redis-server)")
    with foreign_server(binary, tmp_path, maxmemory_policy="allkeys-lru") as server:
        yield server.url


async def test_a_server_that_evicts_is_refused(evicting: str) -> None:
    client = connect(evicting, timeout_s=3)
    with pytest.raises(ConfigurationError, match="evicts"):
        await inspect(client)
    await client.aclose()
