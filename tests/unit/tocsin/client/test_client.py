"""Both clients against one scripted platform. In one file, as every test stands on the harness at its top."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from email.utils import formatdate
from typing import Any

import httpx2
import msgspec
import pytest

import tocsin
from tocsin import ActivityRequest, AsyncClient, Client, NotificationRequest
from tocsin.client.answers import retry_after_s
from tocsin.client.calls import batches
from tocsin.client.flows import RequestRetryPolicy
from tocsin.errors import (
    ConfigurationError,
    ConflictError,
    InvalidRecordError,
    ModelUnavailableError,
    NotFoundError,
    OverloadedError,
    RequestFailedError,
    StorageUnavailableError,
    TimedOutError,
    TocsinError,
    UnauthorizedError,
    UnreachableError,
)

NOW = 1_700_000_000.0
AT = "2024-05-01T00:00:00Z"
FIRE: dict[str, Any] = {"type": "emergency", "title": "Smoke in the hall", "recipient": "home-7"}
SPEND = {"advertiser_id": "a-1", "event_time": AT, "amount": 3.5}

Step = httpx2.Response | Exception | Callable[[httpx2.Request], httpx2.Response]


class Time:
    """A clock that only the client's own pauses move."""

    def __init__(self) -> None:
        self.pauses: list[float] = []

    def now(self) -> float:
        return NOW + sum(self.pauses)

    def monotonic(self) -> float:
        return sum(self.pauses)

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)

    async def asleep(self, seconds: float) -> None:
        self.pauses.append(seconds)


