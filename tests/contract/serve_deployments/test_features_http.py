"""`/v1/features` and `/v1/activity` as they answer, on a real server, without Serve around them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import httpx2
import msgspec
import pytest
from redis import asyncio as aioredis

from features.definitions import FEATURE_NAMES, RECENT_ACTIVITY
from features.tiles import encode, fold
from serve_deployments.activity import ActivityIntake
from serve_deployments.features import Features
from tests.feature_bench import NOW, PARTITIONS, Bench
from tocsin.clock import to_datetime
from tocsin.errors import StorageUnavailableError
from tocsin.settings import Settings
from tocsin.wire.activity import Activity, ActivityRequest

DAY_S = 86_400.0


class Http:
    """Both applications over one store, and shards that can be asked."""

    def __init__(self, bench: Bench, url: str) -> None:
        self.bench = bench
        self.remembered: dict[str, tuple[bytes | None, float | None]] = {}
        settings = msgspec.structs.replace(
            Settings.from_env({}),
            redis_url=url,
            namespace=bench.namespace,
            activity_partitions=PARTITIONS,
            activity_late_days=3_000,
            currency="EUR",
        )
        self.features = Features(self._ask_shards, settings, bench.clock)
        self.activity = ActivityIntake(settings, bench.clock)

    async def _ask_shards(self, names: Sequence[str]) -> list[tuple[bytes | None, float | None]]:
        return [self.remembered.get(name, (None, None)) for name in names]

    async def get(self, path: str, **params: str) -> httpx2.Response:
        async with self._client(self.features) as http:
            return await http.get(path, params=params)

    async def post(self, **body: Any) -> httpx2.Response:
        async with self._client(self.features) as http:
            return await http.post("/", json=body)

    async def record(self, *records: dict[str, Any]) -> httpx2.Response:
        async with self._client(self.activity) as http:
            return await http.post("/", json=list(records))

    def storage_is_down(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async def fail(*_: object) -> None:
            raise StorageUnavailableError("storage is unavailable: cut")

        monkeypatch.setattr(self.features.reader, "_read", fail)

    def _client(self, app: Any) -> httpx2.AsyncClient:
        transport = httpx2.ASGITransport(app=app.__serve_build_asgi_app__())
        return httpx2.AsyncClient(transport=transport, base_url="http://test")


@pytest.fixture
async def http(client: aioredis.Redis, namespace: str, url: str) -> Http:
    bench = Bench(client, namespace)
    await bench.send(
        Activity("a/b", NOW - 3 * DAY_S, 140.0, "spend", "1", "c1"),
        Activity("c", NOW - 40 * DAY_S, 10.0, "spend", "1"),
    )
    await bench.work()
    await bench.set_watermarks(NOW - 2.0)
    return Http(bench, url)


async def test_every_value_comes_with_event_time_age_and_status(http: Http) -> None:
    answer = (await http.get("/a%2Fb", planned_budget="70")).json()
    assert tuple(answer["features"]) == FEATURE_NAMES
    assert answer["features"]["spend_7d"] == {
        "value": 140.0,
        "unit": "currency",
        "view": "recent_activity",
        "status": "present",
        "event_time": to_datetime(NOW - 3 * DAY_S).isoformat().replace("+00:00", "Z"),
        "age_s": 2.0,
    }
    assert answer["features"]["gap_ratio"]["status"] == "missing"
    assert answer["on_demand"] == {"budget_to_weekly_spend": 0.5, "budget_to_spend_28d": 0.5}
    assert answer["degraded"] is False


async def test_one_object_asks_and_on_demand_features_come_with_their_values(http: Http) -> None:
    async with http._client(http.features) as raw:
        two = await raw.post("/", json=[{"advertiser_ids": ["c"]}, {"advertiser_ids": ["a/b"]}])
    assert (two.status_code, two.json()["field"], two.json()["limit"]) == (422, "body", "one JSON object")
    named = await http.post(advertiser_ids=["c"], features=["budget_to_spend_28d"])
    assert (named.status_code, named.json()["field"]) == (422, "features")
    assert named.json()["limit"] == "`values` of planned_budget"
    repeated = await http.post(advertiser_ids=["c", "a/b", "c"], features=["lifetime_spend"])
    assert [row["advertiser_id"] for row in repeated.json()["rows"]] == ["c", "a/b"]


async def test_many_are_read_at_once_in_the_order_asked(http: Http) -> None:
    answer = await http.post(
        advertiser_ids=["nobody", "c", "a/b", "c"],
        features=["spend_7d", "spend_56d"],
        values={"planned_budget": 20},
    )
    rows = answer.json()["rows"]
    assert [(row["advertiser_id"], row["values"]) for row in rows] == [
        ("nobody", {"spend_7d": None, "spend_56d": None}),
        ("c", {"spend_7d": 0.0, "spend_56d": 10.0}),
        ("a/b", {"spend_7d": 140.0, "spend_56d": 140.0}),
    ]
    assert [row["views"]["history"]["status"] for row in rows] == ["never", "present", "present"]
    assert rows[1]["on_demand"] == {"budget_to_weekly_spend": 2.0, "budget_to_spend_28d": None}


async def test_knowledge_older_than_its_time_to_live_is_stale(http: Http) -> None:
    await http.bench.set_watermarks(NOW - RECENT_ACTIVITY.ttl_s - 1)
    features = (await http.get("/c")).json()["features"]
    assert (features["spend_7d"]["status"], features["spend_7d"]["age_s"]) == ("stale", 301.0)
    assert features["spend_28d"]["status"] == "present"


async def test_an_earlier_moment_forgets_what_came_later(http: Http) -> None:
    as_of = to_datetime(NOW - 3 * DAY_S).isoformat()
    answer = await http.get("/a%2Fb", as_of=as_of)
    assert {one["status"] for one in answer.json()["features"].values()} == {"missing"}
    later = (await http.get("/a%2Fb", as_of=to_datetime(NOW - 3 * DAY_S + 1).isoformat())).json()
    assert later["features"]["spend_7d"]["value"] == 140.0


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"advertiser_ids": []}, "advertiser_ids"),
        ({"advertiser_ids": ["a"] * 1001}, "advertiser_ids"),
        ({"advertiser_ids": ["a"], "features": ["wish"]}, "features"),
        ({"advertiser_ids": ["a"], "values": {"wish": 1}}, "values"),
        ({"advertiser_ids": ["a"], "values": {"planned_budget": -1}}, "values[...]"),
        ({"advertiser_ids": ["a"], "as_of": "2026-01-01T00:00:00"}, "as_of"),
    ],
)
async def test_a_bad_question_is_a_problem_that_names_the_field(
    http: Http, body: dict[str, Any], field: str
) -> None:
    answer = await http.post(**body)
    problem = answer.json()
    assert answer.status_code == 422
    assert problem.get("field") == field or problem["errors"][0]["field"] == field


async def test_a_bad_value_in_the_query_is_named(http: Http) -> None:
    for text in ("x", "nan", "-1", "1e999"):
        answer = await http.get("/c", planned_budget=text)
        assert (answer.status_code, answer.json()["field"]) == (422, "planned_budget")
    assert (await http.get("/nobody")).status_code == 404


# --------------------------------------------------------------------------- storage is down


async def test_what_was_served_lately_is_served_stale_while_storage_is_down(
    http: Http, monkeypatch: pytest.MonkeyPatch
) -> None:
    await http.get("/c")
    http.storage_is_down(monkeypatch)
    http.bench.clock.advance(100.0)
    answer = (await http.get("/c")).json()
    spend = answer["features"]["spend_56d"]
    assert (spend["value"], spend["status"], spend["age_s"]) == (10.0, "stale", 102.0)
    assert (answer["degraded"], "cut" in answer["degraded_reason"]) == (True, True)
    http.bench.clock.advance(RECENT_ACTIVITY.ttl_s)  # beyond the time to live of one view
    assert (await http.get("/c")).status_code == 503


async def test_the_shards_answer_from_memory_while_storage_is_down(
    http: Http, monkeypatch: pytest.MonkeyPatch
) -> None:
    history = fold("c", [Activity("c", NOW - 40 * DAY_S, 10.0, "spend", "1")])
    assert history is not None
    http.remembered["c"] = (encode(history), NOW - 5_000.0)
    http.storage_is_down(monkeypatch)
    answer = (await http.get("/c")).json()["features"]["spend_56d"]
    assert (answer["value"], answer["status"], answer["age_s"]) == (10.0, "stale", 5_000.0)
    rows = (await http.post(advertiser_ids=["a/b", "c"])).json()["rows"]
    assert [row["views"]["history"]["status"] for row in rows] == ["missing", "stale"]
    assert (await http.get("/a%2Fb")).status_code == 503


# --------------------------------------------------------------------------- what is refused at the door


async def test_refused_activity_is_named_counted_and_half_of_nothing_is_written(http: Http) -> None:
    good = {"advertiser_id": "n", "event_time": to_datetime(NOW - DAY_S).isoformat(), "amount": 1}
    bad: list[tuple[dict[str, Any], str, str]] = [
        ({"event_time": to_datetime(NOW - 3_001 * DAY_S).isoformat()}, "event_time", ">= 3000 days ago"),
        ({"event_time": "1999-01-01T00:00:00Z"}, "event_time", ">= 2000-01-01T00:00:00Z"),
        ({"event_time": to_datetime(NOW + 2 * DAY_S).isoformat()}, "event_time", "<= 1 day from now"),
        ({"amount": -1}, "amount", ">= 0.0"),
        ({"kind": "wish"}, "kind", "one of campaign, spend"),
        ({"currency": "USD"}, "currency", "only EUR"),
        ({"currency": "usd"}, "currency", "^([A-Z]{3})?$"),
        ({"arrival": to_datetime(NOW + 2 * DAY_S).isoformat()}, "arrival", "<= 1 day from now"),
        ({"colour": "red"}, "colour", f"one of {', '.join(ActivityRequest.__struct_fields__)}"),
    ]
    answer = await http.record(good, *({**good, **change} for change, _, _ in bad))
    problem = answer.json()
    assert (answer.status_code, problem["accepted"], problem["rejected"]) == (202, 1, len(bad))
    assert [(error["field"], error["limit"]) for error in problem["errors"]] == [
        (field, limit) for _, field, limit in bad
    ]
    counted = await http.bench.client.hgetall(http.bench.shard().store.keys.refused)
    assert {reason.decode(): int(number) for reason, number in counted.items()} == {
        "late": 2,
        "future": 1,
        "amount": 1,
        "kind": 1,
        "currency": 2,
        "arrival": 1,
        "record": 1,
    }
    await http.bench.work()
    assert (await http.bench.features("n"))["lifetime_spend"] == 1.0


async def test_a_body_that_is_no_record_at_all_is_counted(http: Http) -> None:
    for body in (b"{", b"", b"[]"):
        async with http._client(http.activity) as raw:
            assert (await raw.post("/", content=body)).status_code == 422
    keys = http.bench.shard().store.keys
    assert sum(map(int, (await http.bench.client.hgetall(keys.refused)).values())) == 3


async def test_of_one_event_told_twice_in_a_request_the_second_counts(http: Http) -> None:
    event = {"advertiser_id": "n", "event_time": to_datetime(NOW - DAY_S).isoformat(), "event_id": "1"}
    await http.record({**event, "amount": 9.0}, {**event, "amount": 2.0})
    await http.bench.work()
    assert (await http.bench.features("n"))["lifetime_spend"] == 2.0
