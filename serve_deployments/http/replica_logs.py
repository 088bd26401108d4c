"""The log of a replica: a failed request is one record at ERROR, with the id that its answer carries.

Serve gives each request an id, takes a caller's own where there is one, and answers with it as `X-Request-ID`.
"""

from __future__ import annotations

import builtins
import sys
from collections.abc import Callable
from typing import Any

from ray import serve
from ray.serve._private.logging_utils import buildin_print
from ray.serve.exceptions import RayServeException
from starlette.types import ASGIApp, Receive, Scope, Send

from tocsin.settings import Settings
from tocsin.telemetry.logs import log_folder, request_id, safe_request_id, write_logs


class RequestIds:
    """Records of the log carry the id of the request they are about."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Remember the id for as long as the request is worked on."""
        given = next((value for name, value in scope.get("headers", ()) if name == b"x-request-id"), b"")
        token = request_id.set(safe_request_id(given.decode("latin-1")))
        try:
            await self._app(scope, receive, send)
        finally:
            request_id.reset(token)


def write_replica_logs(settings: Settings) -> None:
    """Send what our packages log in this replica to a file of its own; outside of a replica nothing is done."""
    try:
        name = serve.get_replica_context().app_name
    except RayServeException:
        return
    builtins.print = mended_print(builtins.print)
    write_logs(name or "replica", log_folder(settings.data_path))


def mended_print(replaced: Callable[..., Any]) -> Callable[..., Any]:
    """`print` as it was where it writes to a file.

    Serve's own writes its arguments as one tuple, so that the lines of a stack trace become tuples in one line.
    """

    def write(*objects: object, file: Any = None, **how: Any) -> None:
        if file is None or file in {sys.stdout, sys.stderr}:
            replaced(*objects, file=file, **how)
        else:
            buildin_print(*objects, file=file, **how)

    return replaced if replaced is buildin_print else write