@dataclass
class Platform:
    """A client of either kind, over answers given in advance; the last one repeats."""

    make: Callable[..., Any]
    time: Time = field(default_factory=Time)
    steps: list[Step] = field(default_factory=list)
    requests: list[httpx2.Request] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)

    def handle(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        step = self.steps.pop(0) if len(self.steps) > 1 else self.steps[0]
        if isinstance(step, Exception):
            raise step
        if isinstance(step, httpx2.Response):  # a response is used once, a step may repeat
            return httpx2.Response(step.status_code, headers=step.headers, content=step.content)
        return step(request)

    def ask(self, method: str, *args: Any, **fields: Any) -> Any:
        return self.make(self, method, args, fields)

    @property
    def keys(self) -> list[str]:
        return [request.headers["Idempotency-Key"] for request in self.requests]


def blocking(platform: Platform, method: str, args: tuple[Any, ...], fields: dict[str, Any]) -> Any:
    transport = httpx2.MockTransport(platform.handle)
    with Client(
        transport=transport, clock=platform.time, sleep=platform.time.sleep, **platform.options
    ) as client:
        return getattr(client, method)(*args, **fields)


def coroutine(platform: Platform, method: str, args: tuple[Any, ...], fields: dict[str, Any]) -> Any:
    async def run() -> Any:
        transport = httpx2.MockTransport(platform.handle)
        async with AsyncClient(
            transport=transport, clock=platform.time, sleep=platform.time.asleep, **platform.options
        ) as client:
            return await getattr(client, method)(*args, **fields)

    return asyncio.run(run())


@pytest.fixture(params=[blocking, coroutine])
def platform(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Platform:
    monkeypatch.delenv("TOCSIN_URL", raising=False)
    monkeypatch.delenv("TOCSIN_API_KEY", raising=False)
    return Platform(request.param)


def answer(code: int = 200, /, **fields: Any) -> httpx2.Response:
    return httpx2.Response(code, json=fields)


def problem(status: int, code: str, headers: dict[str, str] | None = None, **fields: Any) -> httpx2.Response:
    body = {
        "type": f"urn:tocsin:problem:{code}",
        "title": code,
        "status": status,
        "detail": f"it is {code}",
        **fields,
    }
    return httpx2.Response(status, json=body, headers=headers)


def receipt(index: int) -> dict[str, Any]:
    return {"index": index, "id": f"id-{index}", "lane": "p0", "accepted_at": AT, "durability": "fsynced"}


def accept_all(request: httpx2.Request) -> httpx2.Response:
    count = len(json.loads(request.content))
    return answer(202, accepted=count, rejected=0, receipts=[receipt(i) for i in range(count)])


def status_of(state: str) -> httpx2.Response:
    fields: dict[str, Any] = {"reason": "", "attempts": [], "timeline": []}
    return answer(id="x", lane="p0", state=state, accepted_at=AT, **fields)


def churn_of(advertiser_id: str) -> dict[str, Any]:
    fields = {"probability": 0.2, "risk": "low", "drivers": [], "as_of": AT}
    return {"advertiser_id": advertiser_id, "method": "model", "model_version": "7", **fields}


# --------------------------------------------------------------------------- sending


@pytest.mark.parametrize("given", [(FIRE,), (NotificationRequest(**FIRE),), ()])
def test_send_takes_a_mapping_a_struct_or_fields(platform: Platform, given: tuple[Any, ...]) -> None:
    platform.steps = [accept_all]
    found = platform.ask("send", *given, **({} if given else FIRE))
    assert (found.id, found.lane) == ("id-0", "p0")
    (request,) = platform.requests
    assert (request.method, request.url.path) == ("POST", "/v1/notifications")
    assert request.headers["Content-Type"] == "application/json"
    assert len(request.headers["Idempotency-Key"]) == 32
    (sent,) = json.loads(request.content)
    assert msgspec.convert(sent, NotificationRequest) == NotificationRequest(**FIRE)


def test_send_takes_one_form_only(platform: Platform) -> None:
    with pytest.raises(TypeError, match="not both"):
        platform.ask("send", FIRE, title="Other")


@pytest.mark.parametrize(
    ("changes", "name", "limit"),
    [
        ({"title": "x" * 300}, "title", "length <= 256"),
        ({"colour": "red"}, "colour", ""),
        ({"severity": "Awful"}, "severity", ""),
        ({"expires_at": datetime(2024, 1, 1)}, "expires_at", ""),  # noqa: DTZ001 - a naive one is the point
        ({"channels": ["pigeon"]}, "channels[0]", ""),
        ({"title": object()}, "title", ""),
        ({"data": {"k": "v" * 2000}}, "data[...]", "length <= 1024"),
    ],
)
def test_a_bad_record_is_named_before_it_is_sent(
    platform: Platform, changes: dict[str, Any], name: str, limit: str
) -> None:
    with pytest.raises(InvalidRecordError) as caught:
        platform.ask("send", FIRE | changes)
    assert (caught.value.field, caught.value.limit) == (name, limit)
    assert platform.requests == []


def test_a_missing_field_and_what_is_no_record_are_refused(platform: Platform) -> None:
    with pytest.raises(InvalidRecordError) as caught:
        platform.ask("send", title="x")
    assert caught.value.field == "type"
    for wrong in ("text", NotificationRequest(type="a", title="\ud800", recipient="r")):
        with pytest.raises(InvalidRecordError):
            platform.ask("send", wrong)


def test_structs_are_checked_too(platform: Platform) -> None:
    with pytest.raises(InvalidRecordError) as caught:
        platform.ask("send", NotificationRequest(type="a", title="x" * 300, recipient="r"))
    assert (caught.value.field, caught.value.limit) == ("title", "length <= 256")


def test_a_record_the_platform_refuses_raises_with_its_field(platform: Platform) -> None:
    error = {"index": 0, "detail": "title is too long", "field": "title", "limit": "256"}
    for step in (
        problem(422, "invalid-record", errors=[error]),
        answer(202, accepted=0, rejected=1, receipts=[], errors=[error]),
    ):
        platform.steps = [step]
        with pytest.raises(InvalidRecordError, match="title is too long") as caught:
            platform.ask("send", FIRE)
        assert (caught.value.field, caught.value.limit) == ("title", "256")


def test_batches_carry_their_own_keys_and_indexes_are_the_callers(platform: Platform) -> None:
    platform.options = {"max_batch": 2}
    refuse_second = answer(
        202,
        accepted=1,
        rejected=1,
        receipts=[receipt(0)],
        errors=[{"index": 1, "detail": "no", "field": "title"}],
    )
    refuse_all = problem(422, "invalid-record", errors=[{"index": 0, "detail": "no"}])
    platform.steps = [accept_all, refuse_second, refuse_all]
    records: list[Any] = [FIRE, {"type": "x"}, FIRE, FIRE, FIRE, FIRE]
    found = platform.ask("send_many", iter(records))
    assert (found.accepted, found.rejected) == (3, 3)
    assert [one.index for one in found.receipts] == [0, 2, 3]
    assert [(one.index, one.field) for one in found.errors] == [(1, "title"), (4, "title"), (5, "")]
    assert len(set(platform.keys)) == 3


def test_a_given_key_makes_the_same_keys_again(platform: Platform) -> None:
    platform.options = {"max_batch": 1}
    platform.steps = [accept_all]
    platform.ask("send_many", [FIRE, FIRE], idempotency_key="import-7")
    assert platform.keys == ["import-7-0", "import-7-1"]
    with pytest.raises(InvalidRecordError) as caught:
        platform.ask("send", FIRE, idempotency_key="a b")
    assert caught.value.field == "idempotency_key"


def test_batches_are_bounded_in_bytes() -> None:
    one = len(msgspec.json.encode(NotificationRequest(**FIRE)))
    found = list(batches([FIRE] * 5, NotificationRequest, 1000, max_bytes=2 * one + 3))
    assert [batch.indexes for batch in found] == [[0, 1], [2, 3], [4]]
    assert max(len(batch.body) for batch in found) == 2 * one + 3


def test_nothing_to_send_is_not_sent(platform: Platform) -> None:
    assert platform.ask("send_many", []).accepted == 0
    assert platform.ask("send_many", [], atomic=True).accepted == 0
    assert platform.ask("send_many", [{}]).rejected == 1
    assert platform.ask("send_activity", []).durability == "memory"
    assert platform.requests == []


def test_atomic_is_one_request_or_none(platform: Platform) -> None:
    platform.options = {"max_batch": 1}
    platform.steps = [accept_all]
    assert platform.ask("send_many", [FIRE] * 3, atomic=True).accepted == 3
    assert [str(request.url.query, "ascii") for request in platform.requests] == ["atomic=true"]

    found = platform.ask("send_many", [FIRE, {"type": "x"}], atomic=True)
    assert (found.accepted, found.rejected, found.errors[0].index) == (0, 2, 1)
    with pytest.raises(InvalidRecordError, match="10000 records"):
        platform.ask("send_many", [FIRE] * 10_001, atomic=True)
    assert len(platform.requests) == 1


def test_a_failed_batch_says_how_to_go_on(platform: Platform) -> None:
    platform.options = {"max_batch": 1, "retries": 0}
    platform.steps = [accept_all, problem(503, "storage-unavailable")]
    with pytest.raises(StorageUnavailableError) as caught:
        platform.ask("send_many", [FIRE, FIRE], idempotency_key="job")
    assert "1 records were accepted" in caught.value.__notes__[0]
    assert "idempotency_key='job'" in caught.value.__notes__[0]


def test_activity_is_merged_with_the_weakest_durability(platform: Platform) -> None:
    platform.options = {"max_batch": 1}
    platform.steps = [
        answer(202, accepted=1, rejected=0, durability="fsynced"),
        answer(202, accepted=1, rejected=0, durability="everysec"),
        problem(422, "invalid-record", errors=[{"index": 0, "detail": "dated too far ahead"}]),
    ]
    later = ActivityRequest(advertiser_id="a", event_time=datetime(2024, 1, 1, tzinfo=UTC))
    nan = SPEND | {"amount": float("nan")}
    found = platform.ask("send_activity", [SPEND, nan, later, SPEND])
    assert (found.accepted, found.rejected, found.durability) == (2, 2, "everysec")
    assert [(one.index, one.field) for one in found.errors] == [(1, "amount"), (3, "")]
    assert "Idempotency-Key" not in platform.requests[0].headers


# --------------------------------------------------------------------------- asking


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("a/b c?#%", "/v1/notifications/a%2Fb%20c%3F%23%25"),
        ("..", "/v1/notifications/%2E%2E"),
        ("ü", "/v1/notifications/%C3%BC"),
        ("1-0@p0.3", "/v1/notifications/1-0%40p0.3"),
    ],
)
def test_ids_stay_one_path_segment(platform: Platform, name: str, path: str) -> None:
    platform.steps = [status_of("delivered")]
    platform.options = {"base_url": "http://platform:8000/prefix/"}
    assert platform.ask("status", name).state == "delivered"
    assert platform.requests[0].url.raw_path == f"/prefix{path}".encode()


