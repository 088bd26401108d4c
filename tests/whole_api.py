"""All HTTP applications on one address, without Ray Serve in front of them."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import uvicorn

from serve_deployments.applications import APPLICATIONS, documentation
from serve_deployments.churn import Churn
from serve_deployments.features import Features
from serve_deployments.http.application import Application
from serve_deployments.insights import Insights
from serve_deployments.operations import Operations
from tests.support import eventually
from tocsin.settings import Settings
from verification.servers import Prefixes

described = cache(documentation)  # the same for every test


def whole_api(settings: Settings) -> Prefixes:
    churn = Churn(settings)
    made: dict[str, Application] = {
        "churn": churn,
        "features": Features(None, settings),
        "insights": Insights(churn.predict_one, settings),
        "operations": Operations(described(), settings),
    }
    found = {spec.prefix: made.get(name) or spec.ingress(settings) for name, spec in APPLICATIONS.items()}
    return Prefixes({prefix: app.__serve_build_asgi_app__() for prefix, app in found.items()})


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
