"""The servers of a run, each in a process of its own: the platform's HTTP applications, and a provider that misbehaves.

`accept` serves `serve_deployments.notifications.Notifications`, the class Ray Serve deploys, on uvicorn: the same
code from the request to the receipt, without Serve's proxy in front of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Literal

import msgspec
import uvicorn
import uvloop
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from benchmarks.harness.processes import receive, send
from serve_deployments.dead_letters import DeadLetterApplication
from serve_deployments.notifications import Notifications
from tocsin.settings import Settings
from verification.facts import WEBHOOK, Arrival, FaultKind
from verification.plan import BROKEN, REFUSES

WEBHOOK_TIMEOUT_S = 1.0  # what the platform is set to wait
SLOW_S = 0.4  # late, but not too late
HEALED = "healed"
HANG_S = 2.5  # far too late
STOP_S = 2


class Posted(msgspec.Struct, frozen=True):
    """The part of a webhook's body that is read: one notification, or (`notifications`) several."""

    id: str = ""
    recipient: str = ""
    title: str = ""
    notifications: tuple[Posted, ...] = ()


def accept(pipe: Connection, settings: Settings) -> None:
    """Serve notifications and dead letters until the pipe closes. Sends its port first."""
    app = Prefixes(
        {
            "/v1/notifications": Notifications(settings).__serve_build_asgi_app__(),
            "/v1/dead-letters": DeadLetterApplication(settings).__serve_build_asgi_app__(),
        }
    )
    uvloop.run(serve_until_closed(pipe, app, lambda _order: None))


def provider(pipe: Connection, arrivals: str) -> None:
    """Take webhooks, record each, and behave as the path and the last order say, until the pipe closes."""
    found = Provider(Path(arrivals))
    uvloop.run(serve_until_closed(pipe, found.app(), found.behave))


class Prefixes:
    """Hands a request to the application of its prefix, in the way Ray Serve's proxy does.

    Args:
        apps: By prefix; that of `/` gets what no other has.
    """

    def __init__(self, apps: Mapping[str, ASGIApp]) -> None:
        self._apps = apps

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Say where the application is mounted, and call it."""
        prefix = "/".join(scope["path"].split("/")[:3])
        app = self._apps.get(prefix)
        if app is None:
            await self._apps.get("/", Response(status_code=404))(scope, receive, send)
        else:
            await app({**scope, "root_path": prefix}, receive, send)


class Provider:
    """The far end of the webhook channel.

    Args:
        arrivals: The file every POST is recorded in, before it is answered.
    """

    def __init__(self, arrivals: Path) -> None:
        self._file = arrivals.open("ab", buffering=0)
        self._encode = msgspec.json.Encoder().encode
        self._decode = msgspec.json.Decoder(Posted).decode
        self._mode = ""

    def app(self) -> ASGIApp:
        """The server; the path is the behaviour."""
        return Starlette(routes=[Route("/{behaviour}", self.post, methods=["POST"])])

    def behave(self, mode: str) -> None:
        """From now on: a kind of provider fault, nothing for none, or `HEALED`: nothing is broken any more."""
        self._mode = mode

    async def post(self, request: Request) -> Response:
        """One webhook."""
        at, mode, behaviour = time.time(), self._mode, request.path_params["behaviour"]
        try:
            posted = self._decode(await request.body())
        except ClientDisconnect:  # the router was killed while it sent: nothing arrived
            return Response(status_code=499)
        status = 200
        if behaviour == REFUSES:
            status = 410
        elif (behaviour == BROKEN and mode != HEALED) or mode == FaultKind.PROVIDER_FAIL:
            status = 500
        elif mode == FaultKind.PROVIDER_HANG:
            status = 504
        ok = status == 200
        self._file.write(b"".join(self._line(at, one, ok) for one in posted.notifications or (posted,)))
        if status == 504:
            await asyncio.sleep(HANG_S)
        elif ok and mode == FaultKind.PROVIDER_SLOW:
            await asyncio.sleep(SLOW_S)
        return Response(status_code=status)

    def _line(self, at: float, one: Posted, ok: bool) -> bytes:
        return self._encode(Arrival(round(at, 6), one.id, one.recipient, one.title, WEBHOOK, "", ok)) + b"\n"


async def serve_until_closed(
    pipe: Connection, app: ASGIApp, on_order: Callable[[str], None], *, lifespan: Literal["on", "off"] = "off"
) -> None:
    """Serve on a free port, which it sends first, and carry out orders, until the pipe closes."""
    server = uvicorn.Server(
        uvicorn.Config(
            app, log_level="error", access_log=False, lifespan=lifespan, timeout_graceful_shutdown=STOP_S
        )
    )
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        send(pipe, listener.getsockname()[1])
        threading.Thread(target=_listen, args=(pipe, server, on_order), daemon=True).start()
        serve: Callable[..., Awaitable[None]] = server.serve
        await serve(sockets=[listener])


def _listen(pipe: Connection, server: uvicorn.Server, on_order: Callable[[str], None]) -> None:
    """Orders, until the pipe closes; then the server ends."""
    with contextlib.suppress(EOFError):
        while True:
            on_order(receive(pipe, str))
    server.should_exit = True
