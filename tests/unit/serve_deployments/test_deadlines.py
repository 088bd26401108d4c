"""No caller is held beyond its deadline: the table, and what a replica does when it has passed."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Sequence
from typing import Any, ClassVar

import httpx2
import pytest
from ray import cloudpickle
from starlette.requests import Request

from launch.edge.install import bounds_of
from serve_deployments.applications import APPLICATIONS
from serve_deployments.http.application import Application, Endpoint
from serve_deployments.http.deadlines import BULK_BYTES, Deadlines
from serve_deployments.serving.micro_batcher import MicroBatcher
from tests.fakes import wait_until
from tocsin.settings import Settings

LONGEST_MS = 3_000  # for a person who waits
HUNG = Deadlines(read_s=0.01, write_s=0.01, bulk_s=0.01)


class Slow(Application):
    """Never answers, or fails by a timeout of its own."""

    deadlines: ClassVar[Deadlines] = HUNG
    endpoints: ClassVar[tuple[Endpoint, ...]] = tuple(
        Endpoint(method=method, path=path, handler=handler, summary="", answer=Any, public=True)
        for method, path, handler in (("GET", "/", "hang"), ("POST", "/", "hang"), ("GET", "/own", "own"))
    )

    async def hang(self, _request: Request) -> None:
        await asyncio.Event().wait()

    async def own(self, _request: Request) -> None:
        raise TimeoutError


async def ask(method: str, path: str) -> httpx2.Response:
    transport = httpx2.ASGITransport(Slow(Settings.from_env({})).__serve_build_asgi_app__())
    async with httpx2.AsyncClient(transport=transport, base_url="http://platform") as http:
        return await http.request(method, path)


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_what_takes_too_long_is_a_problem_that_may_be_repeated(method: str) -> None:
    answer = await ask(method, "/")
    assert answer.status_code == 504  # not 503: it may have been carried out
    assert answer.headers["content-type"] == "application/problem+json"
    assert int(answer.headers["retry-after"]) >= 1
    assert answer.json()["type"] == "urn:tocsin:problem:deadline-exceeded"
    assert "Idempotency-Key" in answer.json()["hint"]


async def test_a_timeout_of_a_handlers_own_is_no_deadline() -> None:
    assert (await ask("GET", "/own")).status_code == 500


@pytest.mark.parametrize("name", APPLICATIONS)
def test_every_application_answers_within_three_seconds_but_for_bulk(name: str) -> None:
    bounds = bounds_of(APPLICATIONS[name])
    assert max(bounds.read_ms, bounds.write_ms) < LONGEST_MS
    assert bounds.read_ms > APPLICATIONS[name].deadlines.read_s * 1000
    assert bounds.write_ms > APPLICATIONS[name].deadlines.write_s * 1000
    assert bounds.bulk_ms > APPLICATIONS[name].deadlines.bulk_s * 1000
    assert bounds.bulk_ms < 10_000  # the client waits so long
    if APPLICATIONS[name].awaited:
        assert bounds.twice


def test_the_edge_knows_the_paths_that_take_long() -> None:
    assert bounds_of(APPLICATIONS["churn"]).bulk_paths == ("/v1/churn/at-risk",)
    assert bounds_of(APPLICATIONS["operations"]).bulk_paths == ("/v1/status",)


def test_a_deadline_goes_by_method_size_and_endpoint() -> None:
    deadlines = Deadlines(read_s=1, write_s=2, bulk_s=3)
    assert deadlines.of("GET", {}, bulk=False) == 1
    assert deadlines.of("DELETE", {}, bulk=False) == 2
    assert deadlines.of("POST", {"content-length": str(BULK_BYTES)}, bulk=False) == 2
    assert deadlines.of("POST", {"content-length": str(BULK_BYTES + 1)}, bulk=False) == 3
    assert deadlines.of("POST", {"transfer-encoding": "chunked"}, bulk=False) == 3
    assert deadlines.of("POST", {"content-length": "many"}, bulk=False) == 3
    assert deadlines.of("GET", {}, bulk=True) == 3


def test_a_replica_gets_the_deadlines_of_its_row() -> None:
    dump: Any = cloudpickle.dumps  # untyped upstream
    for spec in APPLICATIONS.values():
        assert pickle.loads(dump(spec.bounded())).deadlines == spec.deadlines  # noqa: S301 (our own)


def test_what_people_wait_for_has_two_replicas_where_the_machine_carries_them() -> None:
    awaited = {name for name, spec in APPLICATIONS.items() if spec.min_replicas(cpus=4) == 2}
    assert awaited == {"notifications", "emergency-calls", "churn", "insights"}
    assert all(spec.min_replicas(cpus=2) == 1 for spec in APPLICATIONS.values())


async def test_nobody_works_for_those_who_have_gone() -> None:
    worked: list[int] = []
    gate = asyncio.Event()

    async def work(questions: Sequence[int]) -> list[int | Exception]:
        worked.extend(questions)
        await gate.wait()
        return list(questions)

    batcher = MicroBatcher(work, most=2, at_once=1)
    first = asyncio.create_task(batcher.ask(1))
    await wait_until(lambda: worked == [1])
    gone, stays = asyncio.create_task(batcher.ask(2)), asyncio.create_task(batcher.ask(3))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.sleep(0)
    gate.set()
    assert (await first, await stays) == (1, 3)
    assert worked == [1, 3]