@pytest.mark.parametrize("name", ["", "x" * 257, "\ud800"])
def test_ids_that_cannot_be_are_refused(platform: Platform, name: str) -> None:
    for method in ("status", "features", "replay"):
        with pytest.raises(InvalidRecordError):
            platform.ask(method, name)


@pytest.mark.parametrize(
    ("method", "collection", "fields"),
    [
        (
            "features",
            "features",
            {"advertiser_id": "a", "as_of": AT, "features": {}},
        ),
        ("churn", "churn", churn_of("a")),
        (
            "insight",
            "insights",
            {
                "advertiser_id": "a",
                "as_of": AT,
                "headline": "h",
                "churn": None,
                "spend_trend": None,
                "recommendation": {"action": "call", "reason": "r", "urgency": "low"},
            },
        ),
    ],
)
def test_questions_about_an_advertiser(
    platform: Platform, method: str, collection: str, fields: dict[str, Any]
) -> None:
    platform.steps = [answer(**fields)]
    as_of = datetime(2024, 5, 1, tzinfo=timezone(timedelta(hours=2)))
    assert platform.ask(method, "a", as_of=as_of).advertiser_id == "a"
    (request,) = platform.requests
    assert request.url.path == f"/v1/{collection}/a"
    assert request.url.params["as_of"] == "2024-05-01T00:00:00+02:00"
    with pytest.raises(InvalidRecordError) as caught:
        platform.ask(method, "a", as_of=datetime(2024, 5, 1))  # noqa: DTZ001 - a naive one is the point
    assert caught.value.field == "as_of"


