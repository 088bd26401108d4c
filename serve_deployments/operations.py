"""`/`: liveness, readiness, status and the documentation of everything else."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from importlib import resources
from typing import Any, ClassVar

import msgspec
from prometheus_client.exposition import choose_encoder
from redis import exceptions as redis_errors
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

from features.online.as_of import AsOfView, as_of_view
from features.online.store import FeatureStore
from features.shard.event_log import Backlog, read_backlog
from models.registry.registry import Registry
from serve_deployments.classifications import CLASSIFY, classification_of
from serve_deployments.http.application import Application, Endpoint, json_response, route_of
from serve_deployments.metrics import scrape
from serve_deployments.serving.gate import take_sample
from serve_deployments.serving.lane_set import LaneSet
from serve_deployments.serving.priority_rules import PriorityRules
from tocsin.actor_names import P0_STANDBY, SUPERVISOR
from tocsin.clock import SystemClock
from tocsin.errors import TocsinError
from tocsin.keys import LaneKeys
from tocsin.resilience.pool_state import BreakerView, read_breakers
from tocsin.settings import Settings
from tocsin.storage.connect import SERVE_TIMEOUT_S
from tocsin.storage.errors import translated
from tocsin.storage.servers import MAIN, Server
from tocsin.streams.heartbeats import read_consumers
from tocsin.telemetry.latency import quantile_ms
from tocsin.wire.classification import Classification
from tocsin.wire.lanes import LaneName

REGISTRY_TIMEOUT_S = 2.0  # an object store that is away would hold up the rest
COUNTED = (
    "accepted",
    "delivered",
    "suppressed",
    "expired",
    "dead",
    "purged",
    "applied",
    "repeated",
    "quarantined",
)

RUNBOOK = "see docs/runbooks/lane-does-not-drain.md"
LATE_S = 10.0  # of a p0 that is accepted and not settled
UNCONSUMED = {
    LaneName.P0: "emergencies are accepted and wait, nobody is told",
    LaneName.P1: "p1 notifications are accepted and wait",
    LaneName.P2: "p2 notifications are accepted and wait",
    LaneName.ACTIVITY: "activity is accepted and waits, features turn stale",
}
NO_SUPERVISOR = f"it does not beat: pools neither grow nor are hung consumers replaced; {RUNBOOK}"

PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Tocsin API</title>
<link rel="stylesheet" href="/docs/assets/swagger-ui.css"></head><body><div id="ui"></div>
<script src="/docs/assets/swagger-ui-bundle.js"></script>
<script>SwaggerUIBundle({url: "/openapi.json", dom_id: "#ui", deepLinking: true, tryItOutEnabled: true})</script>
</body></html>"""


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """Liveness: the process answers."""

    status: str


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One thing readiness needs."""

    name: str
    ok: bool
    detail: str = ""
    warning: str = ""  # it can do its job, and somebody should look


class Readiness(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the platform can do its job now."""

    ready: bool
    checks: list[Check]


class LaneStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One lane: totals since the beginning, what waits now, and who consumes it."""

    lane: LaneName
    durability: str  # of its server
    counts: dict[str, int]
    blocks_waiting: int
    blocks_pending: int
    retrying: int
    latency_p50_ms: float | None
    latency_p99_ms: float | None
    latency: dict[str, int]  # histogram buckets, for deltas
    consumers: list[str]


class PlatformStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What the person on call looks at first."""

    lanes: list[LaneStatus]
    durability: str
    supervisor: bool  # whether it beats: without it a hung consumer is not replaced
    advertisers: int
    newest_event: float | None
    as_of: AsOfView  # which moment features are computed for, and why
    champion: str
    model_versions: int
    breakers: list[BreakerView] = []
    archive: Backlog | None = None
    registry_problem: str = ""  # why champion and versions are missing


