"""What a replica logs of a request that failed."""

from __future__ import annotations

import builtins
import io
import json
import logging
from pathlib import Path
from typing import Any, ClassVar

import httpx2
import pytest
from ray.serve._private.logging_utils import redirected_print
from starlette.requests import Request

from serve_deployments.http.application import Application, Endpoint
from serve_deployments.http.replica_logs import mended_print
from tocsin.settings import Settings
from tocsin.telemetry.logs import JsonLines

NUMBER = "+491701234567"


class Failing(Application):
    endpoints: ClassVar[tuple[Endpoint, ...]] = (
        Endpoint(method="GET", path="/{id}", handler="show", summary="s", answer=dict),
    )

    async def show(self, request: Request) -> Any:
        raise KeyError(request.path_params["id"])


async def test_a_failed_request_is_one_readable_record_with_its_id_and_nothing_that_was_sent(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(builtins, "print", redirected_print)  # as Serve has it in a replica
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(JsonLines("recipients").format(record))  # type: ignore[method-assign]
    logger = logging.getLogger("serve_deployments")
    logger.addHandler(handler)
    app = Failing(Settings(data_dir=str(tmp_path))).__serve_build_asgi_app__()
    transport = httpx2.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://t") as http:
        answer = await http.get(f"/{NUMBER}", headers={"x-request-id": "req-7"})
    logger.removeHandler(handler)
    (line,) = lines
    record = json.loads(line)
    assert (record["level"], record["request_id"]) == ("ERROR", "req-7")
    assert record["message"] == "Failing: GET /{id} failed"
    assert NUMBER not in line
    assert "\n  File" in record["trace"]
    assert record["trace"].endswith("\nKeyError")
    assert answer.status_code == 500
    assert "tocsin logs --request req-7" in answer.json()["hint"]


def test_print_to_a_file_writes_what_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """Serve's own writes a tuple, so that a stack trace of several lines becomes tuples in one line."""
    before, after = io.StringIO(), io.StringIO()
    theirs: Any = redirected_print  # untyped upstream
    theirs("a", "b", file=before)
    assert before.getvalue() == "('a', 'b')\n"  # if this fails, Ray has mended it: take `mended_print` out
    mended_print(redirected_print)("a", "b", file=after)
    assert after.getvalue() == "a b\n"
    assert mended_print(print) is print
