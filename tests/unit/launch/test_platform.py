from __future__ import annotations

import socket
from pathlib import Path

import msgspec
import pytest

from launch import ray_cluster
from launch.platform import Platform
from launch.storage import check_places
from tocsin.errors import ConfigurationError
from tocsin.settings import Settings


def test_a_block_of_ports_leaves_out_those_somebody_listens_on(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # as replicas do
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        taken = listener.getsockname()[1]
        start = taken - taken % 8
        monkeypatch.setattr(ray_cluster, "REPLICA_PORT_SPACE", (start, start + 8))
        with pytest.raises(ConfigurationError, match="free ports"):
            ray_cluster.port_block(8)


def test_a_block_of_ports_is_of_the_size_asked_for() -> None:
    assert len(ray_cluster.port_block(16)) == 16


@pytest.mark.parametrize("name", ["archive_uri", "models_url"])
@pytest.mark.parametrize("uri", ["gopher://key:hunter2@x/y", "s3://key:hunter2@bucket/x?foo=1", "s3://"])
def test_a_place_that_can_never_be_is_refused_before_anything_starts(name: str, uri: str) -> None:
    settings = msgspec.structs.replace(Settings.from_env({}), **{name: uri})
    with pytest.raises(ConfigurationError, match="is no place for") as caught:
        check_places(settings)
    assert "hunter2" not in caught.value.message


def test_a_place_that_does_not_answer_now_is_no_reason_not_to_start(tmp_path: Path) -> None:
    away = "s3://bucket/x?region=eu-west-1&endpoint_override=127.0.0.1:1&scheme=http"
    check_places(msgspec.structs.replace(Settings.from_env({}), archive_uri=away, models_url=away))
    check_places(msgspec.structs.replace(Settings.from_env({}), data_dir=str(tmp_path)))
    assert list(tmp_path.iterdir()) == []


def test_rules_that_cannot_be_used_are_refused_before_anything_starts(tmp_path: Path) -> None:
    path = tmp_path / "rules.toml"
    path.write_text('[[rule]]\nname = "lab"\n')
    settings = Settings.from_env({"TOCSIN_DATA_DIR": str(tmp_path), "TOCSIN_RULES": str(path)})
    with pytest.raises(ConfigurationError, match="rule 'lab'"):
        Platform(settings, lambda _part, _line: None)._check_rules()
