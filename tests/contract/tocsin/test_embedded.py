"""The embedded server over starts that go wrong: real processes, real files."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import redis

from tests.support import eventually
from tocsin.errors import StorageUnavailableError
from tocsin.storage import embedded, server_health
from tocsin.storage.embedded import EmbeddedServer, process_of, read_endpoint, storage_dir

KEYS = 6_000


@contextlib.contextmanager
def serving(data: Path, lines: list[str] | None = None) -> Iterator[redis.Redis]:
    said = [] if lines is None else lines
    server = EmbeddedServer(data, said.append)
    try:
        endpoint = server.start()
        with redis.Redis(port=endpoint.port, password=endpoint.password) as client:
            yield client
    finally:
        server.stop()


def process(data: Path) -> psutil.Process:
    endpoint = read_endpoint(data)
    assert endpoint is not None
    found = process_of(endpoint)
    assert found is not None
    return found


def servers_in(folder: Path) -> list[int]:
    """Every server on a folder, by its command line."""
    config = str(storage_dir(folder) / "valkey.conf")
    found = []
    for one in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if config in one.cmdline() or any(str(storage_dir(folder)) in part for part in [one.cwd()]):
                found.append(one.pid)
    return found


def test_a_server_that_loads_for_long_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(tmp_path) as client, client.pipeline(transaction=False) as pipe:
        for number in range(KEYS):
            pipe.set(f"k{number}", "x" * 100)
        pipe.execute()
    configuration = embedded._configuration

    def slowly(folder: Path, port: int, password: str, maxmemory_mib: int) -> bytes:
        return configuration(folder, port, password, maxmemory_mib) + b"key-load-delay 500\n"

    monkeypatch.setattr(embedded, "_configuration", slowly)
    monkeypatch.setattr(embedded, "START_DEADLINE_S", 1.0, raising=False)
    monkeypatch.setattr(server_health, "FIRST_ANSWER_S", 1.5)
    monkeypatch.setattr(server_health, "TELL_EVERY_S", 0.2)
    lines: list[str] = []
    with serving(tmp_path, lines) as client:
        assert client.dbsize() == KEYS
    assert any("loading its data" in line for line in lines), lines


def test_a_stopped_server_of_before_is_ended_and_never_joined(tmp_path: Path) -> None:
    """Its starter died while it was stopped: two servers on one file would lose what the first had acknowledged."""
    forgotten = EmbeddedServer(tmp_path)
    endpoint = forgotten.start()
    forgotten._stopping.set()  # nobody watches it any more
    with redis.Redis(port=endpoint.port, password=endpoint.password) as client:
        client.set("acknowledged", "1")
    old = process(tmp_path)
    old.suspend()
    with serving(tmp_path) as client:
        assert servers_in(tmp_path) == [process(tmp_path).pid]
        assert not old.is_running() or old.status() == psutil.STATUS_ZOMBIE
        client.bgrewriteaof()
        eventually(lambda: not client.info("persistence")["aof_rewrite_in_progress"], what="the rewrite")
        assert client.get("acknowledged") == b"1"
    with serving(tmp_path) as client:
        assert client.get("acknowledged") == b"1"


def test_a_server_is_ended_by_the_lock_it_keeps_where_its_endpoint_file_is_gone(tmp_path: Path) -> None:
    forgotten = EmbeddedServer(tmp_path)
    forgotten.start()
    forgotten._stopping.set()
    old = process(tmp_path)
    (storage_dir(tmp_path) / "endpoint.json").unlink()
    lines: list[str] = []
    with serving(tmp_path, lines):
        assert servers_in(tmp_path) == [process(tmp_path).pid]
    assert any(str(old.pid) in line for line in lines)


def test_a_running_server_of_before_is_adopted(tmp_path: Path) -> None:
    forgotten = EmbeddedServer(tmp_path)
    forgotten.start()
    forgotten._stopping.set()
    old = process(tmp_path)
    with serving(tmp_path):
        assert process(tmp_path).pid == old.pid


def test_a_damaged_file_is_named_and_can_be_repaired(tmp_path: Path) -> None:
    from tocsin.storage.repair import repair

    with serving(tmp_path) as client:
        client.set("before", "1")
        client.set("after", "1")
    (file,) = (storage_dir(tmp_path) / "appendonlydir").glob("*.incr.aof")
    content = file.read_bytes()
    place = content.index(b"after") - 17
    file.write_bytes(content[:place] + b"\x00garbage\x00" + content[place + 9 :] + content)
    with pytest.raises(StorageUnavailableError, match="is damaged") as caught, serving(tmp_path):
        pass
    assert "repair-storage" in caught.value.hint
    done = repair(tmp_path, "now")
    assert Path(done.copy).is_dir()
    assert done.bytes_after < done.bytes_before
    with serving(tmp_path) as client:
        assert client.get("before") == b"1"
