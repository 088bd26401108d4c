"""HTTP, once for all applications: endpoints as a table, problem details, the API key.

An application is a plain class with a tuple of `Endpoint`s, each naming a method of the class. The same table
makes the routes and the OpenAPI document, so they cannot disagree.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import math
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, ClassVar

import msgspec
from starlette.applications import Starlette
from starlette.convertors import Convertor, register_url_convertor
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_deployments.http.bodies import (
    ACCEPT_ENCODING,
    BodyTooLargeError,
    UnsupportedEncodingError,
    UnsupportedMediaError,
)
from serve_deployments.http.deadlines import DeadlineExceededError, Deadlines
from serve_deployments.http.replica_logs import RequestIds, write_replica_logs
from tocsin.errors import (
    ConflictError,
    ContradictionError,
    InvalidRecordError,
    ModelUnavailableError,
    NotFoundError,
    OverloadedError,
    StorageUnavailableError,
    TocsinError,
    UnauthorizedError,
)
from tocsin.settings import Settings
from tocsin.telemetry.logs import request_id
from tocsin.wire.problems import Problem, RecordError

log = logging.getLogger(__name__)

Handler = Callable[[Request], Awaitable[Response]]

SAFE = {"cache-control": "no-store", "x-content-type-options": "nosniff"}
PROBLEM_TYPE = "urn:tocsin:problem:"
RETRY_AFTER_MODEL_S = 30
_TRACEPARENT = re.compile(r"^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$")
_encode = msgspec.json.Encoder().encode


class Parameter(msgspec.Struct, frozen=True, kw_only=True):
    """A query parameter, a header or a part of the path, for the documentation."""

    name: str
    where: str  # query, header or path
    description: str
    schema: dict[str, Any]


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """One operation: what it is called, takes and answers."""

    method: str
    path: str  # below the application's prefix; `{name:text}` takes any character
    handler: str  # the method of the application's class
    summary: str
    answer: Any
    description: str = ""
    status: int = 200
    request: Any = None
    many: bool = False  # the body may also be an array or NDJSON of `request`
    parameters: tuple[Parameter, ...] = ()
    problems: tuple[int, ...] = ()
    also: tuple[int, ...] = ()  # other statuses with the same answer
    public: bool = False  # needs no API key
    bulk: bool = False  # works on much at once, and may take as long as a large body
    media_type: str = "application/json"  # of the answer


class Application:
    """The base of every HTTP application.

    Args:
        settings: Everything that can be set; a replica leaves it out and reads its environment.
    """

    endpoints: ClassVar[tuple[Endpoint, ...]] = ()
    deadlines: ClassVar[Deadlines] = Deadlines()  # replaced by those of its row of the table

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or Settings.from_env()
        if settings is None:
            write_replica_logs(self.settings)

    def __serve_build_asgi_app__(self) -> Starlette:
        """The ASGI application, built in the replica."""
        paths: dict[str, dict[str, Handler]] = {}
        for endpoint in self.endpoints:
            paths.setdefault(endpoint.path, {})[endpoint.method] = _run(self, endpoint)
        return Starlette(
            routes=[route_of(path, handlers) for path, handlers in paths.items()],
            middleware=[Middleware(RequestIds), Middleware(SafeAnswers), Middleware(BarePrefix)],
            lifespan=self._lifespan,
            exception_handlers={HTTPException: _http_error, Exception: _unexpected},
        )

    @asynccontextmanager
    async def _lifespan(self, _app: Starlette) -> AsyncIterator[None]:
        background = asyncio.create_task(self.warm())
        try:
            yield
        finally:
            background.cancel()
            with suppress(asyncio.CancelledError):
                await background

    async def warm(self) -> None:
        """Load what the first request would wait for; runs in parallel with the requests until the replica ends."""


class Text(Convertor[str]):
    """A part of a path that takes every character, slashes and newlines too, but is not empty."""

    regex = "(?s:.+)"

    def convert(self, value: str) -> str:
        """As it is."""
        return value

    def to_string(self, value: str) -> str:
        """As it is."""
        return value


register_url_convertor("text", Text())


def route_of(path: str, handlers: Mapping[str, Handler]) -> Route:
    """All methods of one path. The first path that fits decides: a method it does not have is 405, not another's."""
    allowed = sorted({*handlers, *(["HEAD"] if "GET" in handlers else [])})

    async def run(request: Request) -> Response:
        handler = handlers.get("GET" if request.method == "HEAD" else request.method)
        if handler is None:
            raise HTTPException(405, headers={"allow": ", ".join(allowed)})
        return await handler(request)

    route = Route(path, run)
    route.methods = None  # or it would pass on what it does not have to the next path that fits
    return route


class SafeAnswers:
    """Keeps every answer out of caches, and browsers from guessing what it is."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Add the headers as the answer starts."""

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(SAFE)
            await send(message)

        await self._app(scope, receive, sent)


class BarePrefix:
    """Lets `/v1/activity` mean `/v1/activity/`: a redirect would lose the body of a POST."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Give an empty path below the prefix its slash."""
        if scope["type"] == "http" and scope["path"] == scope.get("root_path"):
            scope = {**scope, "path": scope["path"] + "/"}
        await self._app(scope, receive, send)


