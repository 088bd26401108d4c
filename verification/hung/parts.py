"""The parts of a run: each breaks one thing under load, measures, and lets the platform mend itself.

A part returns figures; None for what did not happen within its time. `verification.hung.bounds` judges them.
"""

from __future__ import annotations

import contextlib
import resource
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import psutil

from benchmarks.harness.run import say
from verification.hung.load import Load
from verification.hung.platform import Platform, stopped

WARM_S = 3.0
STOPPED_S = 30.0
CHURN_S = 15.0
CHURN_CALLERS = 4
CALLER_TIMEOUT_S = 30.0
EDGE_S = 60.0
EDGE_EVERY_S = 0.05
EDGE_STEADY_S = 3.0
RAY_S = 120.0
HALF_OPEN = 4200
HALF_OPEN_S = 15.0
SETTLE_S = 60.0  # for `/readyz` after a part
ADVERTISER = "verified"

Part = Callable[[Platform], dict[str, Any]]


def load_of(platform: Platform) -> Load:
    """The steady sender of a platform."""
    return Load(platform.settings.base_url, platform.settings.data_path / "deliveries")


def routers(platform: Platform) -> dict[str, Any]:
    """All pool members are stopped for 30 s; those that are still there then go on."""
    members = platform.members()
    if not members:
        raise RuntimeError("no pool member was found")
    with load_of(platform) as load:
        time.sleep(WARM_S)
        figures = _watch_stopped(platform, load, members)
    figures |= {"members": len(members), "ready_again_s": platform.await_ready(SETTLE_S)}
    return figures | _counts(load)


def _watch_stopped(platform: Platform, load: Load, members: Sequence[psutil.Process]) -> dict[str, Any]:
    found: dict[str, float | None] = dict.fromkeys(
        ("readyz_red_s", "detected_s", "all_gone_s", "replaced_s", "rest_s")
    )
    with stopped(members):
        at, began = time.time(), time.monotonic()

        def mark(name: str, happened: Callable[[], bool]) -> None:
            if found[name] is None and happened():
                found[name] = round(time.monotonic() - began, 2)

        while time.monotonic() - began < STOPPED_S:
            mark("readyz_red_s", lambda: platform.readiness() != 200)
            mark("detected_s", lambda: not all(_there(one) for one in members))
            mark("all_gone_s", lambda: not any(_there(one) for one in members))
            for name, lane in (("replaced_s", "p0"), ("rest_s", "p2")):
                if found[name] is None and (first := load.first_arrival(lane, at)) is not None:
                    found[name] = round(first - at, 2)
            time.sleep(0.1)
    return dict(found)