def test_many_predictions_come_a_thousand_a_request(platform: Platform) -> None:
    def predict(request: httpx2.Request) -> httpx2.Response:
        ids = json.loads(request.content)["advertiser_ids"]
        known = [churn_of(one) for one in ids[1:]]
        return answer(predictions=known, unknown=ids[:1], degraded=len(ids) < 1000)

    platform.steps = [predict]
    found = platform.ask("churn_many", (f"a-{i}" for i in range(1500)))
    assert [len(json.loads(request.content)["advertiser_ids"]) for request in platform.requests] == [
        1000,
        500,
    ]
    assert found.unknown == ["a-0", "a-1000"]
    assert [found.predictions[0].advertiser_id, found.predictions[-1].advertiser_id] == ["a-1", "a-1499"]
    assert found.degraded
    for wrong in ("a-1", ["a", ""]):
        with pytest.raises(InvalidRecordError):
            platform.ask("churn_many", wrong)
    assert platform.ask("churn_many", []).predictions == []


def test_many_features_come_a_thousand_a_request(platform: Platform) -> None:
    def read(request: httpx2.Request) -> httpx2.Response:
        asked = json.loads(request.content)
        assert (asked["features"], asked["values"]) == (["spend_7d"], {"planned_budget": 5.0})
        rows = [
            {"advertiser_id": one, "values": {"spend_7d": 1.0}, "views": {}}
            for one in asked["advertiser_ids"]
        ]
        return answer(as_of=AT, rows=rows)

    platform.steps = [read]
    ids = [f"a-{i}" for i in range(1500)]
    rows = platform.ask("features_many", ids, ["spend_7d"], values={"planned_budget": 5.0})
    assert [row.advertiser_id for row in rows] == ids
    assert len(platform.requests) == 2
    with pytest.raises(InvalidRecordError):
        platform.ask("features_many", "a-1")