def lane_check(lane: LaneName, consumers: Sequence[str], oldest_s: float) -> Check:
    """Whether a lane is consumed, in words for the person on call.

    Args:
        lane: Its name.
        consumers: Its living members.
        oldest_s: How long its oldest unsettled block has waited; looked at where late means that nobody is told.
    """
    name = f"lane {lane}"
    if not consumers:
        return Check(name=name, ok=False, detail=f"no consumer: {UNCONSUMED[lane]}; {RUNBOOK}")
    late = oldest_s > LATE_S
    warning = (
        f"the oldest of {lane} has waited {oldest_s:.0f} s though it is consumed; {RUNBOOK}" if late else ""
    )
    if list(consumers) == [P0_STANDBY]:
        warning = f"only the supervisor's stand-in consumes {lane}; its own members do nothing; {RUNBOOK}"
    return Check(name=name, ok=True, detail=f"{len(consumers)} consumers", warning=warning)


class Operations(Application):
    """Health, status and documentation.

    Args:
        documentation: The OpenAPI document.
        settings: Everything that can be set.
    """

    endpoints: ClassVar[tuple[Endpoint, ...]] = (
        Endpoint(
            method="GET",
            path="/healthz",
            handler="healthz",
            summary="Is it alive?",
            answer=Health,
            public=True,
        ),
        Endpoint(
            method="GET",
            path="/readyz",
            handler="readyz",
            summary="Can it do its job?",
            description=(
                "200 when storage answers and every lane has a consumer whose loop beat within 4 s (p0: 3 s), else "
                "503 with the checks. A `warning` of a check says what needs a look though the answer is 200."
            ),
            answer=Readiness,
            also=(503,),
            public=True,
        ),
        Endpoint(
            method="GET",
            path="/v1/status",
            handler="status",
            bulk=True,
            summary="Lanes, consumers, features and model at a glance",
            answer=PlatformStatus,
            problems=(401, 503),
        ),
        Endpoint(
            method="GET",
            path="/metrics",
            handler="metrics",
            summary="The same and more for Prometheus",
            description=(
                "200 also when storage does not answer: then `tocsin_up` is 0 and what storage would know is left "
                "out. OpenMetrics where the scraper asks for it. docs/metrics.md lists every metric."
            ),
            answer=str,
            media_type="text/plain",
            problems=(401,),
        ),
        CLASSIFY,
    )

    def __init__(self, documentation: dict[str, Any], settings: Settings | None = None) -> None:
        super().__init__(settings)
        settings = self.settings
        self._lanes = LaneSet(settings, tuple(LaneName), timeout_s=SERVE_TIMEOUT_S)
        self._store = FeatureStore(self._lanes.client, namespace=settings.namespace)
        self._registry = Registry(settings.models_location)
        self._documentation = documentation
        self._rules = PriorityRules(settings, SystemClock())

    async def warm(self) -> None:
        """Follow the operator's rules."""
        await self._rules.run()

    async def classify(self, request: Request) -> Classification:
        """Which lane a notification would ride, and why."""
        return await classification_of(request, self._rules.classifier)

    def __serve_build_asgi_app__(self) -> Starlette:
        """The endpoints, and the documentation for browsers."""
        app = super().__serve_build_asgi_app__()
        assets = str(resources.files("fastapi_swagger") / "resources")
        app.router.routes += [
            route_of("/docs", {"GET": self._docs}),
            route_of("/openapi.json", {"GET": self._openapi}),
        ]
        app.router.routes.append(Mount("/docs/assets", StaticFiles(directory=assets)))
        return app

    async def healthz(self, _request: Request) -> Health:
        """The replica runs."""
        return Health(status="ok")

    async def readyz(self, _request: Request) -> Response:
        """Storage answers, and somebody consumes each lane."""
        servers = self._lanes.servers.all
        checks = [one for each in await asyncio.gather(*map(self._check, servers)) for one in each]
        ready = all(check.ok for check in checks)
        response = json_response(Readiness(ready=ready, checks=checks), 200 if ready else 503)
        if not ready:
            response.headers["retry-after"] = "1"
        return response

    async def _check(self, server: Server) -> list[Check]:
        """Whether one storage server answers, and who consumes its lanes."""
        name = "storage" if server.name == MAIN else f"storage {server.name}"
        try:
            async with asyncio.timeout(SERVE_TIMEOUT_S * 2):
                lanes = await asyncio.gather(*(self._check_lane(LaneName(lane)) for lane in server.lanes))
                supervisor = [await self._check_supervisor()] if server.name == MAIN else []
        except (TocsinError, redis_errors.RedisError, OSError, TimeoutError) as error:
            return [Check(name=name, ok=False, detail=str(error) or "no answer")]
        return [Check(name=name, ok=True), *lanes, *supervisor]

    async def _check_lane(self, name: LaneName) -> Check:
        lane = self._lanes.lanes[name]
        consumers = await self._consumers(name)
        late_s = 0.0
        if name is LaneName.P0:
            sample = await take_sample(lane)
            late_s = sample.now_s - sample.oldest_s
        return lane_check(name, consumers, late_s)

    async def _check_supervisor(self) -> Check:
        beats = await self._supervised()
        return Check(name="supervisor", ok=True, warning="" if beats else NO_SUPERVISOR)

    async def _supervised(self) -> bool:
        keys = LaneKeys(self.settings.namespace, SUPERVISOR)
        return bool(await read_consumers(self._lanes.client, keys))

    async def status(self, _request: Request) -> PlatformStatus:
        """Everything at a glance."""
        durability = await self._lanes.durability(LaneName.P2)
        champion, versions, problem = await self._models()
        data = await self._store.newest()
        return PlatformStatus(
            lanes=[await self._lane_status(name) for name in LaneName],
            durability=durability,
            supervisor=await self._supervised(),
            advertisers=await self._store.count(),
            newest_event=data.newest if data else None,
            as_of=as_of_view(self.settings.as_of, data, SystemClock().now()),
            champion=champion,
            model_versions=versions,
            registry_problem=problem,
            breakers=await read_breakers(self._lanes.client, self.settings.namespace, SystemClock().now()),
            archive=await read_backlog(
                self._lanes.client, self._store.keys, self.settings.partitions(LaneName.ACTIVITY)
            ),
        )

    async def _models(self) -> tuple[str, int, str]:
        """The champion, how many versions there are, and else why that is not known: lanes matter more."""
        try:
            async with asyncio.timeout(REGISTRY_TIMEOUT_S):
                champion = await asyncio.to_thread(self._registry.champion)
                return champion or "", len(await asyncio.to_thread(self._registry.versions)), ""
        except TimeoutError:
            return "", 0, f"the model registry did not answer within {REGISTRY_TIMEOUT_S:g} s"
        except (TocsinError, OSError) as error:
            return "", 0, str(error)

    async def metrics(self, request: Request) -> Response:
        """Every metric, in the format the scraper asks for."""
        page = await scrape(self._lanes, self._store, self.settings.namespace, SystemClock())
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(page), headers={"content-type": content_type})

    async def _lane_status(self, name: LaneName) -> LaneStatus:
        lane = self._lanes.lanes[name]
        depth = await lane.depth()
        with translated():
            counts: Any = await lane.client.hgetall(lane.keys.counts)
            latency: Any = await lane.client.hgetall(lane.keys.latency)
        buckets = {int(bucket): int(number) for bucket, number in latency.items()}
        return LaneStatus(
            lane=name,
            durability=await self._lanes.durability(name),
            counts={key: int(counts[key.encode()]) for key in COUNTED if key.encode() in counts},
            blocks_waiting=depth.blocks - depth.pending,
            blocks_pending=depth.pending,
            retrying=depth.retrying,
            latency_p50_ms=quantile_ms(buckets, 0.5),
            latency_p99_ms=quantile_ms(buckets, 0.99),
            latency={str(bucket): number for bucket, number in sorted(buckets.items())},
            consumers=await self._consumers(name),
        )

    async def _consumers(self, name: LaneName) -> list[str]:
        """Members whose consumer loop beat lately: the same that metrics count."""
        lane = self._lanes.lanes[name]
        return await read_consumers(lane.client, lane.keys)

    async def _docs(self, _request: Request) -> Response:
        return HTMLResponse(PAGE)

    async def _openapi(self, _request: Request) -> Response:
        return json_response(self._documentation)