def _there(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def churn(platform: Platform) -> dict[str, Any]:
    """One replica of churn is stopped while callers ask."""
    replicas = platform.replicas("churn")
    if not replicas:
        raise RuntimeError("no replica of churn was found")
    url = platform.settings.base_url
    httpx2.post(
        f"{url}/v1/activity",
        json={"advertiser_id": ADVERTISER, "event_time": "2026-01-01T00:00:00Z", "spend": 1.0},
        timeout=10,
    )
    answers: list[tuple[float, str]] = []

    def ask(until: float) -> None:
        with httpx2.Client(timeout=CALLER_TIMEOUT_S) as http:
            while time.monotonic() < until:
                began = time.monotonic()
                try:
                    answer = http.get(f"{url}/v1/churn/{ADVERTISER}")
                    degraded = answer.status_code == 200 and answer.json().get("degraded")
                    status = f"{answer.status_code}{' degraded' if degraded else ''}"
                except httpx2.HTTPError as error:
                    status = type(error).__name__
                answers.append((time.monotonic() - began, status))
                time.sleep(0.1)

    with load_of(platform) as load, ThreadPoolExecutor(CHURN_CALLERS) as callers, stopped(replicas[:1]):
        asking = [callers.submit(ask, time.monotonic() + CHURN_S) for _ in range(CHURN_CALLERS)]
        for one in asking:
            one.result()
    platform.await_ready(SETTLE_S)
    statuses = sorted({status for _, status in answers})
    return {
        "worst_caller_s": round(max(took_s for took_s, _ in answers), 2),
        "status": statuses,
        "asked": len(answers),
        "replicas": len(replicas),
    } | _counts(load)


def edge(platform: Platform) -> dict[str, Any]:
    """HAProxy is killed; a caller with a fresh connection each time asks on."""
    proxies = platform.named("haproxy")
    if not proxies:
        raise RuntimeError("no HAProxy was found")
    with load_of(platform) as load:
        time.sleep(WARM_S)
        for proxy in proxies:
            with contextlib.suppress(psutil.Error):
                proxy.kill()
        gap_s, wrong = _gap(platform.settings.base_url)
    return {"gap_s": gap_s, "wrong_statuses": wrong} | _counts(load)


def _gap(url: str) -> tuple[float | None, list[int]]:
    """From the kill to the last answer that was not 200, once all are 200 again for a while; and what was wrong."""
    began = time.monotonic()
    bad_at, wrong = began, set[int]()
    while time.monotonic() - began < EDGE_S:
        try:
            status = httpx2.get(f"{url}/v1/status", timeout=5).status_code
        except httpx2.HTTPError:
            status = 0
        now = time.monotonic()
        if status != 200:
            bad_at = now
        if status not in {0, 200, 502, 503, 504}:
            wrong.add(status)
        if now - bad_at > EDGE_STEADY_S:
            return round(bad_at - began, 2), sorted(wrong)
        time.sleep(EDGE_EVERY_S)
    return None, sorted(wrong)


def ray(platform: Platform) -> dict[str, Any]:
    """The raylet is killed; nobody helps."""
    raylets = platform.named("raylet")
    if not raylets:
        raise RuntimeError("no raylet was found")
    with load_of(platform) as load:
        time.sleep(WARM_S)
        killed_at, began = time.time(), time.monotonic()
        for raylet in raylets:
            raylet.kill()
        back_s = None
        while back_s is None and time.monotonic() - began < RAY_S:
            p0 = load.first_arrival("p0", killed_at + 1.0)  # what was under way at the kill proves nothing
            new = [one for one in platform.named("raylet") if one not in raylets]
            if new and p0 is not None and platform.readiness() == 200:
                back_s = round(time.monotonic() - began, 2)
            time.sleep(0.2)
    if back_s is None:
        platform.restart()
    return {"back_s": back_s} | _counts(load)


def storage(platform: Platform) -> dict[str, Any]:
    """Storage is stopped and `tocsin up` killed; then `tocsin up` again, as a person would."""
    servers = platform.named("valkey-server") or platform.storage_servers()
    with load_of(platform) as load:
        time.sleep(WARM_S)
        at_once = 0
        for server in servers:
            server.suspend()
        platform.remember()
        with contextlib.suppress(psutil.Error):
            psutil.Process(platform.pid).kill()
        with ThreadPoolExecutor(1) as background:
            starting = background.submit(platform.start)
            while not starting.done():
                at_once = max(at_once, len(platform.storage_servers()))
                time.sleep(0.2)
            problem = starting.exception()
        at_once = max(at_once, len(platform.storage_servers()))
    if problem is not None:
        say(f"storage: {problem}")
        platform.restart()
    return {"servers_at_once": at_once, "up_again": problem is None} | _counts(load)


def half_open(platform: Platform) -> dict[str, Any]:
    """Thousands of callers begin a request and say no more; are others moved?"""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = HALF_OPEN + 500
    if soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    connections: list[socket.socket] = []
    address = ("127.0.0.1", platform.settings.port)
    try:
        with load_of(platform) as load:
            for _ in range(HALF_OPEN):
                with contextlib.suppress(OSError):
                    one = socket.create_connection(address, timeout=2)
                    connections.append(one)
                    one.sendall(b"POST /v1/notifications HTTP/1.1\r\nHost: platform\r\nContent-Le")
            time.sleep(HALF_OPEN_S)
    finally:
        for one in connections:
            one.close()
    figures = {
        "opened": len(connections),
        "failed_sends": load.failed,
        "worst_send_s": round(load.worst_s, 2),
    }
    return figures | _counts(load)


def _counts(load: Load) -> dict[str, Any]:
    account = load.account()
    return {"accepted": account.accepted, "lost": account.lost, "duplicates": account.duplicates}


PARTS: Mapping[str, Part] = {
    "routers": routers,
    "churn": churn,
    "edge": edge,
    "half_open": half_open,
    "ray": ray,
    "storage": storage,
}
