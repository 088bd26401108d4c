"""An insight is made of parts; while some hang, it is given without them before its deadline."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx2
import msgspec
import pytest

from serve_deployments import insights as insights_module
from serve_deployments.applications import APPLICATIONS
from serve_deployments.insights import Insights
from tests.fakes import ManualClock
from tocsin.settings import Settings


async def hang(*_arguments: Any) -> Any:
    await asyncio.Event().wait()


async def test_while_everything_hangs_it_is_degraded_and_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(insights_module, "CACHE_DEADLINE_S", 0.01)
    monkeypatch.setattr(insights_module, "PARTS_DEADLINE_S", 0.01)
    settings = msgspec.structs.replace(Settings.from_env({}), redis_url="redis://127.0.0.1:1/0")
    app = Insights(hang, settings, ManualClock())
    monkeypatch.setattr(app._reader, "read", hang)
    monkeypatch.setattr(app._reader.client, "get", hang)
    transport = httpx2.ASGITransport(app.__serve_build_asgi_app__())
    async with httpx2.AsyncClient(transport=transport, base_url="http://platform") as http:
        answer = await http.get("/a-1")
    assert answer.status_code == 200, answer.text
    assert answer.json()["degraded"] is True
    reasons = " ".join(answer.json()["degraded_reasons"])
    assert "features: no answer" in reasons
    assert "churn: no answer" in reasons


def test_its_parts_end_before_its_deadline() -> None:
    parts_s = insights_module.CACHE_DEADLINE_S + insights_module.PARTS_DEADLINE_S
    assert parts_s < APPLICATIONS["insights"].deadlines.read_s
