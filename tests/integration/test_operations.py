from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import httpx2
import pytest
from openapi_spec_validator import validate
from prometheus_client import parser

from actors.pools import running_members
from launch.platform import Platform
from launch.run_record import AlreadyRunningError
from serve_deployments.applications import APPLICATIONS
from tests.support import free_settings, member_stats
from tocsin import Client
from tocsin.actor_names import member_names
from tocsin.errors import ConfigurationError
from tocsin.settings import Settings
from tocsin.telemetry.metrics import METRICS
from tocsin.telemetry.reports import Fault
from tocsin.wire.lanes import LaneName

pytestmark = pytest.mark.integration


def test_health_readiness_and_status(settings: Settings) -> None:
    assert httpx2.get(settings.base_url + "/healthz").json() == {"status": "ok"}
    ready = httpx2.get(settings.base_url + "/readyz")
    assert (ready.status_code, ready.json()["ready"]) == (200, True)
    status = httpx2.get(settings.base_url + "/v1/status").json()
    assert [lane["lane"] for lane in status["lanes"]] == ["p0", "p1", "p2", "activity"]
    assert all(lane["consumers"] for lane in status["lanes"])


def test_metrics_tell_what_the_platform_did(settings: Settings, client: Client) -> None:
    read_text: Any = parser.text_string_to_metric_families  # untyped upstream
    receipt = client.send(type="emergency", alert_type="smoke", title="t", recipient="metrics")
    client.wait(receipt.id)
    answer = httpx2.get(settings.base_url + "/metrics")
    assert answer.status_code == 200
    families = {family.name: family for family in read_text(answer.text)}
    found = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in families.values()
        for sample in family.samples
    }
    assert families.keys() <= {name.removesuffix("_total") for name in METRICS} | METRICS.keys()
    assert found["tocsin_up",] == 1
    assert found["tocsin_notifications_total", "delivered", "p0"] >= 1
    assert found["tocsin_delivery_latency_seconds_count", "p0"] >= 1
    for lane in LaneName:
        assert found["tocsin_consumers", lane] >= 1
        assert found["tocsin_faults_total", *sorted([lane, Fault.HANDLER])] >= 0
    assert found["tocsin_storage_info", "fsynced", "p0"] == 1


def test_the_openapi_document_is_valid_and_names_every_application(settings: Settings) -> None:
    document = httpx2.get(settings.base_url + "/openapi.json").json()
    validate(document)
    for name, spec in APPLICATIONS.items():
        if name != "operations":
            assert any(path.startswith(spec.prefix) for path in document["paths"]), name
    page = httpx2.get(settings.base_url + "/docs")
    for asset in re.findall(r'(?:src|href)="(/docs/[^"]+)"', page.text):
        assert httpx2.get(settings.base_url + asset).status_code == 200


def test_the_actors_carry_the_names_of_the_architecture(settings: Settings) -> None:
    for name in member_names(settings):
        stats = member_stats(name)
        assert stats.state == "consuming"
        assert stats.partitions


def test_the_supervisor_watches_the_pools(settings: Settings) -> None:
    names = member_names(settings)
    assert set(names) <= set(running_members())
    assert len(running_members(LaneName.P0)) >= settings.p0_routers


def test_the_dashboard_asks_for_the_token(platform: Platform) -> None:
    url = platform.dashboard_url + "/api/version"
    assert httpx2.get(url).status_code in {401, 403}
    token = platform.token_path.read_text()
    assert httpx2.get(url, headers={"authorization": f"Bearer {token}"}).status_code == 200
    assert platform.token_path.stat().st_mode & 0o077 == 0


def test_secrets_are_readable_by_the_owner_alone(settings: Settings) -> None:
    for name in ("storage/endpoint.json", "storage/valkey.conf"):
        assert (settings.data_path / name).stat().st_mode & 0o077 == 0, name


def test_a_second_platform_in_the_same_folder_says_so(platform: Platform) -> None:
    with pytest.raises(AlreadyRunningError, match=str(platform.settings.port)):
        Platform(platform.settings, lambda _part, _line: None).start()


def test_a_taken_port_is_named(platform: Platform, tmp_path: Path) -> None:
    import msgspec

    taken = msgspec.structs.replace(free_settings(tmp_path), port=platform.settings.port)
    with (
        pytest.raises(ConfigurationError, match=f"port {platform.settings.port} .* is taken"),
        Platform(taken, lambda _part, _line: None),
    ):
        pass
