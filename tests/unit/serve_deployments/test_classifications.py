"""`POST /v1/classifications` as it answers, without Serve or storage around it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import pytest

from serve_deployments.operations import Operations
from tocsin.errors import ConfigurationError
from tocsin.settings import Settings


def settings_of(rules: str = "") -> Settings:
    return msgspec.structs.replace(Settings.from_env({}), redis_url="redis://127.0.0.1:1", rules=rules)


@pytest.fixture
async def http() -> AsyncIterator[httpx2.AsyncClient]:
    transport = httpx2.ASGITransport(app=Operations({}, settings_of()).__serve_build_asgi_app__())
    async with httpx2.AsyncClient(transport=transport, base_url="http://test") as made:
        yield made


async def test_it_says_what_decided_and_sends_nothing(http: httpx2.AsyncClient) -> None:
    answer = await http.post(
        "/v1/classifications", json={"type": "device_alert", "alert_type": "panic_button"}
    )
    assert answer.status_code == 200, answer.text
    assert answer.json() == {
        "lane": "p0",
        "rule": "danger",
        "hazard": "security",
        "word": "panic",
        "field": "alert_type",
        "reading": "danger",
        "because": "",
        "drill": False,
        "commercial": False,
        "operator_rule": False,
        "may_lower": False,
    }
    sale: dict[str, Any] = (await http.post("/v1/classifications", json={"type": "fire_sale"})).json()
    assert (sale["lane"], sale["commercial"]) == ("p2", True)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "type"),
        ({"type": ""}, "type"),
        ({"type": "x" * 65}, "type"),
        ({"type": "x", "severity": "bad"}, "severity"),
        ({"type": "x", "priority": "p9"}, "priority"),
        ({"type": "x", "recipient": "me"}, "recipient"),
        ([{"type": "x"}], "body"),
    ],
)
async def test_what_is_wrong_is_named(http: httpx2.AsyncClient, body: Any, field: str) -> None:
    answer = await http.post("/v1/classifications", json=body)
    assert answer.status_code == 422
    problem = answer.json()
    assert field in {problem.get("field"), *(error["field"] for error in problem.get("errors", []))}


async def test_the_operators_rules_hold_here_as_well(tmp_path: Path) -> None:
    path = tmp_path / "rules.toml"
    path.write_text('[[rule]]\nname = "lab"\nlane = "p2"\ntypes = ["lab"]\nmay_lower = true\n')
    transport = httpx2.ASGITransport(app=Operations({}, settings_of(str(path))).__serve_build_asgi_app__())
    async with httpx2.AsyncClient(transport=transport, base_url="http://test") as http:
        answer = (await http.post("/v1/classifications", json={"type": "lab", "alert_type": "smoke"})).json()
    assert (answer["lane"], answer["rule"], answer["operator_rule"], answer["may_lower"]) == (
        "p2",
        "lab",
        True,
        True,
    )


async def test_a_file_of_rules_that_cannot_be_used_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"none\.toml"):
        Operations({}, settings_of(str(tmp_path / "none.toml")))
