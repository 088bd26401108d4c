"""The same model served as one would otherwise: a stock Serve deployment, and FastAPI on uvicorn.

Both do the minimum: the stored estimator as scikit-learn runs it, its calibration, no drivers, no batching.
The stock deployment has Serve's own proxy and its defaults but one (`max_ongoing_requests`), and reads what it needs
of an advertiser key by key; FastAPI reads all in one. FastAPI also serves our loaded model (`/ours/{id}`, drivers
included), which separates the cost of the model from that of HTTP.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from typing import Any

import skops.io
import uvicorn
import uvloop
from fastapi import FastAPI, HTTPException
from starlette.requests import Request

from benchmarks.harness.processes import receive, send
from features.online.answers import vector_of
from features.online.reader import Question
from models.dataset.matrix import Vector, calibrate, scale, to_raw
from models.registry.model_files import TRUSTED_TYPES
from models.registry.registry import Registry
from tocsin.keys import FeatureKeys
from tocsin.ports import free_port
from tocsin.settings import Settings
from tocsin.storage.connect import connect, resolve_url
from tocsin.wire.lanes import LaneName

STARTED_S = 120.0


class PlainModel:
    """The stored champion, run by scikit-learn.

    Args:
        settings: Where it is.
    """

    def __init__(self, settings: Settings) -> None:
        registry = Registry(settings.models_path)
        self.version = registry.champion() or ""
        self._card = registry.metadata(self.version).card
        path = settings.models_path / "churn" / self.version / "model.skops"
        self._estimator = skops.io.load(path, trusted=list(TRUSTED_TYPES))

    def predict(self, vector: Vector) -> float:
        """The probability of churn."""
        row = scale(to_raw([vector], self._card.feature_names))
        calibration = self._card.calibration
        share = self._estimator.predict_proba(row)[:, 1]
        return float(calibrate(share, calibration.slope, calibration.intercept)[0])


class Reads:
    """Features of one advertiser.

    Args:
        settings: Which server.
        as_of: The moment, epoch seconds.
    """

    def __init__(self, settings: Settings, as_of: float) -> None:
        self._client: Any = connect(resolve_url(settings), timeout_s=5.0)
        self._keys = FeatureKeys(settings.namespace)
        self._partitions = settings.partitions(LaneName.ACTIVITY)
        self._as_of = as_of

    async def one_by_one(self, advertiser_id: str) -> Vector | None:
        """How far the shard is, then the vectors: a read each."""
        question = self._question(advertiser_id)
        return await self._finish(question, [await self._client.get(key) for key in question.keys()])  # noqa: SIM118 (no dict)

    async def at_once(self, advertiser_id: str) -> Vector | None:
        """In one read."""
        question = self._question(advertiser_id)
        return await self._finish(question, await self._client.mget(question.keys()))

    def _question(self, advertiser_id: str) -> Question:
        return Question(self._keys, [advertiser_id], partitions=self._partitions, as_of=self._as_of)

    async def _finish(self, question: Question, bodies: list[bytes | None]) -> Vector | None:
        if missing := question.take(bodies):  # no vector of this moment is stored
            question.take_histories(await self._client.mget([self._keys.history(name) for name in missing]))
        vector = vector_of(question.finish(), 0)
        return None if vector["days_since_last_campaign"] is None else vector


def fastapi_server(pipe: Connection, settings: Settings, as_of: float) -> None:
    """FastAPI on uvicorn until the pipe closes; sends its port first."""
    os.environ["OMP_NUM_THREADS"] = "1"
    model, reads, ours = PlainModel(settings), Reads(settings, as_of), Registry(settings.models_path).load()
    moment = datetime.fromtimestamp(as_of, tz=UTC)
    app = FastAPI()

    @app.get("/v1/churn/{advertiser_id}")
    async def churn(advertiser_id: str) -> dict[str, Any]:
        vector = await reads.at_once(advertiser_id)
        if vector is None:
            raise HTTPException(404)
        return _answer(advertiser_id, model.predict(vector), model.version)

    @app.get("/ours/{advertiser_id}")
    async def with_ours(advertiser_id: str) -> dict[str, Any]:
        vector = await reads.at_once(advertiser_id)
        if vector is None:
            raise HTTPException(404)
        found = ours.answer(advertiser_id, vector, moment)
        return {
            **_answer(advertiser_id, found.probability, ours.version),
            "drivers": [d.text for d in found.drivers],
        }

    uvloop.run(_until_closed(pipe, app))


async def _until_closed(pipe: Connection, app: FastAPI) -> None:
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", access_log=False))

    def listen() -> None:
        with contextlib.suppress(EOFError):
            receive(pipe, str)
        server.should_exit = True

    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        send(pipe, listener.getsockname()[1])
        threading.Thread(target=listen, daemon=True).start()
        serve: Callable[..., Awaitable[None]] = server.serve
        await serve(sockets=[listener])


def stock_server(pipe: Connection, settings: Settings, scratch: str) -> None:
    """A Ray of its own with one stock Serve deployment, until the pipe closes. Sends its port twice: once
    Ray runs, and once it serves the `as_of` it was sent.

    Starts Ray at once, so that it takes no part of the measured time.
    """
    for name in [name for name in os.environ if name.startswith(("RAY_SERVE_", "RAY_ADDRESS"))]:
        del os.environ[name]
    os.environ |= {"OMP_NUM_THREADS": "1", "RAY_AUTH_MODE": "disabled", "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}
    os.environ |= {"RAY_worker_niceness": "0"}  # as ours: niceness is not what is compared
    import ray as untyped  # noqa: PLC0415 (reads the environment)
    from ray import serve as untyped_serve  # noqa: PLC0415

    ray: Any = untyped
    serve: Any = untyped_serve

    class Stock:
        """As Serve's first page has it."""

        def __init__(self, given: Settings, as_of: float) -> None:
            self._model, self._reads = PlainModel(given), Reads(given, as_of)

        async def __call__(self, request: Request) -> dict[str, Any]:
            """One prediction."""
            advertiser_id = request.url.path.rpartition("/")[2]
            vector = await self._reads.one_by_one(advertiser_id)
            if vector is None:
                return {"detail": "not found"}
            return _answer(advertiser_id, self._model.predict(vector), self._model.version)

    port = free_port()
    ray.init(
        address="local",
        num_cpus=8,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        _temp_dir=scratch,
    )
    with contextlib.suppress(EOFError):
        send(pipe, port)
        as_of = receive(pipe, float)
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        # Its default of 5 makes the proxy back off for seconds once more than that ask: 20 answers a second at 32.
        deployed = serve.deployment(max_ongoing_requests=100)(Stock)
        serve.run(deployed.bind(settings, as_of), route_prefix="/v1/churn")
        send(pipe, port)
        receive(pipe, str)
    ray.shutdown()


def _answer(advertiser_id: str, probability: float, version: str) -> dict[str, Any]:
    return {"advertiser_id": advertiser_id, "probability": probability, "model_version": version}