def test_values_of_a_question_become_parameters(platform: Platform) -> None:
    platform.steps = [answer(advertiser_id="a", as_of=AT, features={}, on_demand={"b": 2.0})]
    assert platform.ask("features", "a", values={"planned_budget": 5}).on_demand == {"b": 2.0}
    (request,) = platform.requests
    assert request.url.params["planned_budget"] == "5.0"


def test_dead_letters_are_listed_read_and_replayed(platform: Platform) -> None:
    letter = {
        "id": "7/x",
        "lane": "p1",
        "reason": "refused",
        "error": "410",
        "accepted_at": AT,
        "failed_at": AT,
        "attempt_count": 1,
        "attempts": [],
        "notification": FIRE,
        "traceparent": "",
    }
    platform.steps = [
        answer(total=1, items=[letter]),
        answer(**letter),
        answer(id="7/x", lane="p1", replayed=True),
    ]
    assert platform.ask("dead_letters", lane=tocsin.LaneName.P1, limit=5).items[0].id == "7/x"
    assert platform.ask("dead_letter", "7/x").notification.title == FIRE["title"]
    assert platform.ask("replay", "7/x").replayed
    listed, _, replayed = platform.requests
    assert dict(listed.url.params) == {"limit": "5", "lane": "p1"}
    assert replayed.url.raw_path == b"/v1/dead-letters/7%2Fx/replay"
    assert replayed.headers["Idempotency-Key"]


def test_dead_letters_are_asked_for_by_what_they_say(platform: Platform) -> None:
    platform.steps = [answer(total=0, items=[])]
    since = datetime(2026, 1, 31, 8, tzinfo=UTC)
    platform.ask("dead_letters", "p0", cursor="c", reason="refused", text="410", since=since, until=None)
    assert dict(platform.requests[0].url.params) == {
        "limit": "50", "cursor": "c", "lane": "p0", "reason": "refused", "text": "410",
        "since": "2026-01-31T08:00:00Z",
    }  # fmt: skip
    for wrong in ({"lane": "p7"}, {"text": "x" * 300}, {"since": datetime(2026, 1, 31)}, {"colour": "red"}):  # noqa: DTZ001
        with pytest.raises(InvalidRecordError):
            platform.ask("replay_many", **wrong)


@pytest.mark.parametrize("method", ["replay_many", "purge_many"])
def test_many_letters_are_handled_request_by_request(platform: Platform, method: str) -> None:
    def part(ids: list[str], cursor: str) -> httpx2.Response:
        return answer(ids=ids, gone=1, remaining=3, scanned=5, cursor=cursor, dry_run=False)

    platform.steps = [part(["a"], "1"), answer(503), part(["b"], "2"), part(["c"], "")]
    done = platform.ask(method, lane=tocsin.LaneName.P1)
    assert (done.ids, done.gone, done.scanned, done.cursor) == (["a", "b", "c"], 3, 15, "")
    bodies = [json.loads(request.content) for request in platform.requests]
    assert [body.get("cursor", "") for body in bodies] == ["", "1", "1", "2"]
    assert all(body["filter"] == {"lane": "p1"} for body in bodies)


def test_a_limit_on_many_letters_is_kept_over_requests(platform: Platform) -> None:
    platform.steps = [
        answer(ids=["a", "b"], gone=0, remaining=9, scanned=5, cursor="1", dry_run=False),
        answer(ids=["c"], gone=0, remaining=8, scanned=5, cursor="2", dry_run=False),
    ]
    done = platform.ask("replay_many", limit=3, rate=5.0)
    assert (done.ids, done.remaining, done.cursor) == (["a", "b", "c"], 8, "2")
    assert json.loads(platform.requests[1].content)["limit"] == 1


