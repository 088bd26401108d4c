"""The only churn replica is stopped, HAProxy is killed: nobody waits for ever, and nobody is told a final "no"."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Iterator

import httpx2
import psutil
import pytest

from tests.support import eventually
from tocsin import Client
from tocsin.settings import Settings

pytestmark = [pytest.mark.integration, pytest.mark.chaos]

LONGEST_S = 4.5  # 3 s, and what a busy machine adds to the stopwatch
AWAY_S = 5.0


def replicas_of(name: str) -> list[psutil.Process]:
    """The processes of an application's replicas, as Ray names them."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if process.cmdline()[:1] and process.cmdline()[0].startswith(f"ray::ServeReplica:{name}:"):
                found.append(process)
    return found


def edges(settings: Settings) -> list[psutil.Process]:
    """Whoever listens on the platform's port."""
    found = []
    for connection in psutil.net_connections("tcp"):
        listens = connection.status == psutil.CONN_LISTEN and connection.pid
        if listens and tuple(connection.laddr)[1:] == (settings.port,):
            found.append(psutil.Process(connection.pid))
    return found


@contextlib.contextmanager
def stopped(processes: list[psutil.Process]) -> Iterator[None]:
    """Neither answering nor gone."""
    for process in processes:
        process.suspend()
    try:
        yield
    finally:
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()


def test_a_stopped_churn_replica_holds_nobody(settings: Settings, client: Client, trained: list[str]) -> None:
    replicas = replicas_of("churn")
    assert replicas
    seen: Counter[int] = Counter()
    longest_s = 0.0
    with stopped(replicas[:1]):
        for number in range(8):
            for path in (f"/v1/churn/{trained[number]}", f"/v1/insights/{trained[number + 20]}"):
                began = time.monotonic()
                answer = httpx2.get(settings.base_url + path, timeout=60)
                longest_s = max(longest_s, time.monotonic() - began)
                seen[answer.status_code] += 1
                if answer.status_code != 200:
                    assert answer.status_code in {503, 504}, answer.text
                    assert answer.headers["content-type"] == "application/problem+json"
                    assert "retry-after" in answer.headers
                elif "insights" in path and len(replicas) == 1:
                    assert answer.json()["degraded"] is True
    print("stopped replica: longest wait", round(longest_s, 2), dict(seen))  # noqa: T201
    assert longest_s < LONGEST_S
    eventually(lambda: client.churn(trained[0]).method == "model", timeout_s=90, what="a prediction again")


class Sender:
    """Sends notifications without trying again, and remembers what it was told."""

    def __init__(self, settings: Settings) -> None:
        self.seen: Counter[int] = Counter()
        self.longest_s = 0.0
        self._url = settings.base_url + "/v1/notifications"
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._send)
        self._thread.start()

    def _send(self) -> None:
        answered = time.monotonic()
        body = {"type": "reminder", "title": "Edge", "recipient": "edge", "source": "chaos"}
        while not self._end.wait(0.05):
            try:
                status = httpx2.post(self._url, json=body, timeout=10).status_code
            except httpx2.RequestError:
                continue
            now = time.monotonic()
            self.longest_s = max(self.longest_s, now - answered if status == 202 else 0.0)
            answered = now if status == 202 else answered
            self.seen[status] += 1

    def end(self) -> None:
        self._end.set()
        self._thread.join()


def test_a_killed_haproxy_is_back_within_seconds_and_says_no_404(settings: Settings, client: Client) -> None:
    before = edges(settings)
    assert before
    sender = Sender(settings)
    try:
        eventually(lambda: sender.seen[202] > 5, what="receipts")
        for process in before:
            process.kill()

        def ray_has_started_another() -> bool:
            now = edges(settings)
            return bool(now) and all("stand-in" not in " ".join(one.cmdline()) for one in now)

        eventually(ray_has_started_another, timeout_s=90, what="an HAProxy started by Ray")
        seen = sender.seen[202]
        eventually(lambda: sender.seen[202] > seen + 20, what="receipts as before")
    finally:
        sender.end()
    print("killed HAProxy: longest gap", round(sender.longest_s, 2), dict(sender.seen))  # noqa: T201
    assert set(sender.seen) == {202}
    assert sender.longest_s < AWAY_S
    assert httpx2.get(settings.base_url + "/-/routes").status_code == 404
    assert client.ready()
