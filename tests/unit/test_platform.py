from __future__ import annotations

import socket

import pytest

from tocsin.cli import platform
from tocsin.errors import ConfigurationError


def test_a_block_of_ports_leaves_out_those_somebody_listens_on(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # as replicas do
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        taken = listener.getsockname()[1]
        start = taken - taken % 8
        monkeypatch.setattr(platform, "REPLICA_PORT_SPACE", (start, start + 8))
        with pytest.raises(ConfigurationError, match="free ports"):
            platform.port_block(8)


def test_a_block_of_ports_is_of_the_size_asked_for() -> None:
    assert len(platform.port_block(16)) == 16