def _run(app: Application, endpoint: Endpoint) -> Handler:
    handler: Callable[[Request], Awaitable[Any]] = getattr(app, endpoint.handler)

    async def run(request: Request) -> Response:
        deadline_s = app.deadlines.of(request.method, request.headers, bulk=endpoint.bulk)
        try:
            if not endpoint.public:
                authorise(request.headers, app.settings.api_key)
            async with asyncio.timeout(deadline_s) as deadline:
                answer = await handler(request)
        except TocsinError as error:
            return problem_response(error, request)
        except TimeoutError:
            if not deadline.expired():  # one of the handler's own that it did not expect
                log.exception("%s: %s %s failed", type(app).__name__, endpoint.method, endpoint.path)
                return _unexpected(request, None)
            return problem_response(DeadlineExceededError(deadline_s), request)
        except ClientDisconnect:
            return Response(status_code=499)
        except Exception:
            # Not the path that was asked for: it may hold a person's number or name.
            log.exception("%s: %s %s failed", type(app).__name__, endpoint.method, endpoint.path)
            return _unexpected(request, None)
        return answer if isinstance(answer, Response) else json_response(answer, endpoint.status)

    return run


def authorise(headers: Mapping[str, str], api_key: str) -> None:
    """Check `Authorization: Bearer …` or `X-API-Key` where a key is set.

    Raises:
        UnauthorizedError: the key is missing or wrong.
    """
    if not api_key:
        return
    scheme, _, token = headers.get("authorization", "").partition(" ")
    given = token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
    if not hmac.compare_digest(given.encode(), api_key.encode()):
        raise UnauthorizedError(
            "the API key is missing or wrong",
            hint="send it as `Authorization: Bearer KEY` or `X-API-Key: KEY`",
        )


class RejectedBatchError(InvalidRecordError):
    """No record of the request was accepted."""

    code = "invalid-record"

    def __init__(self, errors: list[RecordError], total: int, *, atomic: bool) -> None:
        first = errors[0]
        what = "the record is" if total == 1 else f"{len(errors):,} of {total:,} records are"
        super().__init__(
            f"{what} invalid: {first.detail}",
            field=first.field,
            limit=first.limit,
            hint="nothing was accepted because the request is atomic" if atomic and total > 1 else "",
        )
        self.errors = errors


def traceparent_of(request: Request) -> str:
    """The caller's W3C trace context, if it is well formed."""
    value = request.headers.get("traceparent", "")
    return value if _TRACEPARENT.match(value) else ""


def json_response(answer: Any, status: int = 200) -> Response:
    """A JSON answer."""
    return Response(_encode(answer), status_code=status, media_type="application/json")


def problem_response(error: TocsinError, request: Request) -> Response:
    """One of our errors as a problem detail (RFC 9457)."""
    status = status_of(error)
    extra: dict[str, Any] = {"hint": error.hint} if error.hint else {}
    if isinstance(error, InvalidRecordError):
        extra |= {name: value for name, value in (("field", error.field), ("limit", error.limit)) if value}
    if isinstance(error, RejectedBatchError):
        extra["errors"] = error.errors
    problem = Problem(
        type=PROBLEM_TYPE + error.code,
        title=error.code.replace("-", " ").capitalize(),
        status=status,
        detail=error.message,
        instance=request.url.path,
        **extra,
    )
    headers = {"content-type": "application/problem+json"}
    if isinstance(error, StorageUnavailableError | OverloadedError | DeadlineExceededError):
        headers["retry-after"] = str(max(1, math.ceil(error.retry_after_s)))
    elif isinstance(error, ModelUnavailableError):
        headers["retry-after"] = str(RETRY_AFTER_MODEL_S)
    elif isinstance(error, UnsupportedEncodingError):
        headers["accept-encoding"] = ACCEPT_ENCODING
    elif isinstance(error, UnauthorizedError):
        headers["www-authenticate"] = "Bearer"
    return Response(_encode(problem), status_code=status, headers=headers)


def status_of(error: TocsinError) -> int:
    """The HTTP status for an error's class."""
    return next((status for kind, status in STATUSES if isinstance(error, kind)), 500)


STATUSES: tuple[tuple[type[TocsinError], int], ...] = (
    (BodyTooLargeError, 413),
    (UnsupportedMediaError, 415),
    (ContradictionError, 409),
    (InvalidRecordError, 422),
    (UnauthorizedError, 401),
    (NotFoundError, 404),
    (ConflictError, 409),
    (OverloadedError, 429),
    (StorageUnavailableError, 503),
    (ModelUnavailableError, 503),
    (DeadlineExceededError, 504),
)


def _http_error(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    titles = {404: "Not found", 405: "Method not allowed"}
    problem = Problem(
        type="about:blank",
        title=titles.get(status, "Error"),
        status=status,
        detail=f"{request.method} {request.url.path} is not an operation of this platform",
        instance=request.url.path,
        hint="GET /docs lists every operation",
    )
    headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
    return Response(
        _encode(problem), status_code=status, headers={**headers, "content-type": "application/problem+json"}
    )


def _unexpected(request: Request, _error: Exception | None) -> Response:
    one = request_id.get()
    problem = Problem(
        type=PROBLEM_TYPE + "internal",
        title="Internal error",
        status=500,
        detail="the platform failed on this request; its log says why",
        instance=request.url.path,
        hint=f"`tocsin logs --request {one}` shows it" if one else "`tocsin logs --level ERROR` shows it",
    )
    # The outermost layer may send it, past `SafeAnswers`.
    headers = {"content-type": "application/problem+json", **SAFE}
    return Response(_encode(problem), status_code=500, headers=headers)
