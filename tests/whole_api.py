"""All HTTP applications on one address, without Ray Serve in front of them."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from serve_deployments.applications import APPLICATIONS, documentation
from serve_deployments.churn import Churn
from serve_deployments.features import Features
from serve_deployments.http.application import Application
from serve_deployments.insights import Insights
from serve_deployments.operations import Operations
from tests.support import eventually
from tocsin.settings import Settings

described = cache(documentation)  # the same for every test


class WholeApi:
    """Hands a request to the application of its prefix, in the way Ray Serve's proxy does.

    Args:
        apps: By prefix.
    """

    def __init__(self, apps: Mapping[str, ASGIApp]) -> None:
        self._apps = apps

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        prefix = "/".join(scope["path"].split("/")[:3])
        app = self._apps.get(prefix)
        if app is None:
            await self._apps["/"](scope, receive, send)
        else:
            await app({**scope, "root_path": prefix}, receive, send)


def whole_api(settings: Settings) -> WholeApi:
    churn = Churn(settings)
    made: dict[str, Application] = {
        "churn": churn,
        "features": Features(None, settings),
        "insights": Insights(churn.predict_one, settings),
        "operations": Operations(described(), settings),
    }
    found = {spec.prefix: made.get(name) or spec.ingress(settings) for name, spec in APPLICATIONS.items()}
    return WholeApi({prefix: app.__serve_build_asgi_app__() for prefix, app in found.items()})


@contextmanager
def served(settings: Settings) -> Iterator[str]:
    """The API on a port of its own, in a thread; yields its URL."""
    server = uvicorn.Server(
        uvicorn.Config(whole_api(settings), log_level="critical", access_log=False, lifespan="off")
    )
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        run: Any = server.run
        thread = threading.Thread(target=run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            eventually(lambda: server.started, what="the API")
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(timeout=10)
