"""HAProxy is killed: somebody else serves until Ray has started another one, and no sender is told a final "no"."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections import Counter

import httpx2
import psutil
import pytest

from launch.edge.wrapper import stand_in_socket
from tests.contract.launch.conftest import Edge
from tests.support import eventually

AWAY_S = 5.0  # the longest nobody may answer
MANAGER = "import subprocess, sys, time; subprocess.Popen(sys.argv[1:]); time.sleep(600)"


class Sender:
    """Sends without pause and without trying again; keeps what it got, and the longest time without an answer."""

    def __init__(self, edge: Edge) -> None:
        self.seen: Counter[int] = Counter()
        self.longest_s = 0.0
        self._url = edge.url + "/v1/notifications"
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._send)
        self._thread.start()

    def _send(self) -> None:
        answered = time.monotonic()
        while not self._end.wait(0.01):
            try:
                status = httpx2.post(self._url, json={}, timeout=5).status_code
            except httpx2.RequestError:
                continue
            now = time.monotonic()
            self.longest_s = max(self.longest_s, now - answered)
            answered = now
            self.seen[status] += 1

    def end(self) -> None:
        self._end.set()
        self._thread.join()


def test_a_stand_in_serves_until_the_next_haproxy_which_begins_with_its_routes(edge: Edge) -> None:
    replica = edge.replica()
    edge.write(notifications=[replica], operations=[replica])
    first = edge.as_ray_does()
    sender = Sender(edge)
    eventually(lambda: sender.seen[200] > 20, what="answers")
    first.kill()
    stand_in = eventually(edge.stand_in, what="a stand-in")
    before = sender.seen[200]
    eventually(lambda: sender.seen[200] > before + 20, what="answers by the stand-in")
    edge.write()  # as Ray's next manager does: no routes yet
    edge.as_ray_does()
    eventually(lambda: not stand_in.is_running(), what="the end of the stand-in")
    before = sender.seen[200]
    eventually(lambda: sender.seen[200] > before + 20, what="answers by the next")
    sender.end()
    assert set(sender.seen) == {200}
    assert sender.longest_s < AWAY_S


def test_a_reload_needs_no_stand_in(edge: Edge) -> None:
    replica = edge.replica()
    edge.write(notifications=[replica])
    first = edge.as_ray_does()
    sender = Sender(edge)
    edge.write(notifications=[replica], operations=[replica])
    edge.as_ray_does("-sf", str(first.pid), "-x", edge.cfg.socket_path)
    first.wait(timeout=20)
    eventually(lambda: len(edge.watchers()) == 1, what="the end of the first watcher")
    assert edge.stand_in() is None
    assert edge.get("/healthz").status_code == 200
    sender.end()
    assert set(sender.seen) == {200}


def test_routes_of_before_are_not_kept_where_nobody_served_them_meanwhile(edge: Edge) -> None:
    edge.write(notifications=[edge.replica()])
    first = edge.as_ray_does()
    kept = edge.config.read_text()
    edge.config.unlink()  # stopped in order
    first.kill()
    first.wait()
    eventually(lambda: not edge.watchers(), what="the end of the watcher")
    edge.config.write_text(kept)
    edge.write()
    edge.as_ray_does()
    assert edge.post("/v1/notifications", json={}).status_code == 503


def test_an_haproxy_whose_manager_was_killed_is_taken_over(edge: Edge) -> None:
    replica = edge.replica()
    edge.write(notifications=[replica])
    first = edge.as_ray_does()
    edge.write()
    edge.as_ray_does()  # nobody told it of the first
    first.wait(timeout=20)
    assert edge.post("/v1/notifications", json={}).status_code == 200


def test_the_stand_ins_socket_fits_where_rays_does(edge: Edge) -> None:
    """Ray puts a node's id of 56 characters into the path; a longer name would be refused when it is needed."""
    edge.write()
    ours = stand_in_socket(edge.config.read_text())
    assert len(ours) <= len(edge.cfg.socket_path)
    assert ours != edge.cfg.socket_path


@pytest.mark.parametrize("stopped", ["before", "after"])
def test_where_the_node_stops_nobody_stands_in(edge: Edge, stopped: str) -> None:
    edge.write(notifications=[edge.replica()])
    command = [str(edge.program), "-db", "-f", str(edge.config), "-dR"]
    raylet = subprocess.Popen([sys.executable, "-c", MANAGER, sys.executable, "-c", MANAGER, *command])
    try:
        eventually(lambda: edge.get("/-/healthz").status_code == 200, what="HAProxy")
        watchers = eventually(edge.watchers, what="the watcher")
        manager, haproxy = psutil.Process(raylet.pid).children(recursive=True)
        if stopped == "before":
            raylet.kill()
            raylet.wait()
            manager.kill()
            haproxy.kill()
        else:
            haproxy.send_signal(signal.SIGKILL)
            eventually(edge.stand_in, what="a stand-in")
            raylet.kill()
            raylet.wait()
            manager.kill()
        eventually(lambda: not any(one.is_running() for one in watchers), what="the end of the watcher")
        assert edge.stand_in() is None
        with pytest.raises(httpx2.ConnectError):
            edge.get("/-/healthz")
    finally:
        raylet.kill()
        raylet.wait()