def test_a_purge_that_may_have_happened_is_not_repeated(platform: Platform) -> None:
    platform.steps = [answer(id="7/x", lane="p1", purged=True)]
    assert platform.ask("purge", "7/x").purged
    assert (platform.requests[0].method, platform.requests[0].url.raw_path) == (
        "DELETE",
        b"/v1/dead-letters/7%2Fx",
    )
    platform.steps = [httpx2.ReadTimeout("slow")]
    with pytest.raises(TimedOutError):
        platform.ask("purge", "7/x")
    assert len(platform.requests) == 2


@pytest.mark.parametrize(
    ("step", "expected"),
    [(answer(status="ok"), True), (answer(503), False), (httpx2.ConnectError("refused"), False)],
)
def test_ready_is_asked_once(platform: Platform, step: Step, expected: bool) -> None:
    platform.steps = [step]
    assert platform.ask("ready") is expected
    assert platform.requests[0].url.path == "/readyz"
    assert platform.time.pauses == []


def test_wait_polls_until_the_state_is_final(platform: Platform) -> None:
    platform.steps = [status_of("accepted"), status_of("retrying"), status_of("dead")]
    assert platform.ask("wait", "x").state == "dead"
    assert platform.time.pauses == [0.05, pytest.approx(0.075)]


def test_wait_gives_up_on_time(platform: Platform) -> None:
    platform.steps = [status_of("retrying")]
    with pytest.raises(TimedOutError, match="still retrying after 3 s"):
        platform.ask("wait", "x", timeout_s=3)
    assert sum(platform.time.pauses) == pytest.approx(3)


# --------------------------------------------------------------------------- trying again


@pytest.mark.parametrize(
    "step",
    [
        httpx2.ConnectError("refused"),
        httpx2.ConnectTimeout("slow"),
        httpx2.ReadTimeout("slow"),
        httpx2.RemoteProtocolError("closed"),
        problem(429, "overloaded"),
        problem(503, "overloaded"),
        problem(408, "slow-sender"),
        problem(503, "unavailable"),
        problem(504, "deadline-exceeded"),
        httpx2.Response(500),
        httpx2.Response(502),
        httpx2.Response(504),
    ],
)
def test_passing_failures_are_tried_again_with_the_same_key(platform: Platform, step: Step) -> None:
    platform.steps = [step, step, accept_all]
    assert platform.ask("send", FIRE).id == "id-0"
    assert len(platform.requests) == 3
    assert len(set(platform.keys)) == 1
    assert len(platform.time.pauses) == 2


def test_a_500_to_a_post_without_a_key_is_final(platform: Platform) -> None:
    platform.steps = [httpx2.Response(500, text="boom")]
    with pytest.raises(RequestFailedError, match="500: boom") as caught:
        platform.ask("send_activity", [SPEND])
    assert caught.value.status == 500
    assert len(platform.requests) == 1


@pytest.mark.parametrize("status", [302, 400, 401, 404, 409, 413, 422, 501])
def test_what_repeats_itself_is_not_tried_again(platform: Platform, status: int) -> None:
    platform.steps = [httpx2.Response(status)]
    with pytest.raises(TocsinError) as caught:
        platform.ask("send", FIRE)
    assert not caught.value.retryable
    assert len(platform.requests) == 1


def test_tries_are_bounded(platform: Platform) -> None:
    platform.options = {"retries": 2}
    platform.steps = [httpx2.ConnectError("refused")]
    with pytest.raises(UnreachableError, match=r"http://127\.0\.0\.1:8000") as caught:
        platform.ask("status", "x")
    assert "tocsin up" in caught.value.hint
    assert len(platform.requests) == 3


def test_the_total_time_is_bounded(platform: Platform) -> None:
    platform.options = {"retries": 100, "retry_total_s": 65.0}
    platform.steps = [problem(503, "overloaded", {"Retry-After": "30"})]
    with pytest.raises(OverloadedError) as caught:
        platform.ask("status", "x")
    assert caught.value.retry_after_s == 30
    assert platform.time.pauses == [30, 30]


@pytest.mark.parametrize(
    ("header", "pause_s"),
    [("7", 7), ("3600", 30), (formatdate(NOW + 9, usegmt=True), 9), ("-1", None), ("x", None)],
)
def test_retry_after_is_honoured_and_capped(platform: Platform, header: str, pause_s: float | None) -> None:
    platform.steps = [problem(429, "overloaded", {"Retry-After": header}), status_of("delivered")]
    platform.ask("status", "x")
    (paused,) = platform.time.pauses
    assert paused == pause_s if pause_s else paused <= 0.1


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("0.5", 0.5), ("inf", None), ("nan", None), ("", None), ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0)],
)
def test_a_retry_after_is_seconds_or_a_date(header: str, seconds: float | None) -> None:
    assert retry_after_s(header, NOW) == seconds


def test_backoff_doubles_to_its_limit_with_full_jitter() -> None:
    policy = RequestRetryPolicy(first_s=0.1, longest_s=1.0)
    assert [policy.pause_s(n, lambda: 0.5) for n in (0, 1, 2, 9, 10_000)] == [0.05, 0.1, 0.2, 0.5, 0.5]
    assert policy.pause_s(3, lambda: 0.0) == 0


def test_retries_are_counted() -> None:
    platform = Platform(
        blocking, steps=[httpx2.ConnectError("no"), status_of("accepted"), status_of("delivered")]
    )
    transport = httpx2.MockTransport(platform.handle)
    with Client(transport=transport, clock=platform.time, sleep=platform.time.sleep) as client:
        client.wait("x")
        assert client.retries_made == 1


# --------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("step", "kind"),
    [
        (problem(400, "invalid-record"), InvalidRecordError),
        (problem(413, "invalid-record"), InvalidRecordError),
        (problem(415, "invalid-record"), InvalidRecordError),
        (problem(401, "unauthorized"), UnauthorizedError),
        (problem(403, "unauthorized"), UnauthorizedError),
        (problem(404, "not-found"), NotFoundError),
        (problem(409, "conflict"), ConflictError),
        (problem(429, "overloaded"), OverloadedError),
        (problem(503, "overloaded"), OverloadedError),
        (problem(503, "storage-unavailable"), StorageUnavailableError),
        (problem(503, "model-unavailable"), ModelUnavailableError),
        (problem(504, "deadline-exceeded"), TimedOutError),
        (problem(408, "slow-sender"), TimedOutError),
        (problem(502, "broken-answer"), UnreachableError),
        (problem(503, "unavailable"), OverloadedError),
        (problem(500, "error"), RequestFailedError),
        (httpx2.ReadTimeout("slow"), TimedOutError),
        (httpx2.ReadError("reset"), UnreachableError),
    ],
)
def test_each_failure_has_its_class(platform: Platform, step: Step, kind: type[TocsinError]) -> None:
    platform.options = {"retries": 0}
    platform.steps = [step]
    with pytest.raises(TocsinError) as caught:
        platform.ask("status", "x")
    assert type(caught.value) is kind
    if isinstance(step, httpx2.Response):
        assert caught.value.message.startswith("it is ")


def test_a_problem_brings_its_field_limit_and_hint(platform: Platform) -> None:
    platform.steps = [
        problem(400, "invalid-record", field="as_of", limit="a date", hint="write 2024-05-01T00:00:00Z")
    ]
    with pytest.raises(InvalidRecordError) as caught:
        platform.ask("features", "a")
    assert (caught.value.field, caught.value.limit) == ("as_of", "a date")
    assert caught.value.hint.startswith("write")


@pytest.mark.parametrize(
    "body", [b"", b"<html> <b>Bad</b>\n</html>", b"\xff\xfe", b'{"detail": 1}', b"[" * 5000]
)
@pytest.mark.parametrize(
    ("status", "kind"), [(404, NotFoundError), (502, UnreachableError), (500, RequestFailedError)]
)
def test_bodies_of_others_are_no_trouble(
    platform: Platform, body: bytes, status: int, kind: type[TocsinError]
) -> None:
    platform.options = {"retries": 0}
    platform.steps = [httpx2.Response(status, content=body)]
    with pytest.raises(kind, match=str(status)):
        platform.ask("status", "x")


@pytest.mark.parametrize("body", [b"", b"<html>", b"{}", b"[" * 5000])
def test_a_success_of_another_shape_is_an_error(platform: Platform, body: bytes) -> None:
    platform.steps = [httpx2.Response(200, content=body)]
    with pytest.raises(RequestFailedError, match="something unexpected"):
        platform.ask("status", "x")


def test_answers_about_records_never_sent_are_an_error(platform: Platform) -> None:
    strange: list[dict[str, Any]] = [
        {"receipts": [receipt(3)]},
        {"receipts": [], "errors": [{"index": -1, "detail": "no"}]},
    ]
    for fields in strange:
        platform.steps = [answer(202, accepted=1, rejected=0, **fields)]
        with pytest.raises(RequestFailedError, match="of 1"):
            platform.ask("send_many", [FIRE])
    platform.steps = [answer(202, accepted=0, rejected=0, receipts=[])]
    with pytest.raises(RequestFailedError, match="neither a receipt nor an error"):
        platform.ask("send", FIRE)


# --------------------------------------------------------------------------- configuration


def test_the_environment_gives_the_address_and_the_key(
    monkeypatch: pytest.MonkeyPatch, platform: Platform
) -> None:
    monkeypatch.setenv("TOCSIN_URL", "https://tocsin.example/")
    monkeypatch.setenv("TOCSIN_API_KEY", "from-env\n")
    platform.steps = [status_of("delivered")]
    platform.ask("status", "x")
    platform.options = {"base_url": "http://other:1", "api_key": "given"}
    platform.ask("status", "x")
    first, second = platform.requests
    assert (str(first.url.host), first.headers["Authorization"]) == ("tocsin.example", "Bearer from-env")
    assert (str(second.url.host), second.headers["Authorization"]) == ("other", "Bearer given")
    assert first.headers["User-Agent"] == f"tocsin-python/{tocsin.__version__}"


@pytest.mark.parametrize(
    "options",
    [
        {"base_url": "ftp://host"},
        {"base_url": "localhost:8000"},
        {"base_url": "http://"},
        {"base_url": "http://host:port"},
        {"base_url": "http://host/?x=1"},
        {"base_url": "http://user:s3cret@host"},
        {"api_key": "s3cret\nX-Other: 1"},
        {"api_key": "s3crét"},
        {"timeout_s": 0},
        {"timeout_s": float("nan")},
        {"retries": -1},
        {"max_batch": 0},
        {"max_batch": 10_001},
        {"retry_total_s": -1},
    ],
)
@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_what_cannot_work_is_refused_at_once(kind: Callable[..., Any], options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        kind(**options)
    assert "s3cr" not in str(caught.value)


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_the_key_is_never_shown(kind: Callable[..., Any]) -> None:
    client = kind(api_key="s3cret", transport=httpx2.MockTransport(accept_all))
    assert "s3cret" not in repr(client)
    assert "s3cret" not in repr(vars(client))
    assert "http://127.0.0.1:8000" in repr(client)


def test_importing_the_client_is_light() -> None:
    heavy = {"ray", "redis", "pandas", "sklearn", "numpy", "typer", "rich"}
    code = (
        "import sys, tocsin\n"
        "assert 'httpx2' not in sys.modules\n"
        "tocsin.Client, tocsin.AsyncClient, tocsin.__version__\n"
        f"print(sorted({heavy!r} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_the_package_names_what_it_exports() -> None:
    assert all(getattr(tocsin, name) is not None for name in tocsin.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Klient'"):
        _ = tocsin.Klient
